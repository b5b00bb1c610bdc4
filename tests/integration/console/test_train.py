# SPDX-License-Identifier: Apache-2.0
"""The page Train in a real browser, against a running stack."""

from tests.support.browser import Window

from blemish_client import Client
from blemish_client.names import short
from blemish_console import texts


def test_training_is_started_with_the_form_watched_and_cancelled(
    url: str, opened: Window, client: Client, tile_model: str
) -> None:
    page = opened.page
    page.goto(f"{url}/train?dataset=tile")
    page.get_by_text(texts.SETTINGS_OF.format(detector="PatchCore")).click()
    page.get_by_label("neighbors").fill("99")
    page.get_by_role("button", name=texts.START_TRAINING).click()
    row = page.locator(".bl-setting", has=page.get_by_label("neighbors"))
    row.get_by_role("alert").get_by_text("99").wait_for()
    page.get_by_label("neighbors").fill("")
    page.get_by_label("coreset ratio").fill("0.02")
    page.get_by_label(texts.MODEL_FIELD, exact=True).fill("from-the-console")
    page.get_by_role("button", name=texts.START_TRAINING).click()
    opened.shows(texts.TRAINING_STARTED)
    page.get_by_role("button", name=texts.CANCEL_JOB).click()
    opened.shows(texts.CONFIRM_CANCEL)
    page.get_by_role("dialog").get_by_role("button", name=texts.CANCEL_JOB).click()
    page.locator(".bl-h1 + .bl-chip", has_text=texts.JOB_CANCELLED).wait_for()
    job = next(iter(client.jobs()))
    assert job.train.model_id == "from-the-console"
    assert job.train.patchcore.coreset_ratio == 0.02


def test_finished_training_leads_to_its_version_and_has_its_log(
    url: str, opened: Window, client: Client, tile_model: str
) -> None:
    finished = client.job(client.model(tile_model).job)
    opened.page.goto(f"{url}/train?job={finished.name}")
    opened.page.locator(".bl-log .q-virtual-scroll__content, .bl-log > *").first.wait_for()
    version = short(finished.result.model_version)
    opened.page.get_by_role("link", name=texts.SHOW_VERSION.format(version=version)).click()
    opened.shows(texts.FIGURES)
