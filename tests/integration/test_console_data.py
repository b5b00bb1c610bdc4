# SPDX-License-Identifier: Apache-2.0
"""The page Data in a real browser, against a running stack."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import RunningStack
from tests.support.browser import Window, chromium, console, window

from blemish_client import Client
from blemish_client.demo.surfaces import generate
from blemish_client.errors import NotFound
from blemish_console import texts

MARKUP = "<img src=x onerror=\"document.title='taken over'\">"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture
def opened(browser: Any) -> Iterator[Window]:
    with window(browser) as opened:
        yield opened


@pytest.fixture(scope="module")
def url(stack: RunningStack, browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with console(stack.address, tmp_path_factory.mktemp("console")) as url:
        yield url


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with eight images, of which one has a name that is markup."""
    folder = tmp_path_factory.mktemp("surfaces")
    generate(folder, "tile", seed=5, train=3, good=2, defective=3, size=64)
    first = min((folder / "train/good").iterdir())
    first.rename(first.with_name(f"{MARKUP}.png"))
    return folder


@pytest.fixture
def dataset(client: Client, folder: Path) -> Iterator[str]:
    client.create_dataset("gallery")
    client.upload("gallery", folder)
    yield "gallery"
    try:
        client.delete_dataset("gallery")
    except NotFound:
        return


def test_dataset_is_created_and_deleted_after_its_name_was_typed(
    url: str, opened: Window, client: Client
) -> None:
    page = opened.page
    page.goto(f"{url}/data")
    page.get_by_role("button", name=texts.DATA_NEW).click()
    page.get_by_label(texts.DATA_NAME, exact=True).fill("Not a name")
    page.get_by_role("button", name=texts.DATA_CREATE).click()
    opened.shows("is not a valid")
    page.get_by_label(texts.DATA_NAME, exact=True).fill("console-made")
    page.get_by_role("button", name=texts.DATA_CREATE).click()
    page.wait_for_url("**/data?dataset=console-made")
    opened.shows(texts.DATA_NO_IMAGES)
    opened.shows(texts.DATA_NO_IMAGES_LEAD)
    page.get_by_role("button", name=texts.DATA_DELETE).click()
    confirm = page.get_by_role("dialog").get_by_role("button", name=texts.DATA_DELETE)
    assert confirm.is_disabled()
    page.get_by_role("dialog").get_by_label(texts.DATA_NAME).fill("console-made")
    confirm.click()
    page.wait_for_url("**/data")
    with pytest.raises(NotFound):
        client.dataset("console-made")


def test_images_are_shown_by_class_and_removed_after_a_question(
    url: str, opened: Window, client: Client, dataset: str
) -> None:
    page = opened.page
    page.goto(f"{url}/data")
    page.get_by_label(texts.DATA_FIND).fill(dataset)
    page.locator(".bl-dataset", has_text=dataset).click()
    opened.shows(MARKUP)
    page.wait_for_function("[...document.querySelectorAll('.bl-shot img')].every(i => i.naturalWidth)")
    assert page.locator(".bl-shot").count() == 3
    assert page.get_by_role("button", name=texts.DATA_REMOVE, exact=True).is_disabled()
    page.locator(".bl-shot", has_text=MARKUP).get_by_role("checkbox").click()
    page.get_by_role("button", name=texts.DATA_REMOVE, exact=True).click()
    opened.shows(texts.DATA_REMOVE_TITLE[True].format(count=1))
    page.get_by_role("dialog").get_by_role("button", name=texts.DATA_REMOVE).click()
    opened.shows(texts.DATA_REMOVED[True].format(count=1))
    opened.hides(MARKUP)
    assert client.dataset(dataset).train_images == 2
    page.get_by_role("link", name=texts.DATA_TEST_GOOD).click()
    page.wait_for_function("document.querySelectorAll('.bl-shot').length == 2")
    assert page.title() == f"{texts.DATA} · {texts.TITLE}"


def test_dataset_that_does_not_exist_is_reported_in_the_page(url: str, opened: Window) -> None:
    opened.page.goto(f"{url}/data?dataset=none-such")
    opened.shows("there is no datasets/none-such")
