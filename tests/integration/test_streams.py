# SPDX-License-Identifier: Apache-2.0
"""Camera streams to a running server, well-behaved and not."""

from __future__ import annotations

import itertools
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import PIL.Image
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, duration_pb2, message_factory, timestamp_pb2

from blemish.v1 import access_pb2, image_pb2
from blemish.v1 import inspection_pb2 as pb
from blemish.v1.image_pb2 import VERDICT_ANOMALOUS, Image, RawImage, Region
from blemish.v1.inspection_pb2_grpc import InspectionServiceStub
from blemish.v1.job_pb2 import PatchCore
from blemish_client import AsyncClient, Client, FrameResult, raw_image
from blemish_client.errors import InvalidArgument, NotFound, ResourceExhausted
from blemish_client.images import ImageLike

if TYPE_CHECKING:
    from tests.integration.conftest import RunningStack, Start

BLOCK, LATEST, REJECT = pb.STREAM_POLICY_BLOCK, pb.STREAM_POLICY_LATEST, pb.STREAM_POLICY_REJECT


@pytest.fixture(scope="module")
def picture(surfaces: Path) -> bytes:
    return (surfaces / "tile" / "test/good/000.png").read_bytes()


@pytest.fixture(scope="module")
def line(stack: RunningStack, tile_model: str) -> str:
    """Make a model with two versions, the first in production."""
    with Client(stack.address) as client:
        for _ in range(2):
            job = client.wait(client.train("tile", model_id="streamed", detector=PatchCore(input_size=64)))
            assert job.error == ""
        client.promote("streamed/1")
    return "streamed"


@pytest.fixture
def stub(stack: RunningStack) -> Iterator[InspectionServiceStub]:
    with grpc.insecure_channel(stack.address) as channel:
        yield InspectionServiceStub(channel)


def frames(images: Iterable[bytes], camera: str = "left") -> Iterator[pb.ScoreStreamRequest]:
    for sequence, image in enumerate(images):
        request = pb.ScoreStreamRequest(frame=pb.Frame(camera=camera, sequence=sequence))
        request.frame.image.encoded = image
        yield request


def config(model: str, policy: pb.StreamPolicy.ValueType = BLOCK) -> pb.ScoreStreamRequest:
    return pb.ScoreStreamRequest(config=pb.StreamConfig(model=model, policy=policy))


def answers(client: Client, images: Iterable[ImageLike], model: str) -> list[pb.ScoreStreamResponse]:
    told = list(client.stream(images, model, policy=BLOCK))
    assert all(isinstance(one, FrameResult) for one in told)
    return [one.answer for one in told if isinstance(one, FrameResult)]


def test_stream_gives_the_same_results_as_unary_calls(
    client: Client, surfaces: Path, tile_model: str
) -> None:
    images = [file.read_bytes() for file in sorted((surfaces / "tile/test").glob("*/*.png"))]
    told = answers(client, images, tile_model)
    assert [one.sequence for one in told] == list(range(len(images)))
    for image, one in zip(images, told, strict=True):
        single = client.score(image, tile_model)
        assert one.inspection.score == pytest.approx(single.score, rel=1e-5)
        assert one.inspection.verdict == single.verdict
        assert one.inspection.model_version == single.model_version
        assert one.HasField("capture_time")


