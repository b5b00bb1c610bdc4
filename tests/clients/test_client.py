# SPDX-License-Identifier: Apache-2.0
import hashlib
import io
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

import grpc
import numpy as np
import PIL.Image
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
from tests.support.regions import make_region_message

import blemish_client
from blemish.v1.image_pb2 import RENDITION_ORIGINAL, RENDITION_THUMBNAIL, VERDICT_NORMAL, Image
from blemish.v1.image_pb2 import ImageFile as StoredFile
from blemish.v1.inspection_pb2 import PRIORITY_AUDIT
from blemish.v1.job_pb2 import JOB_STATE_CANCELLING, JOB_STATE_FAILED, JOB_STATE_RUNNING, PatchCore
from blemish.v1.model_pb2 import RegionSettings
from blemish.v1.search_pb2 import GetItemImageResponse
from blemish_client import BlemishError, Client, Frame, Priority, RetryPolicy, raw_image
from blemish_client.errors import AlreadyExists, InternalError, NotFound, Unavailable
from blemish_client.transport.requests import SearchQuery
from blemish_client.transport.upload import CHUNK_BYTES, ImageContent, ImageFile, scan_folder
from blemish_client.types.stored_image import receive_image

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def test_score(client: Client, fake: FakeServer) -> None:
    inspection = client.score(b"png", "tile-patchcore/3", embedding=True)
    assert (inspection.score, inspection.verdict) == (1.5, VERDICT_NORMAL)
    assert inspection.embedding == pytest.approx([0.6, 0.8])
    assert not inspection.HasField("anomaly_map")
    (request,) = fake.requests["Score"]
    assert request.model == "models/tile-patchcore/versions/3"
    assert request.image.encoded == b"png"


def test_score_with_map(client: Client) -> None:
    found = client.score(b"png", "m", anomaly_map=True).anomaly_map
    assert (found.width, found.height, len(found.values)) == (8, 8, 8 * 8 * 4)


def test_messages_above_the_default_limit_of_grpc(client: Client, fake: FakeServer) -> None:
    fake.map_side = 1200
    inspection = client.score(bytes(6 << 20), "m", anomaly_map=True)
    assert len(inspection.anomaly_map.values) == 1200 * 1200 * 4


def test_search_by_image(client: Client, fake: FakeServer) -> None:
    found = client.search(b"png", "m", 2, datasets=["tile"], classes=["crack"], thumbnails=True)
    assert found.query is not None
    assert found.query.score == 2
    assert [hit.item for hit in found] == ["items/1", "items/2"]
    (request,) = fake.requests["Search"]
    assert list(request.filter.datasets) == ["datasets/tile"]
    assert list(request.filter.classes) == ["crack"]
    assert (request.limit, request.include_thumbnails) == (2, True)


def test_query_may_be_any_image_or_an_embedding(client: Client, fake: FakeServer, tmp_path: Path) -> None:
    file = tmp_path / "frame.png"
    file.write_bytes(b"png")
    samples = np.zeros((2, 3), np.uint8)
    raw = raw_image(samples)
    queries: list[SearchQuery] = [file, b"png", samples, PIL.Image.fromarray(samples), raw]
    for query in queries:
        list(client.search(query, "m"))
    embeddings: list[SearchQuery] = [[0.5, 0.25], np.array([0.5, 0.25], np.float32)]
    for query in embeddings:
        list(client.search(query, "m"))
    requests = fake.requests["Search"]
    encoded = Image(encoded=b"png")
    assert [request.image for request in requests[:5]] == [encoded, encoded, raw, raw, raw]
    assert [list(request.vector.values) for request in requests[5:]] == [[0.5, 0.25]] * 2


def test_masks_may_be_arrays_and_files(client: Client, fake: FakeServer, tmp_path: Path) -> None:
    mask = np.array([[False, True]])
    list(client.search(b"png", "m", mask=mask))
    client.train("tile", mask=mask)
    (tmp_path / "mask.json").write_text('{"width": 4, "height": 2, "ignore": [[[0, 0], [3, 0], [3, 1]]]}')
    client.train("tile", mask=tmp_path / "mask.json")
    drawn, polygons = (request.train.mask for request in fake.requests["CreateJob"])
    assert drawn.png == fake.requests["Search"][0].mask
    with PIL.Image.open(io.BytesIO(drawn.png)) as png:
        assert np.array_equal(np.asarray(png), mask * 255)
    assert len(polygons.polygons.ignore[0].points) == 3


