# SPDX-License-Identifier: Apache-2.0
"""ServerService: version, limits and state of the server."""

from importlib.metadata import version
from typing import Any

import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp

from blemish.v1 import server_pb2 as pb
from blemish.v1.server_pb2_grpc import ServerServiceServicer
from blemish_core.detectors.registry import ALGORITHMS
from blemish_server.auth.access import Caller, Role
from blemish_server.auth.authenticator import current_caller
from blemish_server.converters.inspection import PRIORITIES
from blemish_server.converters.server import ROLES, camera_to_proto, disk_to_proto, stream_to_proto
from blemish_server.dependencies import Dependencies
from blemish_server.disk_monitor import DiskMonitor
from blemish_server.metrics.activity import Activity
from blemish_server.scoring.model_cache import ModelCache
from blemish_server.settings import ServerSettings


class ServerServicer(ServerServiceServicer):
    """ServerService of this process."""

    def __init__(
        self,
        settings: ServerSettings,
        device: str,
        cache: ModelCache,
        dependencies: Dependencies,
        disk: DiskMonitor,
        activity: Activity,
    ) -> None:
        self._settings = settings
        self._device = device
        self._cache = cache
        self._dependencies = dependencies
        self._disk = disk
        self._activity = activity
        self._start = Timestamp()
        self._start.GetCurrentTime()

    async def GetServerInfo(  # noqa: N802
        self, request: pb.GetServerInfoRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetServerInfoResponse:
        limits, caller = self._settings.image_limits, current_caller.get()
        return pb.GetServerInfoResponse(
            version=version("blemish"),
            caller=caller.name,
            role=ROLES.to_proto(caller.role),
            most_urgent=PRIORITIES.to_proto(caller.most_urgent),
            start_time=self._start,
            device=self._device,
            detectors=sorted(ALGORITHMS),
            limits=pb.Limits(
                max_message_bytes=self._settings.max_message_bytes,
                min_image_side=limits.min_side,
                max_image_side=limits.max_side,
                max_image_pixels=limits.max_pixels,
                max_image_bytes=limits.max_bytes,
                max_queued=self._settings.max_queued,
            ),
            loaded_models=list(self._cache.runtimes),
            runtimes=self._cache.runtimes,
            waiting_images={str(model.ref): model.batcher.queued for model in self._cache.loaded},
            loaded_bytes=self._cache.bytes,
            max_loaded_bytes=self._settings.max_loaded_bytes,
            dependencies=[
                pb.Dependency(
                    name=known.name,
                    available=known.available,
                    detail=known.detail,
                    warnings=known.warnings,
                )
                for known in self._dependencies.states
            ],
            disk=disk_to_proto(self._disk),
            streams=[
                stream_to_proto(stream)
                for stream in self._activity.streams
                if _may_see(caller, stream.caller)
            ],
            cameras=[
                camera_to_proto(camera)
                for camera in self._activity.inspected_cameras
                if _may_see(caller, camera.caller)
            ],
        )


def _may_see(caller: Caller, owner: str) -> bool:
    """Return whether a caller may see the work of another one: a camera sees its own."""
    return caller.role is not Role.CAMERA or caller.name == owner
