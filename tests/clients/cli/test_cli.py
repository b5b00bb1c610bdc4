# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from PIL import Image
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

if TYPE_CHECKING:
    from tests.clients.conftest import Fake, Make

Run = Callable[..., Result]


@pytest.fixture
def run(target: str) -> Run:
    def invoke(*arguments: Any, stdin: str | None = None) -> Result:
        command = ["--server", target, *map(str, arguments)]
        return CliRunner().invoke(app, command, input=stdin, catch_exceptions=False)

    return invoke


@pytest.fixture
def image(make: Make, tmp_path: Path) -> Path:
    path = tmp_path / "frame.png"
    path.write_bytes(make.picture(64))
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


def test_jobs_say_where_they_wait_and_how_far_they_are(run: Run, fake: Fake) -> None:
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
    assert "queued, place 2" in shown
    assert "35%, 0:01:35 left" in shown


def test_the_log_of_a_job_is_printed_as_it_was_written(run: Run, fake: Fake) -> None:
    fake.lines = ["one [bold]line[/bold]", "another"]
    assert run("jobs", "logs", "made").stdout.splitlines() == fake.lines
    assert [line["text"] for line in lines(run("jobs", "logs", "made", "--json"))] == fake.lines
    assert fake.requests["WatchJob"][0].log


def test_priority_and_limits_reach_the_server(run: Run, fake: Fake) -> None:
    asked = ["--priority", "high", "--max-run-minutes", "1.5", "--max-memory-gib", "2", "--detach"]
    assert run("train", "tile", *asked).exit_code == 0
    request = fake.requests["CreateJob"][0]
    assert request.priority == JOB_PRIORITY_HIGH
    assert request.limits.max_run_time.ToMilliseconds() == 90_000
    assert request.limits.max_memory_bytes == 2 << 30


def test_score(run: Run, fake: Fake, image: Path) -> None:
    result = run("score", image, "--model", "m/3")
    assert result.exit_code == 0
    assert "normal" in result.stdout
    assert fake.requests["Score"][0].model == "models/m/versions/3"


def test_score_goes_on_after_bad_images(run: Run, image: Path, tmp_path: Path) -> None:
    bad, missing = tmp_path / "bad.png", tmp_path / "missing.png"
    bad.write_bytes(b"not an image")
    result = run("score", bad, missing, image, "-m", "m", "--json", "--fail-on-anomaly")
    assert result.exit_code == 2
    told = lines(result)
    assert [Path(line["image"]).name for line in told] == ["bad.png", "missing.png", "frame.png"]
    assert told[0]["error"].endswith("bad.png: not an image")
    assert told[2]["score"] == 1.5
    errors = result.stderr.splitlines()
    assert len(errors) == 2
    assert "bad.png" in errors[0]
    assert "missing.png" in errors[1]


def test_fail_on_anomaly(run: Run, fake: Fake, image: Path) -> None:
    assert run("score", image, "-m", "m", "--fail-on-anomaly").exit_code == 0
    fake.verdict = VERDICT_ANOMALOUS
    assert run("score", image, "-m", "m").exit_code == 0
    assert run("score", image, "-m", "m", "--fail-on-anomaly").exit_code == 1


def test_maps(run: Run, make: Make, image: Path, tmp_path: Path) -> None:
    assert run("score", image, "-m", "m", "--map", tmp_path / "new" / "map.png").exit_code == 0
    with Image.open(tmp_path / "new" / "map.png") as drawn:
        assert drawn.width == 512
    others = [tmp_path / folder / "000.png" for folder in ("crack", "good", "x/good")]
    for other in others:
        other.parent.mkdir(parents=True)
        other.write_bytes(make.picture(64))
    assert run("score", *others, "-m", "m", "--map", tmp_path / "maps").exit_code == 0
    names = {path.name for path in (tmp_path / "maps").iterdir()}
    assert names == {"crack-000.png", "good-000.png", "good-000-2.png"}


def test_a_map_that_cannot_be_written(run: Run, image: Path, tmp_path: Path) -> None:
    result = run("score", image, "-m", "m", "--map", tmp_path / "map.unknown")
    assert result.exit_code == 2
    assert "cannot write" in result.stderr


