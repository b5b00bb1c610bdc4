# SPDX-License-Identifier: Apache-2.0
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image
from tests.support.cli import Run, json_lines
from tests.support.fake_server import CallError, FakeServer

from blemish.v1.image_pb2 import RENDITION_THUMBNAIL, Region
from blemish.v1.search_pb2 import Match


def test_search_with_montage(run: Run, fake: FakeServer, image: Path, tmp_path: Path) -> None:
    result = run("search", image, "-m", "m", "-k", 2, "--class", "crack", "--montage", tmp_path / "m.png")
    assert result.exit_code == 0, result.stderr
    assert "tile/test/crack/001.png" in result.stdout
    with Image.open(tmp_path / "m.png") as drawn:
        assert drawn.width > 600
    (request,) = fake.requests["Search"]
    assert request.include_thumbnails
    assert list(request.filter.classes) == ["crack"]


def test_limit_of_zero_hits_is_a_usage_error(run: Run, fake: FakeServer, image: Path) -> None:
    assert run("search", image, "-m", "m", "-k", 0).exit_code == 2
    assert not fake.requests["Search"]


def test_search_json_has_query_and_hits(run: Run, image: Path) -> None:
    query, *hits = json_lines(run("search", image, "-m", "m", "--json"))
    assert query["query"]["score"] == 2
    assert [hit["hit"]["item"] for hit in hits] == ["items/1", "items/2", "items/3"]


def test_search_reports_candidates_not_compared_in_time(run: Run, fake: FakeServer, image: Path) -> None:
    fake.unseen = 28
    command = ("search", image, "-m", "m", "--region", "0,0,8,8")
    result = run(*command)
    assert "28 candidates were not compared in time; increase --timeout" in result.stderr
    assert json_lines(run(*command, "--json"))[-1] == {"page": {"unseen": 28}}
    fake.unseen = 0
    assert "not compared" not in run(*command).stderr


def test_search_timeout_sets_the_deadline(run: Run, fake: FakeServer, image: Path) -> None:
    for options, timeout_s in (((), 30), (("--timeout", 7), 7)):
        assert run("search", image, "-m", "m", *options).exit_code == 0
        # gRPC rounds deadlines up by some milliseconds.
        assert timeout_s - 2 < fake.times_left["Search"][-1] < timeout_s + 0.1
    assert run("search", image, "-m", "m", "--timeout", 0).exit_code == 2


def test_kept_frame_has_no_dataset_path(run: Run, fake: FakeServer) -> None:
    fake.hits[0].dataset = fake.hits[0].path = ""
    shown = run("search", "items/7", "-m", "m").stdout
    (row,) = (line for line in shown.splitlines() if "0.900" in line)
    assert "/" not in row


def test_short_id_of_an_item_is_a_query(run: Run, fake: FakeServer) -> None:
    assert run("search", "6f1c2b1e", "-m", "m").exit_code == 0
    assert fake.requests["Search"][0].item == "items/6f1c2b1e"


def test_search_by_region_shows_one_similarity_of_a_hit(run: Run, fake: FakeServer, image: Path) -> None:
    fake.hits[0].match.CopyFrom(Match(similarity=0.5, width=48, height=48))
    fake.hits[0].match.box.CopyFrom(Region(left=1, top=2, width=3, height=4))
    command = ("search", image, "-m", "m", "-k", 1, "--region", "0,0,8,8")
    shown = run(*command).stdout
    (hit,) = [line["hit"] for line in json_lines(run(*command, "--json")) if "hit" in line]
    assert hit["similarity"] == pytest.approx(0.7)
    assert "similarity" not in hit["match"]
    assert "0.700" in shown
    assert "0.900" not in shown
    assert "0.500" not in shown
    assert "1,2,3,4" in shown


@pytest.mark.parametrize(
    "command", [("items", "-m", "m"), ("search", "--labelled", "crack", "-m", "m")], ids=" ".join
)
def test_time_of_a_filter_without_a_zone_is_a_local_one(
    run: Run, fake: FakeServer, command: tuple[str, ...]
) -> None:
    assert run(*command, "--where", "time >= 2026-12-01T08:00").exit_code == 0
    request = (fake.requests["ListItems"] + fake.requests["Search"])[0]
    _, _, sent = request.where.partition(" >= ")
    assert datetime.fromisoformat(sent) == datetime(2026, 12, 1, 8).astimezone()


@pytest.mark.parametrize("options", [(), ("--region", "24,24,8,8")], ids=["whole", "region"])
def test_montage_shows_the_image_of_an_item(
    run: Run, fake: FakeServer, tmp_path: Path, options: tuple[str, ...]
) -> None:
    def query_panel(name: str) -> np.ndarray[Any, Any]:
        file = tmp_path / name
        command = ("search", "items/7", "-m", "m", *options, "--montage", file)
        assert run(*command).exit_code == 0
        with Image.open(file) as drawn:
            return np.asarray(drawn.convert("RGB"))[100:350, 50:350].astype(int)

    assert query_panel("image.png").std() > 40, "the noise of the item's image"
    (request,) = fake.requests["GetItemImage"]
    assert (request.item, request.model, request.rendition) == ("items/7", "models/m", RENDITION_THUMBNAIL)
    fake.errors["GetItemImage"] = [CallError(grpc.StatusCode.NOT_FOUND, "the frame is not stored")]
    assert query_panel("gone.png").std() < 20, "an empty panel"
