# SPDX-License-Identifier: Apache-2.0
"""The page Models in a real browser, against a running stack."""

import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from tests.integration.console.conftest import MARKUP, kept
from tests.support.browser import Window

from blemish.v1.job_pb2 import PatchCore
from blemish_client import Client, Store, StreamPolicy
from blemish_client.demo.surfaces import generate
from blemish_client.names import short
from blemish_console import texts
from blemish_console.formats import number


def test_version_is_shown_with_its_report_and_promoted_after_a_question(
    url: str, opened: Window, client: Client, tile_model: str, tmp_path: Path
) -> None:
    client.export_model(tile_model, tmp_path / "tile.blemish")
    imported = client.import_model(tmp_path / "tile.blemish", model_id="console")
    opened.page.goto(f"{url}/models")
    opened.page.get_by_text("console/1", exact=True).click()
    opened.shows(texts.FIGURES)
    report = opened.page.frame_locator("iframe")
    report.get_by_text("Training report").wait_for()
    opened.page.get_by_role("button", name=texts.PROMOTE, exact=True).click()
    opened.shows(texts.CONFIRM_PROMOTION.format(version="console/1"))
    opened.page.get_by_role("button", name=texts.CANCEL).click()
    opened.hides(texts.CONFIRM_PROMOTION.format(version="console/1"))
    assert not client.model(imported.name).production
    opened.page.get_by_role("button", name=texts.PROMOTE, exact=True).click()
    opened.page.get_by_role("dialog").get_by_role("button", name=texts.PROMOTE, exact=True).click()
    opened.shows(texts.PROMOTED.format(version="console/1"))
    assert client.model(imported.name).production
    client.delete_model("console", force=True)


@pytest.fixture
def copied_model(client: Client, tile_model: str, tmp_path: Path) -> Iterator[str]:
    """Import a version of its own, keep eight frames of it, and return its name."""
    file = tmp_path / "tile.blemish"
    client.export_model(tile_model, file)
    version = client.import_model(file, model_id="moved").name
    generate(tmp_path / "frames", "tile", seed=92, train=1, good=4, defective=4, size=128)
    images = [path.read_bytes() for path in sorted((tmp_path / "frames/test").rglob("*.png"))]
    list(client.stream(images, version, camera=MARKUP, store=Store.ALL, policy=StreamPolicy.BLOCK))
    kept(client, version, len(images))
    yield version
    client.delete_model("moved", force=True)


def test_dragged_threshold_shows_its_effect_and_is_put_into_force(
    url: str, opened: Window, client: Client, copied_model: str
) -> None:
    page = opened.page
    before = client.model(copied_model).calibration
    scores = client.scores(copied_model)
    frames = [item.score for item in client.items(copied_model, where="source = camera")]
    page.goto(f"{url}/models?version=moved/1")
    line = page.locator(".bl-threshold")
    line.wait_for()
    line.evaluate("line => line.scrollIntoView({block: 'center'})")
    assert page.get_by_role("button", name=texts.CALIBRATE).is_disabled()
    box, area = line.bounding_box(), page.locator(".bl-histogram-area").bounding_box()
    at = box["x"] + box["width"] / 2
    page.mouse.move(at, area["y"] + 40)
    page.mouse.down()
    page.mouse.move(at + 20, area["y"] + 40, steps=4)
    page.mouse.move(area["x"] + 2, area["y"] + 40, steps=6)
    opened.shows(f"would become {texts.ANOMALOUS}")  # while the button of the mouse is still pressed
    page.mouse.up()
    moved = float(line.get_attribute("aria-valuenow"))
    assert moved < min(scores.held_out)
    flips = sum(moved < score <= before.threshold for score in frames)
    opened.shows(f"{flips} of {len(frames)} frames kept")
    assert page.locator(".bl-flip").count() == flips
    assert page.locator(".bl-flip img").first.evaluate("image => image.decode().then(() => true)")
    page.get_by_role("button", name=texts.CALIBRATE).click()
    opened.shows(f"it rejects all {len(scores.held_out)} held-out good images")
    page.get_by_role("button", name=texts.CANCEL).click()
    page.get_by_label(texts.TARGET_FIELD_PERCENT).fill("60")
    page.keyboard.press("Enter")
    opened.shows(texts.NOT_A_TARGET.format(text="60"))
    page.get_by_label(texts.TARGET_FIELD_PERCENT).fill("20")
    page.keyboard.press("Enter")
    opened.hides(texts.NOT_A_TARGET.format(text="60"))
    line.press("ArrowRight")
    page.wait_for_function(
        "moved => Number(document.querySelector('.bl-threshold').ariaValueNow) > moved", arg=moved
    )
    wanted = (sorted(scores.held_out)[-2] + sorted(scores.held_out)[-1]) / 2
    page.get_by_label(texts.THRESHOLD_FIELD, exact=True).fill(str(wanted))
    page.keyboard.press("Enter")
    found = page.locator("tr", has_text=texts.HELD_OUT_ABOVE)
    found.get_by_text(texts.OF.format(count=1, of=len(scores.held_out))).last.wait_for()
    for name, each in scores.by_class.items():
        row = texts.TEST_GOOD_ABOVE if name == "good" else texts.CLASS_FOUND.format(name=name)
        above = sum(score > wanted for score in each)
        cell = page.locator("tr", has_text=row).locator("td").last
        assert cell.inner_text() == texts.OF.format(count=above, of=len(each))
    page.get_by_role("button", name=texts.CALIBRATE).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label(texts.COMMENT).fill(MARKUP)
    dialog.get_by_role("button", name=texts.CALIBRATE).click()
    opened.shows(texts.NAME_MISSING)
    dialog.get_by_label(texts.NAME).fill("maria")
    dialog.get_by_role("button", name=texts.CALIBRATE).click()
    opened.shows(texts.CALIBRATED.format(version="moved/1"))
    after = client.model(copied_model).calibration
    assert after.threshold == pytest.approx(wanted)
    assert (after.author, after.comment, after.revision) == ("maria", MARKUP, before.revision + 1)
    opened.shows(MARKUP)


