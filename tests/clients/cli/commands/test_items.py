# SPDX-License-Identifier: Apache-2.0
import re

import pytest
from tests.support.cli import Run, json_lines
from tests.support.fake_server import FakeServer

from blemish.v1.search_pb2 import LABEL_CONFIRMED, LABEL_FALSE_ALARM


def test_listing_shows_what_a_review_needs(run: Run, fake: FakeServer) -> None:
    frame, image, _ = fake.hits
    frame.dataset = frame.path = frame.class_name = ""
    frame.item, frame.camera = "items/6f1c2b1e-8f0a-4b7e-9d53-0a4c1f1c7a52", "line-3"
    frame.time.FromJsonString("2026-12-01T08:00:00Z")
    image.label, image.label_class = LABEL_CONFIRMED, "hair[line]"
    frame.name = "[red]17\n.png"
    heading, _, first, second, _ = run("items", "-m", "m").stdout.strip().splitlines()
    assert heading.split() == ["item", "time", "score", "verdict", "label", "camera", "class", "image"]
    assert re.match(r" *6f1c2b1e +2026-12-01 \d\d:\d\d:\d\d +2.000 +anomalous +- +line-3 +", first)
    assert first.rstrip().endswith(r" [red]17\n.png"), "neither markup nor a new line"
    assert "confirmed hair[line]" in second
    assert "tile/test/crack/002.png" in second


@pytest.mark.parametrize(
    ("options", "order"),
    [
        ((), ""),
        (("--sort", "time"), "time desc"),
        (("--sort", "score"), "score desc"),
        (("--sort", "score", "--reverse"), "score"),
    ],
)
def test_listing_is_sorted_by_the_server(
    run: Run, fake: FakeServer, options: tuple[str, ...], order: str
) -> None:
    assert run("items", "-m", "m", *options).exit_code == 0
    assert fake.requests["ListItems"][0].order_by == order


def test_limit_ends_the_listing(run: Run, fake: FakeServer) -> None:
    assert len(json_lines(run("items", "-m", "m", "-n", 2, "--json"))) == 2
    assert len(fake.requests["ListItems"]) == 1


def test_options_filter_the_listing(run: Run, fake: FakeServer) -> None:
    options = ("--camera", "line-3", "--verdict", "anomalous", "--label", "unlabelled")
    assert run("items", "list", "-m", "m", *options).exit_code == 0
    (request, _) = fake.requests["ListItems"]
    assert request.where == 'camera = "line-3" AND verdict = anomalous AND label = none'


def test_printed_label_and_verdict_can_be_typed_as_a_filter(run: Run, fake: FakeServer) -> None:
    fake.hits[0].label = LABEL_FALSE_ALARM
    shown = run("items", "-m", "m", "-n", 1).stdout
    for option, word in (("--label", "false-alarm"), ("--verdict", "anomalous")):
        assert word in shown
        assert run("items", "-m", "m", option, word).exit_code == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "--model is missing"),
        (("-m", "m", "--reverse"), "--reverse has no order"),
        (("-m", "m", "--since", "soon"), "--since is 'soon'"),
        (("-m", "m", "--sort", "size"), "--sort"),
        (("-m", "m", "-n", "0"), "--limit"),
    ],
)
def test_impossible_listing_is_a_usage_error(
    run: Run, fake: FakeServer, options: tuple[str, ...], words: str
) -> None:
    result = run("items", *options)
    assert result.exit_code == 2
    assert words in result.stderr
    assert not fake.requests["ListItems"]
