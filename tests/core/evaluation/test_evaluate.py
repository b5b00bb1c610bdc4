# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.support.moving_part import STILL, seen, texture

from blemish_core.calibration import Calibration
from blemish_core.datasets import DatasetStore
from blemish_core.detectors.base import silent
from blemish_core.evaluation.evaluate import ImageSource, evaluate
from blemish_core.evaluation.examples import Correctness
from blemish_core.imaging.alignment import Motion
from blemish_core.imaging.decode import ImageLimits
from blemish_core.imaging.frame_mask import FrameMask
from blemish_core.platform.errors import Corrupt

if TYPE_CHECKING:
    from tests.core.evaluation.conftest import Measure, NativeBrightness


def encoded(mode: str, size: tuple[int, int], colour: object, path: Path, kind: str = "PNG") -> bytes:
    Image.new(mode, size, colour).save(path, kind)  # type: ignore[arg-type]
    return path.read_bytes()


def png(pixels: NDArray[np.uint8]) -> bytes:
    out = BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def test_metrics_overall_and_by_class(spots: DatasetStore, measure: Measure) -> None:
    metrics = measure().metrics
    assert (metrics.good_images, metrics.defective_images) == (6, 6)
    assert metrics.dataset_snapshot == spots.get("tile").snapshot
    assert metrics.image_auroc == pytest.approx((30 + 4) / 36)  # the faint spot exceeds 4 good images
    assert metrics.detection_rate == pytest.approx(5 / 6)
    assert metrics.false_reject_rate == pytest.approx(1 / 6)
    assert metrics.f1 == pytest.approx(5 / 6)
    assert metrics.fpr_at_95_tpr == pytest.approx(2 / 6)
    assert metrics.region_iou is not None
    assert metrics.region_iou > 0.5
    assert metrics.region_area_ratio == pytest.approx(1, rel=0.5)
    assert metrics.peak_on_defect_rate == 1
    assert metrics.pixel_auroc is not None
    assert metrics.pixel_auroc > 0.95
    of_class = metrics.classes["spot"]
    assert (of_class.images, of_class.image_auroc, of_class.aupro) == (
        6,
        metrics.image_auroc,
        metrics.aupro,
    )
    assert set(metrics.intervals) == {
        "image_auroc",
        "fpr_at_95_tpr",
        "f1",
        "best_f1",
        "false_reject_rate",
        "detection_rate",
        "pixel_auroc",
        "aupro",
        "region_area_ratio",
        "region_iou",
        "peak_on_defect_rate",
    }
    assert (metrics.skipped_images, metrics.unmasked_images) == (0, 0)


def test_copies_of_training_images_are_left_out_of_the_figures(
    spots: DatasetStore, measure: Measure
) -> None:
    before = measure().metrics
    images = {image.path: spots.read(image) for image in spots.images("tile")}
    for number in range(3):
        spots.add("tile", f"test/good/1{number}.png", images[f"test/good/00{number}.png"])
    warnings: list[str] = []
    after = measure(warnings).metrics
    assert (after.good_images, after.copied_images) == (6, 3)
    assert after.intervals == before.intervals
    (warning,) = warnings
    assert "leave out 3 test images of datasets/tile" in warning
    assert "test/good/10.png" in warning

    spots.add("tile", "test/good/2.png", images["test/spot/000.png"])
    contradictory = measure([]).metrics
    assert (contradictory.defective_images, contradictory.copied_images) == (5, 5)

    known = {image.sha256 for image in spots.images("tile") if image.path == "test/good/005.png"}
    learned = measure([], learned=known).metrics
    assert (learned.good_images, learned.false_reject_rate) == (5, 0)


def test_test_set_of_copies_alone_has_no_figures(
    spots: DatasetStore, calibration: Calibration, native_brightness: NativeBrightness
) -> None:
    known = {image.sha256 for image in spots.images("tile")}
    source = ImageSource(spots, ImageLimits(), "tile", learned=known)
    warnings: list[str] = []
    detector: Any = native_brightness
    assert evaluate(detector, calibration, source, "cpu", silent, warnings.append) is None
    assert "leave out 12 test images" in warnings[0]


