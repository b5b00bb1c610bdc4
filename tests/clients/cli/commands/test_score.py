# SPDX-License-Identifier: Apache-2.0
import io
import pickle
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image
from tests.support.cli import Run, json_lines
from tests.support.fake_server import CallError, FakeServer, picture
from tests.support.regions import make_region_message

from blemish.v1 import inspection_pb2 as pb
from blemish.v1.image_pb2 import VERDICT_ANOMALOUS, VERDICT_NORMAL, DefectRegion, Point, Region
from blemish_client import Client
from blemish_client.errors import Unavailable


def test_score(run: Run, fake: FakeServer, image: Path) -> None:
    result = run("score", image, "--model", "m/3")
    assert result.exit_code == 0
    assert "normal" in result.stdout
    assert fake.requests["Score"][0].model == "models/m/versions/3"


def test_score_continues_after_bad_images(run: Run, image: Path, tmp_path: Path) -> None:
    bad, missing = tmp_path / "bad.png", tmp_path / "missing.png"
    bad.write_bytes(b"not an image")
    result = run("score", bad, missing, image, "-m", "m", "--json", "--fail-on-anomaly")
    assert result.exit_code == 2
    objects = json_lines(result)
    assert [Path(line["image"]).name for line in objects] == ["bad.png", "missing.png", "frame.png"]
    assert objects[0]["error"].endswith("bad.png: not an image")
    assert objects[2]["score"] == 1.5
    errors = result.stderr.splitlines()
    assert len(errors) == 2
    assert "bad.png" in errors[0]
    assert "missing.png" in errors[1]


def test_folders_and_patterns_are_read_without_masks(run: Run, tmp_path: Path) -> None:
    names = (
        "test/crack/000.png",
        "test/good/000.png",
        "ground_truth/crack/000_mask.png",
        "a.png",
        "a_GT.png",
    )
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(picture(16))
    (tmp_path / "notes.txt").write_text("no image")

    def scored(*arguments: object) -> list[str]:
        lines = json_lines(run("score", *arguments, "-m", "m", "--json"))
        return [str(Path(line["image"]).relative_to(tmp_path)) for line in lines]

    assert scored(tmp_path) == ["a.png", "test/crack/000.png", "test/good/000.png"]
    assert scored(tmp_path / "test/*") == ["test/crack/000.png", "test/good/000.png"]
    assert scored(tmp_path / "**/000.png") == ["test/crack/000.png", "test/good/000.png"]
    assert scored(tmp_path / "a_GT.png") == ["a_GT.png"], "a file that is named is scored"
    (tmp_path / "[b].png").write_bytes(picture(16))
    assert scored(tmp_path / "[b].png") == ["[b].png"]


def test_folder_is_counted_and_has_a_map_for_each_image(run: Run, image: Path, tmp_path: Path) -> None:
    result = run("score", tmp_path, "-m", "m", "--map", tmp_path / "maps")
    assert result.exit_code == 0
    assert [file.name for file in (tmp_path / "maps").iterdir()] == [f"{tmp_path.name}-frame.png"]
    (tmp_path / "bad.png").write_bytes(b"not an image")
    result = run("score", tmp_path / "*.png", "-m", "m")
    assert result.exit_code == 2
    assert "2 images: 1 not scored, 1 normal" in result.stdout


@pytest.mark.parametrize(("name", "words"), [("empty", "has no images"), ("*.tif", "no file matches")])
def test_folder_or_pattern_without_images_is_bad_input(
    run: Run, tmp_path: Path, name: str, words: str
) -> None:
    (tmp_path / "empty").mkdir()
    result = run("score", tmp_path / name, "-m", "m")
    assert result.exit_code == 2
    assert words in result.stderr


def test_image_is_read_from_stdin(run: Run, fake: FakeServer, tmp_path: Path) -> None:
    result = run("score", "-", "-m", "m", "--json", stdin="an image")
    assert json_lines(result)[0]["image"] == "-"
    assert fake.requests["Score"][0].image.encoded == b"an image"
    assert run("score", "-", "-", "-m", "m", stdin="an image").exit_code == 2


