# SPDX-License-Identifier: Apache-2.0
import json
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from tests.support.cli import Run, json_lines
from tests.support.fake_server import CallError, FakeServer, picture
from tests.support.regions import make_region_message

from blemish.v1.search_pb2 import LABEL_CONFIRMED, LABEL_FALSE_ALARM, Hit

FIRST = "6f1c2b1e-8f0a-4b7e-9d53-0a4c1f1c7a52"
SECOND = "6f1c9999-8f0a-4b7e-9d53-0a4c1f1c7a52"
THIRD = "aaaabbbb-8f0a-4b7e-9d53-0a4c1f1c7a52"


@pytest.fixture(autouse=True)
def hits(fake: FakeServer) -> list[Hit]:
    """Return the items of the index: two kept frames, and an image of a dataset."""
    for hit, id in zip(fake.hits, (FIRST, SECOND, THIRD), strict=True):
        hit.item = f"items/{id}"
        hit.time.FromDatetime(datetime(2026, 12, 1, 22, 1, tzinfo=UTC))
    for hit in fake.hits[:2]:
        hit.dataset = hit.path = hit.class_name = hit.category = ""
        hit.camera = "Linie 2/ü"
    fake.hits[0].label, fake.hits[0].label_class = LABEL_CONFIRMED, "scratch"
    fake.hits[1].label = LABEL_FALSE_ALARM
    return fake.hits


def files(folder: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in folder.iterdir()}


def test_exported_items_have_their_image_and_their_fields(
    run: Run, fake: FakeServer, tmp_path: Path
) -> None:
    folder = tmp_path / "new/evidence"
    result = run("items", "export", folder, "-m", "m", "--where", "label != none")
    assert result.exit_code == 0, result.stderr
    assert "3 exported, 0 there already, 0 missing" in result.stdout
    assert fake.requests["ListItems"][0].where == "label != none"
    frame = f"Linie-2-ü_20261201T220100.000Z_anomalous_{FIRST}"
    names = [frame, f"tile-good-003_20261201T220100.000Z_normal_{THIRD}"]
    written = files(folder)
    assert set(names) < {Path(name).stem.removesuffix(".json") for name in written}
    assert written[f"{frame}.png"] == picture(48, 1)
    fields = json.loads(written[f"{frame}.json"])
    assert (fields["file"], fields["item"]) == (f"{frame}.png", f"items/{FIRST}")
    assert (fields["camera"], fields["verdict"], fields["score"]) == ("Linie 2/ü", "anomalous", 2.0)
    assert (fields["label"], fields["label_class"]) == ("confirmed", "scratch")
    assert (fields["width"], fields["height"], len(fields["sha256"])) == (48, 48, 64)
    assert not {"similarity", "thumbnail", "group"} & set(fields)


def test_repeated_export_overwrites_nothing(
    run: Run, fake: FakeServer, hits: list[Hit], tmp_path: Path
) -> None:
    command = ("items", "export", tmp_path, "latest", "-m", "m")
    for outcome in ("1 exported, 0 there already", "0 exported, 1 there already"):
        assert outcome in run(*command).stdout
    before = files(tmp_path)
    assert len(before) == 2
    hits[0].label_class = "dent"  # labelled again
    assert "1 exported, 0 there already" in run(*command).stdout
    after = files(tmp_path)
    assert {name: after[name] for name in before} == before
    (second,) = [json.loads(after[name]) for name in set(after) - set(before) if name.endswith(".json")]
    assert (second["label_class"], second["file"].endswith("_2.png")) == ("dent", True)


def test_foreign_file_of_the_same_name_is_kept(run: Run, tmp_path: Path) -> None:
    name = f"Linie-2-ü_20261201T220100.000Z_anomalous_{FIRST}"
    (tmp_path / f"{name}.json").write_text("mine")
    assert run("items", "export", tmp_path, FIRST, "-m", "m").exit_code == 0
    assert files(tmp_path)[f"{name}.json"] == b"mine"
    assert set(files(tmp_path)) == {f"{name}.json", f"{name}_2.png", f"{name}_2.json"}


