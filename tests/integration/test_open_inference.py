# SPDX-License-Identifier: Apache-2.0
"""The Open Inference Protocol, by the unchanged clients of Triton and KServe."""

from __future__ import annotations

import asyncio
import io
import json
import os
import queue
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tritonclient import grpc as triton
from tritonclient.grpc import aio as triton_aio
from tritonclient.grpc import service_pb2
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub
from tritonclient.utils import InferenceServerException, shared_memory

from blemish_client import Client

if TYPE_CHECKING:
    from tests.integration.conftest import RunningStack, Start

KSERVE = Path(sys.prefix) / "kserve/bin/python"


@pytest.fixture(scope="module")
def pictures(surfaces: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted((surfaces / "tile/test").glob("*/00[01].png"))]


@pytest.fixture
def client(stack: RunningStack) -> Iterator[Any]:
    with triton.InferenceServerClient(stack.address) as connected:
        yield connected


@pytest.fixture
def ours(stack: RunningStack) -> Iterator[Client]:
    with Client(stack.address) as connected:
        yield connected


def given(*images: bytes) -> list[Any]:
    tensor = triton.InferInput("image", [len(images)], "BYTES")
    tensor.set_data_from_numpy(np.array(images, dtype=np.object_))
    return [tensor]


def pixel_tensor(pixels: NDArray[np.uint8]) -> list[Any]:
    tensor = triton.InferInput("image", list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels)
    return [tensor]


def test_triton_client_reads_metadata(client: Any, tile_model: str) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tile")
    assert client.is_model_ready("tile", "1")
    assert not client.is_model_ready("tile", "99")
    assert not client.is_model_ready("no-such-model")
    assert client.get_server_metadata().name == "blemish"
    metadata = client.get_model_metadata("tile")
    assert metadata.platform == "blemish_patchcore"
    assert list(metadata.versions) == ["1"]
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in metadata.inputs] == [
        ("image", "BYTES", [-1])
    ]
    shapes = {tensor.name: list(tensor.shape) for tensor in metadata.outputs}
    assert shapes["score"] == [-1]
    assert shapes["anomaly_map"] == [-1, -1, -1]
    assert client.get_model_config("tile").config.name == "tile"
    assert "tile" in {model.name for model in client.get_model_repository_index().models}


def test_triton_client_receives_the_same_results_as_ours(
    client: Any, ours: Client, tile_model: str, pictures: list[bytes]
) -> None:
    answer = client.infer("tile", given(*pictures), request_id="mine")
    assert answer.get_response().id == "mine"
    assert answer.get_response().model_version == "1"
    scores = answer.as_numpy("score")
    assert scores.shape == (len(pictures),)
    for number, picture in enumerate(pictures):
        single = ours.score(picture, tile_model)
        assert scores[number] == pytest.approx(single.score, rel=1e-5)
        assert answer.as_numpy("p_value")[number] == single.p_value
        assert answer.as_numpy("threshold")[number] == pytest.approx(single.threshold)
        assert answer.as_numpy("anomalous")[number] == (single.score > single.threshold)
    assert answer.as_numpy("anomaly_map") is None


def test_triton_client_receives_the_outputs_that_it_names(
    client: Any, tile_model: str, pictures: list[bytes]
) -> None:
    asked = [triton.InferRequestedOutput(name) for name in ("anomaly_map", "embedding")]
    answer = client.infer("tile", given(*pictures[:2]), model_version="1", outputs=asked)
    assert answer.as_numpy("anomaly_map").shape == (2, 256, 256)
    assert np.linalg.norm(answer.as_numpy("embedding"), axis=1) == pytest.approx([1, 1], rel=1e-5)
    assert answer.as_numpy("score") is None


def test_triton_client_calls_concurrently_and_streams(
    client: Any, tile_model: str, pictures: list[bytes]
) -> None:
    done: queue.Queue[tuple[Any, Any]] = queue.Queue()
    expected = [client.infer("tile", given(picture)).as_numpy("score")[0] for picture in pictures]
    for picture in pictures:
        client.async_infer("tile", given(picture), lambda result, error: done.put((result, error)))
    told = [done.get(timeout=60) for _ in pictures]
    assert [error for _, error in told] == [None] * len(pictures)
    assert sorted(result.as_numpy("score")[0] for result, _ in told) == pytest.approx(sorted(expected))

    client.start_stream(lambda result, error: done.put((result, error)))
    for number, picture in enumerate([*pictures, b"garbage", pictures[0]]):
        client.async_stream_infer("tile", given(picture), request_id=str(number))
    told = [done.get(timeout=60) for _ in range(len(pictures) + 2)]
    client.stop_stream()
    results = [result for result, _ in told]
    refused = told[len(pictures)][1]
    assert isinstance(refused, InferenceServerException)  # in its place, and the stream lives
    assert "not a JPEG" in str(refused)
    scored = [result.as_numpy("score")[0] for result in results if result is not None]
    assert scored == pytest.approx([*expected, expected[0]])  # in order