def test_scored_images_are_printed_if_the_server_goes_away(
    run: Run, fake: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(picture(16))
    score = Client.score

    def score_first(*arguments: Any, **options: Any) -> pb.Inspection:
        if fake.requests["Score"]:
            raise Unavailable("gone", code=grpc.StatusCode.UNAVAILABLE)
        return score(*arguments, **options)

    monkeypatch.setattr(Client, "score", score_first)
    result = run("score", tmp_path, "-m", "m")
    assert result.exit_code == 4
    assert "a.png" in result.stdout


def test_fail_on_anomaly_sets_the_exit_code(run: Run, fake: FakeServer, image: Path) -> None:
    assert run("score", image, "-m", "m", "--fail-on-anomaly").exit_code == 0
    fake.verdict = VERDICT_ANOMALOUS
    assert run("score", image, "-m", "m").exit_code == 0
    assert run("score", image, "-m", "m", "--fail-on-anomaly").exit_code == 1


def test_maps_of_several_images_have_distinct_names(run: Run, image: Path, tmp_path: Path) -> None:
    assert run("score", image, "-m", "m", "--map", tmp_path / "new" / "map.png").exit_code == 0
    with Image.open(tmp_path / "new" / "map.png") as drawn:
        assert drawn.width == 512
    others = [tmp_path / folder / "000.png" for folder in ("crack", "good", "x/good")]
    for other in others:
        other.parent.mkdir(parents=True)
        other.write_bytes(picture(64))
    assert run("score", *others, "-m", "m", "--map", tmp_path / "maps").exit_code == 0
    names = {path.name for path in (tmp_path / "maps").iterdir()}
    assert names == {"crack-000.png", "good-000.png", "good-000-2.png"}


def test_unwritable_map_is_a_usage_error(run: Run, image: Path, tmp_path: Path) -> None:
    result = run("score", image, "-m", "m", "--map", tmp_path / "map.unknown")
    assert result.exit_code == 2
    assert "cannot write" in result.stderr


def test_missing_model_stops_score_at_the_first_image(run: Run, fake: FakeServer, image: Path) -> None:
    fake.errors["Score"] = [CallError(grpc.StatusCode.NOT_FOUND, "no such model")]
    assert run("score", image, image, "-m", "m").exit_code == 3
    assert len(fake.requests["Score"]) == 1


def test_too_large_image_is_bad_input(run: Run, fake: FakeServer, image: Path) -> None:
    refusal = CallError(grpc.StatusCode.RESOURCE_EXHAUSTED, "over 64 megapixels", "TOO_LARGE")
    fake.errors["Score"] = [refusal]
    assert run("score", image, image, "-m", "m").exit_code == 2
    assert len(fake.requests["Score"]) == 2


def test_regions_are_printed_and_part_of_the_json(run: Run, fake: FakeServer, image: Path) -> None:
    fake.verdict = VERDICT_ANOMALOUS
    fake.regions = [make_region_message(120, 48, 14, 9), make_region_message(3, 4, 6, 5)]
    text = run("score", image, "-m", "m").stdout
    assert "frame.png: 2 regions: 14 x 9 px at (120, 48), 6 x 5 px at (3, 4)" in text.replace("\n", " ")
    (line,) = json_lines(run("score", image, "-m", "m", "--json"))
    assert [region["box"]["left"] for region in line["regions"]] == [120, 3]
    assert len(line["regions"][0]["contour"]) == 4
    assert "mask" not in line
    assert not fake.requests["Score"][0].outputs.mask


def test_sizes_of_regions_are_in_mm_if_the_model_has_a_scale(
    run: Run, fake: FakeServer, image: Path
) -> None:
    region = make_region_message(120, 48, 14, 9)
    region.size.width_mm, region.size.height_mm = 0.7, 0.45
    fake.verdict, fake.regions = VERDICT_ANOMALOUS, [region] * 6
    text = " ".join(run("score", image, "-m", "m").stdout.split())
    assert "6 regions: 0.70 x 0.45 mm at (120, 48) px" in text
    assert "and 2 more" in text


def test_mask_is_written_as_received(run: Run, fake: FakeServer, image: Path, tmp_path: Path) -> None:
    assert run("score", image, "-m", "m", "--mask", tmp_path / "new" / "mask.png").exit_code == 0
    assert fake.requests["Score"][0].outputs.mask
    assert (tmp_path / "new" / "mask.png").read_bytes() == picture(16)
    result = run("score", image, "-m", "m", "--mask", image / "mask.png")
    assert result.exit_code == 2
    assert "cannot write" in result.stderr


def test_defect_class_is_shown_on_request(run: Run, fake: FakeServer, image: Path) -> None:
    fake.verdict = VERDICT_ANOMALOUS
    assert "crack" not in run("score", image, "-m", "m").stdout
    assert not fake.requests["Score"][0].outputs.defect_class
    result = run("score", image, "-m", "m", "--defect-class")
    assert "crack (75 % of 5)" in result.stdout
    (line,) = json_lines(run("score", image, "-m", "m", "--defect-class", "--json"))
    assert line["defect_class"] == {
        "class_name": "crack",
        "share": 0.75,
        "neighbors": 5,
        "consensus": "majority",
    }


def test_reason_stands_in_place_of_an_unknown_class(run: Run, fake: FakeServer, image: Path) -> None:
    fake.verdict = VERDICT_ANOMALOUS
    fake.defect_class = pb.DefectClass(consensus=pb.CONSENSUS_TOO_FEW_LABELS)
    assert "unknown (too few labels)" in run("score", image, "-m", "m", "--defect-class").stdout


def test_class_name_with_markup_is_shown_as_typed(run: Run, fake: FakeServer, image: Path) -> None:
    fake.verdict = VERDICT_ANOMALOUS
    fake.defect_class.class_name = "[bold]a[/]b"
    assert "[bold]a[/]b (75 %" in run("score", image, "-m", "m", "--defect-class").stdout


def test_class_name_with_control_characters_is_shown_and_drawn_on_one_line(
    run: Run, fake: FakeServer, image: Path, tmp_path: Path
) -> None:
    fake.verdict = VERDICT_ANOMALOUS
    fake.defect_class.class_name = "a\nb\x1b[31mc"
    result = run("score", image, "-m", "m", "--defect-class", "--map", tmp_path / "map.png")
    assert result.exit_code == 0
    assert "a b [31mc (75 %" in result.stdout
    assert (tmp_path / "map.png").exists()


def test_normal_image_has_no_defect_class(run: Run, image: Path) -> None:
    result = run("score", image, "-m", "m", "--defect-class")
    assert result.exit_code == 0
    assert result.stdout.split()[-1] == "-"


def test_motion_of_the_part_is_shown(run: Run, fake: FakeServer, image: Path) -> None:
    assert "part moved" not in run("score", image, "-m", "m").stdout
    fake.alignment = pb.Alignment(dx=12.44, dy=-3, angle=0.8, quality=0.97)
    shown = " ".join(run("score", image, "-m", "m").stdout.split())
    assert "part moved by +12.4, -3.0 px, turned by +0.80 degrees, correlation 0.97" in shown
    (line,) = json_lines(run("score", image, "-m", "m", "--json"))
    assert line["alignment"] == {"dx": 12.44, "dy": -3, "angle": 0.8, "quality": 0.97}


def test_raw_samples_arrays_and_a_region_are_sent(run: Run, fake: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(24))
    np.save(tmp_path / "b.npy", np.zeros((4, 6, 3), np.uint8)[:, ::-1])
    given = ("--raw", "Mono8:6x4", "--region", "1,0,2,3")
    result = run("score", tmp_path / "a.bin", tmp_path / "b.npy", "-m", "m", *given)
    assert result.exit_code == 0, result.stderr
    first, second = (request.image for request in fake.requests["Score"])
    assert (first.raw.pixel_format, first.raw.width, first.raw.height) == ("Mono8", 6, 4)
    assert first.raw.data == bytes(24)
    assert second.raw.pixel_format == "RGB8"
    assert first.region == second.region == Region(left=1, top=0, width=2, height=3)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--raw", "Mono8", "--raw Mono8 is not valid; give FORMAT:WIDTHxHEIGHT"),
        ("--region", "1,2,3", "--region 1,2,3 is not valid; give LEFT,TOP,WIDTH,HEIGHT"),
    ],
)
def test_malformed_layout_is_bad_input(run: Run, image: Path, option: str, value: str, words: str) -> None:
    result = run("score", image, "-m", "m", option, value)
    assert result.exit_code == 2
    assert words in result.stderr


