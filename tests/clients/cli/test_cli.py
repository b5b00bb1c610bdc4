# SPDX-License-Identifier: Apache-2.0
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from PIL import Image
from tests.support.fake_server import CallError, FakeServer, ended, picture, write_dataset_folder
from typer.main import get_command
from typer.testing import CliRunner, Result

from blemish.v1.image_pb2 import VERDICT_ANOMALOUS
from blemish.v1.job_pb2 import (
    JOB_PRIORITY_HIGH,
    JOB_STATE_FAILED,
    JOB_STATE_QUEUED,
    JOB_STATE_RUNNING,
    Job,
    JobEvent,
)
from blemish_client import Client
from blemish_client.cli import failures
from blemish_client.cli.__main__ import main
from blemish_client.cli.app import app
from blemish_client.cli.extras import ExtraCommand

Run = Callable[..., Result]


@pytest.fixture
def run(target: str) -> Run:
    def invoke(*arguments: Any, stdin: str | None = None) -> Result:
        command = ["--server", target, *map(str, arguments)]
        return CliRunner().invoke(app, command, input=stdin, catch_exceptions=False)

    return invoke


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "frame.png"
    path.write_bytes(picture(64))
    return path


def lines(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize(
    ("command", "objects"),
    [
        (["info"], 1),
        (["dataset", "list"], 5),
        (["dataset", "import", "tile", "/data/tile"], 1),
        (["dataset", "images", "tile"], 3),
        (["dataset", "remove", "tile", "train/good/1.png", "--yes"], 1),
        (["dataset", "delete", "tile", "--yes"], 1),
        (["models", "delete", "m/1", "--yes"], 1),
        (["models", "import", sys.executable, "--as", "m"], 1),
        (["train", "tile"], 1),
        (["train", "tile", "--detach"], 1),
        (["evaluate", "m", "tile"], 1),
        (["index", "m", "tile", "leather"], 2),
        (["jobs"], 5),
        (["jobs", "list"], 5),
        (["jobs", "watch", "made"], 3),
        (["jobs", "show", "made"], 1),
        (["jobs", "cancel", "made"], 1),
        (["workers"], 1),
        (["models", "pin", "m/1"], 1),
        (["models", "shadow", "m/1"], 1),
        (["models", "shadow", "m/1", "--off"], 1),
        (["models"], 3),
        (["models", "list"], 3),
        (["models", "show", "m"], 1),
        (["models", "promote", "m/1"], 1),
        (["models", "calibrate", "m", "--trained"], 1),
        (["search", "items/7", "-m", "m"], 3),
    ],
)
def test_json_and_tables(run: Run, command: list[str], objects: int) -> None:
    as_json = run(*command, "--json")
    assert as_json.exit_code == 0, as_json.stderr
    assert len(lines(as_json)) == objects
    to_read = run(*command)
    assert to_read.exit_code == 0, to_read.stderr
    assert to_read.stdout.strip()
    assert not to_read.stdout.startswith("{")


def test_jobs_show_queue_position_and_remaining_time(run: Run, fake: FakeServer) -> None:
    running = Job(name="jobs/r", state=JOB_STATE_RUNNING, fraction_done=0.354)
    running.phases.add(name="features", done=12, total=80, unit="images")
    running.remaining.FromSeconds(95)
    fake.jobs = [
        Job(name="jobs/a", state=JOB_STATE_QUEUED, queue_position=1),
        Job(name="jobs/b", state=JOB_STATE_QUEUED, queue_position=2),
        running,
    ]
    shown = " ".join(run("jobs").stdout.split())
    assert "queued, next" in shown
    assert "queued, position 2" in shown
    assert "35%, 0:01:35 left" in shown


def test_job_log_is_printed_unchanged(run: Run, fake: FakeServer) -> None:
    fake.lines = ["one [bold]line[/bold]", "another"]
    assert run("jobs", "logs", "made").stdout.splitlines() == fake.lines
    assert [line["text"] for line in lines(run("jobs", "logs", "made", "--json"))] == fake.lines
    assert fake.requests["WatchJob"][0].log


def test_priority_and_limits_reach_the_server(run: Run, fake: FakeServer) -> None:
    options = ["--priority", "high", "--max-run-minutes", "1.5", "--max-memory-gib", "2", "--detach"]
    assert run("train", "tile", *options).exit_code == 0
    request = fake.requests["CreateJob"][0]
    assert request.priority == JOB_PRIORITY_HIGH
    assert request.limits.max_run_time.ToMilliseconds() == 90_000
    assert request.limits.max_memory_bytes == 2 << 30


def test_score(run: Run, fake: FakeServer, image: Path) -> None:
    result = run("score", image, "--model", "m/3")
    assert result.exit_code == 0
    assert "normal" in result.stdout
    assert fake.requests["Score"][0].model == "models/m/versions/3"


def test_score_continues_after_bad_images(run: Run, image: Path, tmp_path: Path) -> None:
    bad, missing = tmp_path / "bad.png", tmp_path / "missing.png"
    bad.write_bytes(b"not an image")
    result = run("score", bad, missing, image, "-m", "m", "--json", "--fail-on-anomaly")
    assert result.exit_code == 2
    objects = lines(result)
    assert [Path(line["image"]).name for line in objects] == ["bad.png", "missing.png", "frame.png"]
    assert objects[0]["error"].endswith("bad.png: not an image")
    assert objects[2]["score"] == 1.5
    errors = result.stderr.splitlines()
    assert len(errors) == 2
    assert "bad.png" in errors[0]
    assert "missing.png" in errors[1]


def test_fail_on_anomaly_sets_the_exit_code(run: Run, fake: FakeServer, image: Path) -> None:
    assert run("score", image, "-m", "m", "--fail-on-anomaly").exit_code == 0
    fake.verdict = VERDICT_ANOMALOUS
    assert run("score", image, "-m", "m").exit_code == 0
    assert run("score", image, "-m", "m", "--fail-on-anomaly").exit_code == 1


def test_maps_of_several_images_have_distinct_names(run: Run, image: Path, tmp_path: Path) -> None:
    assert run("score", image, "-m", "m", "--map", tmp_path / "new" / "map.png").exit_code == 0
    with Image.open(tmp_path / "new" / "map.png") as drawn:
        assert drawn.width == 512
    others = [tmp_path / folder / "000.png" for folder in ("crack", "good", "x/good")]
    for other in others:
        other.parent.mkdir(parents=True)
        other.write_bytes(picture(64))
    assert run("score", *others, "-m", "m", "--map", tmp_path / "maps").exit_code == 0
    names = {path.name for path in (tmp_path / "maps").iterdir()}
    assert names == {"crack-000.png", "good-000.png", "good-000-2.png"}


def test_unwritable_map_is_a_usage_error(run: Run, image: Path, tmp_path: Path) -> None:
    result = run("score", image, "-m", "m", "--map", tmp_path / "map.unknown")
    assert result.exit_code == 2
    assert "cannot write" in result.stderr


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
    query, *hits = lines(run("search", image, "-m", "m", "--json"))
    assert query["query"]["score"] == 2
    assert [hit["hit"]["item"] for hit in hits] == ["items/1", "items/2", "items/3"]


def test_search_reports_candidates_not_compared_in_time(run: Run, fake: FakeServer, image: Path) -> None:
    fake.unseen = 28
    command = ("search", image, "-m", "m", "--region", "0,0,8,8")
    result = run(*command)
    assert "28 candidates were not compared in time; increase --timeout" in result.stderr
    assert lines(run(*command, "--json"))[-1] == {"page": {"unseen": 28}}
    fake.unseen = 0
    assert "not compared" not in run(*command).stderr


def test_search_timeout_sets_the_deadline(run: Run, fake: FakeServer, image: Path) -> None:
    for options, timeout_s in (((), 30), (("--timeout", 7), 7)):
        assert run("search", image, "-m", "m", *options).exit_code == 0
        # gRPC rounds deadlines up by some milliseconds.
        assert timeout_s - 2 < fake.times_left["Search"][-1] < timeout_s + 0.1
    assert run("search", image, "-m", "m", "--timeout", 0).exit_code == 2


def test_upload(run: Run, fake: FakeServer, tmp_path: Path) -> None:
    write_dataset_folder(tmp_path)
    result = run("dataset", "upload", "tile", tmp_path, "--json")
    assert result.exit_code == 0, result.stderr
    (uploaded,) = lines(result)
    assert uploaded["stored"] == 6
    assert uploaded["left_out"] == ["test/crack/notes.txt"]
    assert fake.requests["CreateDataset"][0].dataset_id == "tile"


def test_upload_into_existing_dataset(run: Run, fake: FakeServer, tmp_path: Path) -> None:
    write_dataset_folder(tmp_path)
    there = CallError(grpc.StatusCode.ALREADY_EXISTS, "the id is taken")
    fake.errors["CreateDataset"] = [there, there]
    assert run("dataset", "upload", "d", tmp_path).exit_code == 0
    other = run("dataset", "upload", "d", tmp_path, "--category", "grid")
    assert other.exit_code == 2
    assert "has the category tile, not grid" in other.stderr


def test_upload_of_missing_folder_creates_no_dataset(run: Run, fake: FakeServer, tmp_path: Path) -> None:
    assert run("dataset", "upload", "tile", tmp_path / "nowhere").exit_code == 2
    assert not fake.requests["CreateDataset"]


def test_images_are_listed_by_prefix(run: Run, fake: FakeServer) -> None:
    shown = run("dataset", "images", "tile", "--under", "train/").stdout
    assert "train/good/2.png" in shown
    assert "8 x 6" in shown
    requests = fake.requests["ListImages"]
    assert [(each.dataset, each.path_prefix) for each in requests] == [("datasets/tile", "train/")] * 2
    fake.images = []
    assert run("dataset", "images", "tile").stdout == "no images\n"


@pytest.mark.parametrize(
    ("command", "method", "target_name"),
    [
        (
            ["dataset", "remove", "tile", "a.png", "b.png"],
            "DeleteImages",
            "2 images from datasets/tile",
        ),
        (["dataset", "remove", "tile", "a.png"], "DeleteImages", "a.png from datasets/tile"),
        (["dataset", "delete", "tile"], "DeleteDataset", "datasets/tile"),
        (["models", "delete", "m/3"], "DeleteModel", "models/m/versions/3"),
        (["models", "delete", "m", "--force"], "DeleteModel", "models/m"),
    ],
)
def test_deletion_requires_confirmation(
    run: Run,
    fake: FakeServer,
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
    method: str,
    target_name: str,
) -> None:
    unattended = run(*command)
    assert unattended.exit_code == 2
    assert f"without a terminal; pass --yes to delete {target_name}" in unattended.stderr
    monkeypatch.setattr(failures, "_is_interactive", lambda: True)
    declined = run(*command, stdin="n\n")
    assert declined.exit_code == 1
    assert f"Permanently delete {target_name}?" in declined.stderr
    assert not fake.requests[method]
    for confirmed in (run(*command, stdin="y\n"), run(*command, "--yes")):
        assert confirmed.exit_code == 0, confirmed.stderr
    assert len(fake.requests[method]) == 2


def test_failed_export_leaves_no_file(
    run: Run, fake: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = run("models", "export", "m/3")
    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout == "models/m/versions/3 was exported to m-3.blemish, 2.6 kB\n"
    assert Path("m-3.blemish").read_bytes() == fake.archive
    fake.errors["chunk"] = [CallError(grpc.StatusCode.NOT_FOUND, "removed while it was exported")]
    assert run("models", "export", "m/3", "-o", "other").exit_code == 3
    assert [path.name for path in tmp_path.iterdir()] == ["m-3.blemish"]
    nowhere = run("models", "export", "m/3", "-o", "no/where")
    assert (nowhere.exit_code, "cannot write no/where" in nowhere.stderr) == (2, True)


def test_model_is_imported_and_promoted(run: Run, fake: FakeServer, tmp_path: Path) -> None:
    file = tmp_path / "m-3.blemish"
    file.write_bytes(bytes(3 << 20))
    assert run("models", "import", file, "--as", "mine", "--promote").stdout == (
        "models/mine/versions/4 was imported and promoted to production\n"
    )
    ((header, *chunks),) = fake.requests["ImportModel"]
    assert (header.header.model_id, header.header.size_bytes) == ("mine", 3 << 20)
    assert [len(each.chunk) for each in chunks] == [1 << 20] * 3
    assert run("models", "import", file).stdout == "models/m/versions/4 was imported\n"
    gone = run("models", "import", tmp_path / "gone")
    assert (gone.exit_code, "cannot read" in gone.stderr) == (2, True)


def test_card_of_a_shadow_shows_the_comparison(run: Run, fake: FakeServer) -> None:
    comparison = fake.card.comparison
    comparison.production = "models/m/versions/1"
    comparison.both_normal, comparison.both_anomalous = 90, 6
    comparison.only_shadow, comparison.failed = 4, 2
    comparison.disagreements.add(camera="left", item="items/7", production_score=1.25, shadow_score=2.5)
    shown = " ".join(run("models", "show", "m/2").stdout.split())
    assert "compared with m/1 since" in shown
    assert "90 (90.0 %) 6 (6.0 %) 4 (4.0 %) 0 (0.0 %) 2" in shown
    assert "left 2.500 0.000 1.250 0.000 items/7" in shown
    fake.card.ClearField("comparison")
    fake.card.comparison.production = "models/m/versions/1"
    shown = " ".join(run("models", "show", "m/2").stdout.split())
    assert "0 0 0 0 0" in shown
    assert "disagreements" not in shown


def test_kept_frame_has_no_dataset_path(run: Run, fake: FakeServer) -> None:
    fake.hits[0].dataset = fake.hits[0].path = ""
    shown = run("search", "items/7", "-m", "m").stdout
    assert "/" not in shown.partition(fake.hits[1].path)[0].partition("0.900")[2].partition("items/")[0]


def test_force_reaches_the_server(run: Run, fake: FakeServer) -> None:
    run("models", "delete", "m", "-y")
    run("models", "delete", "m", "-y", "--force")
    requests = [(each.name, each.force) for each in fake.requests["DeleteModel"]]
    assert requests == [("models/m", False), ("models/m", True)]


def test_train_passes_settings(run: Run, fake: FakeServer) -> None:
    run("train", "tile", "--input-size", 128, "--coreset-ratio", 0.05, "--promote", "--detach")
    train = fake.requests["CreateJob"][0].train
    assert train.patchcore.input_size == 128
    assert train.patchcore.coreset_ratio == 0.05
    assert not train.patchcore.HasField("whitened")  # left to the default of the server
    assert train.promote
    run("train", "tile", "--no-whitened", "--detach")
    train = fake.requests["CreateJob"][1].train
    assert train.patchcore.HasField("whitened")
    assert not train.patchcore.whitened
    assert run("train", "tile", "--detector", "efficientad", "--no-whitened").exit_code == 2


def test_train_passes_settings_of_efficientad(run: Run, fake: FakeServer) -> None:
    result = run(
        "train", "tile", "--detector", "efficientad", "--size", "medium", "--max-minutes", 2.5, "--detach"
    )
    assert result.exit_code == 0
    train = fake.requests["CreateJob"][0].train
    assert train.WhichOneof("detector") == "efficientad"
    assert (train.efficientad.size, train.efficientad.max_duration.ToSeconds()) == ("medium", 150)


def test_option_of_the_other_detector_is_rejected(run: Run, fake: FakeServer) -> None:
    for options in (["--detector", "efficientad", "--neighbors", 3], ["--max-steps", 3]):
        refused = run("train", "tile", *options)
        assert refused.exit_code == 2
        assert "is an option of" in refused.stderr
    assert not fake.requests["CreateJob"]


@pytest.mark.parametrize(
    ("option", "rule", "value"),
    [
        (["--false-reject-rate", "0.01"], "target_false_reject_rate", 0.01),
        (["--threshold", "-24.5"], "threshold", -24.5),
        (["--threshold", "0"], "threshold", 0.0),
    ],
)
def test_calibrate_sends_rule_author_and_comment(
    run: Run, fake: FakeServer, option: list[str], rule: str, value: float
) -> None:
    who = ["--author", "ann", "--comment", "dusty", "--expected-revision", "2"]
    result = run("models", "calibrate", "m/2", *option, *who)
    assert result.exit_code == 0, result.stderr
    assert "m/versions/2: threshold 24.500 -> 24.500, fixed manually; revision 3" in result.stdout
    (request,) = fake.requests["UpdateCalibration"]
    assert request.name == "models/m/versions/2"
    assert request.WhichOneof("rule") == rule
    assert getattr(request, rule) == value
    assert (request.author, request.comment, request.expected_revision) == ("ann", "dusty", 2)


def test_calibrate_defaults_to_the_current_user(
    run: Run, fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "bea")
    run("models", "calibrate", "m", "--trained")
    (request,) = fake.requests["UpdateCalibration"]
    assert (request.author, request.WhichOneof("rule")) == ("bea", "trained")

    def unknown_user() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr("getpass.getuser", unknown_user)
    result = run("models", "calibrate", "m", "--trained")
    assert result.exit_code == 2
    assert "--author" in result.stderr


@pytest.mark.parametrize("options", [[], ["--trained", "--threshold", "3"]])
def test_calibrate_requires_exactly_one_rule(run: Run, fake: FakeServer, options: list[str]) -> None:
    result = run("models", "calibrate", "m", *options)
    assert result.exit_code == 2
    assert "give exactly one of --false-reject-rate, --threshold and --trained" in result.stderr
    assert not fake.requests["UpdateCalibration"]


def test_card_shows_calibration_history(run: Run) -> None:
    shown = run("models", "show", "m").stdout
    assert "fixed manually" in shown
    assert "jobs/made" in shown
    assert "[too] many" in shown


def test_detach_prints_the_job_name(run: Run, fake: FakeServer) -> None:
    assert run("train", "tile", "--detach").stdout == "jobs/made\n"
    assert not fake.requests["WatchJob"]


def test_failed_job_sets_the_exit_code(run: Run, fake: FakeServer) -> None:
    fake.watches = [[ended("jobs/made", JOB_STATE_FAILED)]]
    result = run("train", "tile")
    assert result.exit_code == 1
    assert "the worker ran out of memory" in result.stderr
    assert run("jobs", "watch", "made").exit_code == 1
    assert run("jobs", "watch", "made", "--json").exit_code == 1


def test_job_is_shown_with_all_state_changes(
    run: Run, fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failed_job() -> Job:
        moves = [
            JobEvent(state=JOB_STATE_QUEUED),
            JobEvent(state=JOB_STATE_RUNNING, attempt=1, worker="line-3:77"),
            JobEvent(state=JOB_STATE_FAILED, attempt=1, worker="line-3:77", reason="the disk is full"),
        ]
        return Job(name="jobs/made", state=JOB_STATE_FAILED, history=moves, warnings=["few images"])

    monkeypatch.setattr(Client, "job", lambda _, job: failed_job())
    shown = run("jobs", "show", "made").stdout
    assert all(word in shown for word in ("line-3:77", "the disk is full", "warning: few images"))
    assert shown.index("queued") < shown.index("running") < shown.rindex("failed")


def test_ctrl_c_does_not_cancel_the_job(
    run: Run, fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("blemish_client.cli.progress.follow", interrupted)
    result = run("train", "tile")
    assert result.exit_code == 130
    assert "blemish jobs watch made" in result.stderr
    assert "blemish jobs cancel made" in result.stderr
    assert not fake.requests["CancelJob"]


def test_jobs_are_filtered_by_state(run: Run, fake: FakeServer) -> None:
    run("jobs", "list", "--state", "running", "--limit", 1)
    (request,) = fake.requests["ListJobs"]
    assert list(request.states) == [JOB_STATE_RUNNING]


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, 2),
        (grpc.StatusCode.ALREADY_EXISTS, 2),
        (grpc.StatusCode.FAILED_PRECONDITION, 2),
        (grpc.StatusCode.ABORTED, 2),
        (grpc.StatusCode.NOT_FOUND, 3),
        (grpc.StatusCode.UNAVAILABLE, 4),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 4),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 4),
        (grpc.StatusCode.INTERNAL, 5),
        (grpc.StatusCode.DATA_LOSS, 5),
        (grpc.StatusCode.UNKNOWN, 5),
    ],
)
def test_exit_codes(run: Run, fake: FakeServer, code: grpc.StatusCode, exit_code: int) -> None:
    fake.errors["GetModel"] = [CallError(code, "the cause:\nand the cure")]
    result = run("models", "show", "m")
    assert result.exit_code == exit_code
    (line,) = result.stderr.splitlines()
    assert line.startswith("blemish: ")
    assert "the cause: and the cure" in line


