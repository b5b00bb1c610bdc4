# SPDX-License-Identifier: Apache-2.0
"""Regions of the images that a model of the cache scores."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.support.inspections import make_calibration, make_manifest

from blemish_core.detectors.base import Prediction
from blemish_core.imaging.decode import ImageLimits, read_mask
from blemish_core.imaging.image_input import ImageInput, RawLayout, Region
from blemish_core.models.bundle import Manifest
from blemish_core.models.store import ModelStore
from blemish_core.platform.names import ModelRef
from blemish_core.runtimes.choice import RuntimeChoice
from blemish_server.scoring import model_cache
from blemish_server.scoring.batcher import BatchingPolicy
from blemish_server.scoring.inspection import (
    Capture,
    Inspection,
    QueueOptions,
    ScoringRequest,
    StoragePolicy,
)
from blemish_server.scoring.localization import localized_again
from blemish_server.scoring.model_cache import ModelCache

VERSION = ModelRef("tile", 1)
WIDTH, HEIGHT = 96, 64


class FakeRuntime:
    """A runtime with a name."""

    name = "fake"


class DarkSpotDetector:
    """A detector whose map is the blurred darkness of the image, at half its size."""

    name = "fake"
    input_size = 16
    frame = None
    mask = None
    bytes = 100
    runtime = FakeRuntime()
    mask = None
    frame = None

    def prepare(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        dark = 1 - image.mean(axis=2) / 255
        blurred = cv2.GaussianBlur(dark.astype(np.float32), (0, 0), 4)
        return np.asarray(cv2.resize(blurred, (image.shape[1] // 2, image.shape[0] // 2)), np.float32)

    def predict(self, inputs: Sequence[NDArray[np.float32]]) -> list[Prediction]:
        return [Prediction(float(each.max()), each, np.ones(4, np.float32)) for each in inputs]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelCache:
    calibration = make_calibration(0.5, scores=(0.05, 0.06, 0.07)).model_copy(update={"map_maxima": (0.3,)})

    def load(folder: Path, device: str, choice: RuntimeChoice) -> tuple[Manifest, DarkSpotDetector]:
        return make_manifest().model_copy(update={"calibration": calibration}), DarkSpotDetector()

    monkeypatch.setattr(model_cache, "load_for_serving", load)
    return ModelCache(
        ModelStore(tmp_path),
        ImageLimits(),
        device="cpu",
        runtime=RuntimeChoice("openvino"),
        policy=BatchingPolicy(max_batch_size=1),
        budget_bytes=100,
    )


def surface(shade: int = 20) -> NDArray[np.uint8]:
    """Return a bright surface (64, 96) with a spot of 12 x 12 px at (60, 30)."""
    noise = np.random.default_rng(0).integers(0, 8, (HEIGHT, WIDTH)).astype(np.uint8)
    pixels = np.full((HEIGHT, WIDTH), 245, np.uint8) - noise
    pixels[30:42, 60:72] = shade
    return pixels


async def inspect(
    cache: ModelCache,
    pixels: NDArray[np.uint8],
    *,
    part: Region | None = None,
    storage: StoragePolicy = StoragePolicy.NONE,
    with_regions: bool = False,
    with_mask: bool = False,
    false_reject_rate: float | None = None,
) -> Inspection:
    image = ImageInput(pixels.tobytes(), RawLayout("Mono8", WIDTH, HEIGHT), part)
    request = ScoringRequest(
        VERSION,
        QueueOptions("caller"),
        lambda: Capture(image),
        len(image.data),
        storage=storage,
        false_reject_rate=false_reject_rate,
        with_regions=with_regions,
        with_mask=with_mask,
    )
    model = await cache.load(VERSION)
    return (await model.batcher.submit(request)).result


async def test_regions_are_found_only_for_requests_that_show_or_store_them(cache: ModelCache) -> None:
    assert (await inspect(cache, surface())).regions is None
    for stored in (StoragePolicy.ANOMALOUS, StoragePolicy.ALL):
        assert len((await inspect(cache, surface(), storage=stored)).regions or ()) == 1
    requested = await inspect(cache, surface(), with_regions=True)
    assert len(requested.regions or ()) == 1
    assert requested.mask == b""


async def test_normal_verdict_has_no_region(cache: ModelCache) -> None:
    inspection = await inspect(cache, surface(shade=200), with_regions=True, with_mask=True)
    assert not inspection.is_anomalous
    assert inspection.regions == ()
    mask = read_mask(inspection.mask)
    assert mask.shape == (HEIGHT, WIDTH)
    assert not mask.any()


async def test_verdict_at_the_rate_of_a_stream_decides_about_regions(cache: ModelCache) -> None:
    faint = await inspect(cache, surface(shade=200), with_regions=True, false_reject_rate=0.5)
    assert len(faint.regions or ()) == 1


async def test_mask_is_the_picture_of_the_regions(cache: ModelCache) -> None:
    inspection = await inspect(cache, surface(), with_regions=True, with_mask=True)
    (region,) = inspection.regions or ()
    mask = read_mask(inspection.mask)
    assert mask.shape == (HEIGHT, WIDTH)
    assert mask.sum() == region.area
    truth = surface() < 100
    assert (mask & truth).sum() / (mask | truth).sum() > 0.6


async def test_regions_of_a_part_are_in_px_of_the_whole_image(cache: ModelCache) -> None:
    part = Region(40, 20, 48, 40)
    inspection = await inspect(cache, surface(), part=part, with_regions=True, with_mask=True)
    (region,) = inspection.regions or ()
    assert 60 <= region.peak[0] < 72
    assert 30 <= region.peak[1] < 42
    mask = read_mask(inspection.mask)
    assert mask.shape == (40, 48)
    assert mask[36 - 20, 66 - 40]


async def test_image_that_is_kept_later_is_outlined_then(cache: ModelCache) -> None:
    limits = ImageLimits()
    unknown = await inspect(cache, surface())
    known = await inspect(cache, surface(), with_regions=True)
    assert localized_again(unknown, limits).regions == known.regions
    assert localized_again(known, limits) is known
    normal = await inspect(cache, surface(shade=200))
    assert localized_again(normal, limits) is normal