def test_garbage_is_refused_in_order_and_the_stream_goes_on(
    client: Client, picture: bytes, tile_model: str
) -> None:
    images = [picture, b"garbage", b"", picture[: len(picture) // 2], picture]
    told = answers(client, images, tile_model)
    kinds = [one.WhichOneof("answer") for one in told]
    assert kinds == ["inspection", "refusal", "refusal", "refusal", "inspection"]
    invalid, _ = grpc.StatusCode.INVALID_ARGUMENT.value
    assert {one.refusal.code for one in told[1:4]} == {invalid}
    assert told[1].refusal.reason == "INVALID_IMAGE"
    assert all(one.refusal.message for one in told[1:4])


def test_promotion_takes_effect_between_two_frames(client: Client, picture: bytes, line: str) -> None:
    answered = threading.Semaphore(0)

    def images() -> Iterator[bytes]:
        for version in (1, 2, 1):
            client.promote(f"{line}/{version}")
            for _ in range(3):
                yield picture
                # Frames sent ahead are scored by the version in production at that time.
                assert answered.acquire(timeout=30)

    versions = []
    for one in client.stream(images(), f"{line}@production", policy=BLOCK):
        assert isinstance(one, FrameResult)
        versions.append(one.answer.inspection.model_version.rpartition("/")[2])
        answered.release()
    assert "".join(versions) == "111222111"


def test_stream_may_set_its_own_false_reject_rate(client: Client, picture: bytes, tile_model: str) -> None:
    (strict,) = client.stream([picture], tile_model, policy=BLOCK, target_false_reject_rate=0.5)
    assert isinstance(strict, FrameResult)
    usual = client.score(picture, tile_model)
    assert strict.answer.inspection.threshold < usual.threshold
    assert strict.answer.inspection.p_value == usual.p_value


def test_latest_names_the_frames_that_it_drops(
    stub: InspectionServiceStub, picture: bytes, tile_model: str
) -> None:
    def requests() -> Iterator[pb.ScoreStreamRequest]:
        yield config(tile_model, LATEST)
        yield from frames([picture] * 300)

    covered: list[int] = []
    dropped = 0
    for answer in stub.ScoreStream(requests()):
        last = answer.dropped.last_sequence if answer.HasField("dropped") else answer.sequence
        covered += range(answer.sequence, last + 1)
        dropped += answer.HasField("dropped") * (last - answer.sequence + 1)
    assert covered == list(range(300))
    assert dropped > 0
    assert answer.HasField("inspection")
    assert answer.sequence == 299  # the newest is never dropped


def test_reject_refuses_frames_in_order(
    stub: InspectionServiceStub, picture: bytes, tile_model: str
) -> None:
    def requests() -> Iterator[pb.ScoreStreamRequest]:
        yield config(tile_model, REJECT)
        yield from frames([picture] * 100)

    told = list(stub.ScoreStream(requests()))
    assert [answer.sequence for answer in told] == list(range(100))
    exhausted, _ = grpc.StatusCode.RESOURCE_EXHAUSTED.value
    refused = [answer for answer in told if answer.HasField("refusal")]
    assert {answer.refusal.code for answer in refused} == {exhausted}
    assert 0 < len(refused) < 100


@pytest.mark.parametrize("hogs", ["streams", "calls"])
def test_busy_caller_does_not_starve_the_others(
    hogs: str, stack: RunningStack, picture: bytes, tile_model: str
) -> None:
    done = threading.Event()
    taken = threading.Semaphore(0)

    def images() -> Iterator[bytes]:
        while not done.is_set():
            yield picture

    def hog(client: Client) -> None:
        if hogs == "streams":
            for _ in client.stream(images(), tile_model, policy=BLOCK):
                taken.release()
            return
        while not done.is_set():
            with suppress(ResourceExhausted):  # more of them come than may wait
                client.score(picture, tile_model)
            taken.release()

    count = 4 if hogs == "streams" else 100
    single = pb.ScoreRequest(model=tile_model)
    single.image.encoded = picture
    with (
        Client(stack.address) as client,
        ThreadPoolExecutor(count) as pool,
        # By default the channels of one process share a connection.
        grpc.insecure_channel(stack.address, [("grpc.use_local_subchannel_pool", 1)]) as channel,
    ):
        busy = [pool.submit(hog, client) for _ in range(count)]
        try:
            for _ in range(2 * count):
                assert taken.acquire(timeout=60)
            told = []
            arrived = threading.Semaphore(1)

            def camera() -> Iterator[pb.ScoreStreamRequest]:
                yield config(tile_model, REJECT)
                for request in frames([picture] * 5):
                    assert arrived.acquire(timeout=60)
                    yield request

            stub = InspectionServiceStub(channel)
            for answer in stub.ScoreStream(camera()):
                told.append(answer.WhichOneof("answer"))
                arrived.release()
            stub.Score(single)  # nor is it refused for those of others that wait
        finally:
            done.set()
        for one in busy:
            one.result(60)
    assert told == ["inspection"] * 5


def test_frame_that_would_be_late_is_refused(client: Client, picture: bytes, tile_model: str) -> None:
    told = list(client.stream([picture] * 3, tile_model, policy=BLOCK, max_latency_s=1e-6))
    late, _ = grpc.StatusCode.DEADLINE_EXCEEDED.value
    assert [one.answer.refusal.code for one in told if isinstance(one, FrameResult)] == [late] * 3


def test_stalled_reader_does_not_slow_others(
    stack: RunningStack, client: Client, picture: bytes, tile_model: str
) -> None:
    sent = 0
    # Otherwise gRPC widens the reader's window while answers are quick, up to the machine's limit.
    channel = grpc.insecure_channel(stack.address, options=[("grpc.http2.bdp_probe", 0)])
    stub = InspectionServiceStub(channel)

    def requests() -> Iterator[pb.ScoreStreamRequest]:
        nonlocal sent
        first = config(tile_model)
        first.config.outputs.anomaly_map = True  # 16 KiB an answer
        yield first
        for request in frames([picture] * 100_000):
            sent += 1
            yield request

    stuck = stub.ScoreStream(requests())
    try:
        assert next(iter(stuck)).sequence == 0
        time.sleep(2)
        before = sent
        assert len(answers(client, [picture] * 20, tile_model)) == 20
        time.sleep(2)
        # Flow control holds back 4.4 GiB; a window that gRPC widens holds up to 25 MiB here.
        assert sent == before
        assert sent * len(picture) < 8 << 20, f"{sent} frames of {len(picture)} bytes"
    finally:
        stuck.cancel()
        channel.close()


def test_vanished_cameras_free_their_memory(
    stack: RunningStack, client: Client, picture: bytes, tile_model: str
) -> None:
    for _ in range(30):
        with grpc.insecure_channel(stack.address) as channel:
            held = threading.Event()

            def requests(held: threading.Event = held) -> Iterator[pb.ScoreStreamRequest]:
                yield config(tile_model)
                yield from frames([picture] * 8)
                held.wait(10)

            call = InspectionServiceStub(channel).ScoreStream(requests())
            next(iter(call))
            call.cancel()
            held.set()
    assert len(answers(client, [picture] * 5, tile_model)) == 5


def test_two_hundred_cameras_at_once(stack: RunningStack, picture: bytes, tile_model: str) -> None:
    def camera(number: int) -> list[int]:
        with Client(stack.address) as client:
            told = client.stream([picture] * 2, tile_model, policy=BLOCK, camera=f"camera {number}")
            return [one.answer.sequence for one in told if isinstance(one, FrameResult)]

    with ThreadPoolExecutor(200) as pool:
        assert list(pool.map(camera, range(200))) == [[0, 1]] * 200


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (pb.ScoreStreamRequest(frame=pb.Frame()), "must be its config"),
        (pb.ScoreStreamRequest(), "must be its config"),
        (config("models/m", 9), "LATEST, BLOCK or REJECT"),  # type: ignore[arg-type]  # on purpose
        (
            pb.ScoreStreamRequest(config=pb.StreamConfig(model="models/m", target_false_reject_rate=0)),
            "0.5",
        ),
        (pb.ScoreStreamRequest(config=pb.StreamConfig(model="m")), "models/"),
    ],
)
def test_invalid_first_message_is_refused(
    stub: InspectionServiceStub, first: pb.ScoreStreamRequest, words: str
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        list(stub.ScoreStream(iter([first])))
    assert isinstance(refused.value, grpc.Call)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert words in (refused.value.details() or "")


def test_latency_limit_longer_than_the_stream_has_no_effect(
    stub: InspectionServiceStub, picture: bytes, tile_model: str
) -> None:
    first = config(tile_model)
    first.config.max_latency.seconds = 300_000_000_000  # more than a timedelta holds
    assert next(stub.ScoreStream(iter([first, *frames([picture])]))).HasField("inspection")


def test_second_configuration_ends_the_stream(
    stub: InspectionServiceStub, picture: bytes, tile_model: str
) -> None:
    requests = [config(tile_model), *frames([picture]), config(tile_model)]
    told = stub.ScoreStream(iter(requests))
    assert next(told).HasField("inspection")
    with pytest.raises(grpc.RpcError, match="INVALID_ARGUMENT"):
        next(told)


def test_unknown_model_ends_the_stream(client: Client, picture: bytes) -> None:
    with pytest.raises(NotFound):
        list(client.stream([picture], "nothing"))
    with pytest.raises(InvalidArgument):
        list(client.stream([picture], "no such/name/at all"))


def test_sigterm_under_load_ends_every_stream_with_a_last_message(
    start: Start, address: str, picture: bytes, tile_model: str
) -> None:
    server = start()
    told: list[list[pb.ScoreStreamResponse]] = [[] for _ in range(8)]

    def camera(number: int) -> None:
        def requests() -> Iterator[pb.ScoreStreamRequest]:
            yield config(tile_model)
            yield from frames(itertools.repeat(picture))

        with grpc.insecure_channel(address) as channel:
            for answer in InspectionServiceStub(channel).ScoreStream(requests()):
                told[number].append(answer)

    with ThreadPoolExecutor(8) as pool:
        cameras = [pool.submit(camera, number) for number in range(8)]
        while not all(len(one) > 20 for one in told):
            time.sleep(0.05)
            assert not any(one.done() for one in cameras)
        before = time.monotonic()
        server.terminate()
        for one in cameras:
            one.result(30)  # ended with OK
        assert server.wait(30) == 0
    assert time.monotonic() - before < 10  # the grace period
    for answers_ in told:
        assert answers_[-1].HasField("ending")
        assert all(answer.HasField("inspection") for answer in answers_[:-1])
        assert [answer.sequence for answer in answers_[:-1]] == list(range(len(answers_) - 1))


def test_camera_survives_a_killed_server(
    start: Start, address: str, picture: bytes, tile_model: str
) -> None:
    server = start()
    sequences = []
    with Client(address) as client:
        for one in client.stream([picture] * 150, tile_model, policy=BLOCK, camera="left"):
            assert isinstance(one, FrameResult)
            assert one.answer.HasField("inspection")
            sequences.append(one.answer.sequence)
            if len(sequences) == 50:
                server.kill()
                server.wait(30)
                start()
    assert sequences == list(range(150))


def test_defects_are_found_in_a_stream(client: Client, surfaces: Path, tile_model: str) -> None:
    files = sorted((surfaces / "tile/test").glob("*/*.png"))
    told = answers(client, [file.read_bytes() for file in files], tile_model)
    found = {
        file.parent.name
        for file, one in zip(files, told, strict=True)
        if one.inspection.verdict == VERDICT_ANOMALOUS
    }
    assert found - {"good"}


@pytest.mark.parametrize("seconds", [-5_000_000_000, 0, 253_402_300_799, 10**15])
def test_capture_time_is_returned_unchanged(
    stub: InspectionServiceStub, picture: bytes, tile_model: str, seconds: int
) -> None:
    requests = [config(tile_model), *frames([picture] * 3)]
    for number, request in enumerate(requests[1:]):
        request.frame.capture_time.seconds = seconds - 3600 * number  # and it goes backwards
    told = list(stub.ScoreStream(iter(requests)))
    assert [one.capture_time.seconds for one in told] == [seconds - 3600 * number for number in range(3)]
    assert all(one.HasField("inspection") for one in told)


def test_raw_and_encoded_frames_give_the_same_scores(
    client: Client, picture: bytes, tile_model: str
) -> None:
    with PIL.Image.open(BytesIO(picture)) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    encoded = client.score(picture, tile_model)
    height, width, _ = pixels.shape
    raw = RawImage(pixel_format="RGB8", width=width, height=height, data=pixels.tobytes())
    assert client.score(Image(raw=raw), tile_model).score == encoded.score
    raw.pixel_format, raw.data = "BGR8", pixels[..., ::-1].tobytes()
    assert client.score(Image(raw=raw), tile_model).score == encoded.score

    part = pixels[10:90, 20:120]
    cut = BytesIO()
    PIL.Image.fromarray(part).save(cut, "PNG")
    region = Region(left=20, top=10, width=100, height=80)
    expected = client.score(cut.getvalue(), tile_model).score
    assert client.score(Image(raw=raw, region=region), tile_model).score == expected
    assert client.score(Image(encoded=picture, region=region), tile_model).score == expected


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (RawImage(pixel_format="YUV411_8", width=64, height=64, data=bytes(8192)), "pixel_format"),
        (RawImage(pixel_format="Mono8", width=64, height=64, data=bytes(4095)), "data"),
        (RawImage(pixel_format="Mono8", width=64, height=64, stride=63, data=bytes(4096)), "stride"),
        (RawImage(pixel_format="Mono8", width=-64, height=64, data=bytes(4096)), "raw"),
        (RawImage(), "pixel_format"),
    ],
)
def test_invalid_raw_frame_is_refused_naming_the_field(
    client: Client, tile_model: str, raw: RawImage, field: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        client.score(Image(raw=raw), tile_model)
    assert refused.value.field.endswith(field)


def test_line_stop_is_scored_before_backfill(stack: RunningStack, picture: bytes, tile_model: str) -> None:
    ended: list[str] = []

    def call(name: str, priority: pb.Priority.ValueType) -> None:
        with Client(stack.address) as client:
            client.score(picture, tile_model, priority=priority)
            ended.append(name)

    with ThreadPoolExecutor(61) as pool:
        for _ in range(60):
            pool.submit(call, "backfill", pb.PRIORITY_BACKFILL)
        while not ended:
            time.sleep(0.005)
        pool.submit(call, "line stop", pb.PRIORITY_LINE_STOP)
    assert len(ended) == 61
    # Some had ended before the change or were being computed; the others waited.
    assert ended.index("line stop") < 50


def test_unknown_priority_is_refused(client: Client, picture: bytes, tile_model: str) -> None:
    with pytest.raises(InvalidArgument, match="LINE_STOP, AUDIT or BACKFILL"):
        client.score(picture, tile_model, priority=9)  # type: ignore[arg-type]  # on purpose


def test_frame_past_its_deadline_is_not_computed(
    stub: InspectionServiceStub, picture: bytes, tile_model: str
) -> None:
    request = pb.ScoreRequest(model=tile_model)
    request.image.encoded = picture
    calls = [stub.Score.future(request, timeout=0.05) for _ in range(60)]
    codes = {call.code() for call in calls}
    assert grpc.StatusCode.DEADLINE_EXCEEDED in codes
    assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED}
    assert stub.Score(request, timeout=30).HasField("inspection")


