# SPDX-License-Identifier: Apache-2.0
"""Names of files and folders, tables and descriptions of datasets, arranged as one of the known layouts."""

import json
from collections.abc import Mapping

from tests.fuzz.source import Source
from tests.fuzz.target import Target

from blemish_core.datasets.layout import LayoutPath
from blemish_layouts.names import printable, readable
from blemish_layouts.plan import LAYOUTS, Conversion, NotADataset, plan

_NAMES = (
    *("train", "test", "ground_truth", "good", "Good", "OK", "NG", "crack", "0.png", "1.png", "0_mask.png"),
    *("0_GT.png", "validation", "test_public", "bad", "x.csv", "a.json", "realiad_jsons", "realiad_256"),
    *("Data", "Images", "Anomaly", "Masks", "split_csv", "1cls.csv", "audiojack", "000", "ü.jpg", ".png"),
    *("candle", "Normal", "0000.JPG", "000.png", "structural_anomalies", "logical_anomalies", "10000.png"),
)
_SEPARATOR = b"\n\n"


def run(data: bytes) -> None:
    head, _, content = data.partition(_SEPARATOR)
    source = Source(head)
    flags = source.integer()
    conversion = Conversion(
        good=frozenset({"Normal"} if flags & 1 else ()),
        only_defective=bool(flags & 2),
        layout=LAYOUTS[flags // 16 % len(LAYOUTS)] if flags & 4 else "",
        category="audiojack",
        bad=frozenset({"bad", "crack"} if flags & 8 else ()),
    )
    files = set()
    while source:
        pieces = [_piece(source) for _ in range(source.integer() % 5 + 1)]
        files.add("/".join(pieces))
    arranged = plan(files, conversion, lambda path, most: content[:most])
    paths = [each.path for each in arranged.files]
    assert len(set(paths)) == len(paths)
    for each in arranged.files:
        assert str(LayoutPath.parse(each.path)) == each.path
        assert each.source in files
        each.original.encode()
    for left in arranged.left_out:
        printable(readable(left.source)).encode()
        printable(left.reason).encode()


def _piece(source: Source) -> str:
    number = source.integer()
    name = _NAMES[number] if number < len(_NAMES) else source.text()
    return name.replace("/", "").replace("\0", "") or "x"  # no system has such names


def _paths(*paths: str) -> bytes:
    out = b""
    for path in paths:
        pieces = path.split("/")
        out += bytes([len(pieces) - 1])
        for piece in pieces:
            out += bytes([_NAMES.index(piece)]) if piece in _NAMES else _spelled(piece)
    return out


def _spelled(piece: str) -> bytes:
    return bytes([255, len(piece.encode())]) + piece.encode()


def seeds() -> Mapping[str, bytes]:
    mvtec = _paths(
        "train/good/0.png", "test/good/0.png", "test/crack/1.png", "ground_truth/crack/1_mask.png"
    )
    described = {
        "meta": {"prefix": "audiojack/"},
        "train": [{"image_path": "OK/0.png", "anomaly_class": "OK", "mask_path": None}],
        "test": [{"image_path": "NG/1.png", "anomaly_class": "crack", "mask_path": "NG/1_mask.png"}],
    }
    real_iad = _paths("realiad_jsons/audiojack.json", "realiad_256/audiojack/OK/0.png")
    visa = _paths(
        "candle/Data/Images/Normal/0000.JPG", "candle/Data/Images/Anomaly/000.JPG", "split_csv/1cls.csv"
    )
    rows = b"object,split,label,image,mask\ncandle,train,normal,candle/Data/Images/Normal/0000.JPG,\n"
    return {
        "mvtec": b"\0" + mvtec,
        "flat": bytes([4 + 16 * LAYOUTS.index("flat")]) + _paths("0.png", "1.png"),
        "ok-ng": b"\0" + _paths("OK/0.png", "NG/1.png"),
        "csv": b"\0"
        + _paths("x.csv", "0.png", "1.png")
        + _SEPARATOR
        + b"path,class\n0.png,good\n1.png,crack\n",
        "real-iad": b"\0" + real_iad + _SEPARATOR + json.dumps(described).encode(),
        "visa": b"\0" + visa + _SEPARATOR + rows,
    }


_WORDS = (
    "path",
    "split",
    "class",
    "mask",
    "good",
    "train",
    "test",
    "0.png",
    "1.png",
    "\\ud800",
    ",",
    "\n",
    '"',
)

TARGET = Target(run, seeds, expected=(NotADataset,), words=_WORDS)
