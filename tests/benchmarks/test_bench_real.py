# SPDX-License-Identifier: Apache-2.0
"""The judge of variants: fixed subsets, equal weights of sets, paired differences, and resumable runs."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.benchmarks.bench_real import app, read_masks
from tests.benchmarks.real.comparison import VariantComparison, mean_over_sets
from tests.benchmarks.real.image_sets import DATASET, SubsetLimits, find_sets, import_set, training_subset
from tests.benchmarks.real.tables import tables
from tests.benchmarks.real.trial import Figures, Trial, TrialCache, search_figures
from tests.benchmarks.real.variants import BASELINE, VARIANTS, Variant
from typer.testing import CliRunner

from blemish_client.demo.surfaces import generate
from blemish_core.imaging.frame_mask import FrameMask
from blemish_core.platform.errors import InvalidRequest, NotFound


def write_image(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (32, 24), shade).save(path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a folder with the set ``parts``, a folder that is not a set, and a loose file."""
    parts = tmp_path / "data" / "parts"
    for number in range(6):
        write_image(parts / f"train/good/{number}.png", number)
    for number in range(4):
        write_image(parts / f"test/good/{number}.png", 50 + number)
    for number in range(5):
        write_image(parts / f"test/crack/{number}.png", 100 + number)
        write_image(parts / f"ground_truth/crack/{number}_mask.png", 1)
    (tmp_path / "data" / "photographs").mkdir()
    (tmp_path / "data" / "README.md").write_text("")
    return tmp_path / "data"


def make_trial(variant: str, set_name: str, draw: int, **figures: float | None) -> Trial:
    known: Figures = {"image_auroc": None, **figures}
    return Trial(
        variant=variant,
        set_name=set_name,
        draw=draw,
        code="",
        figures=known,
        threshold=1.0,
        held_out=(0.5,),
        images=(),
    )


def test_sets_are_found_by_their_folders(data: Path) -> None:
    write_image(data / "tiles/train/good/0.png", 1)
    write_image(data / "tiles/test/good/0.png", 1)
    assert [each.name for each in find_sets(data)] == ["parts", "tiles"]
    assert [each.name for each in find_sets(data, ["tiles"])] == ["tiles"]


def test_unknown_set_and_folder_without_sets_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="has no set screws; choose among parts"):
        find_sets(data, ["parts", "screws"])
    with pytest.raises(NotFound, match="has no sets"):
        find_sets(data / "parts")


def test_subset_of_test_images_is_the_same_in_each_run_and_has_its_masks(
    data: Path, tmp_path: Path
) -> None:
    limits = SubsetLimits(test_per_class=2)
    paths = []
    for run in ("first", "second"):
        images = import_set(data / "parts", tmp_path / run, limits)
        paths.append([each.path for each in images.store.images(DATASET, "test")])
        assert (images.train, images.test) == (6, 4)
        assert images.store.get(DATASET).masks == 2
    assert paths[0] == paths[1]
    everything = import_set(data / "parts", tmp_path / "all", SubsetLimits())
    assert (everything.test, everything.store.get(DATASET).masks) == (9, 5)


def test_unreadable_image_is_skipped_with_its_reason(data: Path, tmp_path: Path) -> None:
    (data / "parts/test/crack/3.png").write_bytes(b"nothing")
    images = import_set(data / "parts", tmp_path / "store", SubsetLimits())
    assert images.test == 8
    (reason,) = images.skipped
    assert reason.startswith("test/crack/3.png: ")


def test_set_without_readable_training_images_is_refused(data: Path, tmp_path: Path) -> None:
    for file in (data / "parts/train/good").iterdir():
        file.write_bytes(b"nothing")
    with pytest.raises(InvalidRequest, match="parts has 0 training and 9 test images"):
        import_set(data / "parts", tmp_path / "store", SubsetLimits())


def test_draws_take_different_training_images_and_repeat() -> None:
    limits = SubsetLimits(train=10)
    first, second = training_subset(50, 0, limits), training_subset(50, 1, limits)
    assert first == training_subset(50, 0, limits)
    assert first != second
    for chosen in (first, second):
        assert len(set(chosen)) == 10
        assert chosen == sorted(chosen)
        assert set(chosen) <= set(range(50))
    assert training_subset(7, 3, limits) == list(range(7))


