# SPDX-License-Identifier: Apache-2.0
"""DatasetService: images for training and evaluation."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc.aio
import structlog

from blemish.v1 import dataset_pb2 as pb
from blemish.v1.dataset_pb2_grpc import DatasetServiceServicer
from blemish_core.datasets import BeforeReplacing, DatasetStore, IncomingFile, MovePlan
from blemish_core.datasets.folder_import import SKIPPABLE, ImportCounts
from blemish_core.imaging.decode import ImageLimits
from blemish_core.jobs.removal import Removal
from blemish_core.models.store import ModelStore
from blemish_core.platform.errors import BlemishError, InvalidRequest, TooLarge
from blemish_core.platform.names import ModelRef, dataset_id, validate_id
from blemish_core.search.dataset_additions import Addition, AdditionOutcome, DatasetAdditions
from blemish_core.search.search_index import SearchIndex
from blemish_layouts.names import printable
from blemish_layouts.plan import Conversion
from blemish_server.auth.authenticator import current_caller
from blemish_server.converters.datasets import (
    addition_to_proto,
    dataset_image_to_proto,
    dataset_to_proto,
    import_to_proto,
    moves_to_proto,
    parse_additions,
    unpaired_to_proto,
    upload_to_proto,
)
from blemish_server.converters.images import (
    OutgoingFile,
    Rendition,
    original_or_thumbnail,
    parse_selection,
)
from blemish_server.transport.pagination import Page

_MAX_PATHS = 1000

log = structlog.get_logger(__name__)


class DatasetServicer(DatasetServiceServicer):
    """DatasetService on the dataset store."""

    def __init__(
        self,
        datasets: DatasetStore,
        removal: Removal,
        import_roots: Sequence[Path],
        limits: ImageLimits,
        models: ModelStore,
        index: SearchIndex,
        additions: DatasetAdditions,
    ) -> None:
        self._datasets = datasets
        self._removal = removal
        self._import_roots = import_roots
        self._limits = limits
        self._models = models
        self._index = index
        self._additions = additions

    async def CreateDataset(  # noqa: N802
        self, request: pb.CreateDatasetRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.CreateDatasetResponse:
        id, category = _parse_identity(request.dataset_id, request.category)
        level = request.white_level or None
        created = await asyncio.to_thread(self._datasets.create, id, category, level)
        return pb.CreateDatasetResponse(dataset=dataset_to_proto(created))

    async def UploadImages(  # noqa: N802
        self,
        request_iterator: AsyncIterator[pb.UploadImagesRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> pb.UploadImagesResponse:
        target = ""
        upload: _Upload | None = None
        counts, skip_rejected = ImportCounts(), False
        before_replacing: BeforeReplacing | None = None
        async for request in request_iterator:
            match request.WhichOneof("part"):
                case "dataset" if not target:
                    target = dataset_id(request.dataset)
                    skip_rejected = request.skip_rejected
                    before_replacing = self._removal.before_replacing if request.replace else None
                    await asyncio.to_thread(self._datasets.get, target)
                case "image" if target and upload is None:
                    upload = _Upload(request.image, self._limits.max_bytes)
                case "chunk" if upload is not None:
                    upload.add(request.chunk)
                case part:
                    raise InvalidRequest(
                        f"unexpected {part or 'empty part'}; send the dataset once, then for each image "
                        "its header and all of its bytes",
                        field="part",
                    )
            if upload is not None and (upload.complete or (upload.rejection and not skip_rejected)):
                try:
                    file = upload.file()
                    counts.add(await asyncio.to_thread(self._datasets.put, target, file, before_replacing))
                except (*SKIPPABLE, TooLarge) as error:
                    if not skip_rejected:
                        raise
                    counts.skip(upload.shown, error)
                upload = None
        if upload is not None:
            raise InvalidRequest(f"the stream ended within {upload.shown}; send the image again")
        if not target:
            raise InvalidRequest("the stream is empty; send the dataset first", field="dataset")
        dataset = await asyncio.to_thread(self._datasets.get, target)
        unpaired = await asyncio.to_thread(self._datasets.unpaired, target)
        return upload_to_proto(counts.result(dataset, unpaired))

    async def ImportDataset(  # noqa: N802
        self, request: pb.ImportDatasetRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ImportDatasetResponse:
        id, category = _parse_identity(request.dataset_id, request.category)
        done = await asyncio.to_thread(
            self._datasets.import_folder,
            id,
            category,
            Path(request.path),
            self._import_roots,
            conversion=Conversion(
                good=frozenset(request.good),
                only_defective=request.only_defective,
                layout=request.layout,
                category=request.category,
                bad=frozenset(request.bad),
                masks=frozenset(request.masks),
            ),
            white_level=request.white_level or None,
            before_replacing=self._removal.before_replacing if request.replace else None,
        )
        return import_to_proto(done)

    async def UpdateDataset(  # noqa: N802
        self, request: pb.UpdateDatasetRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.UpdateDatasetResponse:
        dataset, level = dataset_id(request.name, "name"), request.white_level or None
        updated = await asyncio.to_thread(self._datasets.set_white_level, dataset, level)
        log.info("dataset updated", dataset=dataset, white_level=level, by=current_caller.get().name)
        return pb.UpdateDatasetResponse(dataset=dataset_to_proto(updated))

    async def GetDataset(  # noqa: N802
        self, request: pb.GetDatasetRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetDatasetResponse:
        id = dataset_id(request.name, "name")
        dataset = await asyncio.to_thread(self._datasets.get, id)
        unpaired = await asyncio.to_thread(self._datasets.unpaired, id)
        return pb.GetDatasetResponse(
            dataset=dataset_to_proto(dataset), unpaired=unpaired_to_proto(unpaired)
        )

    async def ListDatasets(  # noqa: N802
        self, request: pb.ListDatasetsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListDatasetsResponse:
        page = Page.parse("datasets", request.page_size, request.page_token)
        found = await asyncio.to_thread(self._datasets.list, page.after, page.size + 1)
        datasets, token = page.cut(found, lambda dataset: dataset.id)
        return pb.ListDatasetsResponse(datasets=map(dataset_to_proto, datasets), next_page_token=token)

    async def ListImages(  # noqa: N802
        self, request: pb.ListImagesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListImagesResponse:
        page = Page.parse("images", request.page_size, request.page_token)
        dataset = dataset_id(request.dataset)
        found = await asyncio.to_thread(self._datasets.entries, dataset, request.path_prefix, page.after)
        images, token = page.cut(found, lambda image: image.path)
        return pb.ListImagesResponse(images=map(dataset_image_to_proto, images), next_page_token=token)

    async def GetImage(  # noqa: N802
        self, request: pb.GetImageRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.GetImageResponse]:
        dataset, selection = dataset_id(request.dataset), parse_selection(request)
        if selection.rendition is Rendition.MAP:
            raise InvalidRequest(
                "an image of a dataset has no anomaly map; index the dataset, or score the image",
                field="rendition",
            )

        def read() -> OutgoingFile:
            data = self._datasets.read_named(dataset, request.path)
            level = self._datasets.white_level(dataset)
            return original_or_thumbnail(data, selection, self._limits, level)

        outgoing = await asyncio.to_thread(read)
        for message in outgoing.messages(pb.GetImageResponse):
            yield message

    async def AddItems(  # noqa: N802
        self, request: pb.AddItemsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.AddItemsResponse:
        dataset, caller = dataset_id(request.dataset), current_caller.get().name
        ref, rules = ModelRef.parse(request.model), parse_additions(request, caller)

        def add() -> list[Addition]:
            version = self._index.resolve(ref, self._models.resolve(ref))
            return self._additions.add(version, list(request.items), dataset, rules)

        added = await asyncio.to_thread(add)
        stored = sum(addition.outcome is AdditionOutcome.STORED for addition in added)
        log.info("items added", dataset=dataset, items=len(added), stored=stored, by=caller)
        now = await asyncio.to_thread(self._datasets.get, dataset)
        return pb.AddItemsResponse(dataset=dataset_to_proto(now), items=map(addition_to_proto, added))

    async def DeleteImages(  # noqa: N802
        self, request: pb.DeleteImagesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.DeleteImagesResponse:
        dataset = dataset_id(request.dataset)
        _check_paths(request.paths)
        dataset_left, removed = await asyncio.to_thread(self._removal.images, dataset, list(request.paths))
        log.info("images removed", dataset=dataset, images=removed, by=current_caller.get().name)
        return pb.DeleteImagesResponse(dataset=dataset_to_proto(dataset_left), removed=removed)

    async def MoveImages(  # noqa: N802
        self, request: pb.MoveImagesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.MoveImagesResponse:
        dataset, paths = dataset_id(request.dataset), list(request.paths)
        _check_paths(paths)

        def move() -> MovePlan:
            self._removal.before_moving(dataset, paths, request.folder)
            return self._datasets.move(dataset, paths, request.folder)

        plan = await asyncio.to_thread(move)
        caller = current_caller.get().name
        log.info("images moved", dataset=dataset, folder=request.folder, images=len(plan.images), by=caller)
        return moves_to_proto(await asyncio.to_thread(self._datasets.get, dataset), plan)

    async def DeleteDataset(  # noqa: N802
        self, request: pb.DeleteDatasetRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.DeleteDatasetResponse:
        dataset = dataset_id(request.name, "name")
        await asyncio.to_thread(self._removal.dataset, dataset)
        log.info("dataset removed", dataset=dataset, by=current_caller.get().name)
        return pb.DeleteDatasetResponse()


class _Upload:
    """An image that a client is uploading."""

    def __init__(self, header: pb.ImageHeader, max_bytes: int) -> None:
        self.rejection: BlemishError | None = None
        """Reason for which the image cannot be stored. Its bytes are discarded."""
        self.shown = printable(header.original_path or header.path)
        if header.size_bytes < 0:
            raise InvalidRequest(
                f"size_bytes of {self.shown} is {header.size_bytes}; send the size of the image",
                field="size_bytes",
            )
        if header.size_bytes == 0:
            self.rejection = InvalidRequest(f"{self.shown} is empty; send an image", field="size_bytes")
        elif header.size_bytes > max_bytes:
            self.rejection = TooLarge(
                f"{self.shown} has {header.size_bytes} bytes, but {max_bytes} are allowed; raise "
                "BLEMISH_MAX_IMAGE_BYTES"
            )
        self._header = header
        self._data = bytearray()
        self._received = 0

    def add(self, chunk: bytes) -> None:
        self._received += len(chunk)
        if self._received > self._header.size_bytes:
            raise InvalidRequest(
                f"{self.shown} has more than the {self._header.size_bytes} bytes announced; correct "
                "size_bytes",
                field="chunk",
            )
        if self.rejection is None:
            self._data += chunk

    @property
    def complete(self) -> bool:
        return self._received == self._header.size_bytes

    def file(self) -> IncomingFile:
        """Return the received image.

        Raises:
            BlemishError: if it cannot be stored.
        """
        if self.rejection is not None:
            raise self.rejection
        header = self._header
        return IncomingFile(header.path, bytes(self._data), header.sha256 or None, header.original_path)


def _check_paths(paths: Sequence[str]) -> None:
    if not 0 < len(paths) <= _MAX_PATHS:
        raise InvalidRequest(
            f"the request contains {len(paths)} paths; use 1 to {_MAX_PATHS}", field="paths"
        )


def _parse_identity(id: str, category: str) -> tuple[str, str]:
    """Return the validated id and category of a dataset; the id is the default category."""
    validate_id(id, "dataset_id")
    return id, validate_id(category or id, "category")
