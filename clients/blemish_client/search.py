# SPDX-License-Identifier: Apache-2.0
"""The answer to a search."""

from collections.abc import Iterator
from dataclasses import dataclass

from blemish.v1.inspection_pb2 import Inspection
from blemish.v1.search_pb2 import Hit, SearchResponse


@dataclass(frozen=True)
class Found:
    """What a search found. Iterating over it is iterating over ``hits``."""

    query: Inspection | None
    """What the index's model says of the query image; None when a stored item was the query."""
    hits: Iterator[Hit]
    """Best first, as they arrive; can be read once."""

    def __iter__(self) -> Iterator[Hit]:
        return self.hits

    @classmethod
    def read(cls, answers: Iterator[SearchResponse]) -> "Found":
        """Wait for the first answer; the hits stay to be read."""
        first = next(answers, None)
        if first is not None and first.WhichOneof("event") == "query":
            return cls(first.query, _hits(answers))
        return cls(None, _hits(answers, first))


def _hits(answers: Iterator[SearchResponse], first: SearchResponse | None = None) -> Iterator[Hit]:
    if first is not None:
        yield first.hit
    for answer in answers:
        yield answer.hit