def test_score_takes_files_and_times(client: Client, fake: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "frame.png").write_bytes(b"png")
    taken = datetime(2026, 12, 2, 6, tzinfo=UTC)
    client.score(tmp_path / "frame.png", "m", camera="left", capture_time=taken, priority=Priority.AUDIT)
    client.score(str(tmp_path / "frame.png"), "m")
    first, second = fake.requests["Score"]
    assert first.image == second.image == Image(encoded=b"png")
    assert (first.camera, first.capture_time.ToDatetime(UTC)) == ("left", taken)
    assert first.priority == PRIORITY_AUDIT
    assert not second.HasField("capture_time")


@pytest.mark.parametrize("packs", [True, False])
def test_search_by_item(client: Client, fake: FakeServer, *, packs: bool) -> None:
    fake.packs = packs
    found = client.search("items/7", "m")
    assert found.query is None
    assert [hit.item for hit in found.hits] == ["items/1", "items/2", "items/3"]
    assert fake.requests["Search"][0].item == "items/7"


def test_search_by_region_counts_unseen_candidates(client: Client, fake: FakeServer) -> None:
    fake.unseen = 28
    found = client.search("items/7", "m", region=(0, 0, 8, 8))
    assert (len(list(found)), found.unseen, found.next_page_token) == (3, 28, "")
    fake.unseen = 0
    found = client.search("items/7", "m", region=(0, 0, 8, 8))
    assert (len(list(found)), found.unseen) == (3, 0)


def test_search_without_hits(client: Client, fake: FakeServer) -> None:
    fake.hits = []
    assert list(client.search("items/7", "m")) == []
    assert list(client.search(b"png", "m")) == []


def test_search_raises_before_the_first_hit(client: Client, fake: FakeServer) -> None:
    fake.errors["Search"] = [CallError(grpc.StatusCode.NOT_FOUND, "no such model")]
    with pytest.raises(NotFound, match="no such model"):
        client.search(b"png", "m")


def test_datasets(client: Client, fake: FakeServer) -> None:
    assert client.create_dataset("tile", category="stone").category == "stone"
    assert client.dataset("tile").name == "datasets/tile"
    assert [dataset.train_images for dataset in client.datasets()] == [0, 1, 2, 3, 4]
    assert [request.page_token for request in fake.requests["ListDatasets"]] == ["", "2", "4"]
    assert client.import_dataset("tile", "/data/tile").stored == 3
    assert fake.requests["ImportDataset"][0].path == "/data/tile"


def test_pages_are_fetched_lazily(client: Client, fake: FakeServer) -> None:
    next(client.datasets())
    assert len(fake.requests["ListDatasets"]) == 1


def test_upload_sends_headers_and_chunks_in_order(client: Client, fake: FakeServer, tmp_path: Path) -> None:
    contents = write_dataset_folder(tmp_path)
    sent: list[ImageFile] = []
    answer = client.upload("tile", tmp_path, on_image=sent.append)
    assert answer.stored == len(contents) == 6
    first, *messages = fake.requests["UploadImages"]
    assert first.dataset == "datasets/tile"

    received: dict[str, bytes] = {}
    header = None
    for message in messages:
        if message.HasField("image"):
            header = message.image
            received[header.path] = b""
        else:
            assert header is not None
            assert 0 < len(message.chunk) <= CHUNK_BYTES
            received[header.path] += message.chunk
    assert received == contents
    headers = [message.image for message in messages if message.HasField("image")]
    assert all(len(contents[h.path]) == h.size_bytes for h in headers)
    assert all(hashlib.sha256(contents[h.path]).digest() == h.sha256 for h in headers)
    assert [image.path for image in sent] == [h.path for h in headers]
    groups = [group for group, _ in groupby(h.path.split("/")[0] for h in headers)]
    assert groups == ["train", "test", "ground_truth"]


def test_upload_skips_a_vanished_file_and_sends_the_rest(client: Client, tmp_path: Path) -> None:
    write_dataset_folder(tmp_path)

    def on_image(image: ImageFile) -> None:
        (tmp_path / "test/good/000.png").unlink(missing_ok=True)

    result = client.upload("tile", tmp_path, on_image=on_image)
    assert result.stored == 5
    assert [(file.path, file.expected) for file in result.skipped] == [
        ("test/crack/notes.txt", True),
        ("test/good/000.png", False),
    ]
    assert result.skipped[1].reason == "cannot be read: No such file or directory"