def test_missing_images_are_named_and_the_others_exported(
    run: Run, fake: FakeServer, tmp_path: Path
) -> None:
    fake.errors["GetItemImage"] = [
        CallError(grpc.StatusCode.NOT_FOUND, "its image is not stored"),
        CallError(grpc.StatusCode.DATA_LOSS, "its image is damaged"),
    ]
    result = run("items", "export", tmp_path, "-m", "m", "--all")
    assert result.exit_code == 7
    assert f"items/{FIRST} was not exported: its image is not stored" in result.stderr
    assert f"items/{SECOND} was not exported: its image is damaged" in result.stderr
    assert "1 exported, 0 there already, 2 missing" in result.stdout
    assert len(files(tmp_path)) == 2
    fake.errors["GetItemImage"] = [CallError(grpc.StatusCode.NOT_FOUND, "its image is not stored")]
    lines = json_lines(run("items", "export", tmp_path, "-m", "m", "--all", "--json"))
    assert lines[0] == {"item": f"items/{FIRST}", "error": "its image is not stored"}
    assert [line["new"] for line in lines[1:]] == [True, False]
    assert all(Path(line["file"]).exists() for line in lines[1:])


def test_items_are_named_by_digits_and_must_fit_one(run: Run, fake: FakeServer, tmp_path: Path) -> None:
    folder = tmp_path / "evidence"
    refused = run("items", "export", folder, "6f1c", "-m", "m")
    assert (refused.exit_code, "items/6f1c fits several items" in refused.stderr) == (2, True)
    unknown = run("items", "export", folder, "aaaabbbb", "ffff", "-m", "m")
    assert unknown.exit_code == 3
    assert "has no item items/ffff" in unknown.stderr
    assert not fake.requests["ListItems"], "no index is read for a few items"
    assert not folder.exists()
    assert run("items", "export", folder, "items/6F1C99", FIRST, "6f1c2b1e", "-m", "m").exit_code == 0
    assert {request.item for request in fake.requests["GetItemImage"]} == {
        f"items/{FIRST}",
        f"items/{SECOND}",
    }
    assert len(files(folder)) == 4


