# SPDX-License-Identifier: Apache-2.0
"""Regions on the real stack: answers, masks, kept frames, hits, limits, and the inference protocol."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from tritonclient import grpc as triton

from blemish.v1 import image_pb2
from blemish.v1.image_pb2 import VERDICT_ANOMALOUS
from blemish.v1.inspection_pb2 import STORE_ALL, Inspection
from blemish.v1.model_pb2 import RegionSettings
from blemish_client import Client
from blemish_client.errors import InvalidArgument

if TYPE_CHECKING:
    from tests.integration.conftest import RunningStack


@pytest.fixture(scope="module")
def frames(surfaces: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted((surfaces / "tile/test").glob("*/00[01].png"))]


@pytest.fixture
def defective(client: Client, tile_model: str, frames: list[bytes]) -> bytes:
    """Return a frame that the model judges anomalous."""
    return next(each for each in frames if client.score(each, tile_model).verdict == VERDICT_ANOMALOUS)


@pytest.fixture
def settings(client: Client, tile_model: str) -> Iterator[None]:
    """Restore the settings of regions after a test."""
    yield
    client.update_calibration(tile_model, author="test", trained=True, regions=RegionSettings())


def pixels(content: bytes) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    return np.asarray(Image.open(BytesIO(content)))


def test_verdict_regions_and_mask_agree(client: Client, tile_model: str, frames: list[bytes]) -> None:
    verdicts = set()
    for frame in frames:
        inspection = client.score(frame, tile_model, regions=True, mask=True)
        anomalous = inspection.verdict == VERDICT_ANOMALOUS
        verdicts.add(anomalous)
        mask, (width, height) = pixels(inspection.mask), Image.open(BytesIO(frame)).size
        assert mask.shape == (height, width)
        assert mask.any() == bool(inspection.regions) == anomalous
        for region in inspection.regions:
            box = region.box
            assert 0 <= box.left < box.left + box.width <= width
            assert 0 <= box.top < box.top + box.height <= height
            assert mask[region.peak.y, region.peak.x]
            assert 0 < region.area <= box.width * box.height
    assert verdicts == {True, False}


def test_part_has_regions_in_px_of_the_frame(client: Client, tile_model: str, defective: bytes) -> None:
    peak = client.score(defective, tile_model, regions=True).regions[0].peak
    width, height = Image.open(BytesIO(defective)).size
    part = image_pb2.Region(left=width // 8, top=height // 8, width=width // 2, height=height // 2)
    part.left = min(max(0, peak.x - part.width // 2), width - part.width)
    part.top = min(max(0, peak.y - part.height // 2), height - part.height)
    inspection = client.score(
        image_pb2.Image(encoded=defective, region=part), tile_model, regions=True, mask=True
    )
    assert pixels(inspection.mask).shape == (part.height, part.width)
    for region in inspection.regions:
        assert part.left <= region.box.left
        assert region.box.left + region.box.width <= part.left + part.width
        assert pixels(inspection.mask)[region.peak.y - part.top, region.peak.x - part.left]


def test_part_outside_the_frame_is_refused(client: Client, tile_model: str, defective: bytes) -> None:
    part = image_pb2.Region(left=10_000, top=0, width=64, height=64)
    with pytest.raises(InvalidArgument, match="choose a region within it"):
        client.score(image_pb2.Image(encoded=defective, region=part), tile_model, regions=True)


def test_items_and_hits_show_regions(client: Client, tile_model: str, defective: bytes) -> None:
    items = list(client.items(tile_model))
    assert any(item.regions for item in items)
    for item in items:
        assert bool(item.regions) == (item.verdict == VERDICT_ANOMALOUS)
    hits = list(client.search(defective, tile_model, 5))
    assert hits[0].regions
    assert len(hits[0].regions) <= 8


def test_kept_frame_shows_the_regions_of_its_answer(
    client: Client, tile_model: str, defective: bytes
) -> None:
    image = Image.open(BytesIO(defective)).convert("RGB")
    image.putpixel((0, 0), (1, 2, 3))  # another image than the indexed one
    changed = BytesIO()
    image.save(changed, "PNG")
    (result,) = client.stream(
        [changed.getvalue()], tile_model, store=STORE_ALL, camera="outlines", regions=True
    )
    inspection: Inspection = result.answer.inspection  # type: ignore[union-attr]
    give_up = time.monotonic() + 20
    while not (kept := list(client.items(tile_model, where='camera = "outlines"'))):
        assert time.monotonic() < give_up
        time.sleep(0.1)
    assert [region.box for region in kept[0].regions] == [region.box for region in inspection.regions[:8]]
    assert kept[0].regions


def test_limits_and_scale_apply_to_the_next_frame(
    client: Client, tile_model: str, defective: bytes, settings: None
) -> None:
    before = client.score(defective, tile_model, regions=True)
    changed = client.update_calibration(
        tile_model, author="test", regions=RegionSettings(max_regions=1, smallest_area=5, mm_per_px=0.25)
    )
    assert changed.calibration.threshold == pytest.approx(before.threshold)
    after = client.score(defective, tile_model, regions=True)
    assert after.calibration_revision > before.calibration_revision
    (region,) = after.regions
    assert region.box == before.regions[0].box
    assert region.size.width_mm == pytest.approx(region.box.width / 4)
    assert region.size.area_mm2 == pytest.approx(region.area / 16)
    with pytest.raises(InvalidArgument, match=r"regions\.max_regions is 65"):
        client.update_calibration(tile_model, author="test", regions=RegionSettings(max_regions=65))


def test_triton_client_receives_regions_by_name(
    client: Client, stack: RunningStack, tile_model: str, defective: bytes
) -> None:
    image = triton.InferInput("image", [1], "BYTES")
    image.set_data_from_numpy(np.array([defective], dtype=np.object_))
    with triton.InferenceServerClient(stack.address) as connected:
        answer = connected.infer("tile", [image], outputs=[triton.InferRequestedOutput("regions")])
    regions = json.loads(answer.as_numpy("regions")[0])
    ours = client.score(defective, tile_model, regions=True).regions
    assert [region["box"]["width"] for region in regions] == [region.box.width for region in ours]