def test_images_are_moved_to_a_folder(client: Client, fake: FakeServer) -> None:
    answer = client.move_images("tile", ["train/good/0.png"], "test/crack")
    assert [each.new_path for each in answer.images] == ["test/crack/0.png"]
    assert fake.requests["MoveImages"][0].dataset == "datasets/tile"


def test_images_in_memory_are_uploaded_with_their_paths(client: Client, fake: FakeServer) -> None:
    images = [ImageContent("train/good/0.png", b"first", "a b.png"), ImageContent("test/good/1.png", b"")]
    client.upload_images("tile", iter(images), replace=True)
    first, *messages = fake.requests["UploadImages"]
    assert (first.dataset, first.skip_rejected, first.replace) == ("datasets/tile", True, True)
    assert [
        (m.image.path, m.image.original_path, m.image.size_bytes) for m in messages if m.HasField("image")
    ] == [
        ("train/good/0.png", "a b.png", 5),
        ("test/good/1.png", "", 0),
    ]
    assert b"".join(message.chunk for message in messages) == b"first"


def test_rejected_upload_raises(client: Client, fake: FakeServer, tmp_path: Path) -> None:
    write_dataset_folder(tmp_path)
    fake.errors["UploadImages"] = [CallError(grpc.StatusCode.ALREADY_EXISTS, "other content")]
    with pytest.raises(AlreadyExists, match="other content"):
        client.upload("tile", tmp_path)


def test_layout(tmp_path: Path) -> None:
    contents = write_dataset_folder(tmp_path)
    found = scan_folder(tmp_path)
    assert [(file.path, file.expected) for file in found.skipped] == [("test/crack/notes.txt", True)]
    assert found.size_bytes == sum(map(len, contents.values()))
    with pytest.raises(NotADirectoryError):
        scan_folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="MVTec"):
        scan_folder(tmp_path / "train")


def test_train(client: Client, fake: FakeServer) -> None:
    job = client.train(
        "tile", model_id="m", detector=PatchCore(input_size=128), seed=7, promote=True, request_id="r"
    )
    assert job.name == "jobs/made"
    (request,) = fake.requests["CreateJob"]
    assert request.request_id == "r"
    assert (request.train.dataset, request.train.model_id) == ("datasets/tile", "m")
    assert (request.train.seed, request.train.promote) == (7, True)
    assert request.train.patchcore.input_size == 128


def test_embed_and_evaluate(client: Client, fake: FakeServer) -> None:
    client.embed("m/3", "tile")
    client.evaluate("m@production", "tile")
    embed, evaluate = fake.requests["CreateJob"]
    assert (embed.embed.model, embed.embed.dataset) == ("models/m/versions/3", "datasets/tile")
    assert evaluate.evaluate.model == "models/m@production"
    assert embed.request_id != evaluate.request_id


def test_retried_job_keeps_its_request_id(client: Client, fake: FakeServer) -> None:
    fake.errors["CreateJob"] = [CallError(UNAVAILABLE, "redis", retry_after_s=0.05)] * 3
    client.train("tile")
    ids = {request.request_id for request in fake.requests["CreateJob"]}
    assert len(fake.requests["CreateJob"]) == 4
    assert len(ids) == 1
    assert ids != {""}


def test_retries_end_after_the_time_of_the_policy(client: Client, fake: FakeServer) -> None:
    fake.errors["CreateJob"] = [CallError(UNAVAILABLE, "redis is away")] * 1000
    with pytest.raises(Unavailable, match="redis is away"):
        client.train("tile")
    assert 3 < len(fake.requests["CreateJob"]) < 100


def test_other_errors_are_not_retried(client: Client, fake: FakeServer) -> None:
    fake.errors["CreateJob"] = [CallError(grpc.StatusCode.NOT_FOUND)]
    with pytest.raises(NotFound):
        client.train("tile")
    assert len(fake.requests["CreateJob"]) == 1


def test_jobs(client: Client, fake: FakeServer) -> None:
    assert client.job("j1").name == "jobs/j1"
    assert [job.name for job in client.jobs(states=[JOB_STATE_RUNNING])] == [f"jobs/j{i}" for i in range(5)]
    assert all(list(r.states) == [JOB_STATE_RUNNING] for r in fake.requests["ListJobs"])
    assert client.cancel("j1").state == JOB_STATE_CANCELLING
    assert client.cancel(client.job("j1")).name == "jobs/j1"


def test_watch(client: Client) -> None:
    assert [job.revision for job in client.watch("made")] == [1, 2, 9]


