# SPDX-License-Identifier: Apache-2.0
"""GetServerInfo shows a caller the streams and cameras that its role may see."""

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from grpc_health.v1.health import aio as health_aio
from tests.support.inspections import make_capture, make_inspection

from blemish.v1 import server_pb2 as pb
from blemish.v1.image_pb2 import VERDICT_ANOMALOUS
from blemish_core.platform.disk import StoreDisk
from blemish_core.platform.names import ModelRef
from blemish_server.auth.access import ANONYMOUS, Caller, Role
from blemish_server.auth.authenticator import current_caller
from blemish_server.dependencies import Dependencies
from blemish_server.disk_monitor import DiskMonitor
from blemish_server.metrics.activity import Activity
from blemish_server.scoring.frame_queue import FrameQueue, FrameSlot, StreamPolicy
from blemish_server.scoring.inspection_event import InspectionEvent
from blemish_server.scoring.model_cache import ModelCache
from blemish_server.servicers.server import ServerServicer
from blemish_server.settings import ServerSettings

LEFT, RIGHT = Caller("press-left", Role.CAMERA), Caller("press-right", Role.CAMERA)


@dataclass
class FakeBatcher:
    """A batcher with images that wait."""

    queued: int


@dataclass
class FakeModel:
    """A loaded model."""

    ref: ModelRef
    batcher: FakeBatcher


@dataclass
class FakeModels:
    """A cache of models."""

    loaded: list[FakeModel] = field(default_factory=list)
    bytes: int = 0

    @property
    def runtimes(self) -> dict[str, str]:
        return {str(model.ref): "openvino" for model in self.loaded}


class FakeHealth:
    """A health service that ignores what it is given."""

    async def set(self, service: str, status: Any) -> None: ...


async def info(
    activity: Activity, caller: Caller, folder: Path, models: FakeModels | None = None
) -> pb.GetServerInfoResponse:
    """Return what a caller receives."""
    health = cast(health_aio.HealthServicer, FakeHealth())
    disk = DiskMonitor(StoreDisk(folder, 1), health)
    await disk.probe()
    servicer = ServerServicer(
        ServerSettings(store=folder),
        "cpu",
        cast(ModelCache, models or FakeModels()),
        Dependencies((), health),
        disk,
        activity,
    )
    current_caller.set(caller)
    return await servicer.GetServerInfo(pb.GetServerInfoRequest(), cast(Any, None))


def make_queue() -> FrameQueue[Any, None]:
    async def score(slot: FrameSlot[Any]) -> None:
        raise AssertionError("no frame is scored here")

    return FrameQueue(score, StreamPolicy.BLOCK)


@pytest.mark.parametrize(
    ("caller", "cameras"),
    [
        (LEFT, ["left"]),
        (RIGHT, ["right"]),
        (Caller("mes", Role.SERVICE), ["left", "right"]),
        (ANONYMOUS, ["left", "right"]),
    ],
)
async def test_camera_sees_its_own_streams_and_cameras(
    caller: Caller, cameras: list[str], tmp_path: Path
) -> None:
    activity = Activity()
    with ExitStack() as streams:
        for owner, name in ((LEFT, "left"), (RIGHT, "right")):
            current_caller.set(owner)
            inspection = make_inspection(2.0, capture=make_capture(b"picture", camera=name))
            activity.observe(InspectionEvent.of(inspection))
            streams.enter_context(activity.track(ModelRef("tile", None), make_queue())).observe(inspection)
        seen = await info(activity, caller, tmp_path)

    assert [camera.camera for camera in seen.cameras] == cameras
    assert [list(stream.cameras) for stream in seen.streams] == [[name] for name in cameras]
    assert {stream.last.verdict for stream in seen.streams} == {VERDICT_ANOMALOUS}
    assert seen.disk.free_bytes > 0
    assert seen.disk.shortage == ""


async def test_images_that_wait_are_counted_for_each_loaded_model(tmp_path: Path) -> None:
    busy, idle = ModelRef("tile", 2), ModelRef("grid", 1)
    models = FakeModels([FakeModel(busy, FakeBatcher(7)), FakeModel(idle, FakeBatcher(0))])
    seen = await info(Activity(), ANONYMOUS, tmp_path, models)
    assert dict(seen.waiting_images) == {str(busy): 7, str(idle): 0}
    assert set(seen.waiting_images) == set(seen.loaded_models)
