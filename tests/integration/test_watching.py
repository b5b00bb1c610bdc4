# SPDX-License-Identifier: Apache-2.0
"""Watchers of inspections on a real server: calls, streams and the Open Inference Protocol."""

import asyncio
import io
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import grpc
import grpc.aio
import numpy as np
import pytest
from PIL import Image
from tests.integration.conftest import Start
from tests.support.inspections import make_inspection
from tests.support.running_stack import RunningStack
from tritonclient.grpc import service_pb2, service_pb2_grpc

from blemish.v1 import inspection_pb2 as pb
from blemish.v1.inspection_pb2_grpc import InspectionServiceStub, add_InspectionServiceServicer_to_server
from blemish_client import Client, Frame, FrameResult, Store
from blemish_core.imaging.decode import ImageLimits
from blemish_core.imaging.image_input import ImageInput
from blemish_server.metrics.server_metrics import ServerMetrics
from blemish_server.scoring.inspection import Capture
from blemish_server.scoring.inspection_feed import MAX_PENDING, InspectionFeed
from blemish_server.scoring.pipeline import ScoringPipeline
from blemish_server.servicers.inspection import InspectionServicer
from blemish_server.transport.connections import StreamLifetime

_EVENTS = 20_000


@pytest.fixture
def images(stack: RunningStack) -> list[bytes]:
    return [file.read_bytes() for file in sorted((stack.surfaces / "tile" / "test").glob("*/*.png"))]


@contextmanager
def watching(
    address: str, request: pb.WatchInspectionsRequest
) -> Iterator[Iterator[pb.WatchInspectionsResponse]]:
    """Yield the responses after the first one."""
    with grpc.insecure_channel(address) as channel:
        responses = InspectionServiceStub(channel).WatchInspections(request, timeout=60)
        assert next(responses).HasField("states")
        yield responses
        responses.cancel()


def inspections(responses: Iterator[pb.WatchInspectionsResponse]) -> Iterator[pb.InspectionEvent]:
    return (each.inspection for each in responses if each.HasField("inspection"))


def test_watcher_receives_what_clients_of_each_kind_receive(
    stack: RunningStack, client: Client, tile_model: str, images: list[bytes]
) -> None:
    frames = [Frame(image, camera="press-1", sequence=40 + n) for n, image in enumerate(images[-3:])]
    with watching(stack.address, pb.WatchInspectionsRequest(models=["models/tile"])) as responses:
        events = inspections(responses)
        scored = client.score(images[-1], "tile", camera="press-2", regions=True)
        event = next(events)
        assert (event.camera, event.model_version) == ("press-2", tile_model)
        assert (event.score, event.verdict, event.p_value) == (scored.score, scored.verdict, scored.p_value)
        assert (event.threshold, event.regions) == (scored.threshold, scored.regions)
        assert (event.width, event.height, event.HasField("sequence")) == (128, 128, False)

        answers = list(client.stream(frames, "tile", policy=pb.STREAM_POLICY_BLOCK, store=Store.ALL))
        verdicts = sorted(itertools.islice(events, 3), key=lambda event: event.sequence)
        for answer, event in zip(answers, verdicts, strict=True):
            assert isinstance(answer, FrameResult)
            assert answer.inspection is not None
            assert (event.camera, event.sequence) == ("press-1", answer.sequence)
            assert (event.score, event.item) == (answer.inspection.score, answer.inspection.item)
            assert event.item

        inferred = service_pb2.ModelInferRequest(model_name="tile")
        tensor = inferred.inputs.add(name="image", datatype="BYTES", shape=[1])
        tensor.contents.bytes_contents.append(images[0])
        with grpc.insecure_channel(stack.address) as channel:
            service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(inferred)
        event = next(events)
        assert (event.camera, event.model_version) == ("", tile_model)

    state = pb.WatchInspectionsRequest(cameras=["press-1"])
    with grpc.insecure_channel(stack.address) as channel:
        responses = InspectionServiceStub(channel).WatchInspections(state, timeout=60)
        (camera,) = next(responses).states.cameras
        responses.cancel()
    assert (camera.inspected, camera.last.camera, len(camera.recent_p_values)) == (3, "press-1", 3)


def test_thumbnail_follows_with_outlines_that_the_call_did_not_ask_for(
    stack: RunningStack, client: Client, tile_model: str, images: list[bytes]
) -> None:
    request = pb.WatchInspectionsRequest(
        cameras=["press-3"], thumbnails=pb.ThumbnailOptions(max_side=64, heat=True)
    )
    defective = next(image for image in images if client.score(image, "tile").verdict == 2)
    with watching(stack.address, request) as responses:
        client.score(defective, "tile", camera="press-3")
        thumbnail = next(each.thumbnail for each in responses if each.HasField("thumbnail"))
    assert thumbnail.inspection.camera == "press-3"
    assert thumbnail.inspection.regions
    picture = np.asarray(Image.open(io.BytesIO(thumbnail.jpeg)))
    assert picture.shape == (64, 64, 3)


async def test_watcher_that_reads_nothing_costs_bounded_memory_and_learns_what_it_lost() -> None:
    """The network holds some events; of the others the newest are kept and the rest are counted."""
    metrics = ServerMetrics()
    feed = InspectionFeed(metrics.activity, ImageLimits(), max_watchers=1)
    servicer = InspectionServicer(
        cast(ScoringPipeline, None), feed, metrics, StreamLifetime(asyncio.Event()), 1 << 20
    )
    server = grpc.aio.server()
    add_InspectionServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    request = pb.WatchInspectionsRequest()
    request.state_interval.seconds = 60
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = InspectionServiceStub(channel)  # type: ignore[no-untyped-call,unused-ignore]
        responses = stub.WatchInspections(request)
        assert (await responses.read()).HasField("states")
        for number in range(_EVENTS):
            capture = Capture(ImageInput(b"image"), "press-4", sequence=number)
            feed.publish(make_inspection(2.0, capture=capture))
            if number % 100 == 0:
                await asyncio.sleep(0.001)  # the server sends meanwhile
        sequences: list[int] = []
        lost = 0
        while sequences[-1:] != [_EVENTS - 1]:
            message = await responses.read()
            lost += message.lost
            sequences.append(message.inspection.sequence)
        responses.cancel()
    await server.stop(1)
    assert lost == feed.counts.lost > _EVENTS // 2
    assert len(sequences) + lost == _EVENTS
    assert sequences == sorted(sequences)
    assert sequences[-MAX_PENDING:] == list(range(_EVENTS - MAX_PENDING, _EVENTS))


def test_watcher_is_asked_to_connect_again_when_the_server_stops(address: str, start: Start) -> None:
    server = start(BLEMISH_GRACE_S="5")
    last: list[pb.WatchInspectionsResponse] = []
    with watching(address, pb.WatchInspectionsRequest()) as responses:
        reader = threading.Thread(target=lambda: last.extend(responses))
        reader.start()
        server.terminate()
        reader.join(20)
    assert server.wait(30) == 0
    assert last[-1].HasField("ending")
    assert "stopping" in last[-1].ending.message