@pytest.mark.parametrize("content", [b"", b"not an array", pickle.dumps([1])])
def test_file_that_is_no_array_does_not_stop_the_others(
    run: Run, fake: FakeServer, image: Path, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    result = run("score", tmp_path / "a.npy", image, "-m", "m")
    assert result.exit_code == 2
    assert "cannot read" in result.stderr
    assert len(fake.requests["Score"]) == 1


def test_map_of_a_region_is_drawn_over_that_part(run: Run, fake: FakeServer, tmp_path: Path) -> None:
    fake.verdict = VERDICT_ANOMALOUS
    fake.regions = [DefectRegion(contour=[Point(x=x, y=y) for x, y in ((700, 20), (760, 20), (760, 60))])]
    np.save(tmp_path / "a.npy", np.zeros((100, 1400), np.uint8))
    result = run(
        "score", tmp_path / "a.npy", "--region", "640,0,600,80", "-m", "m", "--map", tmp_path / "map.png"
    )
    assert result.exit_code == 0, result.stderr
    with Image.open(tmp_path / "map.png") as drawn:
        assert drawn.width == 600
        outlined = np.asarray(drawn.convert("L"))[:80] == 255
    _, columns = outlined.nonzero()
    assert (columns.min(), columns.max()) == (pytest.approx(60, abs=2), pytest.approx(120, abs=2))


@pytest.mark.parametrize("kind", ["float", "12 bits", "raw"])
def test_map_is_drawn_over_the_image_as_the_server_read_it(
    run: Run, fake: FakeServer, tmp_path: Path, kind: str
) -> None:
    fake.map_side, fake.verdict = 4, VERDICT_NORMAL
    bright = np.full((600, 800), 0.8)
    shown = io.BytesIO()
    Image.fromarray((bright * 255).astype(np.uint8)).save(shown, "JPEG")
    fake.preview = pb.Preview(jpeg=shown.getvalue(), width=800, height=600)
    options: list[str] = []
    if kind == "raw":
        file = tmp_path / "a.raw"
        file.write_bytes(bytes(600 * 800 * 3 // 2))
        options = ["--raw", "Mono12p:800x600"]
    else:
        file = tmp_path / "a.tiff"
        samples = bright.astype(np.float32) if kind == "float" else (bright * 4095).astype(np.uint16)
        Image.fromarray(samples).save(file)
    result = run("score", file, *options, "-m", "m", "--map", tmp_path / "map.png")
    assert result.exit_code == 0, result.stderr
    assert fake.requests["Score"][0].outputs.preview
    with Image.open(tmp_path / "map.png") as drawn:
        assert np.asarray(drawn.convert("L"))[:600].mean() > 150


def test_ordinary_image_needs_no_preview(run: Run, fake: FakeServer, image: Path, tmp_path: Path) -> None:
    assert run("score", image, "-m", "m", "--map", tmp_path / "map.png").exit_code == 0
    assert not fake.requests["Score"][0].outputs.preview
