# SPDX-License-Identifier: Apache-2.0
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import numpy as np
import pytest
from tests.support.fake_server import CallError, FakeServer

from blemish.v1 import inspection_pb2 as pb
from blemish.v1.image_pb2 import AnomalyMap, Image
from blemish_client import Client, Frame, FrameResult, LostFrames, RetryPolicy, raw_image
from blemish_client.errors import NotFound, Unavailable
from blemish_client.images import ImageLike

QUICK = RetryPolicy(first_pause_s=0.01, longest_pause_s=0.05, call_s=0.3, watch_s=1.0)


@pytest.fixture
def client(target: str) -> Iterator[Client]:
    with Client(target, retry_policy=QUICK) as client:
        yield client


def sequences(results: list[FrameResult | LostFrames]) -> list[int]:
    return [result.answer.sequence for result in results if isinstance(result, FrameResult)]


def test_every_frame_has_a_result_with_its_image(client: Client, fake: FakeServer) -> None:
    images = [b"a", b"b", b"c"]
    results = list(client.stream(images, "m", camera="left", first=7, anomaly_map=True, max_latency_s=0.5))
    assert [
        (result.answer.sequence, result.image) for result in results if isinstance(result, FrameResult)
    ] == [
        (7, b"a"),
        (8, b"b"),
        (9, b"c"),
    ]
    assert all(isinstance(result, FrameResult) and result.answer.camera == "left" for result in results)
    assert all(isinstance(result, FrameResult) and 0 < result.latency_s < 10 for result in results)
    (config,) = fake.requests["ScoreStream"]
    assert (config.model, config.policy) == ("models/m", pb.STREAM_POLICY_LATEST)
    assert config.outputs.anomaly_map
    assert config.max_latency.ToMilliseconds() == 500
    assert not config.HasField("target_false_reject_rate")


def ending() -> pb.ScoreStreamResponse:
    return pb.ScoreStreamResponse(ending=pb.StreamEnding(message="about to stop"))


def cut() -> CallError:
    return CallError(grpc.StatusCode.UNAVAILABLE, "gone", "UNAVAILABLE")


@pytest.mark.parametrize("how", ["cut", "ended"])
def test_block_loses_no_frame_with_the_connection(how: str, client: Client, fake: FakeServer) -> None:
    fake.streams = [[None, None, cut() if how == "cut" else ending()]]
    images = [bytes([number]) for number in range(40)]
    results = list(client.stream(images, "m", policy=pb.STREAM_POLICY_BLOCK))
    assert sequences(results) == list(range(40))
    assert [result.image for result in results if isinstance(result, FrameResult)] == images
    assert len(fake.requests["ScoreStream"]) == 2


def test_latest_reports_lost_frames(client: Client, fake: FakeServer) -> None:
    fake.streams = [[None, None, cut()]]
    results = list(client.stream([b"x"] * 40, "m"))
    lost = [number for result in results if isinstance(result, LostFrames) for number in result.sequences]
    assert 2 in lost
    assert sorted([*sequences(results), *lost]) == list(range(40))
    assert lost == sorted(lost)


def test_dropped_frames_have_one_result(client: Client, fake: FakeServer) -> None:
    def images() -> Iterator[bytes]:
        for number in range(5):
            yield bytes([number])

    dropped = pb.ScoreStreamResponse(dropped=pb.DroppedFrames(last_sequence=1))
    fake.streams = [[None, dropped, None]]
    results = list(client.stream(images(), "m"))
    assert [result.image for result in results if isinstance(result, FrameResult)] == [
        bytes([n]) for n in range(5)
    ]


def test_exception_of_the_source_is_raised(client: Client) -> None:
    def images() -> Iterator[bytes]:
        yield b"one"
        raise OSError("the camera was unplugged")

    with pytest.raises(OSError, match="unplugged"):
        list(client.stream(images(), "m"))


def test_rejected_stream_is_not_retried(client: Client, fake: FakeServer) -> None:
    fake.errors["ScoreStream"] = [CallError(grpc.StatusCode.NOT_FOUND, "no model", "NOT_FOUND")]
    with pytest.raises(NotFound, match="no model"):
        list(client.stream([b"x"], "m"))
    assert len(fake.requests["ScoreStream"]) == 1


def test_retries_end_without_a_server() -> None:
    with Client("127.0.0.1:1", retry_policy=QUICK) as client, pytest.raises(Unavailable):
        list(client.stream([b"x"], "m"))


def test_next_connection_continues_a_pending_read_of_the_source(client: Client, fake: FakeServer) -> None:
    answered = threading.Event()

    def images() -> Iterator[bytes]:
        for number in range(3):
            yield bytes([number])
        answered.wait(5)  # the connection is lost while the source waits for its next frame
        for number in range(3, 6):
            yield bytes([number])

    fake.streams = [[None, cut()]]
    results: list[FrameResult | LostFrames] = []
    for result in client.stream(images(), "m", policy=pb.STREAM_POLICY_BLOCK):
        results.append(result)
        if len(fake.requests["ScoreStream"]) == 2 or isinstance(result, FrameResult):
            threading.Timer(0.2, answered.set).start()
    assert sequences(results) == list(range(6))


