# SPDX-License-Identifier: Apache-2.0
"""The page Data in a real browser, against a running stack."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.integration.console.conftest import MARKUP
from tests.support.browser import Window

from blemish_client import Client
from blemish_client.demo.surfaces import generate
from blemish_client.errors import NotFound
from blemish_client.names import short
from blemish_console import texts


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


def test_image_is_moved_to_a_new_class_and_back(
    url: str, opened: Window, client: Client, dataset: str
) -> None:
    page = opened.page
    page.goto(f"{url}/data?dataset={dataset}&group=train/good")
    page.locator(".bl-shot", has_text=MARKUP).get_by_role("checkbox").click()
    page.get_by_role("button", name=texts.DATA_MOVE, exact=True).click()
    page.get_by_role("dialog").get_by_label(texts.UPLOAD["class"], exact=True).click()
    page.get_by_role("option", name=texts.UPLOAD["new_class"]).click()
    page.get_by_label(texts.UPLOAD["class_name"]).fill("not a class")
    page.get_by_role("dialog").get_by_role("button", name=texts.DATA_MOVE).click()
    opened.shows("is not a valid class")
    page.get_by_label(texts.UPLOAD["class_name"]).fill("scratch")
    page.get_by_role("dialog").get_by_role("button", name=texts.DATA_MOVE).click()
    opened.shows(texts.DATA_MOVED[True].format(count=1))
    page.locator(".bl-shot", has_text=MARKUP).wait_for(state="hidden")
    [moved] = client.images(dataset, under="test/scratch/")
    assert moved.original_path == f"train/good/{MARKUP}.png"
    page.locator(".bl-group", has_text="scratch").click()
    page.locator(".bl-shot", has_text=MARKUP).locator("a").click()
    page.wait_for_url("**/data/image?*")
    opened.shows(f"train/good/{MARKUP}.png")
    client.move_images(dataset, [moved.path], "train/good")
    assert client.dataset(dataset).train_images == 3


def test_dataset_that_does_not_exist_is_reported_in_the_page(url: str, opened: Window) -> None:
    opened.page.goto(f"{url}/data?dataset=none-such")
    opened.shows("there is no datasets/none-such")


@pytest.fixture
def empty(client: Client) -> Iterator[str]:
    client.create_dataset("console-upload")
    yield "console-upload"
    client.delete_dataset("console-upload")


def test_folder_is_uploaded_and_what_was_left_out_is_listed(
    url: str, opened: Window, client: Client, empty: str, folder: Path, tmp_path: Path
) -> None:
    chosen = tmp_path / "surfaces"
    shutil.copytree(folder, chosen)
    (chosen / "train/good" / f"broken {MARKUP}.png").write_text("not an image")
    page = opened.page
    page.goto(f"{url}/data?dataset={empty}")
    opened.shows(texts.UPLOAD["drop"])
    page.set_input_files("input[webkitdirectory]", str(chosen))
    opened.shows("train/good 4")
    page.get_by_role("button", name=texts.UPLOAD["start"].format(count=12)).click()
    opened.shows("11 stored, 0 unchanged, 0 replaced, 1 left out")
    row = page.locator(".bl-upload-list tr", has_text=f"broken {MARKUP}.png")
    assert "this is not a" in row.inner_text()
    page.locator(".bl-shot", has_text=MARKUP).wait_for()
    stored = client.dataset(empty)
    assert (stored.train_images, stored.masks) == (3, 3)
    assert page.title() == f"{texts.DATA} · {texts.TITLE}"


def test_upload_that_was_cut_names_what_is_stored_and_goes_on(
    url: str, opened: Window, client: Client, empty: str, tmp_path: Path
) -> None:
    files = [tmp_path / f"{number:02}.png" for number in range(40)]
    for number, file in enumerate(files):
        Image.new("L", (32, 32), number).save(file)
    page = opened.page
    page.add_init_script(
        "const wait = window.setTimeout; window.setTimeout = (work, ms) => wait(work, ms / 10)"
    )
    page.goto(f"{url}/data?dataset={empty}")
    opened.shows(texts.UPLOAD["drop"])
    page.set_input_files("input[multiple]", [str(file) for file in files])
    page.route("**/data/upload?*", lambda route: _pass_first(route, passed))
    passed: list[str] = []
    page.get_by_role("button", name=texts.UPLOAD["start"].format(count=40)).click()
    opened.shows(texts.UPLOAD["paused"].format(done=32, total=40))
    assert client.dataset(empty).train_images == 32
    page.unroute("**/data/upload?*")
    page.get_by_role("button", name=texts.UPLOAD["go_on"]).click()
    opened.shows("40 stored, 0 unchanged, 0 replaced, 0 left out")
    assert client.dataset(empty).train_images == 40


def test_image_of_the_same_name_is_replaced_only_if_asked(
    url: str, opened: Window, client: Client, empty: str, tmp_path: Path
) -> None:
    file = tmp_path / "a.png"
    Image.new("L", (32, 32), 10).save(file)
    client.upload_image(empty, "train/good/a.png", file.read_bytes())
    Image.new("L", (32, 32), 200).save(file)
    page = opened.page
    page.goto(f"{url}/data?dataset={empty}")
    opened.shows(texts.UPLOAD["drop"])
    page.set_input_files("input[multiple]", str(file))
    page.get_by_role("button", name=texts.UPLOAD["start_one"]).click()
    opened.shows("0 stored, 0 unchanged, 0 replaced, 1 left out")
    assert client.dataset_image(empty, "train/good/a.png").content != file.read_bytes()
    page.set_input_files("input[multiple]", str(file))
    page.get_by_text(texts.UPLOAD["replace"]).click()
    page.get_by_role("button", name=texts.UPLOAD["start_one"]).click()
    opened.shows("0 stored, 0 unchanged, 1 replaced, 0 left out")
    assert client.dataset_image(empty, "train/good/a.png").content == file.read_bytes()


def _pass_first(route: Any, passed: list[str]) -> None:
    """Let the first batch through, and cut the connection of the others."""
    passed.append(route.request.url)
    if len(passed) == 1:
        route.continue_()
    else:
        route.abort("connectionreset")


def test_page_names_an_upload_that_its_browser_did_not_finish(
    url: str, opened: Window, client: Client, empty: str, tmp_path: Path
) -> None:
    file = tmp_path / "a.png"
    Image.new("L", (32, 32)).save(file)
    page = opened.page
    page.goto(f"{url}/data?dataset={empty}")
    opened.shows(texts.UPLOAD["drop"])
    page.set_input_files("input[multiple]", str(file))
    page.route("**/data/upload?*", lambda route: route.abort())
    page.get_by_role("button", name=texts.UPLOAD["start_one"]).click()
    opened.shows(texts.UPLOAD["progress"].format(done=0, total=1))
    other = page.context.new_page()
    page.close()
    other.goto(f"{url}/data?dataset={empty}")
    other.get_by_text("was interrupted: 0 of 1 images were stored.").wait_for()
    other.set_input_files("input[multiple]", str(file))
    other.get_by_role("button", name=texts.UPLOAD["start_one"]).click()
    other.get_by_text("1 stored, 0 unchanged").wait_for()
    other.goto(f"{url}/data?dataset={empty}")
    other.get_by_text(texts.UPLOAD["drop"]).wait_for()
    assert "interrupted" not in other.inner_text("body")


def test_dropped_folder_is_taken_and_its_upload_cancelled(
    url: str, opened: Window, client: Client, empty: str, folder: Path
) -> None:
    page = opened.page
    page.goto(f"{url}/data?dataset={empty}")
    opened.shows(texts.UPLOAD["drop"])
    browser = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        data = {"items": [], "files": [str(folder)], "dragOperationsMask": 1}
        browser.send("Input.dispatchDragEvent", {"type": kind, "x": 300, "y": 300, "data": data})
    opened.shows("train/good 3")
    page.route("**/data/upload?*", lambda route: None)
    page.get_by_role("button", name=texts.UPLOAD["start"].format(count=11)).click()
    page.locator(".bl-upload").get_by_role("button", name=texts.UPLOAD["cancel"]).click()
    opened.shows(texts.UPLOAD["cancelled"].format(done=0, total=11))
    assert client.dataset(empty).train_images == 0


def test_images_are_shown_with_the_scores_of_a_model(url: str, opened: Window, tile_model: str) -> None:
    page = opened.page
    page.goto(f"{url}/data?dataset=tile&group=train/good&model=tile/1")
    opened.shows(texts.DATA_SCORES_OF_TRAINING.format(model="tile/1"))
    page.locator(".bl-shot .bl-chip").first.wait_for()
    scores = [float(text) for text in page.locator(".bl-shot .bl-chip > div").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)


def test_images_without_scores_are_indexed_from_the_page(
    url: str, opened: Window, client: Client, dataset: str, tile_model: str
) -> None:
    page = opened.page
    address = f"{url}/data?dataset={dataset}&group=test/good&model={short(tile_model)}"
    page.goto(address)
    page.get_by_role("button", name=texts.START_INDEXING).click()
    page.wait_for_url("**/train?job=*")
    opened.shows(texts.INDEXING.format(dataset=dataset, model=short(tile_model)))
    assert client.wait(next(iter(client.jobs()))).error == ""
    page.goto(address)
    opened.shows(texts.DATA_SCORES_OF_INDEX.format(model=short(tile_model)))
    assert page.locator(".bl-shot .bl-chip").count() == 2
    assert page.get_by_role("button", name=texts.START_INDEXING).count() == 0
