# SPDX-License-Identifier: Apache-2.0
"""Drawing on images in a real browser, against a running stack."""

import io
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.integration.conftest import RunningStack
from tests.support.browser import Window, window

from blemish_client import Client
from blemish_console import texts

DATASET = "drawn-on"
SIDE = 200
BRUSHED = (64, 96)
"""Left and top of the mask that the image has at first."""


@pytest.fixture(scope="module")
def dataset(stack: RunningStack) -> Iterator[str]:
    """Upload three training images, and three of a defect, the second one with a mask."""
    with Client(stack.address) as client:
        client.create_dataset(DATASET)
        for number in range(3):
            client.upload_image(DATASET, f"train/good/{number}.png", png(grain(number)))
            client.upload_image(DATASET, f"test/cut/{number}.png", png(grain(10 + number)))
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[96:112, 64:80] = 255
        client.upload_image(DATASET, "ground_truth/cut/1_mask.png", png(mask))
        yield DATASET
        client.delete_dataset(DATASET)


def grain(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(90, 160, (SIDE, SIDE, 3)).astype(np.uint8)


def png(pixels: NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def mask_of(client: Client, name: str) -> NDArray[np.bool_]:
    content = client.dataset_image(DATASET, f"ground_truth/cut/{name}_mask.png").content
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("L")) > 0


_STILL_MS = 300
"""Time without a movement after which the layout of a page is taken as final."""


class Paper:
    """The image of a page, on which a test draws in px of the image."""

    def __init__(self, page: Any, side: int = SIDE) -> None:
        self._page = page
        image = page.locator(".bl-draw > img")
        page.wait_for_function("document.querySelector('.bl-draw > img')?.naturalWidth > 0")
        page.locator(".bl-draw").hover()  # once it has stopped moving
        page.locator(".bl-draw").evaluate("view => view.scrollIntoView({block: 'center'})")
        frame, before = image.bounding_box(), None
        while frame != before:
            page.wait_for_timeout(_STILL_MS)
            frame, before = image.bounding_box(), frame
        self._left, self._top, self._scale = frame["x"], frame["y"], frame["width"] / side

    def at(self, x: float, y: float) -> tuple[float, float]:
        return self._left + x * self._scale, self._top + y * self._scale

    def drag(self, *points: tuple[float, float]) -> None:
        self._page.mouse.move(*self.at(*points[0]))
        self._page.mouse.down()
        for point in points[1:]:
            self._page.mouse.move(*self.at(*point), steps=8)
        self._page.mouse.up()

    def click(self, *points: tuple[float, float]) -> None:
        for point in points:
            self._page.mouse.click(*self.at(*point))

    def touch(self, *points: tuple[float, float]) -> None:
        """Drag a finger over the image."""
        session = self._page.context.new_cdp_session(self._page)
        for kind, point in zip(["touchStart"] + ["touchMove"] * len(points[1:]), points, strict=True):
            x, y = self.at(*point)
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
        session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def open_image(opened: Window, url: str, name: str) -> Paper:
    opened.page.goto(f"{url}/data/image?{urlencode({'dataset': DATASET, 'path': f'test/cut/{name}.png'})}")
    return Paper(opened.page)


def pick(opened: Window, tool: str) -> None:
    opened.page.get_by_role("button", name=texts.DRAW_TOOLS[tool], exact=True).click()


def test_mask_drawn_with_the_mouse_is_on_the_server_pixel_for_pixel(
    url: str, opened: Window, client: Client, dataset: str
) -> None:
    paper = open_image(opened, url, "0")
    pick(opened, "box")
    paper.drag((20, 30), (60, 70))
    pick(opened, "polygon")
    paper.click((100, 20), (180, 20), (180, 90), (100, 20))
    pick(opened, "brush")
    opened.page.get_by_label(texts.DRAW_SIZES).click()
    opened.page.get_by_role("option", name=texts.DRAW_SIZE.format(size="16")).click()
    paper.drag((30, 150), (170, 150))
    pick(opened, "eraser")
    paper.drag((100, 110), (100, 190))
    pick(opened, "box")
    paper.drag((150, 100), (190, 130))
    opened.page.keyboard.press("Control+z")
    opened.shows(texts.DATA_MASK_CHANGED)
    opened.page.get_by_role("button", name=texts.DATA_MASK_SAVE).click()
    opened.shows(texts.DATA_MASK_SAVED)

    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    box = (abs(columns - 40) < 20) & (abs(rows - 50) < 20)
    triangle = (rows > 20) & (columns < 180) & (rows - 20 < (columns - 100) * 70 / 80)
    stroke = np.hypot(columns - np.clip(columns, 30, 170), rows - 150) <= 8
    gap = np.hypot(columns - 100, rows - np.clip(rows, 110, 190)) <= 8
    expected = box | triangle | (stroke & ~gap)
    mask = mask_of(client, "0")
    near = np.zeros_like(mask)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            near |= np.roll(expected, (down, right), (0, 1)) != expected
    assert not ((mask != expected) & ~near).any()
    assert (mask != expected).sum() < 120
    assert client.dataset(DATASET).masks == 2


def test_mask_of_an_image_is_edited_removed_and_asked_about(
    url: str, opened: Window, client: Client, dataset: str
) -> None:
    page = opened.page
    paper = open_image(opened, url, "1")
    before = mask_of(client, "1")
    pick(opened, "box")
    paper.drag((10, 10), (30, 30))
    opened.shows(texts.DATA_MASK_CHANGED)
    page.get_by_role("button", name=texts.DATA_IMAGE_NEXT).click()
    opened.shows(texts.DATA_MASK_ASK)
    page.get_by_role("button", name=texts.DATA_MASK_STAY).click()
    page.get_by_role("button", name=texts.DATA_IMAGE_NEXT).click()
    page.get_by_role("dialog").get_by_role("button", name=texts.DATA_MASK_SAVE).click()
    opened.shows(texts.DATA_IMAGE_POSITION.format(position=3, total=3))
    after = mask_of(client, "1")
    assert (after & ~before).sum() == pytest.approx(400, abs=80)
    assert (after & before).sum() == before.sum()
    page.get_by_role("button", name=texts.DATA_IMAGE_PREVIOUS).click()
    opened.shows(texts.DATA_IMAGE_POSITION.format(position=2, total=3))
    Paper(page)
    page.get_by_role("button", name=texts.DATA_MASK_REMOVE).click()
    page.get_by_role("dialog").get_by_role("button", name=texts.DATA_MASK_REMOVE).click()
    opened.shows(texts.DATA_MASK_NONE)
    assert not list(client.images(DATASET, under="ground_truth/cut/1"))

    Paper(page).drag((10, 10), (30, 30))
    opened.shows(texts.DATA_MASK_CHANGED)
    questions: list[str] = []

    def stay(dialog: Any) -> None:
        questions.append(dialog.type)
        dialog.dismiss()

    page.once("dialog", stay)
    page.get_by_role("link", name=texts.MODELS).click()
    page.wait_for_timeout(300)
    assert questions == ["beforeunload"]
    page.get_by_role("button", name=texts.DATA_IMAGE_BACK.format(dataset=DATASET)).click()
    page.get_by_role("button", name=texts.DATA_MASK_LEAVE, exact=True).click()
    page.wait_for_url("**/data?dataset=*")


def test_region_to_ignore_is_in_the_training_that_was_started(
    url: str, opened: Window, client: Client, dataset: str
) -> None:
    page = opened.page
    page.goto(f"{url}/train?dataset={DATASET}")
    page.get_by_text(texts.REGION_TITLE, exact=True).click()
    paper = Paper(page)
    paper.drag((1, 1), (100, 199))
    opened.shows(texts.REGION_SHARE.format(share="").strip())
    page.get_by_label(texts.MODEL_FIELD, exact=True).fill("console-region")
    page.get_by_role("button", name=texts.START_TRAINING).click()
    opened.shows(texts.TRAINING_STARTED)
    job = next(job for job in client.jobs() if job.train.model_id == "console-region")
    client.cancel(job)
    assert (job.train.mask.width, job.train.mask.height) == (SIDE, SIDE)
    assert job.train.mask.ignored_share == pytest.approx(0.5, abs=0.02)
    opened.shows(texts.JOB_REGION)
    client.wait(job)  # a dataset that a job uses cannot be deleted


def test_box_of_a_finger_and_a_polygon_find_the_place_of_the_part(
    url: str, browser: Any, client: Client, tile_model: str
) -> None:
    with window(browser, has_touch=True) as opened:
        item = next(iter(client.items("tile", where="class = crack"))).item
        opened.page.goto(f"{url}/search?{urlencode({'model': 'tile', 'item': item})}")
        opened.shows("hits, the most similar first")
        assert opened.page.locator(".bl-hit-match").count() == 0
        regions = opened.page.locator(".bl-hit-regions").first
        regions.scroll_into_view_if_needed()
        opened.page.wait_for_function("document.querySelector('.bl-hit-regions').naturalWidth === 128")
        paper = Paper(opened.page, 128)
        paper.touch((30, 30), (60, 60), (90, 90))
        opened.page.locator(".bl-hit-match svg").first.wait_for()
        assert opened.page.locator(".bl-hit-regions").count() == 0
        opened.page.get_by_role("button", name=texts.SEARCH_WHOLE).click()
        opened.page.locator(".bl-hit-regions").first.wait_for()
        assert opened.page.locator(".bl-hit-match").count() == 0
        pick(opened, "polygon")
        paper = Paper(opened.page, 128)
        paper.click((30, 30), (90, 40), (60, 90), (30, 30))
        opened.page.locator(".bl-hit-match svg").first.wait_for()
