# SPDX-License-Identifier: Apache-2.0

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from blemish_core.localization.defect_region import (
    MAX_CORNERS,
    DefectRegion,
    encode_mask,
    region_picture,
    regions_from_text,
    regions_to_text,
)
from blemish_core.localization.find_regions import find_regions
from blemish_core.localization.settings import RegionSettings

SETTINGS = RegionSettings()
THRESHOLD = 0.2


def make_frame(height: int, width: int, *, seed: int = 0) -> NDArray[np.uint8]:
    """Return a grey surface with noise."""
    noise = np.random.default_rng(seed).normal(120, 6, (height, width, 1))
    return np.broadcast_to(noise, (height, width, 3)).clip(0, 255).astype(np.uint8).copy()


def make_map(defect: NDArray[np.bool_], shape: tuple[int, int] | None = None) -> NDArray[np.float32]:
    """Return the blurred map of a mask, with its highest value 1, at another shape."""
    blurred = cv2.GaussianBlur(defect.astype(np.float32), (0, 0), min(defect.shape) / 25)
    rows, columns = shape or defect.shape
    scaled = cv2.resize(blurred / blurred.max(), (columns, rows), interpolation=cv2.INTER_AREA)
    return np.asarray(scaled, np.float32)


def draw(frame: NDArray[np.uint8], left: int, top: int, width: int, height: int) -> NDArray[np.bool_]:
    """Darken a rectangle of the frame and return its mask."""
    frame[top : top + height, left : left + width] //= 3
    mask = np.zeros(frame.shape[:2], bool)
    mask[top : top + height, left : left + width] = True
    return mask