def test_watch_resumes_without_repeating_revisions(client: Client, fake: FakeServer) -> None:
    lost = CallError(UNAVAILABLE, detailed=False)
    fake.watches = [
        [queued("jobs/made"), running("jobs/made", 1, 2), lost],
        [lost],
        [running("jobs/made", 1, 2), running("jobs/made", 2, 3)],  # the server stops
        [CallError(grpc.StatusCode.DEADLINE_EXCEEDED, detailed=False)],
        [running("jobs/made", 2, 3), ended("jobs/made")],
    ]
    assert [job.revision for job in client.watch("made")] == [1, 2, 3, 9]
    assert len(fake.requests["WatchJob"]) == 5


def test_watch_ends_if_the_server_stays_unavailable(client: Client, fake: FakeServer) -> None:
    fake.watches = [[queued("jobs/made")], [CallError(UNAVAILABLE, "away")]]
    with pytest.raises(Unavailable, match="away"):
        client.wait("made")


def test_watch_of_missing_job_raises(client: Client, fake: FakeServer) -> None:
    fake.watches = [[CallError(grpc.StatusCode.NOT_FOUND, "no such job")]]
    with pytest.raises(NotFound, match="no such job"):
        client.wait("made")
    assert len(fake.requests["WatchJob"]) == 1


def test_wait(client: Client, fake: FakeServer) -> None:
    fake.watches = [[running("jobs/made"), ended("jobs/made", JOB_STATE_FAILED)]]
    job = client.wait(client.train("tile"))
    assert (job.state, job.error) == (JOB_STATE_FAILED, "the worker ran out of memory")


def test_models(client: Client, fake: FakeServer) -> None:
    assert [model.name for model in client.models()] == ["models/m0", "models/m1", "models/m2"]
    assert client.model("m").name == "models/m"
    assert client.promote("m/2").production
    assert fake.requests["PromoteModel"][0].name == "models/m/versions/2"


def test_update_calibration(client: Client, fake: FakeServer) -> None:
    changed = client.update_calibration("m/2", author="ann", threshold=0.0, comment="why")
    assert changed.calibration.revision == 3
    client.update_calibration("m/2", author="ann", trained=True, expected_revision=3)
    client.update_calibration("m/2", author="ann", target_false_reject_rate=0.01)
    fixed, trained, rate = fake.requests["UpdateCalibration"]
    assert (fixed.name, fixed.author, fixed.comment) == ("models/m/versions/2", "ann", "why")
    assert (fixed.WhichOneof("rule"), fixed.threshold, fixed.expected_revision) == ("threshold", 0, 0)
    assert (trained.WhichOneof("rule"), trained.expected_revision) == ("trained", 3)
    assert rate.target_false_reject_rate == 0.01


def test_update_of_regions_needs_no_rule(client: Client, fake: FakeServer) -> None:
    client.update_calibration("m/2", author="ann", regions=RegionSettings(max_regions=4))
    (request,) = fake.requests["UpdateCalibration"]
    assert (request.WhichOneof("rule"), request.regions.max_regions) == (None, 4)


def test_regions_and_mask_are_requested(client: Client, fake: FakeServer) -> None:
    fake.regions = [make_region_message()]
    inspection = client.score(picture(32), "m", regions=True, mask=True)
    assert list(inspection.regions) == fake.regions
    assert inspection.mask == picture(16)
    assert not client.score(picture(32), "m").regions


def test_calibration_requires_exactly_one_rule(client: Client, fake: FakeServer) -> None:
    with pytest.raises(ValueError, match="give exactly one of"):
        client.update_calibration("m/2", author="ann")
    with pytest.raises(ValueError, match="give exactly one of"):
        client.update_calibration("m/2", author="ann", threshold=1.0, trained=True)
    assert not fake.requests["UpdateCalibration"]


def test_server_info(client: Client) -> None:
    assert client.server_info().version == "0.1.0"


def test_unreachable_server_raises_unavailable(tmp_path: Path) -> None:
    unreachable = pytest.raises(Unavailable, match="cannot connect to unix:")
    with Client(f"unix:{tmp_path / 'n'}") as client, unreachable as caught:
        client.server_info()
    assert isinstance(caught.value.__cause__, grpc.RpcError)
    assert isinstance(caught.value, BlemishError)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Found", "SearchResults"),
        ("Lost", "LostFrames"),
        ("Patience", "RetryPolicy"),
        ("Seen", "FrameResult"),
    ],
)
def test_old_names_still_work_and_warn(old: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=new):
        assert getattr(blemish_client, old) is getattr(blemish_client, new)


