# SPDX-License-Identifier: Apache-2.0
"""InspectionService: score images."""

from typing import Any

import grpc.aio

from blemish.v1 import inspection_pb2 as pb
from blemish.v1.inspection_pb2_grpc import InspectionServiceServicer
from blemish_core.names import ModelRef
from blemish_server import convert
from blemish_server.inspector import Inspector


class InspectionServicer(InspectionServiceServicer):
    def __init__(self, inspector: Inspector) -> None:
        self._inspector = inspector

    async def Score(  # noqa: N802 (the contract's name, here and below)
        self, request: pb.ScoreRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ScoreResponse:
        ref = ModelRef.parse(request.model)
        image = convert.encoded_image(request.image, "image")
        done = await self._inspector.inspect(image, ref)
        return pb.ScoreResponse(inspection=convert.inspection(done, request.outputs))
