# SPDX-License-Identifier: Apache-2.0
"""ModelService: name, describe and promote what training made."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from blemish.v1 import model_pb2 as pb
from blemish.v1.model_pb2_grpc import ModelServiceServicer
from blemish_core.errors import InvalidRequest
from blemish_core.models import ModelStore
from blemish_core.names import ModelRef, job_id
from blemish_server import convert
from blemish_server.pages import Page

_CHUNK_BYTES = 64 << 10


class ModelServicer(ModelServiceServicer):
    def __init__(self, models: ModelStore) -> None:
        self._models = models

    async def ListModels(  # noqa: N802
        self, request: pb.ListModelsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListModelsResponse:
        page = Page.asked("models", request.page_size, request.page_token)
        found = await asyncio.to_thread(self._models.page, page.after, page.size + 1)
        shown = found[: page.size]
        return pb.ListModelsResponse(
            models=map(convert.model, shown),
            next_page_token=page.token(shown[-1].id) if len(found) > page.size else "",
        )

    async def GetModel(  # noqa: N802
        self, request: pb.GetModelRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetModelResponse:
        ref = ModelRef.parse(request.name, "name")
        return pb.GetModelResponse(version=await asyncio.to_thread(self._card, ref))

    def _card(self, ref: ModelRef) -> pb.ModelVersion:
        manifest = self._models.manifest(ref)
        production = self._models.production(manifest.model) == manifest.version
        return convert.model_version(manifest, production=production)

    async def PromoteModel(  # noqa: N802
        self, request: pb.PromoteModelRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.PromoteModelResponse:
        ref = ModelRef.parse(request.name, "name")
        if ref.version is None:
            raise InvalidRequest(
                f"{request.name!r} names no version: write models/{ref.model}/versions/N",
                field="name",
            )
        manifest = await asyncio.to_thread(self._models.promote, ref)
        return pb.PromoteModelResponse(version=convert.model_version(manifest, production=True))

    async def GetReport(  # noqa: N802
        self, request: pb.GetReportRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.GetReportResponse]:
        ref = ModelRef.parse(request.name, "name")
        job = job_id(request.evaluation, "evaluation") if request.evaluation else None
        path = await asyncio.to_thread(self._models.report, ref, job)
        page = await asyncio.to_thread(path.read_bytes)
        for start in range(0, len(page), _CHUNK_BYTES):
            yield pb.GetReportResponse(chunk=page[start : start + _CHUNK_BYTES])
