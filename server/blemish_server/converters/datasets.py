# SPDX-License-Identifier: Apache-2.0
"""Messages of DatasetService."""

from blemish.v1 import dataset_pb2 as pb
from blemish_core.datasets import Dataset, IndexEntry
from blemish_core.platform.names import dataset_name
from blemish_server.converters.values import timestamp_to_proto


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
    )


def dataset_image_to_proto(entry: IndexEntry) -> pb.DatasetImage:
    return pb.DatasetImage(
        path=entry.path,
        size_bytes=entry.size_bytes,
        sha256=bytes.fromhex(entry.sha256),
        width=entry.width,
        height=entry.height,
    )
