# SPDX-License-Identifier: Apache-2.0
"""Messages of DatasetService."""

from blemish.v1 import dataset_pb2 as pb
from blemish_core.datasets import Dataset, ImportResult, IndexEntry, SkippedFile, UnpairedFiles
from blemish_core.platform.names import dataset_name
from blemish_server.converters.values import timestamp_to_proto

_MAX_UNPAIRED = 1000


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
        unpaired=_unpaired_to_proto(done.unpaired),
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
        unpaired=_unpaired_to_proto(done.unpaired),
        layout=done.layout,
    )


def _skipped_to_proto(file: SkippedFile) -> pb.SkippedFile:
    return pb.SkippedFile(path=file.path, reason=file.reason, expected=file.expected)


def _unpaired_to_proto(files: UnpairedFiles) -> pb.UnpairedFiles:
    return pb.UnpairedFiles(
        masks_count=len(files.masks),
        masks=files.masks[:_MAX_UNPAIRED],
        images_count=len(files.images),
        images=files.images[:_MAX_UNPAIRED],
    )