def overlap(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return float((found & truth).sum() / (found | truth).sum())


@pytest.mark.parametrize("shape", [(256, 256), (200, 300), (32, 40)])
def test_outline_is_far_tighter_than_the_map(shape: tuple[int, int]) -> None:
    frame = make_frame(256, 320)
    truth = draw(frame, 150, 90, 30, 8)
    scores = make_map(truth, shape)
    level = cv2.resize(scores, (320, 256)) > THRESHOLD
    (region,) = find_regions(scores, frame, THRESHOLD, SETTINGS)
    assert overlap(level, truth) < 0.3
    assert overlap(region_picture([region], (256, 320)) > 0, truth) > 0.6
    assert truth[region.peak[1], region.peak[0]]
    assert region.length == pytest.approx(30, abs=4)
    assert region.area == pytest.approx(240, rel=0.4)
    assert abs(region.box.left - 150) <= 3
    assert abs(region.box.top - 90) <= 3


def test_defects_of_a_large_frame_are_outlined_in_its_pixels() -> None:
    frame = make_frame(2048, 1600)
    truth = draw(frame, 300, 1500, 120, 90)
    (region,) = find_regions(make_map(truth, (256, 256)), frame, THRESHOLD, SETTINGS)
    assert overlap(region_picture([region], (2048, 1600)) > 0, truth) > 0.6
    assert truth[region.peak[1], region.peak[0]]


def test_each_defect_has_a_region_and_the_highest_peak_is_first() -> None:
    frame = make_frame(256, 256)
    strong, weak = draw(frame, 40, 40, 12, 12), draw(frame, 180, 190, 14, 10)
    scores = np.maximum(make_map(strong), 0.6 * make_map(weak))
    first, second = find_regions(scores, frame, THRESHOLD, SETTINGS)
    assert strong[first.peak[1], first.peak[0]]
    assert weak[second.peak[1], second.peak[0]]
    assert first.peak_score > second.peak_score >= second.mean_score


def test_strong_defect_does_not_hide_one_well_above_the_threshold() -> None:
    frame = make_frame(256, 256)
    strong, weak = draw(frame, 40, 40, 12, 12), draw(frame, 180, 190, 14, 10)
    scores = np.maximum(10 * make_map(strong), 0.6 * make_map(weak))
    assert len(find_regions(scores, frame, THRESHOLD, SETTINGS)) == 2


def test_peak_is_outlined_if_no_pixel_exceeds_the_threshold() -> None:
    frame = make_frame(256, 256)
    truth = draw(frame, 40, 40, 12, 12) | draw(frame, 200, 200, 10, 10)
    scores = make_map(truth)
    (region,) = find_regions(scores, frame, 5.0, SETTINGS)
    row, column = np.unravel_index(int(scores.argmax()), scores.shape)
    box = region.box
    assert box.left - 12 <= column <= box.left + box.width + 12
    assert box.top - 12 <= row <= box.top + box.height + 12


def test_defect_without_contrast_is_outlined_by_the_map_alone() -> None:
    frame = np.full((256, 256, 3), 90, np.uint8)
    truth = np.zeros((256, 256), bool)
    truth[100:140, 60:120] = True
    (region,) = find_regions(make_map(truth), frame, THRESHOLD, SETTINGS)
    assert overlap(region_picture([region], (256, 256)) > 0, truth) > 0.5


def test_weaker_part_of_a_broad_defect_is_outlined() -> None:
    frame = make_frame(256, 256)
    strong, weak = draw(frame, 60, 100, 40, 30), draw(frame, 100, 100, 80, 30)
    scores = np.maximum(make_map(strong), 0.4 * make_map(weak))
    found = find_regions(scores, frame, THRESHOLD, SETTINGS)
    assert overlap(region_picture(found, (256, 256)) > 0, strong | weak) > 0.7
    assert strong[found[0].peak[1], found[0].peak[0]]


def test_peaks_that_share_a_defect_have_one_region() -> None:
    frame = make_frame(128, 128)
    draw(frame, 48, 60, 16, 6)
    scores = np.zeros((128, 128), np.float32)
    scores[56:70, 44:68] = 0.9
    scores[62, 56] = scores[62, 62] = 1.0
    (region,) = find_regions(scores, frame, 0.95, SETTINGS)
    assert region.box.left == pytest.approx(48, abs=2)
    assert region.box.width == pytest.approx(16, abs=3)


def test_limits_leave_out_small_regions_and_those_beyond_the_number() -> None:
    frame = make_frame(256, 256)
    masks = [draw(frame, 30 + 60 * number, 60, 6 + 4 * number, 12) for number in range(4)]
    scores = np.max([make_map(mask) for mask in masks], axis=0)
    everything = find_regions(scores, frame, THRESHOLD, SETTINGS)
    assert len(everything) == 4
    assert find_regions(scores, frame, THRESHOLD, RegionSettings(max_regions=2)) == everything[:2]
    large = RegionSettings(smallest_area=1e6)
    assert find_regions(scores, frame, THRESHOLD, large) == everything[:1]


@pytest.mark.parametrize(
    "scores",
    [
        np.full((8, 8), np.nan, np.float32),
        np.full((8, 8), np.inf, np.float32),
        np.zeros((8, 8), np.float32),
        np.ones((1, 1), np.float32),
        np.full((30, 2), 7.0, np.float32),
    ],
)
def test_degenerate_map_gives_one_region_within_the_frame(scores: NDArray[np.float32]) -> None:
    frame = make_frame(40, 60)
    (region,) = find_regions(scores, frame, 0.5, SETTINGS)
    assert 0 < region.area <= 40 * 60
    assert np.isfinite([region.peak_score, region.mean_score, region.length]).all()


def test_not_a_number_in_a_map_is_not_a_defect() -> None:
    frame = make_frame(256, 256)
    truth = draw(frame, 40, 40, 12, 12)
    scores = make_map(truth)
    scores[200:, 200:] = np.nan
    (region,) = find_regions(scores, frame, THRESHOLD, SETTINGS)
    assert truth[region.peak[1], region.peak[0]]


def test_regions_of_random_maps_lie_within_frames_of_any_shape() -> None:
    seed = int(np.random.default_rng().integers(2**32))
    print(f"seed {seed}")
    random = np.random.default_rng(seed)
    frames = [(1, 10_000), (10_000, 1), (16, 4096), (1, 1), (300, 200), (64, 64), (1700, 1300)]
    for number in range(60):
        height, width = frames[number % len(frames)]
        rows, columns = (int(side) for side in random.integers(1, 80, 2))
        scores = random.gamma(1.0, size=(rows, columns)).astype(np.float32)
        if number % 2:
            blurred = cv2.GaussianBlur(scores, (0, 0), float(random.uniform(0.5, 10)))
            scores = np.asarray(blurred, np.float32).reshape(rows, columns)
        frame = random.integers(0, 256, (height, width, 3), np.uint8)
        threshold = float(np.quantile(scores, random.uniform(0, 1)))
        settings = RegionSettings(max_regions=int(random.integers(1, 65)))
        regions = find_regions(scores, frame, threshold, settings)
        assert 1 <= len(regions) <= settings.max_regions
        for region in regions:
            assert 1 <= len(region.contour) <= MAX_CORNERS
            for x, y in (*region.contour, region.peak):
                assert 0 <= x < width
                assert 0 <= y < height
            assert 0 < region.area <= height * width * 1.1
            assert region.mean_score <= region.peak_score * (1 + 1e-5)
        assert len(regions_from_text(regions_to_text(regions))) == min(len(regions), 8)


def test_text_of_a_region_is_short_and_keeps_box_peak_and_figures() -> None:
    angles = np.linspace(0, 2 * np.pi, MAX_CORNERS, endpoint=False)
    contour = tuple((int(500 + 99 * np.cos(a)), int(400 + 60 * np.sin(a))) for a in angles)
    region = DefectRegion(contour, 18_661.0, 198.5, (510, 420), 31.25, 12.5)
    text = regions_to_text([region] * 20)
    assert len(text) < 2000
    restored = regions_from_text(text)
    assert len(restored) == 8
    assert restored[0].box == region.box
    assert (restored[0].area, restored[0].length, restored[0].peak) == (18_661.0, 198.5, (510, 420))
    assert (restored[0].peak_score, restored[0].mean_score) == (31.25, 12.5)
    assert len(restored[0].contour) <= 16
    assert regions_to_text(()) == ""
    assert regions_from_text("") == ()


def test_picture_shows_regions_and_survives_encoding() -> None:
    region = DefectRegion(((2, 3), (7, 3), (7, 9), (2, 9)), 42.0, 7.0, (4, 5), 1.0, 1.0)
    picture = region_picture([region.moved(10, 20)], (40, 30))
    assert picture[23:30, 12:18].all()
    assert (picture > 0).sum() == 42
    decoded = cv2.imdecode(np.frombuffer(encode_mask(picture), np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(decoded, picture)
