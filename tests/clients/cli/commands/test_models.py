# SPDX-License-Identifier: Apache-2.0
import json
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from tests.support.cli import Run, json_lines
from tests.support.fake_server import CallError, FakeServer, ended

from blemish.v1.model_pb2 import (
    CALIBRATION_CHOICE_KEEP_TARGET,
    CALIBRATION_CHOICE_OWN,
    CALIBRATION_CHOICE_UNSPECIFIED,
    THRESHOLD_RULE_FALSE_REJECT_RATE,
    THRESHOLD_RULE_FIXED,
    THRESHOLD_RULE_TRAINED,
    ModelVersion,
    ThresholdRule,
)


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
        "models/mine/versions/4 is in production and judges by threshold 22.250 (5 % false rejects asked "
        "for)\n"
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


def test_card_shows_the_measured_time_of_a_frame(run: Run, fake: FakeServer) -> None:
    row = fake.card.latencies.add(
        runtime="openvino", device="cpu", processor="Some CPU [9]", threads=1, width=640, height=480
    )
    row.median.FromTimedelta(timedelta(milliseconds=12.3))
    shown = " ".join(run("models", "show", "m/2").stdout.split())
    assert "frame by openvino 12.3 ms for 640 x 480 px on cpu, one thread (Some CPU [9])" in shown


def test_force_reaches_the_server(run: Run, fake: FakeServer) -> None:
    run("models", "delete", "m", "-y")
    run("models", "delete", "m", "-y", "--force")
    requests = [(each.name, each.force) for each in fake.requests["DeleteModel"]]
    assert requests == [("models/m", False), ("models/m", True)]


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
    assert "give exactly one of --false-reject-rate, --threshold, --trained and --revision" in result.stderr
    assert not fake.requests["UpdateCalibration"]


def test_calibrate_restores_a_revision(run: Run, fake: FakeServer) -> None:
    result = run("models", "calibrate", "m/2", "--author", "ann", "--revision", "1")
    assert result.exit_code == 0, result.stderr
    (request,) = fake.requests["UpdateCalibration"]
    assert (request.WhichOneof("rule"), request.revision) == ("revision", 1)
    assert run("models", "calibrate", "m/2", "--revision", "0").exit_code == 2


def test_calibrate_ends_with_what_the_version_judges_by(run: Run, fake: FakeServer) -> None:
    given = ("models", "calibrate", "m/2", "--author", "ann", "--threshold", "24.5")
    *_, last = run(*given).stdout.splitlines()
    assert last == (
        "models/m/versions/2 is ready, but not in production; it judges by threshold 24.500 "
        "(fixed by ann); put it in production with: blemish models promote m/2"
    )


EXTREME = CallError(
    grpc.StatusCode.FAILED_PRECONDITION,
    "threshold 1e+09 has to be confirmed, because it detects none of 3 defective test images; set it",
    reason="CONFIRMATION_NEEDED",
)