def test_latency_names_runtime_device_and_batch_size(spots: DatasetStore, measure: Measure) -> None:
    latency = measure().metrics.latency
    assert latency is not None
    assert (latency.runtime, latency.device) == ("torch", "cpu")
    assert latency.batch_size == 4  # the first eight of twelve images are the warm-up
    for step in (latency.decode, latency.prepare, latency.inference):
        assert 0 < step.p50_ms <= step.p95_ms <= step.p99_ms


def test_worst_examples_are_errors_and_best_are_right(spots: DatasetStore, measure: Measure) -> None:
    evaluation = measure()
    worst = [(each.example.image.path, each.example.correctness) for each in evaluation.worst]
    assert worst[:2] == [
        ("test/good/005.png", Correctness.FALSE_REJECT),
        ("test/spot/005.png", Correctness.MISS),
    ]
    assert all(correctness is Correctness.RIGHT for _, correctness in worst[2:])
    assert len(worst) == 8
    best = [each.example.image.path for each in evaluation.best]
    assert best == ["test/spot/004.png", "test/spot/003.png", "test/good/000.png", "test/good/001.png"]
    assert evaluation.best[0].pixels.shape == (48, 48, 3)


def test_metrics_are_absent_without_defective_images(
    store: DatasetStore, measure: Measure, tmp_path: Path
) -> None:
    for number in range(3):
        data = encoded("L", (32, 32), 10 + number, tmp_path / "a.png")
        store.add("tile", f"test/good/{number}.png", data)
    metrics = measure().metrics
    assert (metrics.good_images, metrics.defective_images) == (3, 0)
    assert metrics.false_reject_rate == 0
    for name in (
        "image_auroc",
        "fpr_at_95_tpr",
        "f1",
        "best_f1",
        "best_f1_threshold",
        "detection_rate",
        "pixel_auroc",
        "aupro",
    ):
        assert getattr(metrics, name) is None, name
    assert set(metrics.intervals) == {"false_reject_rate"}
    assert metrics.classes == {}


def test_detection_rate_needs_no_good_images(
    spots: DatasetStore, store: DatasetStore, measure: Measure
) -> None:
    store.create("bad", "")
    for image in store.images("tile", "test"):
        for mask in store.masks_of(image):
            store.add("bad", image.path, store.read(image))
            store.add("bad", image.path.replace("test", "ground_truth"), mask)
    warnings: list[str] = []
    metrics = measure(warnings, dataset="bad").metrics
    (warning,) = warnings
    assert "no test image is good, by the classes spot" in warning
    assert metrics.good_images == 0
    assert metrics.image_auroc is None
    assert metrics.detection_rate == pytest.approx(5 / 6)
    assert metrics.pixel_auroc is not None  # pixels around the defects are good


def test_images_without_masks_do_not_change_pixel_metrics(
    spots: DatasetStore, measure: Measure, tmp_path: Path
) -> None:
    before = measure().metrics
    spots.add("tile", "test/spot/900.png", encoded("L", (48, 48), 5, tmp_path / "a.png"))
    metrics = measure().metrics
    assert metrics.unmasked_images == 1
    assert metrics.defective_images == 7
    assert (metrics.pixel_auroc, metrics.aupro) == (before.pixel_auroc, before.aupro)


def test_mask_of_another_size_is_named_and_left_out(
    spots: DatasetStore, measure: Measure, tmp_path: Path
) -> None:
    # The store rejects such a mask; it appears if the index is rebuilt from files copied by hand.
    root = tmp_path / "datasets" / "tile"
    encoded("L", (20, 20), 255, root / "ground_truth" / "spot" / "002_mask.png")
    (root / "index.jsonl").unlink()
    warnings: list[str] = []
    metrics = measure(warnings).metrics
    assert metrics.unmasked_images == 1
    (warning,) = warnings
    assert "test/spot/002.png" in warning
    assert "differ in size" in warning


