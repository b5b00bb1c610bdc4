# SPDX-License-Identifier: Apache-2.0

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.support.regions import make_region

from blemish_core.calibration import Calibration
from blemish_core.datasets import DatasetImage
from blemish_core.evaluation.evaluate import Evaluation, ExampleImage, ImageScore
from blemish_core.evaluation.examples import Correctness, Example
from blemish_core.evaluation.image_metrics import image_metrics
from blemish_core.evaluation.metrics import ClassMetrics, Latency, Metrics, Spread
from blemish_core.imaging.frame_mask import FrameMask
from blemish_core.models.bundle import Manifest, TrainingSplit
from blemish_core.report.tiles import IGNORED_COLOUR, picture_of_mask
from blemish_core.report.write import EvaluationRun, Report, write
from blemish_core.runtimes.card import FrameLatency

HOSTILE = "'\"><img src=x onerror=alert(1)>"


def make_report_manifest(**changes: object) -> Manifest:
    return Manifest(
        model="tile-patchcore",
        version=3,
        detector="patchcore",
        settings={"backbone": HOSTILE, "input_size": 64},
        input_size=64,
        category="tile",
        dataset="tile",
        dataset_snapshot="ab" * 32,
        created=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        job="made",
        seed=0,
        training={"steps": "1234"},
        split=TrainingSplit(learned=30, held_out=10, method="held out"),
        calibration=Calibration.of(
            [1.0 + i / 10 for i in range(10)], [1.0 + i / 9 for i in range(10)], 0.1
        ),
        metrics=None,
        libraries={"torch": "2", "blemish": "0.1.0"},
        sha256={},
        size_bytes=0,
    ).model_copy(update=changes)


def make_example(
    class_name: str, number: int, score: float, correctness: Correctness, *, masked: bool
) -> ExampleImage:
    path = f"test/{class_name}/{number:03}.png"
    image = DatasetImage("tile", "tile", path, "test", class_name, "0" * 64, 80, 60)
    pixels = np.random.default_rng(number).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    anomaly_map = np.linspace(0.5, 3, 64 * 64, dtype=np.float32).reshape(64, 64)
    mask = np.zeros((64, 64), np.bool_)
    mask[20:40, 10:30] = class_name != "good"
    return ExampleImage(Example(image, score, correctness, anomaly_map, mask if masked else None), pixels)


def make_evaluation(class_name: str = "crack", *, defective: int = 8) -> Evaluation:
    good = [1.0 + i / 8 for i in range(12)]
    scores = [1.6 + i / 5 for i in range(defective)]
    found = image_metrics(good, scores, 1.9)
    values = {name: each.value for name, each in found.items()}
    intervals = {name: each.interval for name, each in found.items() if each.interval}
    spread = Spread(p50_ms=1.0, p95_ms=2.0, p99_ms=3.0)
    classes = {
        class_name: ClassMetrics(
            images=defective,
            image_auroc=values.get("image_auroc"),
            intervals={"image_auroc": intervals["image_auroc"]} if "image_auroc" in intervals else {},
        )
    }
    metrics = Metrics.model_validate(
        {
            "dataset": "tile",
            "dataset_snapshot": "cd" * 32,
            "good_images": 12,
            "defective_images": defective,
            "intervals": intervals,
            "classes": classes if defective else {},
            "latency": Latency(
                runtime="torch", device="cpu", batch_size=8, decode=spread, prepare=spread, inference=spread
            ),
            **values,
        }
    )
    examples = [make_example("good", 11, 2.4, Correctness.FALSE_REJECT, masked=True)]
    if defective:
        examples.append(make_example(class_name, 0, 1.6, Correctness.MISS, masked=False))
        examples.append(make_example(class_name, 7, 3.0, Correctness.RIGHT, masked=True))
    scores_of_images = [ImageScore(f"test/good/{i:03}.png", "good", score) for i, score in enumerate(good)]
    scores_of_images += [
        ImageScore(f"test/{class_name}/{i:03}.png", class_name, score) for i, score in enumerate(scores)
    ]
    return Evaluation(metrics, tuple(scores_of_images), tuple(examples[:2]), tuple(examples[2:]))


