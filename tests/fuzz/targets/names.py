# SPDX-License-Identifier: Apache-2.0
"""Names: paths in datasets, resource names, page tokens."""

from collections.abc import Callable
from uuid import UUID

from tests.fuzz.source import Source
from tests.fuzz.target import Target

from blemish_core.datasets.layout import LayoutPath
from blemish_core.platform import names
from blemish_core.platform.errors import InvalidRequest
from blemish_server.converters.inference import parse_model
from blemish_server.transport.pagination import Page


def _layout(text: str) -> None:
    path = LayoutPath.parse(text)
    assert str(path) == text
    assert len(text.split("/")) == 3
    assert ".." not in text.split("/")


def _item(text: str) -> None:
    assert isinstance(names.item_id(text), UUID)


def _ref(text: str) -> None:
    ref = names.ModelRef.parse(text)
    assert names.ModelRef.parse(str(ref)) == ref


def _triton(text: str) -> None:
    name, _, version = text.partition(" ")
    parse_model(name, version)


def _token(text: str) -> None:
    page = Page.parse("items", 0, text)
    assert Page.parse("items", 0, page.token(page.after)).after == page.after
    page.number(), page.item()


_PARSERS: tuple[Callable[[str], object], ...] = (
    _layout,
    _ref,
    _item,
    _triton,
    _token,
    names.dataset_id,
    names.job_id,
    lambda text: names.validate_id(text, "id"),
)


def run(data: bytes) -> None:
    source = Source(data)
    parse = source.choice(_PARSERS)
    parse(source.rest().decode(errors="replace"))


def seeds() -> dict[str, bytes]:
    return {
        "layout": b"\0test/crack/003.png",
        "mask": b"\0ground_truth/crack/003_mask.PNG",
        "ref": b"\1models/tile/versions/3",
        "alias": b"\1models/tile@production",
        "item": b"\2items/123e4567-e89b-12d3-a456-426614174000",
        "triton": b"\3tile 3",
        "token": b"\4aXRlbXM6YWJj",
        "dataset": b"\5datasets/tile",
        "job": b"\6jobs/a",
        "id": b"\7tile",
    }


_WORDS = (
    "train/good/",
    "test/",
    "ground_truth/",
    "_mask.png",
    ".jpg",
    "models/",
    "/versions/",
    "@production",
    "datasets/",
    "jobs/",
    "items/",
    "..",
    "%2e",
)

TARGET = Target(run, seeds, words=_WORDS, expected=(InvalidRequest,), max_bytes=512)
