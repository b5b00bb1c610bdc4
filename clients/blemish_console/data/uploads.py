# SPDX-License-Identifier: Apache-2.0
"""Uploads from a browser: the places of the chosen files, and their contents in batches.

Neither keeps a state here. The browser has the files, sends their names first, and then a batch at a time
with the places that it received. A batch that was cut is sent again: the server counts what it has as
unchanged.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from blemish.v1.dataset_pb2 import UploadImagesResponse
from blemish_client.client import Client
from blemish_client.transport.upload import ImageContent
from blemish_console import texts
from blemish_layouts.builder import PlanBuilder
from blemish_layouts.dataset_plan import Conversion, DatasetPlan, NoGoodClass, NotADataset
from blemish_layouts.names import is_hidden_file, is_hidden_folder
from blemish_layouts.placement import MisplacedFile, place
from blemish_layouts.plan import plan

MAX_FILES = 50_000
"""Most files of an upload."""
MAX_UPLOAD_BYTES = 100_000_000_000
"""Most bytes of an upload."""
MAX_FILE_BYTES = 64_000_000
"""Largest file, if the server does not set a lower limit."""
MAX_BATCH_FILES = 32
MAX_BATCH_BYTES = 8_000_000
"""Size to which a browser fills a batch of several files, in bytes."""
MAX_HEADER_BYTES = 1_000_000
"""Longest description of a batch."""
MAX_LISTED = 1000
"""Most files in a list of those left out."""
_MAX_PATH = 4096
_MAX_DESCRIBING_BYTES = 32_000_000


class MalformedUpload(ValueError):
    """A request that the page does not send."""


class RefusedUpload(ValueError):
    """Files that cannot be uploaded. The message has the remedy."""


class OnlyDefective(RefusedUpload):
    """Test images of which none is good, which a person has to confirm."""


@dataclass(frozen=True)
class Offer:
    """The files that a person chose."""

    dataset: str
    folder: str
    """Folder of the dataset for all files: train/good or test/CLASS. Empty to keep the places they have."""
    files: Mapping[str, tuple[int, int]]
    """Number and size in bytes by path."""
    is_only_defective: bool = False
    """True to accept test images of which none is good."""


@dataclass
class UploadPlan:
    """The places of the files, or the files whose contents decide on them."""

    layout: str = ""
    files: list[tuple[int, str, str]] = field(default_factory=list)
    """Number, path in the dataset, and original path if it differs."""
    left_out: list[tuple[str, str, bool]] = field(default_factory=list)
    """Path and reason, and True if no image is missing because of it."""
    needed: list[int] = field(default_factory=list)
    """Numbers of the files to read first, such as a table of all images."""

    def to_json(self) -> dict[str, Any]:
        expected = sum(is_expected for *_, is_expected in self.left_out)
        listed = sorted(self.left_out, key=lambda each: each[2])[:MAX_LISTED]
        counts = {"left_out_count": len(self.left_out), "expected_count": expected}
        return {
            "layout": self.layout,
            "files": self.files,
            "left_out": listed,
            "needed": self.needed,
        } | counts


@dataclass(frozen=True)
class BatchFile:
    """A file in a batch."""

    path: str
    original: str
    size: int


@dataclass(frozen=True)
class Batch:
    """Files whose contents follow one another."""

    dataset: str
    files: Sequence[BatchFile]
    replace: bool = False


class _NeedsContent(OSError):
    """A file whose content was not sent yet."""

    def __init__(self) -> None:
        super().__init__(0, "was not sent")


def parse_offer(text: bytes) -> tuple[Offer, list[tuple[str, int]]]:
    """Return the offer of a browser, and paths and sizes of the contents that follow it.

    Raises:
        MalformedUpload: if it is not one.
    """
    found = _parse(text)
    files: dict[str, tuple[int, int]] = {}
    for number, (path, size) in enumerate(_pairs(found.get("files"))):
        files.setdefault(path, (number, size))
    offer = Offer(
        _text(found.get("dataset")), _text(found.get("folder")), files, bool(found.get("only_defective"))
    )
    return offer, _pairs(found.get("contents"))


def parse_batch(text: bytes, body_bytes: int) -> Batch:
    """Return the description of a batch.

    Args:
        text: JSON.
        body_bytes: size of the contents.

    Raises:
        MalformedUpload: if it is not one, or does not fit the size.
    """
    found = _parse(text)
    files = []
    listed = found.get("files")
    if not isinstance(listed, list) or not 0 < len(listed) <= MAX_BATCH_FILES:
        raise MalformedUpload(f"a batch has 1 to {MAX_BATCH_FILES} files")
    for each in listed:
        if not isinstance(each, list) or len(each) != 3:
            raise MalformedUpload("a file of a batch has path, original path and size")
        files.append(BatchFile(_text(each[0]), _text(each[1]), _size(each[2])))
    if sum(file.size for file in files) != body_bytes:
        raise MalformedUpload("the sizes of the files do not add up to that of the batch")
    return Batch(_text(found.get("dataset")), files, bool(found.get("replace")))


def plan_upload(
    client: Client, offer: Offer, contents: Mapping[str, bytes], max_image_bytes: int
) -> UploadPlan:
    """Return the places of files in a dataset.

    Args:
        client: client of the server.
        offer: the files.
        contents: contents of files that were needed before, by path.
        max_image_bytes: largest image that the server takes; 0 if unknown.

    Raises:
        RefusedUpload: if there are too many files, or they are in no known layout.
        BlemishError: if a call fails.
    """
    total = sum(size for _, size in offer.files.values())
    if len(offer.files) > MAX_FILES or total > MAX_UPLOAD_BYTES:
        raise RefusedUpload(
            texts.UPLOAD_TOO_MUCH.format(files=MAX_FILES, gigabytes=MAX_UPLOAD_BYTES // 1_000_000_000)
        )
    made = UploadPlan()
    limit = min(max_image_bytes or MAX_FILE_BYTES, MAX_FILE_BYTES)
    visible = [path for path in offer.files if not _is_hidden(path)]
    arranged = _arrange(client, offer, visible, contents, made)
    if arranged is None:
        return made
    made.layout = arranged.layout
    made.left_out += [(each.source, each.reason, each.expected) for each in arranged.left_out]
    for placement in arranged.files:
        source = placement.source.removeprefix(f"{offer.folder}/") if offer.folder else placement.source
        number, size = offer.files[source]
        if size > limit:
            reason = texts.UPLOAD_TOO_LARGE.format(size=f"{size:,}", limit=f"{limit:,}")
            made.left_out.append((source, reason, False))
        else:
            made.files.append((number, placement.path, placement.original))
    return made


def send_batch(client: Client, batch: Batch, content: BinaryIO) -> UploadImagesResponse:
    """Send the files of a batch to the server, and return what became of them.

    Raises:
        BlemishError: if the call fails; the files before are stored then.
    """

    def images() -> Iterator[ImageContent]:
        for file in batch.files:
            yield ImageContent(file.path, content.read(file.size), file.original)

    return client.upload_images(batch.dataset, images(), replace=batch.replace)


def _arrange(
    client: Client, offer: Offer, paths: Sequence[str], contents: Mapping[str, bytes], made: UploadPlan
) -> DatasetPlan | None:
    """Return the places of files, or None if contents are needed, which are then in the plan."""
    if offer.folder:
        return _all_in(offer.folder, paths)
    conversion = Conversion(only_defective=offer.is_only_defective)
    needed: list[str] = []

    def read(path: str, max_bytes: int) -> bytes:
        if path not in contents:
            needed.append(path)
            raise _NeedsContent
        if len(contents[path]) > max_bytes:
            raise OSError(0, "the file is too large to be read")
        return contents[path]

    try:
        arranged = plan(paths, conversion, read)
    except NotADataset as error:
        if not needed:
            raise RefusedUpload(texts.UPLOAD_NO_LAYOUT) from error
    if needed:
        made.needed = _numbers(offer, needed)
        return None
    try:
        arranged.check_good(conversion, already=_has_good(client, offer) if arranged.lacks_good else True)
    except NoGoodClass as error:
        raise OnlyDefective(texts.UPLOAD_NO_GOOD.format(classes=", ".join(error.classes[:10]))) from error
    return arranged


def _all_in(folder: str, paths: Sequence[str]) -> DatasetPlan:
    """Return the plan of files that all become images of one class."""
    builder = PlanBuilder("")
    for path in paths:
        try:
            builder.add(place(f"{folder}/{path}"))
        except MisplacedFile as error:
            builder.leave(path, str(error), expected=error.expected)
    return builder.build()


def _numbers(offer: Offer, needed: Sequence[str]) -> list[int]:
    """Return the numbers of needed files and of those like them, which are needed next.

    Raises:
        RefusedUpload: if they are too large to be read before the upload.
    """
    kinds = {(path.rpartition("/")[0], path.rpartition(".")[2]) for path in needed}
    like = [path for path in offer.files if (path.rpartition("/")[0], path.rpartition(".")[2]) in kinds]
    if sum(offer.files[path][1] for path in like) > _MAX_DESCRIBING_BYTES:
        raise RefusedUpload(texts.UPLOAD_BY_COMMAND.format(dataset=offer.dataset))
    return [offer.files[path][0] for path in like]


def _has_good(client: Client, offer: Offer) -> bool:
    return any(each.class_name == "good" for each in client.dataset(offer.dataset).test_images)


def _is_hidden(path: str) -> bool:
    *folders, name = path.split("/")
    return is_hidden_file(name) or any(map(is_hidden_folder, folders))


def _parse(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedUpload("the description is not JSON") from error
    if not isinstance(found, dict):
        raise MalformedUpload("the description is not an object")
    return found


def _pairs(listed: object) -> list[tuple[str, int]]:
    if listed is None:
        return []
    if not isinstance(listed, list) or len(listed) > 2 * MAX_FILES:
        raise MalformedUpload("the files are not a list, or too many")
    pairs = []
    for each in listed:
        if not isinstance(each, list) or len(each) != 2:
            raise MalformedUpload("a file has path and size")
        pairs.append((_text(each[0]), _size(each[1])))
    return pairs


def _text(value: object) -> str:
    """Return a text in valid Unicode, because file names of Windows may not be."""
    if not isinstance(value, str) or len(value) > _MAX_PATH:
        raise MalformedUpload("a name is not a text, or too long")
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _size(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise MalformedUpload("a size is not a number")
    return value