class Elements(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_evaluation_writes_a_page_and_its_images(tmp_path: Path) -> None:
    by = EvaluationRun("judge", datetime(2026, 5, 6, 7, 8, tzinfo=UTC))
    write(Report(make_report_manifest(), make_evaluation(), ["few images"], by), tmp_path / "report")
    names = {file.name for file in (tmp_path / "report").iterdir()}
    assert names == {
        *("report.html", "metrics.json", "scores.csv"),
        *("roc.png", "scores.png", "classes.png", "calibration.png"),
        *("worst-1.png", "worst-2.png", "best-1.png"),
    }
    for name in names:
        if name.endswith(".png"):
            assert (tmp_path / "report" / name).read_bytes().startswith(b"\x89PNG")
    page = Elements((tmp_path / "report" / "report.html").read_text())
    for words in (
        "Evaluation report",
        "tile-patchcore, version 3",
        "jobs/judge",
        "jobs/made",
        "2026-05-06 07:08 UTC",
        "few images",
        "best F1 at any threshold",
        "uses labels",
        "30 images of train/good",
        "1234",
        "false reject",
        "miss",
        "test/crack/000.png",
        "no mask",
        "8 images in a forward pass",
    ):
        assert words in page.text, words
    charts, tiles = 4, 3
    assert len([tag for tag, _ in page.tags if tag == "img"]) == charts + tiles


def test_page_is_self_contained(tmp_path: Path) -> None:
    write(Report(make_report_manifest(), make_evaluation(), []), tmp_path)
    html = (tmp_path / "report.html").read_text()
    page = Elements(html)
    assert not {"script", "link", "iframe", "object", "base", "form"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert "href" not in attributes
        assert re.match(r"data:image/(png|jpeg);base64,", attributes.get("src") or "data:image/png;base64,")
        assert not any(name.startswith("on") for name in attributes)
    style = html.split("<style>")[1].split("</style>")[0]
    assert not re.search(r"url\(|@import|@font-face", style)
    assert "http:" not in html
    assert "https:" not in html


def test_names_are_escaped(tmp_path: Path) -> None:
    hostile = make_evaluation(HOSTILE)
    write(Report(make_report_manifest(category=HOSTILE), hostile, [HOSTILE]), tmp_path)
    html = (tmp_path / "report.html").read_text()
    page = Elements(html)
    assert HOSTILE not in html
    assert page.text.count(HOSTILE) > 5
    assert all("onerror" not in attributes for _, attributes in page.tags)


def test_commands_in_texts_are_code_and_nothing_else_is_markup(tmp_path: Path) -> None:
    warnings = [f"look at `blemish info {HOSTILE}`, then go on", f"`{HOSTILE} is a name"]
    write(Report(make_report_manifest(), make_evaluation(), warnings), tmp_path)
    html = (tmp_path / "report.html").read_text()
    page = Elements(html)
    assert HOSTILE not in html
    assert f"look at blemish info {HOSTILE}, then go on" in page.text
    assert f"`{HOSTILE} is a name" in page.text
    conclusion = html.split('<div class="card conclusion">')[1].partition("</div>")[0]
    assert "`" not in conclusion
    assert "<code>blemish " in conclusion
    assert "</code>." in conclusion


def test_equal_reports_give_equal_files_from_any_thread(tmp_path: Path) -> None:
    report = Report(make_report_manifest(), make_evaluation(), ["x"])
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: write(report, tmp_path / name), "abcd"))
    first = {file.name: file.read_bytes() for file in (tmp_path / "a").iterdir()}
    for other in "bcd":
        assert {file.name: file.read_bytes() for file in (tmp_path / other).iterdir()} == first


def test_report_without_test_images_describes_the_training(tmp_path: Path) -> None:
    write(Report(make_report_manifest(), None, []), tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"report.html", "calibration.png"}
    text = Elements((tmp_path / "report.html").read_text()).text
    assert "Training report" in text
    assert "no test images" in text
    assert "10 images of train/good, held out" in text


def test_report_gives_the_measured_time_of_a_frame(tmp_path: Path) -> None:
    measured = FrameLatency(
        runtime="openvino",
        device="cpu",
        processor="Some CPU <9>",
        threads=1,
        median_s=0.01234,
        frames=5,
        width=640,
        height=480,
    )
    write(Report(make_report_manifest(latencies=(measured,)), None, []), tmp_path)
    text = Elements((tmp_path / "report.html").read_text()).text
    assert "frame by openvino" in text
    assert "12.3 ms for 640 x 480 px on cpu, one thread (Some CPU <9>), median of 5" in text


def test_cross_calibration_guarantees_no_rate(tmp_path: Path) -> None:
    split = TrainingSplit(learned=10, held_out=10, method="cross-calibration")
    manifest = make_report_manifest(split=split, settings={"fine": False, "smallest_defect": None})
    write(Report(manifest, None, []), tmp_path)
    text = Elements((tmp_path / "report.html").read_text()).text
    assert "expected false-reject rate" in text
    assert "10 images, cross-calibration" in text
    assert "guaranteed" not in text
    assert "were held out" not in text
    assert "smallest_defect" not in text


