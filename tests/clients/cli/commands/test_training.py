# SPDX-License-Identifier: Apache-2.0

from pathlib import Path

import pytest
from grpc import StatusCode
from tests.support.cli import Run
from tests.support.fake_server import CallError, FakeServer, ended

from blemish.v1.job_pb2 import (
    JOB_PRIORITY_HIGH,
    JOB_STATE_FAILED,
    EstimatedPhase,
    EstimateTrainingResponse,
    TrainingEstimate,
)
from blemish.v1.model_pb2 import (
    CALIBRATION_CHOICE_KEEP_TARGET,
    CALIBRATION_CHOICE_OWN,
    CALIBRATION_CHOICE_UNSPECIFIED,
    THRESHOLD_RULE_FIXED,
    ModelVersion,
)
from blemish_client import Client


def test_priority_and_limits_reach_the_server(run: Run, fake: FakeServer) -> None:
    options = ["--priority", "high", "--max-run-minutes", "1.5", "--max-memory-gib", "2", "--detach"]
    assert run("train", "tile", *options).exit_code == 0
    request = fake.requests["CreateJob"][0]
    assert request.priority == JOB_PRIORITY_HIGH
    assert request.limits.max_run_time.ToMilliseconds() == 90_000
    assert request.limits.max_memory_bytes == 2 << 30


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


@pytest.mark.parametrize("detector", ["patchcore", "efficientad"])
def test_both_detectors_take_int8(run: Run, fake: FakeServer, detector: str) -> None:
    run("train", "tile", "--detector", detector, "--int8", "--detach")
    run("train", "tile", "--detector", detector, "--detach")
    asked, left_open = (getattr(each.train, detector) for each in fake.requests["CreateJob"])
    assert asked.int8
    assert not left_open.HasField("int8")  # left to the worker


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
    ("option", "value"),
    [
        ("--smallest-defect", 0),
        ("--smallest-defect", "nan"),
        ("--input-size", 0),
        ("--max-entries", 0),
        ("--neighbors", 0),
        ("--coreset-ratio", 0),
        ("--target-false-reject-rate", 0),
        ("--target-false-reject-rate", -0.1),
    ],
)
def test_zero_is_rejected_and_not_taken_for_the_default(
    run: Run, fake: FakeServer, option: str, value: float | str
) -> None:
    refused = run("train", "tile", option, value, "--detach")
    assert refused.exit_code == 2
    assert option in refused.stderr
    assert not fake.requests["CreateJob"]


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


def test_ctrl_c_does_not_cancel_the_job(
    run: Run, fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "watch", interrupted)
    result = run("train", "tile")
    assert result.exit_code == 130
    assert "blemish jobs watch made" in result.stderr
    assert "blemish jobs cancel made" in result.stderr
    assert not fake.requests["CancelJob"]


def test_job_result_shows_the_report_command(run: Run, fake: FakeServer) -> None:
    assert "blemish models report tile-patchcore/1 -o report.html" in run("train", "tile").stdout
    evaluated = ended("jobs/made")
    evaluated.evaluate.model = "models/tile-patchcore/versions/1"
    fake.watches = [[evaluated]]
    output = run("evaluate", "m", "tile").stdout
    assert "blemish models report tile-patchcore/1 --evaluation made -o report.html" in output


def test_mask_reaches_the_server_as_png_or_polygons(run: Run, fake: FakeServer, tmp_path: Path) -> None:
    file = tmp_path / "mask"
    file.write_bytes(b"\x89PNG\r\n\x1a\n...")
    assert run("train", "tile", "--mask", file, "--detach").exit_code == 0
    file.write_text('{"width": 48, "height": 32, "ignore": [[[0, 0], [16.5, 0], [0, 32]]]}')
    assert run("train", "tile", "--mask", file, "--detach").exit_code == 0
    png, polygons = (each.train.mask for each in fake.requests["CreateJob"])
    assert png.png == b"\x89PNG\r\n\x1a\n..."
    assert (polygons.polygons.width, polygons.polygons.height) == (48, 32)
    (ignored,) = polygons.polygons.ignore
    assert [(point.x, point.y) for point in ignored.points] == [(0, 0), (16.5, 0), (0, 32)]