def test_sets_weigh_equally_however_many_draws_they_have() -> None:
    estimate = mean_over_sets({"large": [0.5, 0.5, 0.5, 0.5], "small": [1.0]})
    assert estimate.value == 0.75
    assert estimate.interval is not None
    assert (estimate.interval.low, estimate.interval.high) == (0.5, 1.0)


def test_interval_of_one_set_covers_its_draws() -> None:
    values = [0.1, 0.2, 0.3, 0.4]
    interval = mean_over_sets({"only": values}).interval
    assert interval is not None
    assert 0.1 <= interval.low < 0.25 < interval.high <= 0.4
    assert mean_over_sets({"only": [0.3]}).interval is None
    assert mean_over_sets({}).value is None


def test_differences_are_paired_by_set_and_draw() -> None:
    # Sets and draws differ far more than the variants do.
    levels = {("a", 0): 0.5, ("a", 1): 0.6, ("b", 0): 0.9, ("b", 1): 0.8}
    trials = [make_trial(BASELINE, name, draw, image_auroc=level) for (name, draw), level in levels.items()]
    trials += [
        make_trial("other", name, draw, image_auroc=level + 0.01) for (name, draw), level in levels.items()
    ]
    found = VariantComparison(trials).difference("other", BASELINE, "image_auroc")
    assert found.mean.value == pytest.approx(0.01)
    assert found.mean.interval is not None
    assert (found.mean.interval.low, found.mean.interval.high) == pytest.approx((0.01, 0.01))
    assert (found.better, found.sets) == (2, 2)


def test_trials_without_a_partner_or_figure_are_left_out_of_differences() -> None:
    trials = [
        make_trial(BASELINE, "a", 0, image_auroc=0.5, aupro=None),
        make_trial("other", "a", 0, image_auroc=0.4, aupro=0.7),
        make_trial("other", "b", 0, image_auroc=1.0),
    ]
    comparison = VariantComparison(trials)
    found = comparison.difference("other", BASELINE, "image_auroc")
    assert found.mean.value == pytest.approx(-0.1)
    assert (found.better, found.sets) == (0, 1)
    assert comparison.difference("other", BASELINE, "aupro").mean.value is None
    assert comparison.mean(BASELINE, "aupro").value is None
    assert comparison.mean("other", "image_auroc").value == pytest.approx(0.7)


def test_tables_show_means_differences_and_sets() -> None:
    trials = [
        make_trial(
            BASELINE, "a", 0, image_auroc=0.5, detection_rate=0.25, false_reject_rate=0.0, region_iou=0.3
        ),
        make_trial(BASELINE, "b", 0, image_auroc=0.7, detection_rate=0.75, false_reject_rate=0.1),
        make_trial("other", "a", 0, image_auroc=0.6, detection_rate=0.25, false_reject_rate=0.0),
        make_trial("other", "b", 0, image_auroc=0.8, detection_rate=1.0, false_reject_rate=0.1),
    ]
    lines = list(tables(VariantComparison(trials), BASELINE))
    assert f"| {BASELINE} | 0.600 [0.500, 0.700] | 50 % | 5 % | - | - | - | - | - | - |" in lines
    assert f"| {BASELINE} | - | 0.300 | - |" in lines
    assert any(line.startswith("| other | +0.100 [+0.100, +0.100] (2 of 2) | - | +0.125") for line in lines)
    assert "| a | 0.500, -, 25 % at 0 % | 0.600, -, 25 % at 0 % |" in lines
    assert "| a | -, 0.30, - | -, -, - |" in lines


def test_search_figures_are_precision_among_the_other_images() -> None:
    classes = ["good", "good", "crack", "crack", "hole", "hole"]
    apart = [[1, 0, 0], [1, 0, 0], [-1, 1, 0], [-1, 1, 0], [-1, 0, 1], [-1, 0, 1]]
    assert search_figures(classes, vectors(apart)) == {"search_p5": 1.0, "class_p5": 1.0}
    # Each defect is nearest to one of the other class.
    mixed = [[1, 0, 0], [1, 0, 0], [-1, 1, 0], [-1, 0, 1], [-1, 1, 0], [-1, 0, 1]]
    assert search_figures(classes, vectors(mixed)) == {"search_p5": 1.0, "class_p5": 0.0}