async def test_triton_asyncio_client_receives_scores(
    stack: RunningStack, tile_model: str, pictures: list[bytes]
) -> None:
    async with triton_aio.InferenceServerClient(stack.address) as client:
        assert await client.is_model_ready("tile")
        answers = await asyncio.gather(*(client.infer("tile", given(picture)) for picture in pictures))

        async def requests() -> Any:
            for picture in pictures:
                yield {"model_name": "tile", "inputs": given(picture)}

        streamed = []
        async for answer, error in client.stream_infer(requests()):
            assert error is None
            streamed.append(answer.as_numpy("score")[0])
    assert streamed == pytest.approx([answer.as_numpy("score")[0] for answer in answers])


@pytest.mark.parametrize(
    ("model", "version", "images", "outputs", "code", "says"),
    [
        ("no-such-model", "", 1, [], "NOT_FOUND", "there is no model"),
        ("tile", "99", 1, [], "NOT_FOUND", "has no version 99"),
        ("tile", "newest", 1, [], "INVALID_ARGUMENT", "models/ID"),
        ("../tile", "", 1, [], "INVALID_ARGUMENT", "is not a valid id"),
        ("tile", "", 65, [], "INVALID_ARGUMENT", "1 to 64"),
        ("tile", "", 1, ["logits"], "INVALID_ARGUMENT", "use score, p_value"),
        ("tile", "", 0, [], "INVALID_ARGUMENT", "not a JPEG"),
    ],
)
def test_triton_client_receives_the_reason_for_a_refusal(
    client: Any,
    tile_model: str,
    pictures: list[bytes],
    model: str,
    version: str,
    images: int,
    outputs: list[str],
    code: str,
    says: str,
) -> None:
    tensors = given(*[pictures[0]] * images) if images else given(b"garbage")
    asked = [triton.InferRequestedOutput(name) for name in outputs]
    with pytest.raises(InferenceServerException) as refused:
        client.infer(model, tensors, model_version=version, outputs=asked)
    assert refused.value.status() == f"StatusCode.{code}"
    assert says in refused.value.message()


@pytest.mark.parametrize(
    "request_",
    [
        service_pb2.ModelInferRequest(model_name="tile"),
        service_pb2.ModelInferRequest(
            model_name="tile", inputs=[{"name": "picture", "datatype": "BYTES", "shape": [1]}]
        ),
        service_pb2.ModelInferRequest(
            model_name="tile",
            inputs=[{"name": "image", "datatype": "FP32", "shape": [1]}],
            raw_input_contents=[bytes(4)],
        ),
        service_pb2.ModelInferRequest(
            model_name="tile", inputs=[{"name": "image", "datatype": "BYTES", "shape": [1]}]
        ),
        *(
            service_pb2.ModelInferRequest(
                model_name="tile",
                inputs=[{"name": "image", "datatype": "BYTES", "shape": shape}],
                raw_input_contents=[raw],
            )
            for shape, raw in [
                ([1], b"\x01"),
                ([1], struct.pack("<I", 4_000_000_000) + b"x"),
                ([2], struct.pack("<I", 1) + b"x"),
                ([-1], struct.pack("<I", 1) + b"x"),
                ([1, 0], struct.pack("<I", 1) + b"x"),
            ]
        ),
    ],
)
def test_malformed_requests_are_refused(stack: RunningStack, tile_model: str, request_: Any) -> None:
    with grpc.insecure_channel(stack.address) as channel, pytest.raises(grpc.RpcError) as refused:
        GRPCInferenceServiceStub(channel).ModelInfer(request_, timeout=30)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_triton_client_sends_pixels(
    client: Any, ours: Client, tile_model: str, pictures: list[bytes]
) -> None:
    pixels = [np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")) for picture in pictures[:3]]
    expected = [ours.score(picture, tile_model).score for picture in pictures[:3]]

    batch = client.infer("tile", pixel_tensor(np.stack(pixels)))
    single = client.infer("tile", pixel_tensor(pixels[0]))
    grey = client.infer("tile", pixel_tensor(pixels[0][..., :1].copy()))

    assert batch.as_numpy("score") == pytest.approx(expected, rel=1e-5)
    assert single.as_numpy("score") == pytest.approx(expected[:1], rel=1e-5)
    assert grey.as_numpy("score").shape == (1,)
    with pytest.raises(InferenceServerException, match=r"send \[N, H, W, C\]"):
        client.infer("tile", pixel_tensor(pixels[0][..., 0].copy()))


def test_triton_client_uses_shared_memory(
    start: Start, address: str, ours: Client, tile_model: str, pictures: list[bytes]
) -> None:
    start(BLEMISH_SHARED_MEMORY="true")
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(each)).convert("RGB")) for each in pictures[:2]])
    expected = [ours.score(picture, tile_model).score for picture in pictures[:2]]
    key = f"/blemish-test-{os.getpid()}"
    handle = shared_memory.create_shared_memory_region("frames", key, pixels.nbytes + 4096)
    try:
        with triton.InferenceServerClient(address) as client:
            assert "system_shared_memory" in client.get_server_metadata().extensions
            client.register_system_shared_memory("frames", key, pixels.nbytes + 4096)
            with pytest.raises(InferenceServerException, match="is registered already"):
                client.register_system_shared_memory("frames", key, 1)
            regions = client.get_system_shared_memory_status().regions
            assert {name: region.byte_size for name, region in regions.items()} == {
                "frames": pixels.nbytes + 4096
            }
            shared_memory.set_shared_memory_region(handle, [pixels])
            tensor = triton.InferInput("image", list(pixels.shape), "UINT8")
            tensor.set_shared_memory("frames", pixels.nbytes)
            score = triton.InferRequestedOutput("score")
            score.set_shared_memory("frames", 4096, offset=pixels.nbytes)

            answer = client.infer("tile", [tensor], outputs=[score, triton.InferRequestedOutput("p_value")])

            assert answer.get_output("score").parameters["shared_memory_region"].string_param == "frames"
            scores = shared_memory.get_contents_as_numpy(handle, np.float32, [2], pixels.nbytes)
            assert scores == pytest.approx(expected, rel=1e-5)
            assert answer.as_numpy("p_value").shape == (2,)
            tensor.set_shared_memory("frames", pixels.nbytes, offset=8192)
            with pytest.raises(InferenceServerException, match="exceeds the region"):
                client.infer("tile", [tensor])
            client.unregister_system_shared_memory("frames")
            assert not client.get_system_shared_memory_status().regions
            with pytest.raises(InferenceServerException, match="there is no region 'frames'"):
                client.infer("tile", [tensor])
            del scores  # it refers to the memory
    finally:
        shared_memory.destroy_shared_memory_region(handle)


