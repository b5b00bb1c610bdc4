# SPDX-License-Identifier: Apache-2.0
"""Bad input is refused with a reason, at little cost, and the server goes on."""

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from PIL import Image

from blemish.v1 import dataset_pb2, inspection_pb2
from blemish.v1.dataset_pb2_grpc import DatasetServiceStub
from blemish.v1.image_pb2 import Image as ImageMessage
from blemish.v1.inspection_pb2_grpc import InspectionServiceStub
from blemish.v1.job_pb2 import CreateJobRequest
from blemish.v1.job_pb2_grpc import JobServiceStub
from blemish_client import Client
from blemish_client.errors import AlreadyExists, BlemishError, InvalidArgument, NotFound, ResourceExhausted

RANDOM = np.random.default_rng(11)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def noise(mode: str, side: int = 64) -> Image.Image:
    return Image.fromarray(RANDOM.integers(0, 256, (side, side, 3), dtype=np.uint8)).convert(mode)


def png_that_claims(side: int) -> bytes:
    """Return a PNG of a few bytes whose header announces ``side`` x ``side`` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 100_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


BAD_IMAGES = {
    "nothing": b"",
    "text": b"not an image at all",
    "truncated": encoded(noise("RGB"))[:-200],
    "truncated JPEG": encoded(noise("RGB"), "JPEG")[:300],
    "1x1": encoded(Image.new("RGB", (1, 1))),
    "20,000 px a side": png_that_claims(20_000),
    "a bomb": png_that_claims(60_000),
    "GIF": encoded(noise("P"), "GIF"),
}

GOOD_IMAGES = {
    "grey": encoded(noise("L")),
    "palette": encoded(noise("P")),
    "alpha": encoded(noise("RGBA")),
    "grey and alpha": encoded(noise("LA")),
    "CMYK": encoded(noise("CMYK"), "JPEG"),
    "1 bit": encoded(noise("1")),
    "16 bit": encoded(Image.fromarray(RANDOM.integers(0, 65_536, (64, 64), dtype=np.uint16))),
    "BMP": encoded(noise("RGB"), "BMP"),
    "TIFF": encoded(noise("RGB"), "TIFF"),
    "WebP": encoded(noise("RGB"), "WEBP"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bytes_that_are_not_an_image_are_refused_with_a_reason(
    client: Client, tile_model: str, name: str
) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        client.score(BAD_IMAGES[name], "tile")
    assert refusal.value.reason in {"INVALID_IMAGE", "INVALID_REQUEST"}
    assert len(refusal.value.message) > 20
    client.score(GOOD_IMAGES["grey"], "tile")


@pytest.mark.parametrize("name", GOOD_IMAGES)
def test_every_kind_of_image_is_scored(client: Client, tile_model: str, name: str) -> None:
    assert client.score(GOOD_IMAGES[name], "tile").score > 0


def test_decompression_bombs_cost_little_memory(client: Client, tile_model: str) -> None:
    client.score(GOOD_IMAGES["grey"], "tile")
    serving = [
        process
        for process in psutil.process_iter(["cmdline"])
        if "blemish_server" in (process.info["cmdline"] or [])
        and process.environ().get("BLEMISH_LISTEN") == client.target
    ]
    assert serving  # the process, and the one that ends it if its supervisor dies

    def memory() -> int:
        return sum(process.memory_info().rss for process in serving)

    before = memory()
    for _ in range(20):
        with pytest.raises(InvalidArgument):
            client.score(BAD_IMAGES["a bomb"], "tile")
    assert memory() - before < 64 << 20


@pytest.mark.parametrize("model", ["nonesuch", "tile/99", "tile@production/1", "../x", ""])
def test_unknown_or_malformed_model_is_refused(client: Client, tile_model: str, model: str) -> None:
    with pytest.raises((NotFound, InvalidArgument)):
        client.score(GOOD_IMAGES["grey"], model)
    with pytest.raises((NotFound, InvalidArgument)):
        list(client.search(GOOD_IMAGES["grey"], model))


def test_message_over_the_limit_is_refused(client: Client, tile_model: str) -> None:
    with pytest.raises(ResourceExhausted):
        client.score(b"\x89PNG" + bytes(4 << 20), "tile")
    with pytest.raises(InvalidArgument, match="bytes"):
        client.score(b"\x89PNG" + bytes(5 << 19), "tile")
    client.score(GOOD_IMAGES["grey"], "tile")


@pytest.mark.parametrize("limit", [-1, 1001, 10_000_000])
def test_number_of_hits_out_of_range_is_refused(client: Client, tile_model: str, limit: int) -> None:
    with pytest.raises(InvalidArgument, match="use 1 to 1000"):
        list(client.search(GOOD_IMAGES["grey"], "tile", limit=limit))


def test_malformed_and_unknown_items_are_refused(client: Client, tile_model: str) -> None:
    with pytest.raises(InvalidArgument, match="is not an item"):
        list(client.search("items/xyz", "tile"))
    with pytest.raises(NotFound, match="is not in the index"):
        list(client.search("items/00000000-0000-0000-0000-000000000000", "tile"))


def test_folders_outside_the_import_roots_are_not_read(
    client: Client, surfaces: Path, tmp_path: Path
) -> None:
    (tmp_path / "train" / "good").mkdir(parents=True)
    for path in ("/etc", str(tmp_path), str(surfaces / ".."), str(surfaces / "tile" / ".." / ".."), "tile"):
        with pytest.raises(InvalidArgument, match=r"BLEMISH_IMPORT_ROOTS|absolute"):
            client.import_dataset("outside", path)
    with pytest.raises(NotFound):
        client.import_dataset("outside", str(surfaces / "nonesuch"))
    with pytest.raises(InvalidArgument, match="tile"):
        client.import_dataset("outside", str(surfaces))  # a folder of datasets is none itself
    assert "datasets/outside" not in {dataset.name for dataset in client.datasets()}


def upload(address: str, parts: list[dataset_pb2.UploadImagesRequest]) -> dataset_pb2.UploadImagesResponse:
    with grpc.insecure_channel(address) as channel:
        return DatasetServiceStub(channel).UploadImages(iter(parts), timeout=20)


def part(**kwargs: object) -> dataset_pb2.UploadImagesRequest:
    return dataset_pb2.UploadImagesRequest(**kwargs)  # type: ignore[arg-type]


def header(path: str, size: int, sha256: bytes = b"") -> dataset_pb2.UploadImagesRequest:
    return part(image=dataset_pb2.ImageHeader(path=path, size_bytes=size, sha256=sha256))


def test_interrupted_upload_keeps_complete_images(client: Client) -> None:
    client.create_dataset("cut")
    whole = GOOD_IMAGES["grey"]
    first = [part(dataset="datasets/cut"), header("train/good/000.png", len(whole)), part(chunk=whole)]
    begun = [header("train/good/001.png", len(whole)), part(chunk=whole[:100])]

    def breaks_off() -> Iterator[dataset_pb2.UploadImagesRequest]:
        yield from first + begun
        raise ConnectionError("the cable was pulled")

    with grpc.insecure_channel(client.target) as channel, pytest.raises(grpc.RpcError):
        DatasetServiceStub(channel).UploadImages(breaks_off(), timeout=20)
    with pytest.raises(grpc.RpcError) as refusal:
        upload(client.target, first + begun)
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "ended within train/good/001.png" in (refusal.value.details() or "")
    assert client.dataset("cut").train_images == 1


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ([], "INVALID_ARGUMENT"),
        ([part(chunk=b"x")], "INVALID_ARGUMENT"),
        ([part(dataset="datasets/nonesuch")], "NOT_FOUND"),
        ([part(dataset="datasets/bad"), header("../../x.png", 3), part(chunk=b"xxx")], "INVALID_ARGUMENT"),
        (
            [part(dataset="datasets/bad"), header("train/good/x.png", 3), part(chunk=b"xxx")],
            "INVALID_ARGUMENT",
        ),
        (
            [part(dataset="datasets/bad"), header("train/good/x.png", 3), part(chunk=b"xxxx")],
            "INVALID_ARGUMENT",
        ),
        ([part(dataset="datasets/bad"), header("train/good/x.png", 1 << 40)], "RESOURCE_EXHAUSTED"),
        ([part(dataset="datasets/bad"), header("train/good/x.png", -1)], "INVALID_ARGUMENT"),
        (
            [
                part(dataset="datasets/bad"),
                header("train/good/x.png", len(GOOD_IMAGES["grey"]), b"\0" * 32),
                part(chunk=GOOD_IMAGES["grey"]),
            ],
            "INVALID_ARGUMENT",
        ),
    ],
)
def test_uploads_out_of_order_or_outside_the_layout_are_refused(
    client: Client, parts: list[dataset_pb2.UploadImagesRequest], code: str
) -> None:
    if "datasets/bad" not in {dataset.name for dataset in client.datasets()}:
        client.create_dataset("bad")
    with pytest.raises(grpc.RpcError) as refusal:
        upload(client.target, parts)
    assert refusal.value.code().name == code
    assert refusal.value.details()
    assert client.dataset("bad").train_images == 0


def test_other_content_under_an_existing_path_is_refused(client: Client) -> None:
    client.create_dataset("twice")
    for image, refused in ((GOOD_IMAGES["grey"], False), (GOOD_IMAGES["alpha"], True)):
        parts = [part(dataset="datasets/twice"), header("train/good/0.png", len(image)), part(chunk=image)]
        if refused:
            with pytest.raises(grpc.RpcError) as refusal:
                upload(client.target, parts)
            assert refusal.value.code() is grpc.StatusCode.ALREADY_EXISTS
        else:
            upload(client.target, parts)


@pytest.mark.parametrize("id", ["", "Tile", "../tile", "a" * 64, "a b", "-x"])
def test_malformed_dataset_ids_are_refused(client: Client, id: str) -> None:
    with pytest.raises(InvalidArgument, match="is not a valid id"):
        client.create_dataset(id, category="tile")


def test_job_without_a_kind_is_refused(client: Client) -> None:
    with grpc.insecure_channel(client.target) as channel, pytest.raises(grpc.RpcError) as refusal:
        JobServiceStub(channel).CreateJob(CreateJobRequest(), timeout=10)
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_deadline_that_passes_in_the_queue_is_reported(client: Client, tile_model: str) -> None:
    request = inspection_pb2.ScoreRequest(
        model="models/tile", image=ImageMessage(encoded=GOOD_IMAGES["grey"])
    )
    with grpc.insecure_channel(client.target) as channel, pytest.raises(grpc.RpcError) as refusal:
        InspectionServiceStub(channel).Score(request, timeout=0.001)
    assert refusal.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    client.score(GOOD_IMAGES["grey"], "tile")


def test_full_queue_refuses_the_excess_and_answers_the_rest(client: Client, tile_model: str) -> None:
    request = inspection_pb2.ScoreRequest(
        model="models/tile", image=ImageMessage(encoded=GOOD_IMAGES["grey"])
    )
    with grpc.insecure_channel(client.target) as channel:
        stub = InspectionServiceStub(channel)
        calls = [stub.Score.future(request, timeout=60) for _ in range(400)]
        codes = [call.code() for call in calls]
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert codes.count(grpc.StatusCode.OK) >= 64


def test_every_refusal_has_a_message(client: Client, tile_model: str) -> None:
    for call in (
        lambda: client.job("nonesuch"),
        lambda: client.cancel("nonesuch"),
        lambda: client.dataset("nonesuch"),
        lambda: client.model("nonesuch"),
        lambda: client.promote("tile"),
    ):
        with pytest.raises(BlemishError) as refusal:
            call()
        assert refusal.value.reason not in {"", "UNSPECIFIED"}
        assert not isinstance(refusal.value, AlreadyExists)