async def test_both_clients_give_the_same_results(
    stack: RunningStack, surfaces: Path, tile_model: str
) -> None:
    images = [file.read_bytes() for file in sorted((surfaces / "tile/test").glob("*/00[01].png"))]
    with Client(stack.address) as blocking:
        expected = [one.inspection.score for one in answers(blocking, images, tile_model)]
    async with AsyncClient(stack.address) as client:
        told = [one async for one in client.stream(images, tile_model, policy=BLOCK)]
        single = await client.score(images[0], tile_model)
        hits = [answer async for answer in client.search(images[0], tile_model, 3)]
    assert [one.answer.inspection.score for one in told if isinstance(one, FrameResult)] == expected
    assert single.score == expected[0]
    assert [answer.WhichOneof("event") for answer in hits] == ["query", "hit", "hit", "hit", "page"]


def test_deleted_model_does_not_end_a_stream(
    stack: RunningStack, client: Client, picture: bytes, tile_model: str
) -> None:
    models = stack.data / "store/models"
    shutil.copytree(models / "tile", models / "vanishing")
    kinds: list[str | None] = []

    def images() -> Iterator[bytes]:
        yield picture
        while not kinds:
            time.sleep(0.01)
        shutil.rmtree(models / "vanishing")
        time.sleep(0.5)  # what a name means is taken for granted for a quarter of a second
        yield picture
        yield picture

    for one in client.stream(images(), "vanishing", policy=BLOCK):
        assert isinstance(one, FrameResult)
        kinds.append(one.answer.WhichOneof("answer"))
        reason = one.answer.refusal.reason
    assert kinds == ["inspection", "refusal", "refusal"]
    assert reason == "NOT_FOUND"
    assert len(answers(client, [picture], tile_model)) == 1