def test_shared_memory_is_disabled_by_default(client: Any, tile_model: str) -> None:
    assert "system_shared_memory" not in client.get_server_metadata().extensions
    with pytest.raises(InferenceServerException, match="set BLEMISH_SHARED_MEMORY=true"):
        client.register_system_shared_memory("frames", "/frames", 1)


def test_triton_priority_and_timeout_apply(client: Any, tile_model: str, pictures: list[bytes]) -> None:
    assert client.infer("tile", given(pictures[0]), priority=1).as_numpy("score") is not None
    with pytest.raises(InferenceServerException, match="priority is 7"):
        client.infer("tile", given(pictures[0]), priority=7)
    with pytest.raises(InferenceServerException) as late:
        client.infer("tile", given(*pictures), timeout=1)
    assert late.value.status() == "StatusCode.DEADLINE_EXCEEDED"


def test_statistics_are_counted_and_other_extensions_unimplemented(
    client: Any, tile_model: str, pictures: list[bytes]
) -> None:
    def count() -> int:
        (told,) = client.get_inference_statistics("tile").model_stats
        assert told.inference_stats.success.ns > 0
        return int(told.inference_count)

    client.infer("tile", given(pictures[0]))
    before = count()
    client.infer("tile", given(*pictures[:2]))
    assert count() == before + 2
    with pytest.raises(InferenceServerException) as missing:
        client.unload_model("tile")
    assert missing.value.status() == "StatusCode.UNIMPLEMENTED"


def test_kserve_client_receives_scores(
    stack: RunningStack, ours: Client, tile_model: str, surfaces: Path
) -> None:
    assert KSERVE.exists(), "KServe's client is not there; `make test` brings it"
    image = surfaces / "tile/test/good/000.png"
    script = Path(__file__).with_name("kserve_client.py")
    told = subprocess.run(
        [KSERVE, script, stack.address, "tile", image], check=True, capture_output=True, text=True
    )
    seen = json.loads(told.stdout.splitlines()[-1])
    assert [seen[name] for name in ("live", "ready", "model_ready", "other_ready")] == [
        True,
        True,
        True,
        False,
    ]
    single = ours.score(image.read_bytes(), tile_model)
    for form in ("contents", "raw"):
        assert seen[form]["score"] == pytest.approx([single.score] * 2, rel=1e-5)
        assert seen[form]["p_value"] == [single.p_value] * 2
        assert seen[form]["version"] == "1"