def test_retries_end_if_the_server_ends_every_stream(client: Client, fake: FakeServer) -> None:
    fake.streams = [[ending()] for _ in range(1000)]
    with pytest.raises(Unavailable, match="ended the stream"):
        list(client.stream([b"x"], "m", policy=pb.STREAM_POLICY_BLOCK))


def test_arrays_and_messages_are_frames(client: Client) -> None:
    samples = np.zeros((2, 3), np.uint8)
    raw = raw_image(samples, "BayerRG8")
    results = list(client.stream([b"a", samples, raw], "m"))
    sent = [result.sent for result in results if isinstance(result, FrameResult)]
    assert sent == [Image(encoded=b"a"), raw_image(samples), raw]
    assert [result.image for result in results if isinstance(result, FrameResult)] == [b"a", b"", b""]


def test_array_that_is_no_image_ends_the_stream_with_the_reason(client: Client) -> None:
    with pytest.raises(ValueError, match="the array has the shape"):
        list(client.stream([b"a", np.zeros((2, 3, 2), np.uint8)], "m"))


def test_frame_above_the_limit_is_sent_without_its_image(client: Client, fake: FakeServer) -> None:
    fake.max_message_bytes = 2 << 20
    images = [b"a", bytes(3 << 20), bytes(3 << 19), b"b", bytes(4 << 20)]
    results = list(client.stream(images, "m"))
    assert sequences(results) == [0, 1, 2, 3, 4]
    assert [result.image for result in results if isinstance(result, FrameResult)] == images
    assert sorted(fake.omitted) == [1, 4]
    assert 3 << 20 < fake.omitted[1] < (3 << 20) + 100
    assert len(fake.requests["GetServerInfo"]) == 1


def test_limit_is_read_again_after_a_restart(client: Client, fake: FakeServer) -> None:
    fake.max_message_bytes = 2 << 20
    fake.streams = [[None, ending()]]
    list(client.stream([bytes(3 << 20)] * 4, "m", policy=pb.STREAM_POLICY_BLOCK))
    assert sorted(fake.omitted) == [0, 1, 2, 3]
    assert len(fake.requests["GetServerInfo"]) == 2


def test_small_frames_and_older_servers_have_no_limit(client: Client, fake: FakeServer) -> None:
    list(client.stream([bytes(1 << 19)] * 3, "m"))
    assert not fake.requests["GetServerInfo"]
    assert sequences(list(client.stream([bytes(3 << 20)], "m"))) == [0]
    assert not fake.omitted


def test_frames_carry_their_origin(client: Client, fake: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"a")
    taken = datetime(2026, 12, 2, 6, tzinfo=UTC)
    frames: list[ImageLike | Frame] = [
        Frame(tmp_path / "a.png", name="a.png", camera="right", capture_time=taken, sequence=40),
        Frame(b"b", name="b.png", camera="right"),
        b"c",
        Frame(b"d", name="d.png"),
    ]
    results = [each for each in client.stream(frames, "m", camera="left") if isinstance(each, FrameResult)]
    assert [(each.name, each.camera, each.sequence, each.image) for each in results] == [
        ("a.png", "right", 40, b"a"),
        ("b.png", "right", 41, b"b"),
        ("", "left", 0, b"c"),
        ("d.png", "left", 1, b"d"),
    ]
    assert results[0].capture_time == taken
    assert results[0].inspection is not None


def test_dropped_and_lost_frames_have_names(client: Client, fake: FakeServer) -> None:
    dropped = pb.ScoreStreamResponse(dropped=pb.DroppedFrames(last_sequence=1))
    fake.streams = [[None, dropped, cut()]]
    held = threading.Event()

    def frames() -> Iterator[Frame]:
        for number in range(3):
            yield Frame(b"x", name=f"{number}.png")
        held.wait(10)  # the frames before arrive together

    names = []
    for result in client.stream(frames(), "m"):
        names.append(result.names)
        if isinstance(result, LostFrames):
            held.set()
    assert names == [("0.png",), ("1.png",), ("2.png",)]


def test_each_attempt_to_connect_again_is_reported(fake: FakeServer) -> None:
    causes: list[Unavailable] = []
    with Client("127.0.0.1:1", retry_policy=QUICK) as client, pytest.raises(Unavailable):
        list(client.stream([b"x"], "m", on_unreachable=causes.append))
    assert len(causes) > 2
    assert causes[0].message.startswith("cannot connect to 127.0.0.1:1")


def test_map_of_a_frame_is_an_array(client: Client, fake: FakeServer) -> None:
    answer = pb.ScoreStreamResponse(inspection=pb.Inspection(score=2.0))
    answer.inspection.anomaly_map.CopyFrom(AnomalyMap(width=2, height=1, values=bytes(8)))
    fake.streams = [[answer, None]]
    found, without = client.stream([b"a", b"b"], "m", anomaly_map=True)
    assert isinstance(found, FrameResult)
    assert isinstance(without, FrameResult)
    assert found.anomaly_map is not None
    assert found.anomaly_map.shape == (1, 2)
    assert without.anomaly_map is None
