# SPDX-License-Identifier: Apache-2.0
"""A model with a mask, from its training to its answers and to another server."""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.integration.conftest import RunningStack

from blemish.v1.image_pb2 import Image as ImageMessage
from blemish.v1.image_pb2 import Region
from blemish_client import Client
from blemish_client.errors import FailedPrecondition, InvalidArgument, NotFound

IGNORED = 48
"""Ignored columns of the frames of 128 px."""
MASK = json.dumps(
    {"width": 128, "height": 128, "ignore": [[[0, 0], [IGNORED, 0], [IGNORED, 128], [0, 128]]]}
).encode()


def encoded(pixels: NDArray[np.uint8]) -> bytes:
    out = BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def masked(stack: RunningStack, tile_model: str) -> str:
    with Client(stack.address) as client:
        job = client.wait(client.train("tile", model_id="masked", mask=MASK))
        assert job.error == ""
        assert (job.train.mask.width, job.train.mask.png) == (128, b"")
        return job.result.model_version


@pytest.fixture
def frame(stack: RunningStack) -> NDArray[np.uint8]:
    file = sorted((stack.surfaces / "tile/test/crack").iterdir())[0]
    return np.array(Image.open(file).convert("RGB"))


def with_noise(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the frame with other ignored pixels."""
    other = frame.copy()
    noise = np.random.default_rng(1).integers(0, 256, (128, IGNORED, 3), dtype=np.uint8)
    other[:, :IGNORED] = noise
    return other


def test_ignored_pixels_change_no_answer(client: Client, masked: str, frame: NDArray[np.uint8]) -> None:
    first, second = (
        client.score(encoded(each), masked, anomaly_map=True, embedding=True)
        for each in (frame, with_noise(frame))
    )
    assert first.score == second.score
    assert first.anomaly_map == second.anomaly_map
    assert first.embedding == second.embedding
    assert first.notes == []
    anomaly_map = np.frombuffer(first.anomaly_map.values, "<f4").reshape(
        first.anomaly_map.height, first.anomaly_map.width
    )
    columns = IGNORED * first.anomaly_map.width // 128
    assert (anomaly_map[:, : columns - 1] == anomaly_map.min()).all()


def test_region_of_a_frame_is_masked(client: Client, masked: str, frame: NDArray[np.uint8]) -> None:
    region = Region(left=16, top=0, width=112, height=112)
    first, second = (
        client.score(ImageMessage(encoded=encoded(each), region=region), masked)
        for each in (frame, with_noise(frame))
    )
    assert first.score == second.score
    ignored = Region(left=0, top=0, width=40, height=40)
    with pytest.raises(InvalidArgument, match="ignores the whole region"):
        client.score(ImageMessage(encoded=encoded(frame), region=ignored), masked)


def test_frame_of_another_size_is_noted_or_refused(
    client: Client, masked: str, frame: NDArray[np.uint8]
) -> None:
    large = client.score(encoded(frame.repeat(2, axis=0).repeat(2, axis=1)), masked)
    (note,) = large.notes
    assert "scaled from 128 x 128 px to the 256 x 256" in note
    with pytest.raises(InvalidArgument, match="the frame is 128 x 64 px, but the mask is for 128 x 128"):
        client.score(encoded(frame[:64]), masked)


def test_masked_version_travels_to_another_server(
    client: Client, masked: str, frame: NDArray[np.uint8], tmp_path: Path
) -> None:
    card = client.model(masked)
    assert card.mask.ignored_share == pytest.approx(IGNORED / 128)
    assert b"All others influence nothing" in client.report(masked)
    client.export_model(masked, tmp_path / "masked.blemish")
    imported = client.import_model(tmp_path / "masked.blemish", model_id="masked-copy")
    assert imported.mask == card.mask
    there, here = (client.score(encoded(frame), model) for model in ("masked-copy", masked))
    assert there.score == here.score
    client.delete_model("masked-copy")


def test_mask_of_a_version_is_used_again(client: Client, masked: str, tile_model: str) -> None:
    mask = client.model(masked).mask
    job = client.train("tile", model_id="masked-again", mask_of=masked)
    client.cancel(job)
    assert (job.train.mask.sha256, job.train.mask.width) == (mask.sha256, mask.width)
    with pytest.raises(InvalidArgument, match="has no mask"):
        client.train("tile", model_id="masked-again", mask_of=tile_model)
    with pytest.raises(NotFound):
        client.train("tile", model_id="masked-again", mask_of="masked/99")


def test_unsuitable_mask_is_refused_before_the_job_is_accepted(client: Client, tile_model: str) -> None:
    jobs = len(list(client.jobs()))
    wide = json.dumps({"width": 256, "height": 128, "ignore": [[[0, 0], [9, 0], [9, 9]]]}).encode()
    with pytest.raises(FailedPrecondition, match="128 x 128 px, but the mask is for 256 x 128"):
        client.train("tile", model_id="masked", mask=wide)
    with pytest.raises(InvalidArgument, match="ignores every pixel"):
        client.train("tile", model_id="masked", mask=encoded(np.zeros((128, 128), np.uint8)))
    assert len(list(client.jobs())) == jobs
