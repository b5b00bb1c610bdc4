# SPDX-License-Identifier: Apache-2.0
"""Good images with high scores, evaluations on the card, and versions compared on the same images."""

import pytest

from blemish_client import Client
from blemish_client.errors import FailedPrecondition, InvalidArgument


def test_suspects_come_from_the_held_out_scores_of_the_newest_version(
    client: Client, tile_model: str
) -> None:
    found = client.suspects("tile", model=tile_model, limit=3)
    card = client.model(tile_model)
    assert (found.model_version, found.dataset) == (tile_model, "datasets/tile")
    assert found.threshold == card.calibration.threshold
    assert [each.rank for each in found.suspects] == [1, 2, 3]
    assert all(each.held_out and each.count == card.calibration.held_out_images for each in found.suspects)
    scores = [each.score for each in found.suspects]
    assert scores == sorted(scores, reverse=True)
    assert scores[1] == found.suspects[0].next_score
    with pytest.raises(InvalidArgument):
        client.suspects("tile", limit=1001)


def test_evaluations_are_on_the_card_and_versions_are_compared(client: Client, tile_model: str) -> None:
    evaluated = client.wait(client.evaluate(tile_model, "tile"))
    assert evaluated.error == ""
    (found, *_) = client.model(tile_model).evaluations
    assert (found.job, found.metrics.dataset) == (evaluated.name, "datasets/tile")
    assert found.metrics.detection_rate == evaluated.result.metrics.detection_rate
    assert found.metrics.threshold == client.model(tile_model).calibration.threshold
    log = "\n".join(line.text for line in client.log(evaluated))
    assert f"evaluation of {tile_model} on datasets/tile" in log
    assert "defective images detected" in log
    assert "conclusion: " in log

    compared = client.compare(tile_model, tile_model)
    assert (compared.first.name, compared.first.evaluation) == (tile_model, evaluated.name)
    assert (compared.good_images, compared.defective_images, compared.left_out) == (6, 8, 0)
    assert [each.name for each in compared.metrics] == [
        "image_auroc",
        "detection_rate",
        "false_reject_rate",
    ]
    assert all(each.difference == 0 for each in compared.metrics)
    assert not compared.found_only_by_first
    with pytest.raises(FailedPrecondition, match="has no evaluation of datasets/elsewhere"):
        client.compare(tile_model, tile_model, dataset="elsewhere")
