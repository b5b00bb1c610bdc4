# SPDX-License-Identifier: Apache-2.0
"""The page Review in a real browser, against a running stack."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from urllib.parse import quote_plus, urlencode

import numpy as np
import pytest
from tests.integration.console.conftest import MARKUP, kept
from tests.support.browser import Window

from blemish.v1.job_pb2 import PatchCore
from blemish.v1.search_pb2 import (
    LABEL_CONFIRMED,
    LABEL_FALSE_ALARM,
    LABEL_GOOD,
    LABEL_NONE,
    LABEL_UNSPECIFIED,
)
from blemish_client import Client, Frame, Label, Store, StreamPolicy
from blemish_console import texts
from blemish_console.formats import when


def test_frames_are_labelled_by_keys_undone_and_summarized(
    url: str, opened: Window, client: Client, kept_frames: list[str]
) -> None:
    query = urlencode({"model": "tile", "show": "all", "camera": MARKUP})
    opened.page.goto(f"{url}/review?{query}")
    opened.shows("1 of 4")
    opened.page.wait_for_selector(".bl-image")
    opened.page.keyboard.press("f")
    opened.shows("2 of 4")
    opened.page.get_by_label(texts.DEFECT_CLASS).fill(MARKUP)
    opened.page.keyboard.press("Enter")
    opened.page.locator(".bl-picture").click()
    opened.page.keyboard.press("d")
    opened.shows("3 of 4")
    opened.page.keyboard.press("g")
    opened.shows("4 of 4")
    labels = [client.item(item, "tile") for item in kept_frames]
    assert [each.label for each in labels[:3]] == [LABEL_FALSE_ALARM, LABEL_CONFIRMED, LABEL_GOOD]
    assert labels[1].label_class == MARKUP
    opened.shows(texts.CONFIRMED_AS.format(name=MARKUP))
    opened.page.keyboard.press("z")
    opened.shows("3 of 4")
    assert client.item(kept_frames[2], "tile").label in (LABEL_NONE, LABEL_UNSPECIFIED)
    opened.page.get_by_role("button", name=texts.SUMMARY).click()
    opened.shows("4 kept frames")
    opened.shows(MARKUP)
    assert opened.page.title() == f"{texts.SUMMARY} · {texts.TITLE}"


def test_neighbour_of_a_frame_has_label_camera_and_time_and_leads_to_its_own(
    url: str, opened: Window, client: Client, kept_frames: list[str]
) -> None:
    query = urlencode({"model": "tile", "show": "all", "camera": MARKUP})
    expected = list(client.search(kept_frames[0], "tile", 6))
    client.label(expected[0].item, "tile", Label.CONFIRMED, "dent")
    opened.page.goto(f"{url}/review?{query}")
    neighbours = opened.page.locator(".bl-neighbour")
    neighbours.first.wait_for()
    assert neighbours.count() == len(expected)
    text = neighbours.first.inner_text()
    client.label(expected[0].item, "tile", Label.NONE)
    for part in (texts.CONFIRMED_AS.format(name="dent"), expected[0].camera, when(expected[0].time)):
        assert part in text
    neighbours.first.click()
    opened.shows("hits, the most similar first")
    assert quote_plus(expected[0].item) in opened.page.url


def test_label_of_another_person_is_shown_and_stays(
    url: str, opened: Window, client: Client, kept_frames: list[str]
) -> None:
    newest = kept_frames[0]
    client.label(newest, "tile", Label.NONE)
    opened.page.goto(f"{url}/review?{urlencode({'model': 'tile', 'show': 'all', 'camera': MARKUP})}")
    opened.shows("1 of 4")
    opened.page.wait_for_selector(".bl-image")
    client.label(newest, "tile", Label.GOOD)
    opened.page.keyboard.press("f")
    opened.shows(texts.LABELLED_MEANWHILE)
    assert client.item(newest, "tile").label == LABEL_GOOD


def test_many_frames_are_labelled_at_once(
    url: str, opened: Window, client: Client, kept_frames: list[str]
) -> None:
    opened.page.goto(f"{url}/review?{urlencode({'model': 'tile', 'show': 'all', 'camera': MARKUP})}")
    opened.page.get_by_role("button", name=texts.SELECT_ALL).click()
    opened.shows(texts.SELECTED.format(count=4))
    opened.page.locator(".bl-card", has_text=texts.QUEUE).get_by_role(
        "button", name=texts.GOOD
    ).last.click()
    opened.shows(texts.BULK_DONE.format(count=4))
    assert {client.item(item, "tile").label for item in kept_frames} == {LABEL_GOOD}


@pytest.fixture
def night(client: Client, tile_model: str) -> Iterator[datetime]:
    """Keep 101 frames of a model of its own, one a minute, and return the time of the newest."""
    detector = PatchCore(input_size=64, max_entries=200)
    job = client.wait(client.train("tile", model_id="night", detector=detector, promote=True))
    assert job.error == ""
    newest = datetime.now().astimezone().replace(second=30, microsecond=0) - timedelta(minutes=5)
    source = np.random.default_rng(5)
    frames = [
        Frame(
            source.integers(0, 255, (64, 64, 3), np.uint8), capture_time=newest - timedelta(minutes=minutes)
        )
        for minutes in range(101)
    ]
    list(client.stream(frames, "night", camera="line", store=Store.ALL, policy=StreamPolicy.BLOCK))
    kept(client, "night", len(frames))
    yield newest
    client.delete_model("night", force=True)


def test_pages_of_the_queue_are_turned_selected_and_begun_at_a_time(
    url: str, opened: Window, client: Client, night: datetime
) -> None:
    page = opened.page
    page.goto(f"{url}/review?model=night&show=all")
    opened.shows(texts.PAGE_RANGE.format(first=1, last=100, total=101))
    assert page.locator(".bl-thumb-choice").count() == 100
    assert page.get_by_role("button", name=texts.PAGE_BEFORE).is_disabled()
    page.get_by_role("button", name=texts.PAGE_AFTER).click()
    opened.shows(texts.PAGE_RANGE.format(first=101, last=101, total=101))
    opened.shows(texts.POSITION.format(position=101, total=101))
    assert page.get_by_role("button", name=texts.PAGE_AFTER).is_disabled()
    page.get_by_role("button", name=texts.SELECT_ALL).click()
    opened.shows(texts.SELECTED.format(count=1))
    page.get_by_role("button", name=texts.PAGE_BEFORE).click()
    opened.shows(texts.POSITION.format(position=1, total=101))
    page.locator(".bl-thumb-choice input").first.check()
    opened.shows(texts.SELECTED.format(count=2))
    page.locator(".bl-thumb-choice input").first.uncheck()
    page.get_by_role("button", name=texts.GOOD).last.click()
    opened.shows(texts.BULK_DONE.format(count=1))
    page.get_by_label(texts.UNTIL).fill("2020-01-01T00:00")
    opened.shows(texts.NOTHING_UNTIL)
    opened.shows(texts.POSITION.format(position=1, total=101))
    # Times without seconds: the frame of that minute comes after it.
    page.get_by_label(texts.UNTIL).fill((night - timedelta(minutes=60)).strftime("%Y-%m-%dT%H:%M"))
    opened.shows(texts.POSITION.format(position=1, total=40))
    page.locator(".bl-thumb-choice").nth(39).locator(".bl-chip-good").wait_for()
    page.locator(".bl-thumb-choice button").nth(38).click()
    opened.shows(texts.POSITION.format(position=39, total=40))