def test_search_with_montage(run: Run, fake: Fake, image: Path, tmp_path: Path) -> None:
    result = run("search", image, "-m", "m", "-k", 2, "--class", "crack", "--montage", tmp_path / "m.png")
    assert result.exit_code == 0, result.stderr
    assert "tile/test/crack/001.png" in result.stdout
    with Image.open(tmp_path / "m.png") as drawn:
        assert drawn.width > 600
    (request,) = fake.requests["Search"]
    assert request.include_thumbnails
    assert list(request.filter.classes) == ["crack"]


def test_no_hits_are_not_taken_for_as_many_as_usual(run: Run, fake: Fake, image: Path) -> None:
    assert run("search", image, "-m", "m", "-k", 0).exit_code == 2
    assert not fake.requests["Search"]


def test_search_json_has_query_and_hits(run: Run, image: Path) -> None:
    query, *hits = lines(run("search", image, "-m", "m", "--json"))
    assert query["query"]["score"] == 2
    assert [hit["hit"]["item"] for hit in hits] == ["items/1", "items/2", "items/3"]


def test_search_says_what_it_had_no_time_for(run: Run, fake: Fake, image: Path) -> None:
    fake.unseen = 28
    asked = ("search", image, "-m", "m", "--region", "0,0,8,8")
    result = run(*asked)
    assert "28 more that may show it were not looked at: a longer --timeout" in result.stderr
    assert lines(run(*asked, "--json"))[-1] == {"page": {"unseen": 28}}
    fake.unseen = 0
    assert "not looked at" not in run(*asked).stderr


def test_search_takes_as_long_as_told(run: Run, fake: Fake, image: Path) -> None:
    for told, about in (((), 30), (("--timeout", 7), 7)):
        assert run("search", image, "-m", "m", *told).exit_code == 0
        # gRPC rounds deadlines up, by some milliseconds.
        assert about - 2 < fake.times_left["Search"][-1] < about + 0.1
    assert run("search", image, "-m", "m", "--timeout", 0).exit_code == 2


def test_upload(run: Run, fake: Fake, make: Make, tmp_path: Path) -> None:
    make.folder(tmp_path)
    result = run("dataset", "upload", "tile", tmp_path, "--json")
    assert result.exit_code == 0, result.stderr
    (told,) = lines(result)
    assert told["stored"] == 6
    assert told["left_out"] == ["test/crack/notes.txt"]
    assert fake.requests["CreateDataset"][0].dataset_id == "tile"


def test_upload_into_a_dataset_that_is_there(run: Run, fake: Fake, make: Make, tmp_path: Path) -> None:
    make.folder(tmp_path)
    there = make.refusal(grpc.StatusCode.ALREADY_EXISTS, "the id is taken")
    fake.refusals["CreateDataset"] = [there, there]
    assert run("dataset", "upload", "d", tmp_path).exit_code == 0
    other = run("dataset", "upload", "d", tmp_path, "--category", "grid")
    assert other.exit_code == 2
    assert "holds tile, not grid" in other.stderr


def test_upload_of_no_such_folder(run: Run, fake: Fake, tmp_path: Path) -> None:
    assert run("dataset", "upload", "tile", tmp_path / "nowhere").exit_code == 2
    assert not fake.requests["CreateDataset"]


def test_images_are_listed_under_a_path(run: Run, fake: Fake) -> None:
    shown = run("dataset", "images", "tile", "--under", "train/").stdout
    assert "train/good/2.png" in shown
    assert "8 x 6" in shown
    asked = fake.requests["ListImages"]
    assert [(each.dataset, each.path_prefix) for each in asked] == [("datasets/tile", "train/")] * 2
    fake.images = []
    assert run("dataset", "images", "tile").stdout == "no images there\n"