def test_old_keyword_patience_still_works_and_warns(fake: FakeServer, target: str) -> None:
    policy = RetryPolicy(first_pause_s=0.01, call_s=0.0)
    with pytest.warns(DeprecationWarning, match="retry_policy"):
        client = Client(target, patience=policy)
    fake.errors["CreateJob"] = [CallError(UNAVAILABLE, "redis is away")] * 2
    with client, pytest.raises(Unavailable):
        client.train("tile")
    assert len(fake.requests["CreateJob"]) == 1


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Nothing"):
        blemish_client.Nothing  # noqa: B018


def test_unknown_option_is_a_type_error(client: Client, fake: FakeServer) -> None:
    calls: list[Callable[..., object]] = [
        lambda **options: client.score(b"png", "m", **options),
        lambda **options: client.stream([b"png"], "m", **options),
        lambda **options: client.search(b"png", "m", **options),
        lambda **options: client.train("tile", **options),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="unexpected keyword argument 'anomaly_maps'; use one of "):
            call(anomaly_maps=True)
    assert not any(fake.requests.values())


def test_image_of_an_item(client: Client, fake: FakeServer) -> None:
    stored = client.item_image("abcd12", "m")
    assert stored.content == picture(48, 1)
    assert (stored.media_type, stored.extension, stored.width, stored.height) == (
        "image/png",
        ".png",
        48,
        48,
    )
    assert stored.sha256 == hashlib.sha256(stored.content).hexdigest()
    part = client.item_image("latest", "m/3", read_offset=100, read_limit=50)
    assert part.content == stored.content[100:150]
    assert part.size_bytes == len(stored.content)
    client.item_image("items/latest", "m", thumbnail=64)
    first, second, third = fake.requests["GetItemImage"]
    assert (first.item, first.model, first.rendition) == ("items/abcd12", "models/m", RENDITION_ORIGINAL)
    assert (second.item, second.model) == ("items/latest", "models/m/versions/3")
    assert (third.rendition, third.max_side) == (RENDITION_THUMBNAIL, 64)


def test_map_of_an_item(client: Client) -> None:
    found = client.item_map("abcd12", "m")
    assert (found.width, found.height, len(found.values), found.threshold) == (4, 4, 64, 7.0)


def test_image_of_a_dataset(client: Client, fake: FakeServer) -> None:
    assert client.dataset_image("tile", "train/good/0.png").content == picture(48, 2)
    (request,) = fake.requests["GetImage"]
    assert (request.dataset, request.path) == ("datasets/tile", "train/good/0.png")


def test_image_damaged_on_its_way_is_an_error() -> None:
    answers = [
        GetItemImageResponse(file=StoredFile(size_bytes=3, sha256=bytes(32))),
        GetItemImageResponse(chunk=b"abc"),
    ]
    with pytest.raises(InternalError, match="damaged on its way"):
        receive_image(iter(answers))
    with pytest.raises(InternalError, match="no description"):
        receive_image(iter(answers[1:]))


def test_items_are_requested_in_order(client: Client, fake: FakeServer) -> None:
    assert [hit.item for hit in client.items("m", where="score > 1", order_by="time desc")] == [
        "items/1",
        "items/2",
        "items/3",
    ]
    assert [(each.where, each.order_by) for each in fake.requests["ListItems"]] == [
        ("score > 1", "time desc")
    ] * 2
    assert client.count_items("m") == 3


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("", ""),
        ("frame.png", "frame.png"),
        ("/line/left/frame 1.png", "frame 1.png"),
        (r"C:\\line\\frame.png", "frame.png"),
        ("rtsp://user:secret@camera", ""),
        ("x" * 300 + ".png", "x" * 251 + ".png"),
        ("\udcff.png", r"\udcff.png"),
    ],
)
def test_name_of_an_image_is_sent_without_its_folders(
    client: Client, fake: FakeServer, name: str, sent: str
) -> None:
    client.score(b"png", "m", name=name)
    assert fake.requests["Score"][0].name == sent
    assert Frame(b"png", name=name).sent_name == sent


def test_file_has_its_own_name_unless_another_one_is_given(
    client: Client, fake: FakeServer, tmp_path: Path
) -> None:
    (tmp_path / "frame.png").write_bytes(b"png")
    client.score(tmp_path / "frame.png", "m")
    client.score(str(tmp_path / "frame.png"), "m", name="7")
    assert [request.name for request in fake.requests["Score"]] == ["frame.png", "7"]
    list(client.stream([tmp_path / "frame.png", Frame(b"b", name="/line/b.png"), b"c"], "m"))
    assert fake.names == ["frame.png", "b.png", ""]
