# SPDX-License-Identifier: Apache-2.0
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, label
from sklearn.metrics import roc_auc_score

from blemish_core.evaluation.pixel_metrics import PixelHistograms
from blemish_core.evaluation.resampling import Estimates, draws

Maps = Sequence[NDArray[np.float32]]
Masks = Sequence[NDArray[np.bool_]]


def accumulated(maps: Maps, masks: Masks) -> PixelHistograms:
    pixels = PixelHistograms()
    for anomaly_map, mask in zip(maps, masks, strict=True):
        pixels.add("hole" if mask.any() else "good", anomaly_map, mask)
    return pixels


def values(estimates: Estimates) -> dict[str, float | None]:
    return {name: each.value for name, each in estimates.items()}


def exact(maps: Maps, masks: Masks) -> tuple[float, float]:
    """Return pixel AUROC by scikit-learn, and AUPRO by its definition: the mean overlap of the regions."""
    pixels = np.concatenate([each.ravel() for each in maps])
    defective = np.concatenate([each.ravel() for each in masks])
    thresholds = np.unique(pixels)[::-1]
    rate = share_at_or_above(thresholds, pixels[~defective])
    overlaps: list[NDArray[np.float64]] = []
    for anomaly_map, mask in zip(maps, masks, strict=True):
        regions, count = label(mask, structure=np.ones((3, 3)))
        overlaps += [
            share_at_or_above(thresholds, anomaly_map[regions == region]) for region in range(1, count + 1)
        ]
    overlap = np.mean(overlaps, axis=0)
    rate, overlap = np.append(0, rate), np.append(0, overlap)
    below = rate <= 0.3
    x, y = np.append(rate[below], 0.3), np.append(overlap[below], np.interp(0.3, rate, overlap))
    return float(roc_auc_score(defective, pixels)), float(np.trapezoid(y, x) / 0.3)


def share_at_or_above(thresholds: NDArray[np.float32], values: NDArray[np.float32]) -> NDArray[np.float64]:
    return 1 - np.searchsorted(np.sort(values), thresholds) / len(values)


def surfaces(seed: int, count: int, side: int = 64) -> tuple[Maps, Masks]:
    """Return maps and masks, half of them good, half with one to three regions of higher values."""
    random = np.random.default_rng(seed)
    maps, masks = [], []
    for index in range(count):
        mask = np.zeros((side, side), np.bool_)
        for _ in range(int(random.integers(1, 4)) if index % 2 else 0):
            top, left, height, width = (
                int(n) for n in random.integers((0, 0, 3, 3), (side - 14, side - 14, 20, 20))
            )
            mask[top : top + height, left : left + width] = True
        noise = gaussian_filter(random.normal(size=mask.shape), 2) * 4
        strength = random.uniform(0.2, 2)
        maps.append(
            (2 + 0.3 * noise + strength * gaussian_filter(mask.astype(float), 2)).astype(np.float32)
        )
        masks.append(mask)
    return maps, masks


def test_metrics_need_defective_and_other_pixels() -> None:
    blank = np.zeros((4, 4), np.float32)
    assert PixelHistograms().metrics() == {}
    assert accumulated([blank], [np.zeros((4, 4), np.bool_)]).metrics() == {}
    assert accumulated([blank], [np.ones((4, 4), np.bool_)]).metrics() == {}


def test_aupro_counts_regions_and_not_pixels() -> None:
    mask = np.zeros((40, 40), np.bool_)
    mask[:20, :20] = True  # 400 pixels, found
    mask[30:32, 30:32] = True  # 4 pixels, missed
    scores = np.zeros((40, 40), np.float32)
    scores[:20, :20] = 1
    metrics = values(accumulated([scores], [mask]).metrics())
    # One of two regions is found without false positives, the other one only with all other pixels. The
    # mean overlap therefore rises linearly from 0.5 at rate 0 to 1 at rate 1, and is 0.65 at rate 0.3.
    assert metrics["aupro"] == pytest.approx((0.5 + 0.65) / 2)
    assert metrics["pixel_auroc"] is not None
    assert metrics["pixel_auroc"] > 0.99


def test_perfect_map_scores_one() -> None:
    mask = np.zeros((16, 16), np.bool_)
    mask[3:6, 3:9] = True
    assert values(accumulated([mask.astype(np.float32)], [mask]).metrics()) == {
        "pixel_auroc": 1.0,
        "aupro": pytest.approx(1.0),
    }


@pytest.mark.parametrize(("scale", "shift"), [(1, 0), (1e-3, 0), (40, -80), (1, 98), (1, -2)], ids=str)
def test_bins_give_exact_metrics_at_any_scale(scale: float, shift: float) -> None:
    maps, masks = surfaces(3, 20)
    scaled = [(scale * each + shift).astype(np.float32) for each in maps]
    assert tuple(values(accumulated(scaled, masks).metrics()).values()) == pytest.approx(
        exact(scaled, masks), abs=1e-4
    )


def test_class_metrics_use_the_good_images() -> None:
    maps, masks = surfaces(4, 20)
    pixels = PixelHistograms()
    for index, (anomaly_map, mask) in enumerate(zip(maps, masks, strict=True)):
        pixels.add("good" if not mask.any() else "hole" if index % 3 else "dent", anomaly_map, mask)
    chosen = [i for i, mask in enumerate(masks) if not mask.any() or i % 3]
    expected = exact([maps[i] for i in chosen], [masks[i] for i in chosen])
    assert pixels.classes == ["dent", "hole"]
    assert tuple(values(pixels.metrics(["hole"])).values()) == pytest.approx(expected, abs=1e-4)