def test_damaged_mask_is_named_and_left_out(spots: DatasetStore, measure: Measure, tmp_path: Path) -> None:
    (tmp_path / "datasets" / "tile" / "ground_truth" / "spot" / "003_mask.png").write_bytes(b"nothing")
    warnings: list[str] = []
    assert measure(warnings).metrics.unmasked_images == 1
    assert "test/spot/003.png" in warnings[0]


def test_damaged_image_is_named_skipped_and_counted(
    spots: DatasetStore, measure: Measure, tmp_path: Path
) -> None:
    file = tmp_path / "datasets" / "tile" / "test" / "spot" / "001.png"
    file.write_bytes(file.read_bytes()[:-20])
    warnings: list[str] = []
    evaluation = measure(warnings)
    assert evaluation.metrics.skipped_images == 1
    assert evaluation.metrics.defective_images == 5
    assert (
        "1 of 12 test images of datasets/tile cannot be read and was skipped: test/spot/001.png"
        in (warnings[0])
    )


def test_many_damaged_images_are_an_error(spots: DatasetStore, measure: Measure, tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / "datasets" / "tile" / "test" / "spot" / f"{number:03}.png").unlink()
    with pytest.raises(Corrupt, match=r"2 of 12 .*test/spot/001\.png, test/spot/002\.png"):
        measure([])


def test_dataset_without_test_images_has_no_evaluation(store: DatasetStore) -> None:
    source = ImageSource(store, ImageLimits(), "tile")
    assert evaluate(None, None, source, "cpu", silent, print) is None  # type: ignore[arg-type]


def test_sizes_and_modes_may_differ_within_a_dataset(
    store: DatasetStore, measure: Measure, tmp_path: Path
) -> None:
    path = tmp_path / "image"
    deep_grey = np.full((40, 64), 40 * 257, np.uint16)
    Image.fromarray(deep_grey).save(path, "PNG")
    for name, data in {
        "grey.png": encoded("L", (64, 48), 40, path),
        "colour.jpg": encoded("RGB", (33, 90), (40, 40, 40), path, "JPEG"),
        "clear.png": encoded("RGBA", (50, 50), (40, 40, 40, 255), path),
        "palette.png": encoded("P", (20, 20), 0, path),
        "colour.webp": encoded("RGB", (128, 128), (40, 40, 40), path, "WEBP"),
        "colour.bmp": encoded("RGB", (16, 16), (40, 40, 40), path, "BMP"),
    }.items():
        store.add("tile", f"test/good/{name}", data)
    Image.fromarray(deep_grey).save(path, "TIFF")
    store.add("tile", "test/good/deep.tif", path.read_bytes())
    evaluation = measure()
    assert evaluation.metrics.good_images == 7
    scores = {each.path: each.score for each in evaluation.image_scores}
    assert scores.pop("test/good/palette.png") == 0
    assert list(scores.values()) == pytest.approx([40 / 255] * 6, abs=2 / 255)


def test_maps_of_a_shape_of_their_own_are_compared_on_the_frame(
    store: DatasetStore, measure: Measure, native_brightness: NativeBrightness
) -> None:
    for number, (rows, columns) in enumerate([(40, 120), (96, 32), (40, 120), (50, 50)]):
        pixels = np.full((rows, columns), 20 + number, np.uint8)
        store.add("tile", f"test/good/{number}.png", png(pixels))
        mask = np.zeros_like(pixels)
        mask[8:16, 20:30] = 255
        store.add("tile", f"test/spot/{number}.png", png(np.where(mask, np.uint8(200), pixels)))
        store.add("tile", f"ground_truth/spot/{number}_mask.png", png(mask))
    evaluation = measure(detector=native_brightness)
    assert evaluation.metrics.pixel_auroc == pytest.approx(1, abs=1e-3)
    assert evaluation.metrics.aupro == pytest.approx(1, abs=0.01)
    assert [each.path for each in evaluation.image_scores] == [
        f"test/{kind}/{number}.png" for kind in ("good", "spot") for number in range(4)
    ]
    assert [each.score for each in evaluation.image_scores[:4]] == pytest.approx(
        [(20 + number) / 255 for number in range(4)]
    )