@pytest.mark.parametrize(
    ("options", "reference"),
    [
        (["--align"], ""),
        (["--reference", "3.png"], "3.png"),
        (["--align", "--reference", "3.png"], "3.png"),
    ],
)
def test_alignment_reaches_the_server(
    run: Run, fake: FakeServer, tmp_path: Path, options: list[str], reference: str
) -> None:
    file = tmp_path / "mask.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n...")
    assert run("train", "tile", "--mask", file, *options, "--detach").exit_code == 0
    (request,) = fake.requests["CreateJob"]
    assert request.train.mask.png == file.read_bytes()
    assert request.train.mask.HasField("alignment")
    assert request.train.mask.alignment.reference == reference


def test_mask_of_a_version_reaches_the_server(run: Run, fake: FakeServer, tmp_path: Path) -> None:
    assert run("train", "tile", "--mask-of", "m/2", "--detach").exit_code == 0
    (request,) = fake.requests["CreateJob"]
    assert request.train.mask.version == "models/m/versions/2"
    file = tmp_path / "mask.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n...")
    result = run("train", "tile", "--mask-of", "m/2", "--mask", file)
    assert result.exit_code == 2
    assert "--mask and --mask-of exclude each other" in result.stderr


def test_mask_stays_where_it_is_without_alignment(run: Run, fake: FakeServer, tmp_path: Path) -> None:
    file = tmp_path / "mask.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n...")
    assert run("train", "tile", "--mask", file, "--detach").exit_code == 0
    (request,) = fake.requests["CreateJob"]
    assert not request.train.mask.HasField("alignment")


def test_training_without_its_alignment_is_cancelled(run: Run, fake: FakeServer, tmp_path: Path) -> None:
    fake.ignores_alignment = True
    file = tmp_path / "mask.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n...")
    result = run("train", "tile", "--mask", file, "--align", "--detach")
    assert result.exit_code == 2
    assert "the server is too old to align frames" in result.stderr
    assert [each.name for each in fake.requests["CancelJob"]] == ["jobs/made"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("not a mask", "neither a PNG nor JSON with polygons (not valid JSON at line 1, column 1)"),
        ("", "the file is empty"),
        ("\0\xff", "not valid JSON"),
        ("[" * 100_000, "not a text with JSON"),
        ("[]", "not an object with width, height and polygons"),
        ('{"width": 48.5, "height": 32, "ignore": []}', "'width' is not a number of pixels"),
        ('{"width": 48, "height": 1e99, "ignore": []}', "'height' is not a number of pixels"),
        ('{"width": 4294967296, "height": 3, "ignore": []}', "'width' is not a number of pixels"),
        ('{"width": 48, "height": 32, "ignore": "left"}', "'ignore' is not a list of polygons"),
        ('{"width": 48, "height": 32, "include": 5}', "'include' is not a list of polygons"),
        ('{"height": 32, "ignore": []}', "no 'width'"),
        ('{"width": 48, "height": 32, "ignored": []}', "unknown key 'ignored'"),
        ('{"width": 48, "height": 32, "ignore": [[1, 2]]}', "'ignore' is not a list of polygons"),
        ('{"width": 48, "height": 32, "ignore": [[["a", 2]]]}', "each a list of points [x, y]"),
    ],
)
def test_file_that_is_no_mask_is_rejected(
    run: Run, fake: FakeServer, tmp_path: Path, text: str, reason: str
) -> None:
    file = tmp_path / "mask.json"
    file.write_text(text)
    result = run("train", "tile", "--mask", file)
    assert result.exit_code == 2
    assert reason in result.stderr
    missing = run("train", "tile", "--mask", tmp_path / "missing")
    assert (missing.exit_code, "cannot read" in missing.stderr) == (2, True)
    assert not fake.requests["CreateJob"]


def test_training_without_its_mask_is_cancelled(run: Run, fake: FakeServer, tmp_path: Path) -> None:
    fake.ignores_masks = True
    file = tmp_path / "mask.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n...")
    result = run("train", "tile", "--mask", file, "--detach")
    assert result.exit_code == 2
    assert "the server is too old for masks" in result.stderr
    assert [each.name for each in fake.requests["CancelJob"]] == ["jobs/made"]