def test_intervals_equal_those_of_an_exact_bootstrap() -> None:
    maps, masks = surfaces(5, 24, 32)
    good, defective = np.arange(0, 24, 2), np.arange(1, 24, 2)
    random = np.random.default_rng(6)
    exact_draws = []
    for counts in np.hstack([draws(12, random, 200), draws(12, random, 200)]).astype(int):
        chosen = np.repeat([*good, *defective], counts)
        exact_draws.append(exact([maps[i] for i in chosen], [masks[i] for i in chosen]))
    low, high = np.quantile(exact_draws, [0.025, 0.975], axis=0)
    metrics = accumulated(maps, masks).metrics()
    for number, name in enumerate(("pixel_auroc", "aupro")):
        interval = metrics[name].interval
        assert interval is not None
        tolerance = 0.25 * (high[number] - low[number])
        assert interval.low == pytest.approx(low[number], abs=tolerance)
        assert interval.high == pytest.approx(high[number], abs=tolerance)


def test_intervals_contain_the_metric_and_are_reproducible() -> None:
    maps, masks = surfaces(7, 40)
    first, again = accumulated(maps, masks).metrics(), accumulated(maps, masks).metrics()
    assert first == again
    for each in first.values():
        assert each.interval is not None
        assert each.value is not None
        assert each.interval.low < each.value < each.interval.high
        assert each.interval.high - each.interval.low < 0.3


def test_bootstrap_draws_images_with_all_their_pixels() -> None:
    # Within each map all pixels are equal. However often each image is drawn, the ROC curve is then the
    # diagonal, unless defective and other pixels of an image are drawn separately.
    mask = np.zeros((8, 8), np.bool_)
    mask[2:5, 2:5] = True
    maps = [np.full((8, 8), level, np.float32) for level in (1, 2, 3, 4)]
    metrics = accumulated(maps, [mask] * len(maps)).metrics()
    for name, expected in (("pixel_auroc", 0.5), ("aupro", 0.15)):
        interval = metrics[name].interval
        assert interval is not None
        assert (interval.low, interval.high) == pytest.approx((expected, expected), abs=1e-6)


def test_maps_may_differ_in_shape() -> None:
    maps: list[NDArray[np.float32]] = []
    masks: list[NDArray[np.bool_]] = []
    for seed, shape in ((1, (24, 64)), (2, (64, 24)), (3, (40, 16))):
        (_, drawn), (_, mask) = surfaces(seed, 2)
        maps.append(drawn[: shape[0], : shape[1]])
        masks.append(mask[: shape[0], : shape[1]])
        masks[-1][5:9, 5:12] = True
    expected = exact(maps, masks)
    assert tuple(values(accumulated(maps, masks).metrics()).values()) == pytest.approx(expected, abs=1e-4)


def test_one_defective_image_gives_metrics_without_intervals() -> None:
    maps, masks = surfaces(8, 3)
    metrics = accumulated(maps, masks).metrics()
    assert metrics["aupro"].value is not None
    assert metrics["aupro"].interval is None


def test_memory_does_not_grow_with_the_images() -> None:
    maps, masks = surfaces(9, 48)
    tracemalloc.start()
    try:
        pixels = accumulated(maps[:8], masks[:8])
        before, _ = tracemalloc.get_traced_memory()
        for anomaly_map, mask in zip(maps[8:], masks[8:], strict=True):
            pixels.add("hole" if mask.any() else "good", anomaly_map, mask)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert before < 16 << 20
    assert (after - before) / 40 < 5 * maps[0].nbytes


def test_ignored_pixels_are_left_out() -> None:
    maps, masks = surfaces(7, 20)
    half = 32
    looks = np.zeros((64, 64), np.bool_)
    looks[:, :half] = True
    pixels = PixelHistograms()
    for index, (anomaly_map, mask) in enumerate(zip(maps, masks, strict=True)):
        pixels.add("good" if not index % 2 else "hole", anomaly_map, mask, looks)
    expected = exact([each[:, :half] for each in maps], [each[:, :half] for each in masks])
    assert tuple(values(pixels.metrics()).values()) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("seed", range(12))
def test_metrics_of_small_defects_do_not_depend_on_their_place(seed: int) -> None:
    random = np.random.default_rng(seed)
    frame, side, gap = (1536, 1536), 8, 2
    top, left = (int(random.integers(0, length - 2 * side - gap)) for length in frame)
    mask, scores = np.zeros(frame, np.bool_), np.zeros(frame, np.float32)
    mask[top : top + side, left : left + side] = scores[top : top + side, left : left + side] = True
    beside = slice(left + side + gap, left + 2 * side + gap)
    mask[top : top + side, beside] = True  # missed
    metrics = values(accumulated([scores], [mask]).metrics())
    # One of two regions is found, see test_aupro_counts_regions_and_not_pixels.
    assert metrics["aupro"] == pytest.approx((0.5 + 0.65) / 2, abs=1e-4)
    assert metrics["pixel_auroc"] == pytest.approx(0.75, abs=1e-4)


def test_pixels_of_a_large_frame_weigh_as_many_as_they_are() -> None:
    small, large = np.zeros((100, 100), np.bool_), np.zeros((1500, 1500), np.bool_)
    small[:10, :10] = large[:10, :10] = True
    maps = [np.full((4, 4), level, np.float32) for level in (2, 1)]
    metrics = values(accumulated(maps, [small, large]).metrics())
    few, many = small.size - 100, large.size - 100
    # A defect pixel of level 2 outscores all of level 1 and ties with its own image.
    expected = ((many + few / 2) + many / 2) / 2 / (few + many)
    assert metrics["pixel_auroc"] == pytest.approx(expected, abs=1e-6)