def contract(*, without: dict[str, set[str]], beside: dict[str, str]) -> Any:
    """Return the contract's messages without some fields and with additional ones."""
    pool = descriptor_pool.DescriptorPool()
    for module in (descriptor_pb2, duration_pb2, timestamp_pb2, access_pb2, image_pb2, pb):
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        for message in file.message_type:
            kept = [one for one in message.field if one.name not in without.get(message.name, ())]
            del message.field[:]
            message.field.extend(kept)
            if name := beside.get(message.name):
                message.field.add(name=name, number=1000, type="TYPE_STRING", label="LABEL_OPTIONAL")
        pool.Add(file)
    return lambda name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"blemish.v1.{name}"))


@pytest.mark.parametrize("age", ["older", "newer"])
def test_clients_of_other_versions_are_served(
    stack: RunningStack, picture: bytes, tile_model: str, age: str
) -> None:
    newer = {"Frame": "mood", "StreamConfig": "fashion", "Image": "frame_colour"}
    older = {
        "StreamConfig": {"priority", "max_latency"},
        "Image": {"raw", "region"},
        "Inspection": {"runtime", "calibration_revision"},
        "ScoreStreamResponse": {"ending"},
    }
    messages = contract(without=older if age == "older" else {}, beside=newer if age == "newer" else {})
    request, response = messages("ScoreStreamRequest"), messages("ScoreStreamResponse")
    first = request(config={"model": tile_model, "policy": BLOCK})
    frame = request(frame={"camera": "left", "sequence": 5, "image": {"encoded": picture}})
    if age == "newer":
        first.config.fashion = frame.frame.mood = frame.frame.image.frame_colour = "new"
    with grpc.insecure_channel(stack.address) as channel:
        call = channel.stream_stream(
            "/blemish.v1.InspectionService/ScoreStream",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        (told,) = call(iter([first, frame]))
    assert told.sequence == 5
    assert told.inspection.score > 0
    assert told.inspection.model_version == tile_model


@pytest.mark.parametrize("kind", ["encoded", "raw"])
def test_frame_above_the_largest_message_is_refused_alone(
    client: Client, picture: bytes, tile_model: str, kind: str
) -> None:
    above = bytes(4 << 20) if kind == "encoded" else np.zeros((2000, 2000), np.uint8)
    told = list(client.stream([picture, above, picture], tile_model, policy=BLOCK))
    answers_ = [one.answer for one in told if isinstance(one, FrameResult)]
    assert [one.WhichOneof("answer") for one in answers_] == ["inspection", "refusal", "inspection"]
    assert answers_[1].refusal.reason == "TOO_LARGE"
    assert "3145728 that BLEMISH_MAX_MESSAGE_BYTES" in answers_[1].refusal.message


def test_raw_frames_and_arrays_have_the_scores_of_their_files(
    client: Client, picture: bytes, tile_model: str
) -> None:
    with PIL.Image.open(BytesIO(picture)) as opened:
        samples = np.asarray(opened.convert("RGB"))
    part = raw_image(samples, region=(0, 0, 64, 64))
    reversed_ = raw_image(samples[:, :, ::-1], "BGR8")
    told = answers(client, [picture, samples, reversed_, part], tile_model)
    first, *others, of_part = [one.inspection.score for one in told]
    assert others == pytest.approx([first, first], rel=1e-6)
    assert of_part == pytest.approx(client.score(part, tile_model).score, rel=1e-6)
