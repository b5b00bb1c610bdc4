# SPDX-License-Identifier: Apache-2.0
"""Tables and descriptions of datasets that no tool writes."""

import pytest

from blemish_layouts.plan import AS_NAMED, Conversion, NotADataset, plan

REAL_IAD = ("realiad_jsons/a.json", "realiad_256/a/OK/0.png")
FIRST = b'{"image_path": "OK/0.png"}'


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[" * 100_000, "not valid JSON"),
        (b'{"train": [' + b"1" * 5000 + b"]}", "not valid JSON"),
        (b'{"train": {"a": 1}}', "train is not a list"),
        (b'{"train": [null]}', "has no image_path"),
        (b'{"train": [' + FIRST + b', {"image_path": "\\ud800"}]}', "not valid Unicode"),
        (b'{"test": [' + FIRST + b', {"image_path": "a", "mask_path": "\\udfff"}]}', "not valid Unicode"),
        (
            b'{"test": [' + FIRST + b', {"image_path": "a", "anomaly_class": "\\ud800"}]}',
            "not valid Unicode",
        ),
        (b"\xff\xfe", "not text in UTF-8"),
    ],
)
def test_invalid_description_is_rejected_with_the_reason(content: bytes, reason: str) -> None:
    with pytest.raises(NotADataset, match=reason):
        plan(REAL_IAD, Conversion(layout="real-iad"), lambda path, most: content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'path,class\n"' + b"x" * 200_000, "not a valid CSV file"),
        (b"path\0,class\n", "column path"),
        (b"path,class\n\0,good\n../x.png,good\n/etc/x.png,good\n", "no images at the places"),
        (b"\n" * 1_000_000, "column path and class"),
    ],
)
def test_invalid_table_is_rejected_with_the_reason(content: bytes, reason: str) -> None:
    with pytest.raises(NotADataset, match=reason):
        plan(["x.csv", "0.png"], Conversion(layout="csv"), lambda path, most: content)


def test_table_that_cannot_be_read_is_named() -> None:
    def read(path: str, most: int) -> bytes:
        raise OSError(27, f"it has 20000000 bytes, more than the {most} allowed", path)

    with pytest.raises(NotADataset, match=r"x\.csv cannot be read: it has 20000000 bytes"):
        plan(["x.csv", "0.png"], Conversion(layout="csv"), read)
    with pytest.raises(NotADataset):
        plan(["x.csv", "0.png"], AS_NAMED, read)