def test_missing_model_stops_score_at_the_first_image(run: Run, fake: FakeServer, image: Path) -> None:
    fake.errors["Score"] = [CallError(grpc.StatusCode.NOT_FOUND, "no such model")]
    assert run("score", image, image, "-m", "m").exit_code == 3
    assert len(fake.requests["Score"]) == 1


def test_too_large_image_is_bad_input(run: Run, fake: FakeServer, image: Path) -> None:
    refusal = CallError(grpc.StatusCode.RESOURCE_EXHAUSTED, "over 64 megapixels", "TOO_LARGE")
    fake.errors["Score"] = [refusal]
    assert run("score", image, image, "-m", "m").exit_code == 2
    assert len(fake.requests["Score"]) == 2


def test_unreachable_server_is_reported_with_remedy(tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 'n'}"
    result = CliRunner().invoke(app, ["info"], env={"BLEMISH_SERVER": address})
    assert result.exit_code == 4
    (line,) = result.stderr.splitlines()
    assert address in line
    assert "blemish up" in line


def test_usage_errors_and_help(run: Run) -> None:
    assert run("score").exit_code == 2
    assert run("nonsense").exit_code == 2
    assert "Exit codes" in run("--help").stdout
    assert run("--version").stdout.startswith("blemish ")


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        elif not isinstance(command, ExtraCommand):
            yield (*path, name), command


