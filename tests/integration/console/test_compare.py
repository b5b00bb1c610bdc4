# SPDX-License-Identifier: Apache-2.0
"""The page that compares two versions in a real browser, against a running stack."""

from pathlib import Path

from tests.integration.conftest import RunningStack
from tests.support.browser import Window

from blemish_client import Client
from blemish_client.names import short
from blemish_console import texts
from blemish_console.formats import number


def test_two_versions_are_compared_after_the_missing_evaluation(
    url: str, opened: Window, client: Client, stack: RunningStack, tile_model: str, tmp_path: Path
) -> None:
    page, first = opened.page, short(tile_model)
    client.import_dataset("compared", str(stack.surfaces / "tile"))
    file = tmp_path / "tile.blemish"
    client.export_model(tile_model, file)
    client.import_model(file, model_id="strict")
    threshold = client.model(tile_model).calibration.threshold
    client.update_calibration("strict/1", threshold=0.8 * threshold, author="ann", acknowledge_extreme=True)
    page.goto(f"{url}/compare?a={first}&b={first}")
    opened.shows(texts.COMPARE_TWO)
    page.goto(f"{url}/compare?a={first}&b=strict/1&dataset=compared")
    versions = f"{first}{texts.AND}strict/1"
    opened.shows(texts.COMPARE_UNMEASURED.format(versions=versions, dataset="compared"))
    page.get_by_role("button", name=texts.EVALUATE.format(versions=versions, dataset="compared")).click()
    opened.shows(texts.EVALUATION_RUNS)
    page.get_by_text(texts.DIFFERING_IMAGES).wait_for(timeout=60_000)
    found = client.compare(tile_model, "strict/1", dataset="compared")
    assert [each.class_name for each in found.classes] == ["crack", "glue_strip", "oil", "rough"]
    assert [each.name for each in found.pixel_metrics] == ["pixel_auroc", "aupro"]
    rejected = found.rejected_only_by_second
    assert rejected
    opened.shows(f"{texts.REJECTED_ONLY_BY.format(version='strict/1')}: {len(rejected)}")
    shown = page.locator(".bl-compared .bl-hit", has_text=rejected[0].path)
    for text in (number(rejected[0].first_score), texts.NORMAL, texts.ANOMALOUS):
        assert text in shown.inner_text()
    assert shown.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    opened.shows(texts.AUPRO)
    client.delete_model("strict", force=True)
    client.delete_dataset("compared")
