# SPDX-License-Identifier: Apache-2.0
"""The page Search in a real browser, against a running stack."""

from pathlib import Path

from tests.integration.console.conftest import MARKUP
from tests.support.browser import Window

from blemish_client import Client
from blemish_console import texts


def test_box_on_an_uploaded_image_finds_the_place_and_the_neighbours_of_a_hit(
    url: str, opened: Window, client: Client, tile_model: str, tmp_path: Path
) -> None:
    file = tmp_path / f"{MARKUP.replace('/', '')}.png"
    file.write_bytes(client.dataset_image("tile", "test/crack/000.png").content)
    page = opened.page
    page.goto(f"{url}/search?model=tile")
    opened.shows(texts.SEARCH_START)
    page.set_input_files("input[type=file]", str(file))
    opened.shows(texts.SEARCH_COUNT.format(count=client.count_items("tile")))
    assert page.locator(".bl-hit-match").count() == 0
    page.wait_for_function("document.querySelector('.bl-draw > img')?.naturalWidth > 0")
    picture = page.locator(".bl-draw > img").bounding_box()
    left, top, width, height = (picture[name] for name in ("x", "y", "width", "height"))
    page.mouse.move(left + width * 0.2, top + height * 0.2)
    page.mouse.down()
    page.mouse.move(left + width * 0.7, top + height * 0.7, steps=5)
    page.mouse.up()
    page.locator(".bl-hit-match svg").first.wait_for()
    page.get_by_label(texts.SEARCH_WHERE).fill('clas = "crack"')
    page.keyboard.press("Enter")
    opened.shows("did you mean class?")
    assert page.locator(".bl-fault").inner_text().endswith("\n  ^")
    page.get_by_label(texts.SEARCH_WHERE).fill("")
    page.keyboard.press("Enter")
    page.get_by_label(texts.SEARCH_CLASS).click()
    page.get_by_role("option", name="oil", exact=True).click()
    page.wait_for_function(
        """() => {
            const hits = [...document.querySelectorAll('.bl-hit')];
            return hits.length && hits.every(hit => /oil/.test(hit.innerText));
        }"""
    )
    assert page.get_by_label(texts.SEARCH_WHERE).input_value() == 'class = "oil"'
    page.locator(".bl-hit").first.click()
    page.wait_for_url("**/search?model=tile&item=items*")
    opened.shows("tile: test/oil/")
    opened.shows("hits, the most similar first")
    assert page.get_by_label(texts.SEARCH_WHERE).input_value() == 'class = "oil"'
    assert page.title() == f"{texts.SEARCH} · {texts.TITLE}"


def test_file_that_is_not_an_image_is_refused_in_the_page(
    url: str, opened: Window, tile_model: str, tmp_path: Path
) -> None:
    file = tmp_path / "notes.png"
    file.write_text("not an image")
    opened.page.goto(f"{url}/search?model=tile")
    opened.page.set_input_files("input[type=file]", str(file))
    opened.shows("the file cannot be read as an image")