@pytest.mark.parametrize("command", [("export", "evidence"), ("add-to", "tile")], ids=" ".join)
def test_selection_must_be_given_in_one_way(
    run: Run, fake: FakeServer, command: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for options, words in (
        ((), "no items were chosen"),
        (("latest", "--camera", "line-3"), "give one of them"),
        (("latest", "--all"), "give one of them"),
        (("--all", "--where", "score > 1"), "give one of them"),
        (("--since", "yesterday"), "--since is 'yesterday'"),
    ):
        refused = run("items", *command, *options, "-m", "m")
        assert (refused.exit_code, words in refused.stderr) == (2, True), options
    assert not fake.requests["ListItems"]
    fake.hits.clear()
    for chosen in (["--camera", 'a"b'], ["--where", "time > 2026-12-01", "--since", "8h"]):
        nothing = run("items", *command, *chosen, "-m", "m")
        assert (nothing.exit_code, "no indexed image matches" in nothing.stdout) == (0, True)
    assert fake.requests["ListItems"][0].where == r'camera = "a\"b"'
    first, second = fake.requests["ListItems"][1].where.split(" AND ")
    assert first.startswith("time > 2026-12-01T00:00:00")
    assert second.startswith("time >= ")
    assert not list(tmp_path.iterdir())


def test_export_that_cannot_write_leaves_no_part_of_a_file(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    refused = run("items", "export", tmp_path / "file", "-m", "m", "--all")
    assert (refused.exit_code, "cannot write" in refused.stderr) == (2, True)
    real = Path.open

    def full_for_fields(path: Path, *arguments: str) -> object:
        if path.suffix == ".json":
            raise OSError(28, "No space left on device")
        return real(path, *arguments)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", full_for_fields)
    refused = run("items", "export", tmp_path / "evidence", "-m", "m", "--all")
    assert (refused.exit_code, "No space left on device" in refused.stderr) == (2, True)
    assert not list((tmp_path / "evidence").iterdir())


def test_labelled_items_of_a_filter_are_added_with_their_outcome(run: Run, fake: FakeServer) -> None:
    command = ("items", "add-to", "tile", "-m", "m", "--where", "verdict = anomalous", "--author", "maria")
    result = run(*command)
    (request,) = fake.requests["AddItems"]
    assert list(request.items) == [f"items/{FIRST}", f"items/{SECOND}"]
    assert (request.dataset, request.model, request.split) == ("datasets/tile", "models/m", "test")
    assert (request.author, request.unlabelled_class, request.default_class) == ("maria", "", "")
    assert "tile/test: 1 added, 0 there already, 1 left out" in result.stdout
    assert "test/crack/0.png" in result.stdout
    assert "it has no label" in result.stdout
    assert "1 items without a label were left out" in result.stderr
    assert result.exit_code == 7, "an item could not be added"
    lines = json_lines(run(*command, "--json"))
    assert [line["outcome"] for line in lines] == ["stored", "left-out"]


def test_unlabelled_items_are_added_on_request(run: Run, fake: FakeServer) -> None:
    options = ("--split", "train", "--unlabelled-as", "good", "--class", "dent")
    run("items", "add-to", "tile", "-m", "m", "--all", *options)
    (request,) = fake.requests["AddItems"]
    assert len(request.items) == 3
    assert (request.split, request.unlabelled_class, request.default_class) == ("train", "good", "dent")
    assert request.author, "the current user"


def test_items_to_add_may_be_named(run: Run, fake: FakeServer) -> None:
    result = run("items", "add-to", "tile", "6f1c2b1e", "-m", "m", "--split", "test")
    assert (result.exit_code, "1 added" in result.stdout) == (0, True)
    assert list(fake.requests["AddItems"][0].items) == ["items/6f1c2b1e"]
    assert not fake.requests["ListItems"]
    assert run("items", "add-to", "tile", "latest", "-m", "m", "--split", "both").exit_code == 2
    fake.errors["AddItems"] = [CallError(grpc.StatusCode.NOT_FOUND, "there is no dataset none")]
    assert run("items", "add-to", "none", "latest", "-m", "m").exit_code == 3


def test_filter_without_labelled_items_adds_nothing(run: Run, fake: FakeServer, hits: list[Hit]) -> None:
    for hit in hits:
        hit.ClearField("label")
    result = run("items", "add-to", "tile", "-m", "m", "--all")
    assert result.exit_code == 0
    assert not fake.requests["AddItems"]
    assert "3 items without a label were left out; label them with `blemish label`" in result.stderr


@pytest.mark.parametrize("command", [("export", "evidence"), ("add-to", "tile")], ids=" ".join)
def test_options_of_listings_choose_the_items(
    run: Run, fake: FakeServer, command: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ("--until", "2026-12-02T08:00:00Z", "--verdict", "anomalous", "--label", "confirmed")
    run("items", *command, *options, "-m", "m")
    time, verdict, label = fake.requests["ListItems"][0].where.split(" AND ")
    assert datetime.fromisoformat(time.removeprefix("time < ")) == datetime(2026, 12, 2, 8, tzinfo=UTC)
    assert (verdict, label) == ("verdict = anomalous", "label = confirmed")


def test_options_before_a_subcommand_reach_it(run: Run, fake: FakeServer, tmp_path: Path) -> None:
    folder = tmp_path / "evidence"
    before = ("-m", "m/3", "--verdict", "anomalous", "--camera", "left", "--camera", "right")
    assert run("items", *before, "export", folder, "--label", "good").exit_code == 0
    (request, *_) = fake.requests["ListItems"]
    assert (request.model, request.where) == (
        "models/m/versions/3",
        '(camera = "left" OR camera = "right") AND verdict = anomalous AND label = good',
    )
    assert run("items", "-m", "old", "add-to", "tile", "latest", "-m", "new").exit_code == 0
    assert fake.requests["AddItems"][0].model == "models/new", "the option that follows is nearer"


def test_option_before_a_subcommand_without_it_is_refused(
    run: Run, fake: FakeServer, tmp_path: Path
) -> None:
    refused = run("items", "--sort", "score", "export", tmp_path / "evidence", "latest", "-m", "m")
    assert refused.exit_code == 2
    assert "--sort is not an option of `blemish items export`; leave it out" in refused.stderr
    assert not any(fake.requests.values())


def test_one_item_is_shown_with_its_label_and_regions(run: Run, fake: FakeServer, hits: list[Hit]) -> None:
    hits[0].regions.append(make_region_message())
    shown = run("items", "-m", "m", "show", "latest").stdout
    for words in (f"items/{FIRST}", "confirmed scratch", "Linie 2/ü", "anomalous", "1 region:"):
        assert words in shown
    (fields,) = json_lines(run("items", "show", FIRST[:6], "-m", "m/3", "--json"))
    assert (fields["item"], fields["label_class"]) == (f"items/{FIRST}", "scratch")
    assert fake.requests["GetItem"][1].model == "models/m/versions/3"
    missing = run("items", "show", "ffff", "-m", "m")
    assert (missing.exit_code, "has no item items/ffff" in missing.stderr) == (3, True)