def test_training_to_promote_asks_before_it_starts(
    run: Run, fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.production = ModelVersion(name="models/tile-patchcore/versions/1", production=True)
    fake.production.calibration.rule, fake.production.calibration.author = THRESHOLD_RULE_FIXED, "ann"
    refused = run("train", "tile", "--promote", "--detach")
    assert refused.exit_code == 2
    assert "judges by threshold 0.000 (fixed by ann), which the promotion would replace" in refused.stderr
    assert "--keep-target" in refused.stderr
    assert not fake.requests["CreateJob"]
    for options, choice in (
        (["--promote", "--keep-target"], CALIBRATION_CHOICE_KEEP_TARGET),
        (["--promote", "--own-target"], CALIBRATION_CHOICE_OWN),
        (["--promote", "--yes"], CALIBRATION_CHOICE_OWN),
        ([], CALIBRATION_CHOICE_UNSPECIFIED),
    ):
        assert run("train", "tile", *options, "--detach").exit_code == 0
        assert fake.requests["CreateJob"][-1].train.promoted_calibration == choice
    assert fake.requests["GetModel"][0].name == "models/tile-patchcore@production"
    monkeypatch.setattr("blemish_client.cli.commands.training.can_ask", lambda: True)
    assert run("train", "tile", "--promote", "--detach", stdin="keep\n").exit_code == 0
    assert fake.requests["CreateJob"][-1].train.promoted_calibration == CALIBRATION_CHOICE_KEEP_TARGET


def test_training_ends_with_what_its_version_judges_by(run: Run, fake: FakeServer) -> None:
    done = ended("jobs/made")
    done.train.dataset = "datasets/tile"
    fake.watches, fake.is_calibrated = [[done]], False
    fake.card.calibration.target_false_reject_rate = 0.05
    fake.card.production = True
    assert (
        "models/tile-patchcore/versions/1 is in production and judges by threshold 22.250 "
        "(5 % false rejects asked for)\n"
    ) in run("train", "tile").stdout
    fake.watches, fake.card.production = [[done]], False
    assert "is ready, but not in production" in run("train", "tile").stdout


def test_estimate_is_printed_before_the_job_is_created(run: Run, fake: FakeServer) -> None:
    fake.estimate = EstimateTrainingResponse(
        estimate=TrainingEstimate(
            phases=[EstimatedPhase(name="features"), EstimatedPhase(name="memory bank")],
            frame_width=640,
            frame_height=480,
            bank_entries=10_000,
            worker="line:7",
            device="cpu",
            processor="a CPU",
        )
    )
    found = fake.estimate.estimate
    found.training.FromSeconds(200)
    found.phases[0].duration.FromSeconds(20)
    found.phases[1].duration.FromSeconds(180)
    found.frame.FromMilliseconds(35)
    result = run("train", "tile", "--max-entries", 500, "--detach")
    assert "the training takes about 3 min on line:7: features 20 s, memory bank 3 min" in result.stderr
    assert (
        "a frame of 640 x 480 px takes about 35 ms on one thread of a CPU with 10,000 entries in the "
        "memory bank"
    ) in result.stderr
    assert result.stdout == "jobs/made\n"
    assert list(fake.requests) == ["EstimateTraining", "CreateJob"]
    asked, created = fake.requests["EstimateTraining"][0].train, fake.requests["CreateJob"][0].train
    assert asked.patchcore == created.patchcore
    assert asked.patchcore.max_entries == 500


def test_training_starts_without_an_estimate(run: Run, fake: FakeServer) -> None:
    result = run("train", "tile", "--detach")
    assert "no estimate: no worker has measured its speed yet" in result.stderr
    assert fake.requests["CreateJob"]


def test_older_server_trains_without_an_estimate(run: Run, fake: FakeServer) -> None:
    fake.errors["EstimateTraining"] = [CallError(StatusCode.UNIMPLEMENTED)]
    result = run("train", "tile", "--detach")
    assert result.exit_code == 0
    assert "estimate" not in result.stderr
    assert fake.requests["CreateJob"]


def test_training_that_is_refused_is_not_created(run: Run, fake: FakeServer) -> None:
    fake.errors["EstimateTraining"] = [CallError(StatusCode.FAILED_PRECONDITION, "too few images")]
    result = run("train", "tile", "--detach")
    assert result.exit_code == 2
    assert "too few images" in result.stderr
    assert not fake.requests["CreateJob"]