def test_figures_are_absent_without_defective_images(tmp_path: Path) -> None:
    write(Report(make_report_manifest(), make_evaluation(defective=0), []), tmp_path)
    assert not (tmp_path / "roc.png").exists()
    assert not (tmp_path / "classes.png").exists()
    text = Elements((tmp_path / "report.html").read_text()).text
    assert "Metrics that need both good and defective images are absent" in text
    assert json.loads((tmp_path / "metrics.json").read_text())["metrics"]["image_auroc"] is None


def test_table_lists_every_test_image(tmp_path: Path) -> None:
    write(Report(make_report_manifest(), make_evaluation(), []), tmp_path)
    lines = (tmp_path / "scores.csv").read_text().splitlines()
    assert lines[0] == "path,class,score,p_value,verdict,judgement,original_path,sha256"
    assert len(lines) == 21
    assert lines[1] == "test/good/000.png,good,1,1,normal,right,,"
    assert lines[13].endswith(",normal,miss,,")


@pytest.mark.parametrize("colour", [0, 255])
def test_outlines_are_visible_on_any_surface(colour: int) -> None:
    from blemish_core.report.tiles import MASK_COLOUR, HeatScale, encoded, tile

    example = make_example("crack", 0, 2.0, Correctness.RIGHT, masked=True)
    plain = ExampleImage(example.example, np.full((60, 80, 3), colour, np.uint8))
    drawn = np.asarray(Image.open(BytesIO(encoded(tile(plain, HeatScale(2.0, 0.5)), "PNG"))))
    assert drawn.shape == (60, 164, 3)
    assert (drawn[:, :80] == MASK_COLOUR).all(axis=2).any()
    assert (drawn[:, 84:] == MASK_COLOUR).all(axis=2).any()


@pytest.mark.parametrize("seed", range(20))
def test_tile_shows_defects_of_a_few_pixels(seed: int) -> None:
    from blemish_core.report.tiles import FOUND_COLOUR, MASK_COLOUR, HeatScale, tile

    random = np.random.default_rng(seed)
    left, top = (int(at) for at in random.integers(0, 4088, size=2))
    truth = np.zeros((1024, 1024), np.bool_)
    truth[top // 4 : top // 4 + 2, left // 4 : left // 4 + 2] = True
    example = make_example("crack", 0, 2.0, Correctness.RIGHT, masked=False).example
    grey, far = np.full((256, 256, 3), 90, np.uint8), 4095
    found = (make_region(far - left if left < 2000 else 0, far - top, 8, 8),)
    drawn = np.asarray(
        tile(ExampleImage(replace(example, mask=truth), grey, found, (4096, 4096)), HeatScale(2.0, 0.5))
    )
    assert (drawn[:, :256] == MASK_COLOUR).all(axis=2).any()
    assert (drawn[:, 260:] == MASK_COLOUR).all(axis=2).any()
    assert (drawn[:, 260:] == FOUND_COLOUR).all(axis=2).any()


@pytest.mark.parametrize("inspected", [True, False])
def test_picture_of_a_mask_shows_parts_of_a_few_pixels(inspected: bool) -> None:
    looks = np.full((4096, 4096), inspected)
    looks[1003:1008, 2050:2055] = not inspected
    picture = np.asarray(picture_of_mask(FrameMask(looks)))
    assert 1 <= (picture != (255 if inspected else IGNORED_COLOUR)).any(axis=2).sum() <= 4


def test_mask_is_shown_with_its_share_and_dyed_in_tiles(tmp_path: Path) -> None:
    looks = np.ones((60, 80), np.bool_)
    looks[:, :20] = False
    mask = FrameMask(looks)
    manifest = make_report_manifest(mask=mask.summary())
    evaluation = make_evaluation()
    worst = tuple(replace(each, looks=looks) for each in evaluation.worst)
    write(Report(manifest, replace(evaluation, worst=worst), [], mask=mask), tmp_path)
    html = (tmp_path / "report.html").read_text()
    text = Elements(html).text
    assert "80 x 60 px, 25.0 % of the pixels ignored" in text
    assert "All others influence nothing" in text
    picture = np.asarray(Image.open(tmp_path / "mask.png"))
    assert (picture[:, 20:] == 255).all()
    assert (picture[:, :20] == IGNORED_COLOUR).all()
    tile = np.asarray(Image.open(tmp_path / "worst-1.png")).astype(int)
    for left in (0, 84):  # the image, and the overlay after a gap
        ignored = tile[:, left : left + 19]
        assert np.abs(ignored - IGNORED_COLOUR).max() <= 64
        assert np.abs(tile[:, left + 21 : left + 80] - IGNORED_COLOUR).max() > 100


def test_report_without_mask_does_not_mention_one(tmp_path: Path) -> None:
    write(Report(make_report_manifest(), make_evaluation(), []), tmp_path)
    assert "ignored" not in (tmp_path / "report.html").read_text()
    assert not (tmp_path / "mask.png").exists()
