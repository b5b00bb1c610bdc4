# SPDX-License-Identifier: Apache-2.0
"""Messages of DatasetService."""

from blemish.v1 import dataset_pb2 as pb
from blemish_core.datasets import (
    Dataset,
    ImportResult,
    IndexEntry,
    MovePlan,
    Provenance,
    SkippedFile,
    UnpairedFiles,
)
from blemish_core.platform.errors import InvalidRequest
from blemish_core.platform.names import dataset_name, item_name
from blemish_core.search.dataset_additions import (
    DEFAULT_CLASS,
    Addition,
    AdditionOutcome,
    AdditionRules,
)
from blemish_core.search.item import Label
from blemish_server.converters.enums import EnumMapping
from blemish_server.converters.search import LABELS, check_item_name
from blemish_server.converters.values import timestamp_to_proto

_MAX_UNPAIRED = 1000
_MAX_ITEMS = 1000
_MAX_TEXT = 128
_OUTCOMES: EnumMapping[AdditionOutcome, pb.AddedOutcome.ValueType] = EnumMapping(
    {
        AdditionOutcome.STORED: pb.ADDED_OUTCOME_STORED,
        AdditionOutcome.DUPLICATE: pb.ADDED_OUTCOME_DUPLICATE,
        AdditionOutcome.LEFT_OUT: pb.ADDED_OUTCOME_LEFT_OUT,
    }
)


def dataset_to_proto(dataset: Dataset) -> pb.Dataset:
    return pb.Dataset(
        name=dataset_name(dataset.id),
        category=dataset.category,
        create_time=timestamp_to_proto(dataset.create_time),
        train_images=dataset.train_images,
        test_images=[
            pb.ClassCount(class_name=name, images=count)
            for name, count in sorted(dataset.test_images.items())
        ],
        masks=dataset.masks,
        size_bytes=dataset.size_bytes,
        snapshot=dataset.snapshot,
        white_level=dataset.white_level.level or 0,
        white_level_given=dataset.white_level.given,
        warnings=[*dataset.warnings, *dataset.copies],
    )


def dataset_image_to_proto(entry: IndexEntry) -> pb.DatasetImage:
    return pb.DatasetImage(
        path=entry.path,
        size_bytes=entry.size_bytes,
        sha256=bytes.fromhex(entry.sha256),
        width=entry.width,
        height=entry.height,
        original_path=entry.original,
        provenance=None if entry.provenance is None else _provenance_to_proto(entry.provenance),
    )


def parse_additions(request: pb.AddItemsRequest, caller: str) -> AdditionRules:
    """Return the choices of a request to add items.

    Raises:
        InvalidRequest: if the split is unknown, the author too long, or there are no items or too many.
    """
    if not 0 < len(request.items) <= _MAX_ITEMS:
        raise InvalidRequest(
            f"the request contains {len(request.items)} items; use 1 to {_MAX_ITEMS}", field="items"
        )
    for name in request.items:
        check_item_name(name, "items")
    for field in ("default_class", "unlabelled_class", "author"):
        if len(getattr(request, field)) > _MAX_TEXT:
            raise InvalidRequest(f"{field} is too long; use at most {_MAX_TEXT} characters", field=field)
    if request.split not in ("train", "test"):
        raise InvalidRequest(f"split is {request.split!r}; use train or test", field="split")
    return AdditionRules(
        "train" if request.split == "train" else "test",
        default_class=request.default_class or DEFAULT_CLASS,
        unlabelled_class=request.unlabelled_class,
        author=request.author or caller,
        caller=caller,
    )


def addition_to_proto(addition: Addition) -> pb.AddedItem:
    return pb.AddedItem(
        item=item_name(addition.item),
        path=addition.path,
        outcome=_OUTCOMES.to_proto(addition.outcome),
        reason=addition.reason,
    )


def moves_to_proto(dataset: Dataset, plan: MovePlan) -> pb.MoveImagesResponse:
    return pb.MoveImagesResponse(
        dataset=dataset_to_proto(dataset),
        images=[pb.MovedImage(path=each.entry.path, new_path=each.target.path) for each in plan.images],
        deleted_masks=len(plan.deleted_masks),
    )


def _provenance_to_proto(origin: Provenance) -> pb.Provenance:
    return pb.Provenance(
        item=item_name(origin.item),
        model=origin.model,
        camera=origin.camera,
        time=timestamp_to_proto(origin.time),
        label=LABELS.to_proto(Label(origin.label)),
        label_class=origin.label_class,
        score=origin.score,
        author=origin.author,
        caller=origin.caller,
        add_time=timestamp_to_proto(origin.added),
    )


def upload_to_proto(done: ImportResult) -> pb.UploadImagesResponse:
    return pb.UploadImagesResponse(
        dataset=dataset_to_proto(done.dataset),
        stored=done.stored,
        unchanged=done.unchanged,
        replaced=done.replaced,
        skipped_count=done.skipped_count,
        expected_count=done.expected_count,
        skipped=map(_skipped_to_proto, done.skipped),
        unpaired=unpaired_to_proto(done.unpaired),
    )


def import_to_proto(done: ImportResult) -> pb.ImportDatasetResponse:
    return pb.ImportDatasetResponse(
        dataset=dataset_to_proto(done.dataset),
        stored=done.stored,
        unchanged=done.unchanged,
        replaced=done.replaced,
        skipped_count=done.skipped_count,
        expected_count=done.expected_count,
        skipped=map(_skipped_to_proto, done.skipped),
        unpaired=unpaired_to_proto(done.unpaired),
        layout=done.layout,
    )


def _skipped_to_proto(file: SkippedFile) -> pb.SkippedFile:
    return pb.SkippedFile(path=file.path, reason=file.reason, expected=file.expected)


def unpaired_to_proto(files: UnpairedFiles) -> pb.UnpairedFiles:
    return pb.UnpairedFiles(
        masks_count=len(files.masks),
        masks=files.masks[:_MAX_UNPAIRED],
        images_count=len(files.images),
        images=files.images[:_MAX_UNPAIRED],
    )
