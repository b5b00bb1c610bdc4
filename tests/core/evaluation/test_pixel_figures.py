# SPDX-License-Identifier: Apache-2.0

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from sklearn.metrics import roc_auc_score, roc_curve

from blemish_core.evaluation import pixel_figures
from blemish_core.evaluation.pixel_figures import PixelTally, _areas, _Kinds, _region_weights
from blemish_core.evaluation.resampling import Estimates, draws

Maps = Sequence[NDArray[np.float32]]
Masks = Sequence[NDArray[np.bool_]]


def tally(maps: Maps, masks: Masks) -> PixelTally:
    made = PixelTally()
    for anomaly_map, mask in zip(maps, masks, strict=True):
        made.add("hole" if mask.any() else "good", anomaly_map, mask)
    return made


def values(estimates: Estimates) -> dict[str, float | None]:
    return {name: each.value for name, each in estimates.items()}


def exact(maps: Maps, masks: Masks) -> tuple[float, float]:
    """Pixel AUROC and AUPRO from all pixels at once, by scikit-learn."""
    pixels, defective = np.concatenate(maps).ravel(), np.concatenate(masks).ravel()
    weights = np.concatenate([_region_weights(mask) for mask in masks]).ravel()
    x, y, _ = roc_curve(defective, pixels, sample_weight=weights, drop_intermediate=False)
    below = x <= 0.3
    area = np.trapezoid(np.append(y[below], np.interp(0.3, x, y)), np.append(x[below], 0.3)) / 0.3
    return float(roc_auc_score(defective, pixels)), float(area)


def surfaces(seed: int, count: int, side: int = 64) -> tuple[Maps, Masks]:
    """Half of them good, half with one to three regions that stand out a little."""
    random = np.random.default_rng(seed)
    maps, masks = [], []
    for index in range(count):
        mask = np.zeros((side, side), np.bool_)
        for _ in range(int(random.integers(1, 4)) if index % 2 else 0):
            top, left, height, width = (int(n) for n in random.integers((0, 0, 3, 3), (50, 50, 20, 20)))
            mask[top : top + height, left : left + width] = True
        noise = gaussian_filter(random.normal(size=mask.shape), 2) * 4
        strength = random.uniform(0.2, 2)
        maps.append(
            (2 + 0.3 * noise + strength * gaussian_filter(mask.astype(float), 2)).astype(np.float32)
        )
        masks.append(mask)
    return maps, masks


def test_figures_need_defective_and_other_pixels() -> None:
    blank = np.zeros((4, 4), np.float32)
    assert PixelTally().figures() == {}
    assert tally([blank], [np.zeros((4, 4), np.bool_)]).figures() == {}
    assert tally([blank], [np.ones((4, 4), np.bool_)]).figures() == {}


def test_aupro_counts_regions_and_not_pixels() -> None:
    mask = np.zeros((40, 40), np.bool_)
    mask[:20, :20] = True  # 400 pixels, found
    mask[30:32, 30:32] = True  # 4 pixels, missed
    scores = np.zeros((40, 40), np.float32)
    scores[:20, :20] = 1
    figures = values(tally([scores], [mask]).figures())
    # One region of two is found at no false positive; the other only with all other pixels, on a straight
    # line: the mean overlap goes from 0.5 at rate 0 to 1 at rate 1, and is 0.65 at 0.3.
    assert figures["aupro"] == pytest.approx((0.5 + 0.65) / 2)
    assert figures["pixel_auroc"] is not None
    assert figures["pixel_auroc"] > 0.99


def test_perfect_map_scores_one() -> None:
    mask = np.zeros((16, 16), np.bool_)
    mask[3:6, 3:9] = True
    assert values(tally([mask.astype(np.float32)], [mask]).figures()) == {
        "pixel_auroc": 1.0,
        "aupro": pytest.approx(1.0),
    }


@pytest.mark.parametrize(("scale", "shift"), [(1, 0), (1e-3, 0), (40, -80), (1, 98), (1, -2)], ids=str)
def test_bins_give_exact_figures_at_any_scale(scale: float, shift: float) -> None:
    maps, masks = surfaces(3, 20)
    scaled = [(scale * each + shift).astype(np.float32) for each in maps]
    assert tuple(values(tally(scaled, masks).figures()).values()) == pytest.approx(
        exact(scaled, masks), abs=1e-4
    )


def test_class_figures_use_the_good_images() -> None:
    maps, masks = surfaces(4, 20)
    made = PixelTally()
    for index, (anomaly_map, mask) in enumerate(zip(maps, masks, strict=True)):
        made.add("good" if not mask.any() else "hole" if index % 3 else "dent", anomaly_map, mask)
    chosen = [i for i, mask in enumerate(masks) if not mask.any() or i % 3]
    of_holes = exact([maps[i] for i in chosen], [masks[i] for i in chosen])
    assert made.classes == ["dent", "hole"]
    assert tuple(values(made.figures(["hole"])).values()) == pytest.approx(of_holes, abs=1e-4)


def test_bootstrap_of_histograms_equals_bootstrap_of_maps() -> None:
    maps, masks = surfaces(5, 24)
    good, defective = range(0, 24, 2), range(1, 24, 2)
    made = tally(maps, masks)
    groups = pixel_figures._grouped([*made._classes["good"].images, *made._classes["hole"].images])
    random = np.random.default_rng(6)
    for _ in range(5):
        of_good, of_defective = draws(12, random, 1), draws(12, random, 1)
        counts = np.hstack([of_good, of_defective])
        pixel_auroc, aupro = _areas(_Kinds(*((counts @ kind).astype(np.float64) for kind in groups)))
        order = np.repeat([*good, *defective], counts[0].astype(int))
        assert (pixel_auroc[0], aupro[0]) == pytest.approx(
            exact([maps[i] for i in order], [masks[i] for i in order]), abs=1e-3
        )


def test_intervals_contain_the_figure_and_are_reproducible() -> None:
    maps, masks = surfaces(7, 40)
    first, again = tally(maps, masks).figures(), tally(maps, masks).figures()
    assert first == again
    for each in first.values():
        assert each.interval is not None
        assert each.value is not None
        assert each.interval.low < each.value < each.interval.high
        assert each.interval.high - each.interval.low < 0.3


def test_one_defective_image_gives_figures_without_intervals() -> None:
    maps, masks = surfaces(8, 3)
    figures = tally(maps, masks).figures()
    assert figures["aupro"].value is not None
    assert figures["aupro"].interval is None


def test_memory_does_not_grow_with_the_images() -> None:
    maps, masks = surfaces(9, 40)
    made = tally(maps, masks)
    fine = sum(h.weights.nbytes for c in made._classes.values() for h in c.histograms)
    kept = sum(a.nbytes for c in made._classes.values() for i in c.images for pair in i for a in pair)
    assert fine < 6 * 16 << 20
    assert kept / 40 < 3 * 2 * maps[0].nbytes