@pytest.mark.parametrize(
    ("command", "method", "question"),
    [
        (
            ["dataset", "remove", "tile", "a.png", "b.png"],
            "DeleteImages",
            "Remove 2 images from datasets/tile",
        ),
        (["dataset", "remove", "tile", "a.png"], "DeleteImages", "Remove a.png from datasets/tile"),
        (["dataset", "delete", "tile"], "DeleteDataset", "Remove datasets/tile"),
        (["models", "delete", "m/3"], "DeleteModel", "Remove models/m/versions/3"),
        (["models", "delete", "m", "--force"], "DeleteModel", "Remove models/m"),
    ],
)
def test_nothing_is_removed_unless_somebody_agrees(
    run: Run, fake: Fake, monkeypatch: pytest.MonkeyPatch, command: list[str], method: str, question: str
) -> None:
    nobody = run(*command)
    assert nobody.exit_code == 2
    assert f"{question} for good? Nobody is there to be asked: say --yes" in nobody.stderr
    monkeypatch.setattr(failures, "_somebody_is_there", lambda: True)
    refused = run(*command, stdin="n\n")
    assert refused.exit_code == 1
    assert f"{question} for good?" in refused.stderr
    assert not fake.requests[method]
    for told in (run(*command, stdin="y\n"), run(*command, "--yes")):
        assert told.exit_code == 0, told.stderr
    assert len(fake.requests[method]) == 2