def test_frames_on_which_a_shadow_differs_are_shown(
    url: str, opened: Window, client: Client, copied_model: str
) -> None:
    client.promote(copied_model, keep_target=False)
    small = PatchCore(input_size=64, coreset_ratio=0.05)
    job = client.wait(client.train("tile", model_id="moved", detector=small))
    shadow = job.result.model_version
    client.update_calibration(shadow, author="a test", threshold=0.0, acknowledge_extreme=True)
    client.shadow(shadow)
    opened.page.goto(f"{url}/models?version={short(shadow)}")
    opened.shows(texts.NOTHING_COMPARED)
    frame = client.dataset_image("tile", "test/good/000.png").content
    for _ in range(100):
        client.score(frame, "moved", camera=MARKUP)
        if client.model(shadow).comparison.disagreements:
            break
        time.sleep(0.1)
    time.sleep(1)  # the newest image may still be compared
    comparison = client.model(shadow).comparison
    opened.page.wait_for_function(
        "count => document.querySelectorAll('a.bl-hit').length === count",
        arg=len(comparison.disagreements),
    )
    found = comparison.disagreements[-1]
    card = opened.page.locator(".bl-card", has_text=texts.DIFFERENCES)
    card.get_by_text(number(found.shadow_score)).first.wait_for()
    assert MARKUP in card.inner_text()
    hit = card.locator("a.bl-hit").last
    assert number(found.production_score) in hit.inner_text()
    assert hit.locator(".bl-chip-bad").count() == hit.locator(".bl-chip-good").count() == 1
    opened.page.wait_for_function(
        "[...document.querySelectorAll('a.bl-hit img')].some(image => image.naturalWidth)"
    )
    hit.click()
    opened.page.wait_for_url(f"**/search?{urlencode({'model': short(copied_model)})}&item=items*")


def test_exported_version_is_imported_under_another_name(
    url: str, opened: Window, client: Client, tile_model: str, tmp_path: Path
) -> None:
    page = opened.page
    page.goto(f"{url}/models?version=tile/1")
    with page.expect_download() as download:
        page.get_by_role("link", name=texts.EXPORT_MODEL).click()
    assert download.value.suggested_filename == "tile-1.blemish"
    file = tmp_path / "tile.blemish"
    download.value.save_as(file)
    client.export_model(tile_model, tmp_path / "same.blemish")
    assert file.read_bytes() == (tmp_path / "same.blemish").read_bytes()
    page.get_by_role("button", name=texts.IMPORT_MODEL).click()
    damaged = tmp_path / "damaged.blemish"
    damaged.write_bytes(file.read_bytes()[:-20_000] + bytes(20_000))
    for name, content, reason in (
        (MARKUP, file, "is not a valid id"),
        ("imported-here", damaged, "damaged in transit"),
    ):
        page.get_by_label(texts.IMPORT_AS).fill(name)
        page.set_input_files("input[type=file]", str(content))
        page.get_by_role("alert").get_by_text(reason).wait_for()
    page.set_input_files("input[type=file]", str(file))
    # The server loads the version in a process of its own, which takes long on a busy machine.
    done = page.get_by_text(texts.IMPORTED.format(version="imported-here/1"))
    done.wait_for(timeout=120_000)
    page.wait_for_selector(".bl-threshold")
    card = client.model("imported-here/1")
    assert card.training["imported from"] == client.model(tile_model).name
    assert not card.production
    client.delete_model("imported-here", force=True)
