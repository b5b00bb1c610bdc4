# SPDX-License-Identifier: Apache-2.0
import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tests.support.fake_server import (
    CallError,
    FakeServer,
    ended,
    picture,
    queued,
    running,
    write_dataset_folder,
)

from blemish.v1 import inspection_pb2 as pb
from blemish.v1.audit_pb2 import AUDIT_STAGE_BEGUN, AUDIT_STAGE_ENDED, AuditEntry
from blemish.v1.image_pb2 import VERDICT_NORMAL
from blemish.v1.job_pb2 import JOB_STATE_FAILED
from blemish_client import (
    AsyncClient,
    Frame,
    FrameResult,
    JobState,
    Label,
    LostFrames,
    RetryPolicy,
    Store,
)
from blemish_client.errors import BlemishError, InternalError, InvalidArgument, NotFound, Unavailable
from blemish_client.streaming import async_frame_stream
from blemish_client.streaming.async_frame_stream import FAILED_WRITE, translate_stream_error
from blemish_client.transport.upload import ImageContent

QUICK = RetryPolicy(first_pause_s=0.01, longest_pause_s=0.05, call_s=0.3, watch_s=1.0)
BLOCK = pb.STREAM_POLICY_BLOCK


@pytest.fixture
async def client(target: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(target, retry_policy=QUICK) as client:
        yield client


async def frames(count: int) -> AsyncIterator[bytes]:
    for number in range(count):
        yield bytes([number])


async def collect(answers: AsyncIterator[FrameResult | LostFrames]) -> list[FrameResult | LostFrames]:
    return [result async for result in answers]


def sequences(results: list[FrameResult | LostFrames]) -> list[int]:
    return [result.answer.sequence for result in results if isinstance(result, FrameResult)]


async def test_score_returns_the_inspection(client: AsyncClient, fake: FakeServer) -> None:
    inspection = await client.score(b"png", "m/3", priority=pb.PRIORITY_LINE_STOP)
    assert (inspection.score, inspection.verdict) == (1.5, VERDICT_NORMAL)
    (request,) = fake.requests["Score"]
    assert (request.model, request.priority) == ("models/m/versions/3", pb.PRIORITY_LINE_STOP)


async def test_rejected_image_raises_with_reason(client: AsyncClient) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await client.score(b"not an image", "m")
    assert refused.value.reason == "INVALID_IMAGE"


async def test_server_info_and_search(client: AsyncClient, fake: FakeServer) -> None:
    assert (await client.server_info()).version
    answers = [answer async for answer in client.search(b"png", "m", 3)]
    assert answers[0].WhichOneof("event") == "query"
    assert {answer.WhichOneof("event") for answer in answers[1:]} == {"hit"}


async def test_files_and_frames_with_their_origin(client: AsyncClient, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"a")
    assert (await client.score(file, "m", store=Store.ALL)).score == 1.5
    images: list[Frame | bytes] = [
        Frame(file, name="a.png", camera="right", sequence=7),
        Frame(b"b", name="b"),
        b"c",
    ]
    results = [each for each in await collect(client.stream(images, "m")) if isinstance(each, FrameResult)]
    assert [(each.name, each.camera, each.sequence, each.image) for each in results] == [
        ("a.png", "right", 7, b"a"),
        ("b", "", 0, b"b"),
        ("", "", 1, b"c"),
    ]


@pytest.mark.parametrize("kind", ["async", "ordinary"])
async def test_every_frame_has_a_result_with_its_image(
    client: AsyncClient, fake: FakeServer, kind: str
) -> None:
    images: Any = frames(3) if kind == "async" else [b"\0", b"\1", b"\2"]
    results = await collect(client.stream(images, "m", camera="left", first=7, policy=BLOCK))
    assert [
        (result.answer.sequence, result.image) for result in results if isinstance(result, FrameResult)
    ] == [
        (7, b"\0"),
        (8, b"\1"),
        (9, b"\2"),
    ]
    assert all(isinstance(result, FrameResult) and 0 < result.latency_s < 10 for result in results)


@pytest.mark.parametrize("how", ["cut", "ended"])
async def test_block_loses_no_frame_with_the_connection(
    how: str, client: AsyncClient, fake: FakeServer
) -> None:
    gone = CallError(grpc.StatusCode.UNAVAILABLE, "gone", "UNAVAILABLE")
    ending = pb.ScoreStreamResponse(ending=pb.StreamEnding(message="about to stop"))
    fake.streams = [[None, None, gone if how == "cut" else ending]]
    results = await collect(client.stream(frames(40), "m", policy=BLOCK))
    assert sequences(results) == list(range(40))
    assert len(fake.requests["ScoreStream"]) == 2


async def test_latest_reports_lost_frames(client: AsyncClient, fake: FakeServer) -> None:
    fake.streams = [[None, None, CallError(grpc.StatusCode.UNAVAILABLE, "gone", "UNAVAILABLE")]]
    results = await collect(client.stream(frames(40), "m"))
    lost = [number for result in results if isinstance(result, LostFrames) for number in result.sequences]
    assert 2 in lost
    assert sorted([*sequences(results), *lost]) == list(range(40))


@pytest.mark.parametrize("kind", ["async", "ordinary"])
async def test_exception_of_the_source_is_raised(client: AsyncClient, kind: str) -> None:
    async def unplugged() -> AsyncIterator[bytes]:
        yield b"one"
        raise OSError("the camera was unplugged")

    def pulled() -> Iterator[bytes]:
        yield b"one"
        raise OSError("the camera was unplugged")

    with pytest.raises(OSError, match="unplugged"):
        await collect(client.stream(unplugged() if kind == "async" else pulled(), "m"))


async def test_rejected_stream_is_not_retried(client: AsyncClient, fake: FakeServer) -> None:
    fake.errors["ScoreStream"] = 2 * [CallError(grpc.StatusCode.NOT_FOUND, "no model", "NOT_FOUND")]
    with pytest.raises(NotFound, match="no model"):
        await collect(client.stream(frames(1), "m"))
    assert 1 <= len(fake.requests["ScoreStream"]) <= 2  # twice if a failed write hid the first rejection


async def test_rejection_hidden_by_a_failed_write_is_requested_again(
    client: AsyncClient, fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """grpc.aio replaces the status of a call if a write fails before the server's status arrives."""
    refusal = CallError(grpc.StatusCode.NOT_FOUND, "no model", "NOT_FOUND")
    fake.errors["ScoreStream"] = [refusal, refusal]
    hidden = iter([True])
    translate = async_frame_stream.translate_stream_error

    def hide_once(error: grpc.aio.AioRpcError, target: str) -> BlemishError:
        if next(hidden, False):
            lost = grpc.StatusCode.INTERNAL
            error = grpc.aio.AioRpcError(
                lost, error.initial_metadata(), error.trailing_metadata(), FAILED_WRITE
            )
        return translate(error, target)

    monkeypatch.setattr(async_frame_stream, "translate_stream_error", hide_once)
    with pytest.raises(NotFound, match="no model"):
        await collect(client.stream(frames(1), "m"))
    assert len(fake.requests["ScoreStream"]) == 2


async def test_retries_end_without_a_server() -> None:
    async with AsyncClient("127.0.0.1:1", retry_policy=QUICK) as client:
        with pytest.raises(Unavailable):
            await collect(client.stream(frames(1), "m"))


async def test_next_connection_continues_a_pending_read_of_the_source(
    client: AsyncClient, fake: FakeServer
) -> None:
    reconnected = asyncio.Event()

    async def images() -> AsyncIterator[bytes]:
        for number in range(3):
            yield bytes([number])
        await asyncio.wait_for(reconnected.wait(), 5)  # the connection is lost during this wait
        for number in range(3, 6):
            yield bytes([number])

    fake.streams = [[None, CallError(grpc.StatusCode.UNAVAILABLE, "gone", "UNAVAILABLE")]]
    results: list[FrameResult | LostFrames] = []
    async for result in client.stream(images(), "m", policy=BLOCK):
        results.append(result)
        asyncio.get_running_loop().call_later(0.2, reconnected.set)
    assert sequences(results) == list(range(6))


async def test_closing_the_stream_leaves_no_task(client: AsyncClient) -> None:
    closed = asyncio.Event()

    async def images() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x"
                await asyncio.sleep(0)
        finally:
            closed.set()

    stream = client.stream(images(), "m", policy=BLOCK)
    async for _ in stream:
        break
    await stream.aclose()
    await asyncio.sleep(0.05)
    assert len(asyncio.all_tasks()) == 1


def test_call_that_ended_during_a_write_is_unavailable() -> None:
    """FrameResult while other work took the cores: the status of the call is lost then."""

    def ended(code: grpc.StatusCode, words: str) -> type[BlemishError]:
        nothing = grpc.aio.Metadata()
        return type(translate_stream_error(grpc.aio.AioRpcError(code, nothing, nothing, words), "here"))

    assert issubclass(ended(grpc.StatusCode.INTERNAL, "Internal error from Core"), Unavailable)
    assert ended(grpc.StatusCode.INTERNAL, "internal error; see the server's log") is InternalError


async def test_frame_above_the_limit_is_sent_without_its_image(
    client: AsyncClient, fake: FakeServer
) -> None:
    fake.max_message_bytes = 2 << 20
    results = await collect(client.stream([b"a", bytes(3 << 20), b"b"], "m"))
    assert sequences(results) == [0, 1, 2]
    assert list(fake.omitted) == [1]


async def test_arrays_are_frames(client: AsyncClient) -> None:
    (result,) = await collect(client.stream([np.zeros((2, 3), np.uint8)], "m"))
    assert isinstance(result, FrameResult)
    assert result.sent.raw.pixel_format == "Mono8"


async def test_listings_yield_the_items_of_all_pages(client: AsyncClient, fake: FakeServer) -> None:
    assert [hit.item async for hit in client.items("m", where="score > 1", order_by="time desc")] == [
        "items/1",
        "items/2",
        "items/3",
    ]
    assert [(each.where, each.order_by) for each in fake.requests["ListItems"]] == [
        ("score > 1", "time desc")
    ] * 2
    assert await client.count_items("m") == 3
    assert [each.name async for each in client.datasets()] == [f"datasets/d{i}" for i in range(5)]
    assert [each.path async for each in client.images("tile")] == [f"train/good/{i}.png" for i in range(3)]
    assert [each.name async for each in client.models()] == ["models/m0", "models/m1", "models/m2"]
    assert [each.name async for each in client.jobs(states=[JobState.RUNNING])] == [
        f"jobs/j{i}" for i in range(5)
    ]
    assert [each.name for each in await client.workers()] == ["line-3:77"]


async def test_one_page_of_items_has_the_token_of_the_next(client: AsyncClient, fake: FakeServer) -> None:
    first = await client.items_page("m/3", where="score > 1", page_size=2)
    rest = await client.items_page("m/3", where="score > 1", page_size=2, page_token=first.next_page_token)
    assert [[hit.item for hit in page.items] for page in (first, rest)] == [
        ["items/1", "items/2"],
        ["items/3"],
    ]
    assert (first.total_size, rest.next_page_token) == (3, "")
    assert {(each.model, each.page_size) for each in fake.requests["ListItems"]} == {
        ("models/m/versions/3", 2)
    }


async def test_stored_images_and_maps(client: AsyncClient, fake: FakeServer) -> None:
    assert (await client.item_image("abcd12", "m")).content == picture(48, 1)
    assert (await client.item_map("abcd12", "m")).threshold == 7.0
    await client.dataset_image("tile", "train/good/0.png", thumbnail=64)
    assert fake.requests["GetImage"][0].max_side == 64
    with pytest.raises(TypeError, match="unexpected keyword argument 'size'; use one of "):
        await client.item_image("abcd12", "m", size=64)  # type: ignore[call-arg]


async def test_items_are_labelled_and_added(client: AsyncClient, fake: FakeServer) -> None:
    hit = await client.label("abcd12", "m", Label.CONFIRMED, "crack")
    assert (hit.item, hit.label_class) == ("items/abcd12", "crack")
    added = await client.add_items("tile", "m", (f"{i}" for i in range(102)), author="ann")
    assert len(added) == 102
    assert [len(request.items) for request in fake.requests["AddItems"]] == [100, 2]
    assert {(request.split, request.author) for request in fake.requests["AddItems"]} == {("test", "ann")}


async def test_each_call_has_one_audit_entry(client: AsyncClient, fake: FakeServer) -> None:
    fake.audit_entries = [
        AuditEntry(id="b", stage=AUDIT_STAGE_BEGUN),
        AuditEntry(id="a", stage=AUDIT_STAGE_ENDED),
        AuditEntry(id="a", stage=AUDIT_STAGE_BEGUN),
    ]
    found = [(each.id, each.stage) async for each in client.audit_entries(caller="ann")]
    assert found == [("b", AUDIT_STAGE_BEGUN), ("a", AUDIT_STAGE_ENDED)]
    assert {request.caller for request in fake.requests["ListAuditEntries"]} == {"ann"}


async def test_watch_resumes_without_repeating_revisions(client: AsyncClient, fake: FakeServer) -> None:
    lost = CallError(grpc.StatusCode.UNAVAILABLE, detailed=False)
    fake.watches = [
        [queued("jobs/made"), running("jobs/made", 1, 2), lost],
        [running("jobs/made", 2, 3)],  # the server stops
        [CallError(grpc.StatusCode.DEADLINE_EXCEEDED, detailed=False)],
        [running("jobs/made", 2, 3), ended("jobs/made", JOB_STATE_FAILED)],
    ]
    job = await client.train("tile", model_id="m", promote=True, mask=np.ones((2, 2), np.uint8))
    assert [changed.revision async for changed in client.watch(job)] == [1, 2, 3, 9]
    assert (await client.wait("made")).error == "the worker ran out of memory"
    fake.lines = ["loading", "training"]
    assert [line.text async for line in client.log(job, after="0-0")] == ["loading", "training"]
    assert [request.after_line for request in fake.requests["WatchJob"] if request.log] == ["0-0"]


async def test_watch_ends_if_the_server_stays_unavailable(client: AsyncClient, fake: FakeServer) -> None:
    fake.watches = [[queued("jobs/made")], [CallError(grpc.StatusCode.UNAVAILABLE, "away")]]
    with pytest.raises(Unavailable, match="away"):
        await client.wait("made")


async def test_retried_job_keeps_its_request_id(client: AsyncClient, fake: FakeServer) -> None:
    fake.errors["CreateJob"] = [CallError(grpc.StatusCode.UNAVAILABLE)] * 2
    await client.embed("m", None)
    assert len({request.request_id for request in fake.requests["CreateJob"]}) == 1
    assert len(fake.requests["CreateJob"]) == 3
    await client.evaluate("m", "tile")
    assert fake.requests["CreateJob"][-1].evaluate.dataset == "datasets/tile"


async def test_upload_sends_a_folder(client: AsyncClient, fake: FakeServer, tmp_path: Path) -> None:
    contents = write_dataset_folder(tmp_path)
    sent: list[str] = []
    response = await client.upload("tile", tmp_path, on_image=lambda image: sent.append(image.path))
    assert response.stored == len(contents)
    assert len(sent) == len(contents)
    messages = fake.requests["UploadImages"]
    assert b"".join(message.chunk for message in messages) == b"".join(
        contents[message.image.original_path or message.image.path]
        for message in messages
        if message.HasField("image")
    )


async def test_images_in_memory_are_uploaded(client: AsyncClient, fake: FakeServer) -> None:
    await client.upload_images("tile", [ImageContent("train/good/0.png", b"content")])
    first, header, chunk = fake.requests["UploadImages"]
    assert (first.dataset, header.image.path) == ("datasets/tile", "train/good/0.png")
    assert chunk.chunk == b"content"


async def test_rejected_upload_raises_its_reason(
    client: AsyncClient, fake: FakeServer, tmp_path: Path
) -> None:
    write_dataset_folder(tmp_path)
    for _ in range(20):
        fake.errors["UploadImages"] = [CallError(grpc.StatusCode.NOT_FOUND, "no such dataset")]
        with pytest.raises(NotFound, match="no such dataset"):
            await client.upload("tile", tmp_path)


async def test_unreadable_file_ends_the_import(client: AsyncClient, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await client.import_model(tmp_path / "missing.blemish")


async def test_export_and_import_of_a_model(client: AsyncClient, fake: FakeServer, tmp_path: Path) -> None:
    file, seen = tmp_path / "m.blemish", list[tuple[int, int]]()
    await client.export_model("m/3", file, on_bytes=lambda done, total: seen.append((done, total)))
    assert file.read_bytes() == fake.archive
    assert seen[-1] == (len(fake.archive), len(fake.archive))
    assert (await client.import_model(file, model_id="n")).name == "models/n/versions/4"
    exported = [each async for each in client.export_stream("m/3")]
    content = b"".join(each.chunk for each in exported)
    assert exported[0].size_bytes == len(content) == file.stat().st_size
    imported = await client.import_stream([content[:10], content[10:]], len(content), model_id="o")
    assert imported.name == "models/o/versions/4"
    sent = fake.requests["ImportModel"][-1]
    assert sent[0].header.size_bytes == len(content)
    assert b"".join(each.chunk for each in sent) == content
    assert b"".join(message.chunk for message in fake.requests["ImportModel"][0]) == fake.archive
    fake.errors["chunk"] = [CallError(grpc.StatusCode.DATA_LOSS)]
    with pytest.raises(BlemishError):
        await client.export_model("m/3", tmp_path / "other.blemish")
    assert [path.name for path in tmp_path.iterdir()] == ["m.blemish"]


async def test_versions_are_calibrated_and_promoted(client: AsyncClient, fake: FakeServer) -> None:
    assert (await client.promote("m/2", keep_target=False)).production
    assert (await client.shadow("m/2")).shadow
    assert (await client.pin("m/2")).pinned
    await client.update_calibration("m/2", author="ann", threshold=0.0, comment="why")
    await client.preview_calibration("m/2", trained=True, period=timedelta(days=1))
    (changed,), (preview,) = fake.requests["UpdateCalibration"], fake.requests["PreviewCalibration"]
    assert (changed.WhichOneof("rule"), changed.author, changed.comment) == ("threshold", "ann", "why")
    assert (preview.change.WhichOneof("rule"), preview.period.seconds) == ("trained", 86400)
    with pytest.raises(ValueError, match="give exactly one of"):
        await client.update_calibration("m/2", author="ann")
    assert b"models/m/versions/2 jobs/made" in await client.report("m/2", evaluation="made")
    assert (await client.compare("m/1", "m/2")).good_images == 20
    assert (await client.suspects("tile")).threshold == 18.1
    assert (await client.scores("m/2")).held_out == [1.0, 2.0, 30.0]


async def test_cancelled_upload_ends_its_call(
    client: AsyncClient, fake: FakeServer, tmp_path: Path
) -> None:
    write_dataset_folder(tmp_path)
    started, resume = threading.Event(), threading.Event()

    def wait(_: object) -> None:
        started.set()
        resume.wait(10)

    upload = asyncio.create_task(client.upload("tile", tmp_path, on_image=wait))
    await asyncio.to_thread(started.wait, 10)
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    resume.set()
    assert (await client.server_info()).version
    sent = [message for message in fake.requests["UploadImages"] if message and message.HasField("image")]
    assert len(sent) <= 1, "images were sent after the first one, at which the upload was cancelled"