def test_a_model_is_exported_whole_or_not_at_all(
    run: Run, fake: Fake, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = run("models", "export", "m/3")
    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout == "models/m/versions/3 is in m-3.blemish, 2.6 kB\n"
    assert Path("m-3.blemish").read_bytes() == fake.archive
    fake.refusals["chunk"] = [make.refusal(grpc.StatusCode.NOT_FOUND, "removed while it was exported")]
    assert run("models", "export", "m/3", "-o", "other").exit_code == 3
    assert [path.name for path in tmp_path.iterdir()] == ["m-3.blemish"]
    nowhere = run("models", "export", "m/3", "-o", "no/where")
    assert (nowhere.exit_code, "cannot write no/where" in nowhere.stderr) == (2, True)


def test_a_model_is_imported_and_promoted(run: Run, fake: Fake, tmp_path: Path) -> None:
    file = tmp_path / "m-3.blemish"
    file.write_bytes(bytes(3 << 20))
    assert run("models", "import", file, "--as", "mine", "--promote").stdout == (
        "models/mine/versions/4 is there, in production\n"
    )
    ((header, *chunks),) = fake.requests["ImportModel"]
    assert (header.header.model_id, header.header.size_bytes) == ("mine", 3 << 20)
    assert [len(each.chunk) for each in chunks] == [1 << 20] * 3
    assert run("models", "import", file).stdout == "models/m/versions/4 is there\n"
    gone = run("models", "import", tmp_path / "gone")
    assert (gone.exit_code, "cannot read" in gone.stderr) == (2, True)


def test_the_card_of_a_shadow_tells_how_it_agrees(run: Run, fake: Fake) -> None:
    told = fake.card.comparison
    told.production = "models/m/versions/1"
    told.both_normal, told.both_anomalous, told.only_shadow, told.failed = 90, 6, 4, 2
    told.disagreements.add(camera="left", item="items/7", production_score=1.25, shadow_score=2.5)
    shown = " ".join(run("models", "show", "m/2").stdout.split())
    assert "beside m/1 since" in shown
    assert "90 (90.0 %) 6 (6.0 %) 4 (4.0 %) 0 (0.0 %) 2" in shown
    assert "left 2.500 0.000 1.250 0.000 items/7" in shown
    fake.card.ClearField("comparison")
    fake.card.comparison.production = "models/m/versions/1"
    shown = " ".join(run("models", "show", "m/2").stdout.split())
    assert "0 0 0 0 0" in shown, "nothing was judged yet"
    assert "where they disagree" not in shown


def test_a_kept_frame_lies_in_no_dataset(run: Run, fake: Fake) -> None:
    fake.hits[0].dataset = fake.hits[0].path = ""
    shown = run("search", "items/7", "-m", "m").stdout
    assert "/" not in shown.partition(fake.hits[1].path)[0].partition("0.900")[2].partition("items/")[0]


def test_force_is_told(run: Run, fake: Fake) -> None:
    run("models", "delete", "m", "-y")
    run("models", "delete", "m", "-y", "--force")
    asked = [(each.name, each.force) for each in fake.requests["DeleteModel"]]
    assert asked == [("models/m", False), ("models/m", True)]


def test_train_passes_settings(run: Run, fake: Fake) -> None:
    run("train", "tile", "--input-size", 128, "--coreset-ratio", 0.05, "--promote", "--detach")
    train = fake.requests["CreateJob"][0].train
    assert train.patchcore.input_size == 128
    assert train.patchcore.coreset_ratio == 0.05
    assert not train.patchcore.HasField("whitened")  # as the server has it
    assert train.promote
    run("train", "tile", "--no-whitened", "--detach")
    train = fake.requests["CreateJob"][1].train
    assert train.patchcore.HasField("whitened")
    assert not train.patchcore.whitened
    assert run("train", "tile", "--detector", "efficientad", "--no-whitened").exit_code == 2


def test_train_passes_settings_of_efficientad(run: Run, fake: Fake) -> None:
    told = run(
        "train", "tile", "--detector", "efficientad", "--size", "medium", "--max-minutes", 2.5, "--detach"
    )
    assert told.exit_code == 0
    train = fake.requests["CreateJob"][0].train
    assert train.WhichOneof("detector") == "efficientad"
    assert (train.efficientad.size, train.efficientad.max_duration.ToSeconds()) == ("medium", 150)


def test_an_option_of_the_other_detector_is_refused(run: Run, fake: Fake) -> None:
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
def test_calibrate_asks_for_one_version(
    run: Run, fake: Fake, option: list[str], rule: str, value: float
) -> None:
    who = ["--author", "ann", "--comment", "dusty", "--expected-revision", "2"]
    result = run("models", "calibrate", "m/2", *option, *who)
    assert result.exit_code == 0, result.stderr
    assert "m/versions/2: threshold 24.500 -> 24.500, fixed by a person; revision 3" in result.stdout
    (request,) = fake.requests["UpdateCalibration"]
    assert request.name == "models/m/versions/2"
    assert request.WhichOneof("rule") == rule
    assert getattr(request, rule) == value
    assert (request.author, request.comment, request.expected_revision) == ("ann", "dusty", 2)


def test_calibrate_takes_the_name_of_the_user(
    run: Run, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "bea")
    run("models", "calibrate", "m", "--trained")
    (request,) = fake.requests["UpdateCalibration"]
    assert (request.author, request.WhichOneof("rule")) == ("bea", "trained")

    def nobody() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr("getpass.getuser", nobody)
    result = run("models", "calibrate", "m", "--trained")
    assert result.exit_code == 2
    assert "--author" in result.stderr


@pytest.mark.parametrize("options", [[], ["--trained", "--threshold", "3"]])
def test_calibrate_wants_one_way(run: Run, fake: Fake, options: list[str]) -> None:
    result = run("models", "calibrate", "m", *options)
    assert result.exit_code == 2
    assert "one of --false-reject-rate, --threshold and --trained" in result.stderr
    assert not fake.requests["UpdateCalibration"]


def test_the_card_shows_who_calibrated_and_why(run: Run) -> None:
    shown = run("models", "show", "m").stdout
    assert "fixed by a person" in shown
    assert "jobs/made" in shown
    assert "[too] many" in shown


def test_detach_prints_the_name(run: Run, fake: Fake) -> None:
    assert run("train", "tile", "--detach").stdout == "jobs/made\n"
    assert not fake.requests["WatchJob"]


def test_a_failed_job(run: Run, fake: Fake, make: Make) -> None:
    fake.watches = [[make.ended("jobs/made", JOB_STATE_FAILED)]]
    result = run("train", "tile")
    assert result.exit_code == 1
    assert "the worker ran out of memory" in result.stderr
    assert run("jobs", "watch", "made").exit_code == 1
    assert run("jobs", "watch", "made", "--json").exit_code == 1


def test_a_job_is_shown_with_every_move(run: Run, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(job: str) -> Job:
        moves = [
            JobEvent(state=JOB_STATE_QUEUED),
            JobEvent(state=JOB_STATE_RUNNING, attempt=1, worker="line-3:77"),
            JobEvent(state=JOB_STATE_FAILED, attempt=1, worker="line-3:77", reason="the disk is full"),
        ]
        return Job(name="jobs/made", state=JOB_STATE_FAILED, history=moves, warnings=["few images"])

    monkeypatch.setattr(Client, "job", lambda _, job: told(job))
    shown = run("jobs", "show", "made").stdout
    assert all(word in shown for word in ("line-3:77", "the disk is full", "warning: few images"))
    assert shown.index("queued") < shown.index("running") < shown.rindex("failed")


def test_ctrl_c_leaves_the_job_alone(run: Run, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("blemish_client.cli.progress.follow", interrupted)
    result = run("train", "tile")
    assert result.exit_code == 130
    assert "blemish jobs watch made" in result.stderr
    assert "blemish jobs cancel made" in result.stderr
    assert not fake.requests["CancelJob"]


def test_jobs_by_state(run: Run, fake: Fake) -> None:
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
def test_exit_codes(run: Run, fake: Fake, make: Make, code: grpc.StatusCode, exit_code: int) -> None:
    fake.refusals["GetModel"] = [make.refusal(code, "the cause:\nand the cure")]
    result = run("models", "show", "m")
    assert result.exit_code == exit_code
    (line,) = result.stderr.splitlines()
    assert line.startswith("blemish: ")
    assert "the cause: and the cure" in line


def test_a_missing_model_ends_a_score_run(run: Run, fake: Fake, make: Make, image: Path) -> None:
    fake.refusals["Score"] = [make.refusal(grpc.StatusCode.NOT_FOUND, "no such model")]
    assert run("score", image, image, "-m", "m").exit_code == 3
    assert len(fake.requests["Score"]) == 1


def test_too_large_an_image_is_bad_input(run: Run, fake: Fake, make: Make, image: Path) -> None:
    refusal = make.refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "over 64 megapixels", "TOO_LARGE")
    fake.refusals["Score"] = [refusal]
    assert run("score", image, image, "-m", "m").exit_code == 2
    assert len(fake.requests["Score"]) == 2


def test_no_server(tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 'n'}"
    result = CliRunner().invoke(app, ["info"], env={"BLEMISH_SERVER": address})
    assert result.exit_code == 4
    (line,) = result.stderr.splitlines()
    assert address in line
    assert "blemish up" in line


def test_usage(run: Run) -> None:
    assert run("score").exit_code == 2
    assert run("nonsense").exit_code == 2
    assert "Exit codes" in run("--help").stdout
    assert run("--version").stdout.startswith("blemish ")


def test_the_command_line_names_its_own_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "blemish_client.cli.app")
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert "pip install 'blemish[cli]'" in capsys.readouterr().err


def test_figures_stand_with_their_intervals_in_80_columns(run: Run, monkeypatch: Any) -> None:
    monkeypatch.setattr("blemish_client.cli.session._WIDTH_UNSEEN", 80)
    result = run("evaluate", "m", "tile")
    assert "0.990  0.910-1.000" in result.stdout
    assert "0.900-1.000" in result.stdout  # of the class, unbroken
    assert "0-100 %" in result.stdout
    assert "12.0" in result.stdout
    assert max(map(len, result.stdout.split("report: ")[0].splitlines())) <= 80


def test_work_names_the_command_that_fetches_its_report(run: Run, fake: Fake, make: Make) -> None:
    assert "blemish models report tile-patchcore/1 -o report.html" in run("train", "tile").stdout
    judged = make.ended("jobs/made")
    judged.evaluate.model = "models/tile-patchcore/versions/1"
    fake.watches = [[judged]]
    of_evaluation = run("evaluate", "m", "tile").stdout
    assert "blemish models report tile-patchcore/1 --evaluation made -o report.html" in of_evaluation


def test_a_report_is_fetched(run: Run, tmp_path: Path) -> None:
    page = run("models", "report", "m/1")
    assert page.stdout == "<!doctype html><p>models/m/versions/1 "
    written = tmp_path / "report.html"
    result = run("models", "report", "m/1", "--evaluation", "e", "-o", written)
    assert result.exit_code == 0
    assert written.read_text() == "<!doctype html><p>models/m/versions/1 jobs/e"
