# SPDX-License-Identifier: Apache-2.0
"""ModelService: listing, promotion, calibration, reports and archives of models."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any, BinaryIO

import grpc.aio
import structlog

from blemish.v1 import model_pb2 as pb
from blemish.v1.model_pb2_grpc import ModelServiceServicer
from blemish_core.datasets import DatasetStore
from blemish_core.jobs.removal import Removal
from blemish_core.models import archive
from blemish_core.models.bundle import Manifest
from blemish_core.models.calibration_log import CalibrationChange, Revision, ThresholdRule
from blemish_core.models.evaluations import compare_versions, evaluations_of
from blemish_core.models.promotion import promote
from blemish_core.models.store import Model, ModelStore
from blemish_core.models.suspects import scored_version, suspects_of
from blemish_core.models.threshold_check import concern
from blemish_core.platform.errors import ConfirmationNeeded, InvalidRequest, NotFound, TooLarge
from blemish_core.platform.files import disk_full_errors
from blemish_core.platform.names import LATEST, ModelRef, dataset_id, job_id, validate_id
from blemish_core.report.in_force import current_page
from blemish_core.search.flips import find_flips
from blemish_core.search.search_index import SearchIndex
from blemish_server.auth.authenticator import current_caller
from blemish_server.converters.models import (
    CHOICES,
    author_of,
    calibration_to_proto,
    comparison_to_proto,
    evaluation_to_proto,
    flipped_to_proto,
    metrics_to_proto,
    model_to_proto,
    model_version_to_proto,
    parse_calibration_change,
    parse_expected_revision,
    parse_preview,
    scores_to_proto,
    shadow_comparison_to_proto,
    suspects_to_proto,
)
from blemish_server.scoring.model_cache import ModelCache
from blemish_server.scoring.shadow import Shadow
from blemish_server.transport.pagination import Page

_CHUNK_BYTES = 64 << 10
_HISTORY = 100
_EVALUATIONS = 100
_SUSPECTS, _MAX_SUSPECTS = 10, 1000

log = structlog.get_logger(__name__)


class ModelServicer(ModelServiceServicer):
    """ModelService on the model store."""

    def __init__(
        self,
        models: ModelStore,
        datasets: DatasetStore,
        cache: ModelCache,
        removal: Removal,
        shadow: Shadow,
        index: SearchIndex,
        max_model_bytes: int,
    ) -> None:
        self._models = models
        self._datasets = datasets
        self._index = index
        self._cache = cache
        self._removal = removal
        self._shadow = shadow
        self._max_model_bytes = max_model_bytes
        # One at a time, because each validates its version in a process that takes a gigabyte.
        self._imports = ThreadPoolExecutor(1, thread_name_prefix="import")

    async def ListModels(  # noqa: N802
        self, request: pb.ListModelsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListModelsResponse:
        page = Page.parse("models", request.page_size, request.page_token)
        return await asyncio.to_thread(self._list, page)

    def _list(self, page: Page) -> pb.ListModelsResponse:
        found = self._models.page(page.after, page.size + 1)
        models, token = page.cut(found, lambda model: model.id)
        return pb.ListModelsResponse(models=map(self._summarize, models), next_page_token=token)

    def _summarize(self, model: Model) -> pb.Model:
        current = [self._models.calibrations(version).newest() for version in model.versions]
        metrics = [
            self._models.metrics(version, revision.calibration.threshold)
            for version, revision in zip(model.versions, current, strict=True)
        ]
        return model_to_proto(model, current, metrics)

    async def GetModel(  # noqa: N802
        self, request: pb.GetModelRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetModelResponse:
        ref = ModelRef.parse(request.name, "name")
        return pb.GetModelResponse(version=await asyncio.to_thread(self._describe, ref))

    def _describe(self, ref: ModelRef) -> pb.ModelVersion:
        manifest = self._models.manifest(ref)
        newest, *older = self._models.calibrations(manifest).history(_HISTORY)
        production = self._models.production(manifest.model) == manifest.version
        shadow = self._models.shadow(manifest.model) == manifest.version
        metrics = self._models.metrics(manifest, newest.calibration.threshold)
        message = model_version_to_proto(
            manifest, newest, metrics, production=production, shadow=shadow, history=(newest, *older)
        )
        evaluations = evaluations_of(self._models, manifest, _EVALUATIONS)
        message.evaluations.extend(map(evaluation_to_proto, evaluations))
        message.pinned = self._models.is_pinned(manifest.model, manifest.version)
        if shadow and (comparison := self._shadow.comparison_of(manifest)):
            message.comparison.CopyFrom(shadow_comparison_to_proto(comparison))
        return message

    async def PromoteModel(  # noqa: N802
        self, request: pb.PromoteModelRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.PromoteModelResponse:
        choice = CHOICES.parse(request.calibration, "calibration")
        author = author_of(request.author, current_caller.get())
        ref = await self._named_version(request.name)
        await self._cache.load(ref)  # first, because it serves the next request
        promotion = await asyncio.to_thread(promote, self._models, ref, choice, author)
        self._cache.invalidate(ref.model)
        response = pb.PromoteModelResponse(version=await asyncio.to_thread(self._describe, ref))
        if promotion.replaced is not None and promotion.replaced_revision is not None:
            response.replaced = promotion.replaced.name
            response.replaced_calibration.CopyFrom(
                calibration_to_proto(promotion.replaced_revision, promotion.replaced.metrics)
            )
        log.info(
            "model promoted",
            model=str(ref),
            replaced=response.replaced,
            threshold=response.version.calibration.threshold,
            by=current_caller.get().name,
        )
        return response

    async def _named_version(self, name: str) -> ModelRef:
        """Return the fixed version that a request names by its number, or as the latest one.

        Raises:
            InvalidRequest: if it names a model or another alias.
            NotFound: if there is no such version.
        """
        ref = ModelRef.parse(name, "name")
        fixed = ref if ref.alias == LATEST else _parse_version(name)
        return await asyncio.to_thread(self._models.resolve, fixed)

    async def PinModel(  # noqa: N802
        self, request: pb.PinModelRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.PinModelResponse:
        ref = await self._named_version(request.name)
        await asyncio.to_thread(self._models.pin, ref, request.pinned)
        return pb.PinModelResponse(version=await asyncio.to_thread(self._describe, ref))

    async def ShadowModel(  # noqa: N802
        self, request: pb.ShadowModelRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ShadowModelResponse:
        ref = await self._named_version(request.name)
        await asyncio.to_thread(self._models.set_shadow, ref, request.shadow)
        return pb.ShadowModelResponse(version=await asyncio.to_thread(self._describe, ref))

    async def DeleteModel(  # noqa: N802
        self, request: pb.DeleteModelRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.DeleteModelResponse:
        ref = ModelRef.parse(request.name, "name")
        if ref.alias is not None:
            raise InvalidRequest(
                f"{request.name!r} is an alias, which may move; write models/{ref.model}/versions/N, or "
                f"models/{ref.model} for all versions",
                field="name",
            )
        if ref.version is None:
            await asyncio.to_thread(self._removal.model, ref.model, request.force)
        else:
            await asyncio.to_thread(self._removal.version, ref)
        log.info("model removed", model=str(ref), by=current_caller.get().name)
        self._cache.forget(ref)
        return pb.DeleteModelResponse()

    async def GetReport(  # noqa: N802
        self, request: pb.GetReportRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.GetReportResponse]:
        ref = ModelRef.parse(request.name, "name")
        job = job_id(request.evaluation, "evaluation") if request.evaluation else None
        page = await asyncio.to_thread(current_page, self._models, ref, job)
        for start in range(0, len(page), _CHUNK_BYTES):
            yield pb.GetReportResponse(chunk=page[start : start + _CHUNK_BYTES])

    async def ExportModel(  # noqa: N802
        self, request: pb.ExportModelRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.ExportModelResponse]:
        ref = ModelRef.parse(request.name, "name")
        outgoing = await asyncio.to_thread(archive.ExportArchive, self._models, ref)
        log.info("model exported", model=str(ref), bytes=outgoing.size_bytes, by=current_caller.get().name)
        yield pb.ExportModelResponse(size_bytes=outgoing.size_bytes)
        chunks = outgoing.chunks()
        while chunk := await asyncio.to_thread(next, chunks, b""):
            yield pb.ExportModelResponse(chunk=chunk)

    async def ImportModel(  # noqa: N802
        self,
        request_iterator: AsyncIterator[pb.ImportModelRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> pb.ImportModelResponse:
        with self._models.import_workspace() as room, disk_full_errors(room):
            file = room / "archive.tar"
            with file.open("wb") as out:
                model_id = await self._receive(request_iterator, out)
            take_in = partial(archive.import_version, self._models, file, room, model_id)
            manifest = await asyncio.get_running_loop().run_in_executor(self._imports, take_in)
        ref = ModelRef(manifest.model, manifest.version)
        log.info("model imported", model=str(ref), by=current_caller.get().name)
        return pb.ImportModelResponse(version=await asyncio.to_thread(self._describe, ref))

    async def _receive(self, requests: AsyncIterator[pb.ImportModelRequest], out: BinaryIO) -> str:
        """Write the received bytes to ``out``; return the id for the model, empty to keep its own.

        Raises:
            InvalidRequest: if the stream is not a header and as many bytes as it announces.
            TooLarge: if the version has more bytes than the server may load.
        """
        model_id, announced, received = "", 0, 0
        async for request in requests:
            match request.WhichOneof("part"):
                case "header" if not announced:
                    model_id, announced = self._parse_header(request.header)
                case "chunk" if announced:
                    received += len(request.chunk)
                    if received > announced:
                        raise InvalidRequest(
                            f"the stream has more than the {announced} bytes announced; correct size_bytes",
                            field="chunk",
                        )
                    await asyncio.to_thread(out.write, request.chunk)
                case part:
                    raise InvalidRequest(
                        f"unexpected {part or 'empty part'}; send the header once, then all bytes",
                        field="part",
                    )
        if not announced:
            raise InvalidRequest("the stream is empty; send the header first", field="header")
        if received < announced:
            raise InvalidRequest(
                f"the stream ended after {received} of {announced} bytes; send it again", field="chunk"
            )
        return model_id

    def _parse_header(self, header: pb.ModelHeader) -> tuple[str, int]:
        if header.size_bytes < 1:
            raise InvalidRequest(
                f"size_bytes is {header.size_bytes}; send the size of the archive", field="size_bytes"
            )
        if header.size_bytes > self._max_model_bytes:
            raise TooLarge(
                f"the version has {header.size_bytes} bytes, but {self._max_model_bytes} are allowed; "
                "raise BLEMISH_MAX_LOADED_BYTES"
            )
        return validate_id(header.model_id, "model_id") if header.model_id else "", header.size_bytes

    async def ListSuspects(  # noqa: N802
        self, request: pb.ListSuspectsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListSuspectsResponse:
        if not request.model and not request.dataset:
            raise InvalidRequest("neither model nor dataset is set; set one", field="dataset")
        if not 0 <= request.limit <= _MAX_SUSPECTS:
            raise InvalidRequest(
                f"limit is {request.limit}, but must be 1 to {_MAX_SUSPECTS}", field="limit"
            )
        ref = ModelRef.parse(request.model, "model") if request.model else None
        dataset = dataset_id(request.dataset) if request.dataset else ""
        return await asyncio.to_thread(self._suspects, ref, dataset, request.limit or _SUSPECTS)

    def _suspects(self, ref: ModelRef | None, dataset: str, limit: int) -> pb.ListSuspectsResponse:
        manifest = scored_version(self._models, ref, dataset)
        present: set[str] | None = None
        with suppress(NotFound):
            present = {image.path for image in self._datasets.images(manifest.dataset, "train")}
        found = suspects_of(self._models, manifest, present, limit)
        threshold = self._models.calibrations(manifest).newest().calibration.threshold
        return suspects_to_proto(manifest, threshold, found)

    async def CompareModels(  # noqa: N802
        self, request: pb.CompareModelsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.CompareModelsResponse:
        first, second = ModelRef.parse(request.first, "first"), ModelRef.parse(request.second, "second")
        dataset = dataset_id(request.dataset) if request.dataset else ""
        return await asyncio.to_thread(self._compare, first, second, dataset)

    def _compare(self, first: ModelRef, second: ModelRef, dataset: str) -> pb.CompareModelsResponse:
        snapshot = ""
        with suppress(NotFound):
            snapshot = self._datasets.get(dataset or self._models.manifest(first).dataset).snapshot
        return comparison_to_proto(compare_versions(self._models, first, second, dataset, snapshot))

    async def ListScores(  # noqa: N802
        self, request: pb.ListScoresRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.ListScoresResponse]:
        ref = ModelRef.parse(request.name, "name")
        for message in await asyncio.to_thread(self._scores, ref):
            yield message

    def _scores(self, ref: ModelRef) -> list[pb.ListScoresResponse]:
        manifest = self._models.manifest(ref)
        held_out = self._models.calibrations(manifest).newest().calibration.scores
        return list(scores_to_proto(held_out, self._models.scores(manifest)))

    async def UpdateCalibration(  # noqa: N802
        self, request: pb.UpdateCalibrationRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.UpdateCalibrationResponse:
        ref = _parse_version(request.name)
        change = parse_calibration_change(request, current_caller.get())
        expected = parse_expected_revision(request)
        await asyncio.to_thread(self._calibrate, ref, change, expected, request.acknowledge_extreme)
        return pb.UpdateCalibrationResponse(version=await asyncio.to_thread(self._describe, ref))

    def _calibrate(
        self, ref: ModelRef, change: CalibrationChange, expected: int | None, acknowledged: bool
    ) -> None:
        manifest = self._models.manifest(ref)

        def check(revision: Revision) -> None:
            if not acknowledged and (reason := self._concern(manifest, change, revision)):
                raise ConfirmationNeeded(
                    f"threshold {revision.calibration.threshold:g} has to be confirmed, because {reason}; "
                    "choose another one, or set acknowledge_extreme"
                )

        revision = self._models.calibrations(manifest).append(change, expected, check)
        log.info(
            "calibration changed",
            model=manifest.name,
            revision=revision.number,
            author=revision.author,
            threshold=revision.calibration.threshold,
        )

    def _concern(self, manifest: Manifest, change: CalibrationChange, revision: Revision) -> str:
        """Return why a new revision has to be confirmed, empty if it does not change the threshold."""
        is_kept = change.rule is None and change.revision is None
        if is_kept or revision.rule is ThresholdRule.TRAINED:
            return ""
        return concern(revision.calibration, self._models.scores(manifest))

    async def PreviewCalibration(  # noqa: N802
        self, request: pb.PreviewCalibrationRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.PreviewCalibrationResponse:
        ref = _parse_version(request.change.name)
        change, period, most = parse_preview(request, current_caller.get())
        expected = parse_expected_revision(request.change)
        return await asyncio.to_thread(self._preview, ref, change, expected, period, most)

    def _preview(
        self, ref: ModelRef, change: CalibrationChange, expected: int | None, period: timedelta, most: int
    ) -> pb.PreviewCalibrationResponse:
        manifest = self._models.manifest(ref)
        calibrations = self._models.calibrations(manifest)
        before, after = calibrations.newest(), calibrations.preview(change, expected)
        old, new = before.calibration.threshold, after.calibration.threshold
        metrics = self._models.metrics(manifest, old), self._models.metrics(manifest, new)
        return pb.PreviewCalibrationResponse(
            before=calibration_to_proto(before, manifest.metrics),
            after=calibration_to_proto(after, manifest.metrics),
            metrics_before=metrics_to_proto(metrics[0]) if metrics[0] else None,
            metrics_after=metrics_to_proto(metrics[1]) if metrics[1] else None,
            concern=self._concern(manifest, change, after),
            flipped=flipped_to_proto(find_flips(self._index, ref, old, new, period, most)),
        )


def _parse_version(name: str) -> ModelRef:
    """Return the fixed version that a request names by its number.

    Raises:
        InvalidRequest: if the name is malformed, or is a model or an alias, which may move meanwhile.
    """
    ref = ModelRef.parse(name, "name")
    if ref.version is None:
        raise InvalidRequest(
            f"{name!r} is not a fixed version; write models/{ref.model}/versions/N", field="name"
        )
    return ref
