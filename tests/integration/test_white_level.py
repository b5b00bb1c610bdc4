# SPDX-License-Identifier: Apache-2.0
"""Images of 12 bits in files of 16, from upload and training to answers and pictures."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.integration.conftest import RunningStack

from blemish.v1.image_pb2 import VERDICT_ANOMALOUS
from blemish.v1.inspection_pb2 import STREAM_POLICY_BLOCK
from blemish_client import Client, FrameResult, raw_image, rendering


def deep(file: Path) -> NDArray[np.uint16]:
    """Return an image as a camera of 12 bits sees it."""
    grey = np.asarray(Image.open(file).convert("L"), np.float64)
    noise = np.random.default_rng(len(file.name)).uniform(-0.5, 0.5, grey.shape)
    return ((grey + noise) * (4095 / 255)).clip(0, 4095).astype(np.uint16)


def png(samples: NDArray[np.uint16]) -> bytes:
    out = BytesIO()
    Image.fromarray(samples).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def folder(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deep")
    for part in ("train/good", "test/good", "test/crack"):
        (folder / part).mkdir(parents=True)
        for file in sorted((stack.surfaces / "tile" / part).iterdir()):
            (folder / part / file.name).write_bytes(png(deep(file)))
    return folder


@pytest.fixture(scope="module")
def model(stack: RunningStack, folder: Path) -> str:
    with Client(stack.address) as client:
        client.create_dataset("deep")
        (warning,) = client.upload("deep", folder).dataset.warnings
        assert "a sixteenth of the range" in warning
        updated = client.update_dataset("deep", white_level=4095)
        assert (updated.white_level, list(updated.warnings)) == (4095, [])
        job = client.wait(client.train("deep", model_id="deep"))
        assert job.error == ""
        assert not [text for text in job.warnings if "sixteenth" in text]
        return job.result.model_version


def test_files_and_raw_frames_have_one_score(client: Client, model: str, folder: Path) -> None:
    assert client.model(model).white_level == 4095
    samples = deep_of(folder)
    height, width = samples.shape
    stream = sum(int(sample) << (12 * place) for place, sample in enumerate(samples.ravel()))
    packed = stream.to_bytes(samples.size * 3 // 2, "little")
    found = [
        client.score(image, model)
        for image in (
            png(samples),
            samples,
            raw_image(samples, "Mono12"),
            raw_image(packed, "Mono12p", size=(width, height)),
        )
    ]
    assert len({inspection.score for inspection in found}) == 1
    assert all(not inspection.notes for inspection in found)


def test_previews_and_thumbnails_show_what_was_scored(client: Client, model: str, folder: Path) -> None:
    samples = deep_of(folder)
    expected = samples.mean() * 255 / 4095
    inspection = client.score(png(samples), model, preview=True)
    shown = rendering.picture(png(samples), inspection)
    assert np.asarray(shown.image.convert("L")).mean() == pytest.approx(expected, abs=2)
    client.wait(client.embed(model, "deep"))
    results = client.search(png(samples), model, 3, thumbnails=True)
    assert results.query is not None
    assert results.query.HasField("preview")
    for hit in results:
        thumbnail = np.asarray(rendering.decode(hit.thumbnail).convert("L"))
        assert thumbnail.mean() == pytest.approx(expected, abs=25)


def test_stream_previews_anomalous_frames_only(client: Client, model: str, folder: Path) -> None:
    files = [sorted((folder / "test" / name).iterdir())[0] for name in ("good", "crack")] * 2
    frames = [file.read_bytes() for file in files]
    found = []
    for result in client.stream(frames, model, policy=STREAM_POLICY_BLOCK, preview=True):
        assert isinstance(result, FrameResult)
        inspection = result.answer.inspection
        assert inspection.HasField("preview") == (inspection.verdict == VERDICT_ANOMALOUS)
        found.append(inspection.verdict)
    assert len(found) == len(frames)
    assert VERDICT_ANOMALOUS in found


def deep_of(folder: Path) -> NDArray[np.uint16]:
    file = sorted((folder / "test" / "crack").iterdir())[0]
    return np.array(Image.open(file)).astype(np.uint16)
