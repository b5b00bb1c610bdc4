# SPDX-License-Identifier: Apache-2.0
"""A whole day in the console: from a folder of images to a new threshold, in a real browser."""

from pathlib import Path

import pytest
from tests.integration.conftest import RunningStack
from tests.integration.console.conftest import kept
from tests.support.browser import chromium, console, window

from blemish.v1.search_pb2 import LABEL_CONFIRMED, LABEL_FALSE_ALARM
from blemish_client import Client, Store, StreamPolicy
from blemish_client.demo.surfaces import generate
from blemish_console import texts

_TRAINED_WITHIN_MS = 120_000
_CAMERA = "day-line"


def test_day_from_a_folder_of_images_to_a_new_threshold(
    stack: RunningStack, client: Client, tmp_path: Path
) -> None:
    folder = tmp_path / "surfaces"
    generate(folder, "tile", seed=41, train=12, good=4, defective=4, size=128)
    with (
        chromium() as browser,
        console(stack.address, tmp_path / "console") as url,
        window(browser) as opened,
    ):
        page = opened.page

        # Upload
        page.goto(f"{url}/data")
        page.get_by_role("button", name=texts.DATA_NEW).click()
        page.get_by_label(texts.DATA_NAME, exact=True).fill("day")
        page.get_by_role("button", name=texts.DATA_CREATE).click()
        page.wait_for_url("**/data?dataset=day")
        opened.shows(texts.UPLOAD["drop"])
        page.set_input_files("input[webkitdirectory]", str(folder))
        files = len(list(folder.rglob("*.png")))
        page.get_by_role("button", name=texts.UPLOAD["start"].format(count=files)).click()
        opened.shows(f"{files} stored, 0 unchanged, 0 replaced, 0 left out")

        # Train and promote
        page.goto(f"{url}/train?dataset=day")
        page.get_by_label(texts.MODEL_FIELD, exact=True).fill("day")
        page.get_by_role("button", name=texts.START_TRAINING).click()
        version = page.get_by_role("link", name=texts.SHOW_VERSION.format(version="day/1"))
        version.wait_for(timeout=_TRAINED_WITHIN_MS)
        version.click()
        opened.shows(texts.FIGURES)
        page.get_by_role("button", name=texts.PROMOTE, exact=True).click()
        page.get_by_role("dialog").get_by_role("button", name=texts.PROMOTE, exact=True).click()
        opened.shows(texts.PROMOTED.format(version="day/1"))

        # Stream, and see it on Line
        page.get_by_role("link", name=texts.LINE, exact=True).click()
        page.wait_for_url("**/line")
        opened.hides(texts.LINE_WAITING)
        images = [path.read_bytes() for path in sorted((folder / "test").glob("*/*.png"))]
        streamed = client.stream(images, "day", camera=_CAMERA, store=Store.ALL, policy=StreamPolicy.BLOCK)
        assert len(list(streamed)) == len(images)
        page.locator(".bl-tile", has_text=_CAMERA).locator("img").wait_for()

        # Review
        kept(client, "day", len(images))
        page.goto(f"{url}/review?model=day&show=all&order=highest-score")
        opened.shows(texts.POSITION.format(position=1, total=len(images)))
        page.get_by_label(texts.DEFECT_CLASS).fill("crack")
        page.keyboard.press("Enter")
        page.locator(".bl-picture").click()
        page.keyboard.press("d")
        opened.shows(texts.POSITION.format(position=2, total=len(images)))
        page.keyboard.press("f")
        opened.shows(texts.POSITION.format(position=3, total=len(images)))
        frames = list(client.items("day", where="source = camera", order_by="score desc"))
        assert [item.label for item in frames[:2]] == [LABEL_CONFIRMED, LABEL_FALSE_ALARM]

        # Search
        page.goto(f"{url}/search?model=day&item={frames[0].item}")
        opened.shows("hits, the most similar first")
        assert page.locator(".bl-hit").count() == len(images) - 1

        # Calibrate
        page.goto(f"{url}/models?version=day/1")
        page.locator(".bl-threshold").wait_for()
        wanted = round((frames[0].score + frames[1].score) / 2, 3)
        page.get_by_label(texts.THRESHOLD_FIELD, exact=True).fill(str(wanted))
        page.keyboard.press("Enter")
        page.get_by_role("button", name=texts.CALIBRATE).click()
        dialog = page.get_by_role("dialog")
        dialog.wait_for()
        dialog.get_by_label(texts.NAME).fill("maria")
        dialog.get_by_role("button", name=texts.CALIBRATE).click()
        opened.shows(texts.CALIBRATED.format(version="day/1"))
        calibration = client.model("day").calibration
        assert calibration.threshold == pytest.approx(wanted)
        assert calibration.author == "maria"
    client.delete_model("day", force=True)
    client.delete_dataset("day")