def test_search_figures_are_absent_where_a_set_does_not_allow_them() -> None:
    ones = vectors([[1, 0]] * 4)
    assert search_figures(["good", "good", "crack", "crack"], ones)["class_p5"] is None
    assert search_figures(["crack", "hole", "crack", "hole"], ones)["search_p5"] is None
    assert search_figures(["good", "good", "crack", "crack"], vectors([[]] * 4))["search_p5"] is None


def vectors(rows: Sequence[Sequence[float]]) -> list[np.ndarray[tuple[int], np.dtype[np.float32]]]:
    return [np.array(row, np.float32) for row in rows]


def test_cache_returns_a_trial_only_for_equal_settings_images_and_limits(
    data: Path, tmp_path: Path
) -> None:
    images = import_set(data / "parts", tmp_path / "store", SubsetLimits())
    variant = Variant("plain", settings={"neighbors": 3})
    trial = make_trial("plain", "parts", 0, image_auroc=0.9)
    cache = TrialCache(tmp_path / "cache")
    cache.add(trial, variant, images, SubsetLimits())
    assert TrialCache(tmp_path / "cache").find(variant, images, 0, SubsetLimits()) == trial
    assert cache.find(variant, images, 1, SubsetLimits()) is None
    assert cache.find(variant, images, 0, SubsetLimits(train=3)) is None
    assert cache.find(Variant("plain", settings={"neighbors": 4}), images, 0, SubsetLimits()) is None
    fewer = import_set(data / "parts", tmp_path / "fewer", SubsetLimits(test_per_class=2))
    assert cache.find(variant, fewer, 0, SubsetLimits()) is None
    assert TrialCache(None).find(variant, images, 0, SubsetLimits()) is None


def test_settings_of_each_variant_are_valid() -> None:
    assert BASELINE in VARIANTS
    for variant in VARIANTS.values():
        built = variant.algorithm.settings(**variant.settings)
        for name, value in variant.settings.items():
            assert getattr(built, name) == value


def test_run_measures_a_drawn_surface_and_resumes(tmp_path: Path) -> None:
    generate(tmp_path / "data/leather", "leather", train=6, good=3, defective=4, size=96)
    command = [str(tmp_path / "data"), "--draws", "1", "--variants", BASELINE, "--no-page"]
    command += ["--cache", str(tmp_path / "cache"), "--json", str(tmp_path / "figures.json")]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.output
    (trial,) = json.loads((tmp_path / "figures.json").read_text())
    figures = trial["figures"]
    assert trial["set_name"] == "leather"
    assert figures["image_auroc"] > 0.8
    assert 0 <= figures["search_p5"] <= 1
    assert figures["bank_entries"] > 100
    assert figures["train_s"] > 0
    assert figures["frame_ms"] > 0
    assert len(trial["images"]) == 7
    again = CliRunner().invoke(app, command)
    assert "from the cache" in again.output
    assert json.loads((tmp_path / "figures.json").read_text()) == [trial]


def test_unknown_variant_ends_with_one_line(data: Path) -> None:
    result = CliRunner().invoke(app, [str(data), "--variants", "nothing", "--no-page"])
    assert result.exit_code == 2
    assert "there is no variant nothing; choose among paper" in result.output


def test_set_with_a_mask_is_judged_next_to_the_one_without(data: Path, tmp_path: Path) -> None:
    looks = np.ones((24, 32), np.bool_)
    looks[:, :8] = False
    file = tmp_path / "mask.png"
    file.write_bytes(FrameMask(looks).to_png())
    (mask,) = read_masks([f"parts={file}"], ["parts"])["parts"]
    plain = import_set(data / "parts", tmp_path / "store", SubsetLimits())
    masked = plain.masked(mask)
    assert (masked.name, masked.test) == ("parts, masked", plain.test)
    assert masked.snapshot != plain.snapshot
    assert masked.mask is mask
    with pytest.raises(NotFound, match="--mask names the set 'screws'; choose among parts"):
        read_masks([f"screws={file}"], ["parts"])
    with pytest.raises(InvalidRequest, match="cannot read the mask"):
        read_masks([f"parts={tmp_path / 'missing.png'}"], ["parts"])