def test_extreme_threshold_has_to_be_confirmed(
    run: Run, fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("models", "calibrate", "m/2", "--author", "ann", "--threshold", "1e9")
    fake.errors["UpdateCalibration"] = [EXTREME]
    refused = run(*given)
    assert refused.exit_code == 2
    assert "it detects none of 3 defective test images; pass --yes" in refused.stderr
    assert run(*given, "--yes").exit_code == 0
    assert [each.acknowledge_extreme for each in fake.requests["UpdateCalibration"]] == [False, True]
    monkeypatch.setattr("blemish_client.cli.commands.models.can_ask", lambda: True)
    fake.errors["UpdateCalibration"] = [EXTREME]
    assert run(*given, stdin="n\n").exit_code == 1
    fake.errors["UpdateCalibration"] = [EXTREME]
    assert run(*given, stdin="y\n").exit_code == 0
    assert fake.requests["UpdateCalibration"][-1].acknowledge_extreme


def test_dry_run_shows_figures_and_flipped_frames_and_changes_nothing(run: Run, fake: FakeServer) -> None:
    preview, given = (
        fake.calibration_preview,
        ("models", "calibrate", "m/2", "--threshold", "14", "--dry-run"),
    )
    preview.before.threshold, preview.after.threshold = 9.906, 14.0
    preview.before.held_out_above, preview.before.held_out_images = 1, 25
    for metrics, rejected, detected in (
        (preview.metrics_before, 0.1, 1.0),
        (preview.metrics_after, 0.0, 0.5),
    ):
        metrics.good_images, metrics.defective_images = 10, 12
        metrics.false_reject_rate, metrics.detection_rate = rejected, detected
        metrics.intervals["detection_rate"].low, metrics.intervals["detection_rate"].high = 0.21, 0.79
        metrics.classes.add(class_name="crack", images=12, detection_rate=detected)
    preview.flipped.kept, preview.flipped.to_normal = 40, 2
    preview.flipped.frames.add(item="items/7", camera="left", score=12.5, label="CONFIRMED")
    preview.concern = "it is odd"
    result = run(*given, "--since", "2d")
    assert result.exit_code == 0, result.stderr
    shown = " ".join(result.stdout.split())
    assert "nothing was changed" in shown
    assert "10 good test images rejected (95 %) 10.0 % 0.0 %" in shown
    both = "100.0 % (21.0 to 79.0 %) 50.0 % (21.0 to 79.0 %)"
    assert f"12 defective test images detected (95 %) {both}" in shown
    assert "crack, 12 images 100.0 % 50.0 %" in shown
    assert "2 of 40 frames kept in the period would become normal" in shown
    assert "left 12.500 confirmed 7" in shown
    assert "and 1 more" in shown
    assert "to be confirmed with --yes, because it is odd" in shown
    (request,) = fake.requests["PreviewCalibration"]
    assert request.change.threshold == 14.0
    assert 2 * 86400 <= request.period.ToSeconds() < 2 * 86400 + 60
    assert not fake.requests["UpdateCalibration"]
    preview.flipped.unavailable = "the version has no index"
    assert "kept frames were not compared: the version has no index" in run(*given).stdout


def test_scores_are_summed_up_by_kind_and_listed_as_json(run: Run, fake: FakeServer) -> None:
    fake.card.calibration.threshold = 9.906
    result = run("models", "scores", "m/2")
    assert result.exit_code == 0, result.stderr
    shown = " ".join(result.stdout.split())
    assert "held-out good 3 1.000 2.000 30.000 1" in shown
    assert "test [red]crack 2 4.000 22.000 40.000 1" in shown
    found = json.loads(run("models", "scores", "m/2", "--json").stdout)
    assert found["held_out"] == [1.0, 2.0, 30.0]
    assert found["test"] == {"[red]crack": [4.0, 40.0]}
    assert fake.requests["ListScores"][0].name == found["model"]


def test_dry_run_of_an_older_server_is_refused(run: Run, fake: FakeServer) -> None:
    fake.errors["PreviewCalibration"] = [CallError(grpc.StatusCode.UNIMPLEMENTED, "unknown method")]
    result = run("models", "calibrate", "m/2", "--threshold", "14", "--dry-run")
    assert result.exit_code == 2
    assert "too old to preview calibrations" in result.stderr
    assert not fake.requests["UpdateCalibration"]


def test_calibrate_changes_the_given_settings_of_regions(run: Run, fake: FakeServer) -> None:
    fake.card.calibration.regions.smallest_area = 12
    fake.card.calibration.regions.mm_per_px = 0.5
    given = ("--author", "ann", "--max-regions", "3", "--pixel-threshold", "7.5", "--mm-per-px", "0")
    result = run("models", "calibrate", "m/2", *given)
    assert result.exit_code == 0, result.stderr
    (request,) = fake.requests["UpdateCalibration"]
    assert request.WhichOneof("rule") is None
    regions = request.regions
    assert (regions.smallest_area, regions.max_regions, regions.pixel_threshold) == (12, 3, 7.5)
    assert not regions.HasField("mm_per_px")
    assert request.expected_revision == 2  # a change between reading and writing must not be lost


def test_calibrate_restores_the_calibrated_pixel_threshold(run: Run, fake: FakeServer) -> None:
    fake.card.calibration.regions.pixel_threshold = 3
    given = ("--author", "ann", "--pixel-threshold", "calibrated", "--trained")
    assert run("models", "calibrate", "m/2", *given).exit_code == 0
    (request,) = fake.requests["UpdateCalibration"]
    assert request.WhichOneof("rule") == "trained"
    assert request.HasField("regions")
    assert not request.regions.HasField("pixel_threshold")
    result = run("models", "calibrate", "m/2", "--pixel-threshold", "high")
    assert result.exit_code == 2
    assert "--pixel-threshold high is not valid" in result.stderr


def test_card_shows_calibration_history(run: Run) -> None:
    shown = run("models", "show", "m").stdout
    assert "fixed manually" in shown
    assert "jobs/made" in shown
    assert "[too] many" in shown


def test_report_is_printed_or_written(run: Run, tmp_path: Path) -> None:
    page = run("models", "report", "m/1")
    assert page.stdout == "<!doctype html><p>models/m/versions/1 "
    written = tmp_path / "report.html"
    result = run("models", "report", "m/1", "--evaluation", "e", "-o", written)
    assert result.exit_code == 0
    assert written.read_text() == "<!doctype html><p>models/m/versions/1 jobs/e"


def test_card_shows_the_mask(run: Run, fake: FakeServer) -> None:
    assert "none; looks at all pixels" in run("models", "show", "m/2").stdout
    fake.card.mask.width, fake.card.mask.height, fake.card.mask.ignored_share = 4096, 256, 0.27
    shown = run("models", "show", "m/2").stdout
    assert "4096 x 256 px; ignores 27.0 % of the pixels" in shown
    assert "aligned" not in shown
    fake.card.mask.alignment.reference = "train/good/3.png"
    assert "frames are aligned to train/good/3.png" in " ".join(run("models", "show", "m/2").stdout.split())


def in_production(
    rule: ThresholdRule.ValueType = THRESHOLD_RULE_FIXED, *, target: float = 0.0
) -> ModelVersion:
    """Return version 1, which judges by threshold 14 that ann has set."""
    card = ModelVersion(name="models/m/versions/1", production=True)
    card.calibration.threshold, card.calibration.rule, card.calibration.author = 14.0, rule, "ann"
    card.calibration.target_false_reject_rate, card.calibration.revision = target, 2
    card.calibration.warranted_false_reject_rate = target or 0.25
    return card


LOST = CallError(
    grpc.StatusCode.FAILED_PRECONDITION,
    "models/m/versions/1 judges by threshold 14 (fixed by ann); choose (--keep-target) or (--own-target)",
    reason="CONFIRMATION_NEEDED",
)


def test_promotion_ends_with_what_the_version_judges_by(run: Run, fake: FakeServer) -> None:
    assert run("models", "promote", "m/2").stdout == (
        "models/m/versions/2 is in production and judges by threshold 22.250 (5 % false rejects asked "
        "for)\n"
    )
    (request,) = fake.requests["PromoteModel"]
    assert request.calibration == CALIBRATION_CHOICE_UNSPECIFIED


def test_threshold_of_a_person_is_not_replaced_without_a_choice(run: Run, fake: FakeServer) -> None:
    fake.production = in_production()
    fake.errors["PromoteModel"] = [LOST]
    refused = run("models", "promote", "m/2")
    assert refused.exit_code == 2
    assert "threshold 14 (fixed by ann); choose (--keep-target)" in refused.stderr
    assert "--yes" in refused.stderr
    kept = run("models", "promote", "m/2", "--keep-target", "--author", "bea")
    assert kept.exit_code == 0, kept.stderr
    assert kept.stdout.rstrip().endswith("(25 % false rejects asked for by bea)")
    assert "it replaces models/m/versions/1, which judged by threshold 14.000 (fixed by ann)" in kept.stderr
    for options in (["--yes"], ["--own-target"]):
        assert run("models", "promote", "m/2", *options).exit_code == 0
    choices = [each.calibration for each in fake.requests["PromoteModel"]]
    own = CALIBRATION_CHOICE_OWN
    assert choices == [CALIBRATION_CHOICE_UNSPECIFIED, CALIBRATION_CHOICE_KEEP_TARGET, own, own]
    assert fake.requests["PromoteModel"][1].author == "bea"


def test_terminal_is_asked_for_the_target(
    run: Run, fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blemish_client.cli.promotion.can_ask", lambda: True)
    fake.production = in_production(THRESHOLD_RULE_FALSE_REJECT_RATE, target=0.01)
    fake.is_calibrated = False
    fake.calibration_preview.after.threshold = 31.5
    given = ("models", "promote", "m/2", "--author", "bea")
    for answer, choice in (("keep", CALIBRATION_CHOICE_KEEP_TARGET), ("own", CALIBRATION_CHOICE_OWN)):
        asked = run(*given, stdin=f"what\n{answer}\n")
        assert asked.exit_code == 0, asked.stderr
        assert "carry its target over: 1 % false rejects, threshold 31.500" in asked.stderr
        assert fake.requests["PromoteModel"][-1].calibration == choice
    cancelled = run(*given, stdin="cancel\n")
    assert cancelled.exit_code == 1
    assert "nothing was promoted" in cancelled.stderr
    assert len(fake.requests["PromoteModel"]) == 2


def test_target_of_a_training_that_differs_is_named(run: Run, fake: FakeServer) -> None:
    fake.production = in_production(THRESHOLD_RULE_TRAINED, target=0.01)
    promoted = run("models", "promote", "m/2")
    assert promoted.exit_code == 0, promoted.stderr
    assert "blemish models calibrate m/2 --false-reject-rate 0.01" in promoted.stderr


def test_target_that_an_older_server_did_not_keep_is_reported(run: Run, fake: FakeServer) -> None:
    fake.production, fake.ignores_choices = in_production(), True
    result = run("models", "promote", "m/2", "--keep-target", "--author", "bea")
    assert result.exit_code == 2
    assert "too old to keep the target" in result.stderr


def test_versions_are_compared_after_the_missing_evaluations(run: Run, fake: FakeServer) -> None:
    fake.card.dataset = "datasets/d1"
    fake.card.metrics.dataset, fake.card.metrics.dataset_snapshot = "datasets/d1", "old"
    fake.watches = [[ended("jobs/made")]]
    shown = run("models", "compare", "m/3", "m/4")
    assert shown.exit_code == 0, shown.stderr
    assert len(fake.requests["CreateJob"]) == 2
    lines = [" ".join(line.split()) for line in shown.stdout.splitlines()]
    assert lines[0] == "m/3 at threshold 1.500 and m/4 at 2.500 on 20 good and 10 defective images of d1"
    assert "defective images detected 50.0 % (20.0 to 80.0) 90.0 % +40.0 % (+10.0 to +70.0)" in lines
    assert "AUPRO 0.810 (0.700 to 0.900) 0.830 +0.020" in lines
    assert "oil 5 40.0 % 100.0 % +60.0 %" in lines
    assert "beyond chance: m/4 detects more defective images" in lines
    assert lines[lines.index("found only by m/4: 1") + 1] == "test/crack/4.png 1.000 and 3.000"
    assert "good, but rejected only by m/3: none" in lines

    fake.card.evaluations.add(job="jobs/e").metrics.CopyFrom(fake.card.metrics)
    fake.card.evaluations[0].metrics.ClearField("dataset_snapshot")  # as the fake dataset
    assert run("models", "compare", "m/3", "m/4", "--dataset", "d1").exit_code == 0
    assert len(fake.requests["CreateJob"]) == 2
    card = run("models", "show", "m/3").stdout
    assert "evaluations" in card
    assert card.splitlines()[-2].split()[:2] == ["e", "d1,"]


def test_latest_version_is_deleted_and_calibrated_by_its_number(run: Run, fake: FakeServer) -> None:
    deleted = run("models", "delete", "m/latest", "--yes")
    assert "models/m/versions/3 was deleted" in deleted.stdout
    assert fake.requests["DeleteModel"][0].name == "models/m/versions/3"
    run("models", "calibrate", "m/latest", "--trained")
    assert fake.requests["UpdateCalibration"][0].name == "models/m/versions/3"


def test_report_of_an_evaluation_is_found_by_digits_or_as_the_latest(run: Run, fake: FakeServer) -> None:
    none = run("models", "report", "m/1", "--evaluation", "latest")
    assert none.exit_code == 2
    assert "models/m/versions/1 was not evaluated by a job" in none.stderr
    for job in ("jobs/58b5359e1cd14430", "jobs/58b70000aaaa1111"):
        fake.card.evaluations.add(job=job)
    for name in ("latest", "58b53", "58b7", "58b"):
        run("models", "report", "m/1", "--evaluation", name)
    jobs = [request.evaluation for request in fake.requests["GetReport"]]
    assert jobs == [
        f"jobs/{id}" for id in ("58b5359e1cd14430", "58b5359e1cd14430", "58b70000aaaa1111", "58b")
    ]


def test_json_before_a_subcommand_is_json(run: Run) -> None:
    (card,) = json_lines(run("models", "--json", "show", "m/1"))
    assert card["name"] == "models/m/versions/1"
