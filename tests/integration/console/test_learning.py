# SPDX-License-Identifier: Apache-2.0
"""Training on the labels of a review in a real browser, against a running stack."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.console.conftest import MARKUP, kept
from tests.support.browser import Window

from blemish_client import Client, Label, Store, StreamPolicy
from blemish_console import texts


@pytest.fixture
def labelled_model(
    client: Client, tile_model: str, kept_frames: list[str], tmp_path: Path
) -> Iterator[str]:
    """Return a copy of the model, in production, with three labelled frames of a camera named by markup."""
    client.export_model(tile_model, tmp_path / "tile.blemish")
    version = client.import_model(tmp_path / "tile.blemish", model_id="learned").name
    client.promote(version)
    frames = [client.item_image(item, "tile").content for item in kept_frames[:3]]
    list(client.stream(frames, "learned", camera=MARKUP, store=Store.ALL, policy=StreamPolicy.BLOCK))
    items = kept(client, "learned", len(frames))
    for item, label in zip(items, (Label.FALSE_ALARM, Label.FALSE_ALARM, Label.GOOD), strict=True):
        client.label(item, "learned", label)
    yield version
    client.delete_model("learned", force=True)


def test_labels_are_learned_after_a_question_and_the_version_becomes_the_shadow(
    url: str, opened: Window, client: Client, labelled_model: str
) -> None:
    page = opened.page
    page.goto(f"{url}/review?model=learned&show=all")
    page.get_by_role("button", name=texts.LEARN).click()
    opened.shows(texts.CONFIRM_LEARN.format(count=2, good=1))
    dialog = page.get_by_role("dialog")
    assert dialog.locator("tbody td").all_inner_texts() == [MARKUP, "2", "1"]
    assert "A training on tile (" in dialog.inner_text()
    dialog.get_by_role("button", name=texts.CANCEL).click()
    opened.hides(texts.CONFIRM_LEARN.format(count=2, good=1))
    assert not any(job.train.false_alarms_of for job in client.jobs() if job.train.model_id == "learned")
    page.get_by_role("button", name=texts.LEARN).click()
    dialog.get_by_role("button", name=texts.START_TRAINING).click()
    opened.shows(texts.LEARNING)
    job = next(job for job in client.jobs() if job.train.model_id == "learned")
    assert client.wait(job).error == ""
    offered = texts.OFFER_NEW.format(version="learned/2")
    opened.shows(offered)
    page.reload()
    opened.shows(offered)
    page.get_by_role("button", name=texts.START_SHADOW).click()
    opened.shows(texts.OFFER_SHADOW.format(version="learned/2", production="learned/1"))
    assert client.model("learned/2").shadow
    page.get_by_role("link", name=texts.SHOW_JOB).click()
    opened.shows(texts.OFFER_SHADOW.format(version="learned/2", production="learned/1"))
