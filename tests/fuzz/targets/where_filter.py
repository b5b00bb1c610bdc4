# SPDX-License-Identifier: Apache-2.0
"""The filter language of searches, and its compilation to Qdrant's messages."""

from tests.fuzz.target import Target

from blemish_core.search.fields import SEARCH_FIELDS
from blemish_core.search.filter_language import parse
from blemish_core.search.qdrant_filter import compile_filter


def run(data: bytes) -> None:
    compiled = compile_filter(parse(data.decode(errors="replace"), SEARCH_FIELDS))
    if compiled is not None:
        assert type(compiled).FromString(compiled.SerializeToString()) == compiled


def seeds() -> dict[str, bytes]:
    return {
        "all": b'dataset = datasets/tile (class = crack OR class = "oil \\"x\\"") AND score > 0.8 '
        b"-label = FALSE_ALARM",
        "time": b"time >= 2026-01-31T08:00:00Z AND NOT time < 2026-01-31T08:00:00.5+02:00",
        "model": b"model = models/tile/versions/3 OR model=models/a/versions/12",
        "nested": b"((((score>1) OR NOT (score<-1e3)) AND p_value<=.5))",
        "label": b"label = NONE OR label_class != 'scratch' OR verdict:ANOMALOUS source = camera",
        "camera": 'camera = "линия 1\\t" category=tile'.encode(),
    }


_WORDS = (
    *SEARCH_FIELDS,
    *(
        "AND ",
        "OR ",
        "NOT ",
        "!=",
        "<=",
        ">=",
        "true",
        "NONE",
        "GOOD",
        "NORMAL",
        "camera",
        "1e9",
        "models/a",
    ),
    *("models/a/versions/1", "datasets/a", "2026-01-31T08:00:00Z", "\\*", "-(", "= "),
)

TARGET = Target(run, seeds, words=_WORDS, max_bytes=5000)