def test_defect_smaller_than_a_pixel_of_the_map_counts(store: DatasetStore, measure: Measure) -> None:
    store.add("tile", "test/good/0.png", png(np.full((500, 700), 20, np.uint8)))
    pixels = np.full((500, 700), 20, np.uint8)
    mask = np.zeros((500, 700), np.uint8)
    pixels[203:205, 301:303] = mask[203:205, 301:303] = 255
    store.add("tile", "test/spot/0.png", png(pixels))
    store.add("tile", "ground_truth/spot/0_mask.png", png(mask))
    metrics = measure().metrics  # its map has 32 px a side
    assert metrics.pixel_auroc is not None
    assert metrics.pixel_auroc > 0.99


def left_of(column: int) -> FrameMask:
    looks = np.zeros((48, 48), np.bool_)
    looks[:, :column] = True
    return FrameMask(looks)


def test_ignored_pixels_influence_no_figure(
    measure: Measure, spots: DatasetStore, native_brightness: NativeBrightness
) -> None:
    native_brightness.mask = left_of(12)  # the spots begin here
    warnings: list[str] = []
    metrics = measure(warnings, detector=native_brightness).metrics
    assert warnings == [
        "the mask of the model ignores the whole defect of 6 images, so the metrics exclude them: "
        + ", ".join(f"test/spot/{number:03}.png" for number in range(6))
        + "; check the mask"
    ]
    assert (metrics.good_images, metrics.defective_images, metrics.aupro) == (6, 0, None)
    native_brightness.mask = left_of(18)
    seen = measure(detector=native_brightness).metrics
    assert (seen.good_images, seen.defective_images) == (6, 6)
    assert seen.aupro is not None


def test_image_that_does_not_fit_the_mask_is_skipped(
    measure: Measure, spots: DatasetStore, native_brightness: NativeBrightness
) -> None:
    native_brightness.mask = left_of(18)
    spots.add("tile", "test/good/wide.png", png(np.full((32, 64, 3), 30, np.uint8)))
    warnings: list[str] = []
    metrics = measure(warnings, detector=native_brightness).metrics
    assert (metrics.good_images, metrics.skipped_images) == (6, 1)
    assert "test/good/wide.png" in warnings[0]


def test_mask_moves_with_the_part_of_each_test_image(
    measure: Measure, store: DatasetStore, native_brightness: NativeBrightness
) -> None:
    shape = (120, 160)
    looks = np.ones(shape, np.bool_)
    looks[50:70, 70:100] = False
    native_brightness.mask = FrameMask(looks).aligned_to(seen(texture(0), STILL, shape))
    for number, motion in enumerate((STILL, Motion(24, -16, 5))):
        store.add("tile", f"test/good/{number}.png", png(seen(texture(0), motion, shape)))
        # The defect is where the mask ignores the part.
        left, top = (int(each) for each in motion.matrix(shape) @ (85, 60, 1))
        defect = np.zeros(shape, np.uint8)
        defect[top - 3 : top + 3, left - 3 : left + 3] = 255
        spotted = seen(texture(0), motion, shape).copy()
        spotted[0, 0] ^= 1
        store.add("tile", f"test/spot/{number}.png", png(spotted))
        store.add("tile", f"ground_truth/spot/{number}_mask.png", png(defect))
    store.add("tile", "test/good/other.png", png(seen(texture(9), STILL, shape)))
    warnings: list[str] = []
    metrics = measure(warnings, detector=native_brightness).metrics
    assert metrics.good_images == 3
    assert "1 images could not be aligned, so their masks were not moved: test/good/other.png" in warnings
    assert any("ignores the whole defect of 2 images" in each for each in warnings)