@pytest.mark.parametrize(
    ("path", "command"), [pytest.param(*each, id=" ".join(each[0])) for each in commands(get_command(app))]
)
def test_help_of_every_command_has_a_valid_example(path: tuple[str, ...], command: Any) -> None:
    _, found, example = command.help.partition("Example: blemish ")
    assert found, "no example"
    words = shlex.split(example)
    assert tuple(words[: len(path)]) == path
    command.make_context(path[-1], words[len(path) :])
    without_help = [
        each.name for each in command.params if not (getattr(each, "help", None) or each.hidden)
    ]
    assert without_help == []


def test_missing_typer_is_reported_with_the_pip_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "blemish_client.cli.app")
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert "pip install 'blemish[cli]'" in capsys.readouterr().err


def test_metrics_with_intervals_fit_80_columns(run: Run, monkeypatch: Any) -> None:
    monkeypatch.setattr("blemish_client.cli.session._WIDTH_WITHOUT_TERMINAL", 80)
    result = run("evaluate", "m", "tile")
    assert "0.990  0.910-1.000" in result.stdout
    assert "0.900-1.000" in result.stdout  # of the class, unbroken
    assert "0-100 %" in result.stdout
    assert "12.0" in result.stdout
    assert max(map(len, result.stdout.split("report: ")[0].splitlines())) <= 80


def test_job_result_shows_the_report_command(run: Run, fake: FakeServer) -> None:
    assert "blemish models report tile-patchcore/1 -o report.html" in run("train", "tile").stdout
    evaluated = ended("jobs/made")
    evaluated.evaluate.model = "models/tile-patchcore/versions/1"
    fake.watches = [[evaluated]]
    output = run("evaluate", "m", "tile").stdout
    assert "blemish models report tile-patchcore/1 --evaluation made -o report.html" in output


def test_report_is_printed_or_written(run: Run, tmp_path: Path) -> None:
    page = run("models", "report", "m/1")
    assert page.stdout == "<!doctype html><p>models/m/versions/1 "
    written = tmp_path / "report.html"
    result = run("models", "report", "m/1", "--evaluation", "e", "-o", written)
    assert result.exit_code == 0
    assert written.read_text() == "<!doctype html><p>models/m/versions/1 jobs/e"
