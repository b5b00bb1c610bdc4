# SPDX-License-Identifier: Apache-2.0
from tests.support.cli import Run, json_lines
from tests.support.fake_server import FakeServer

from blemish.v1.job_pb2 import (
    JOB_STATE_FAILED,
    JOB_STATE_QUEUED,
    JOB_STATE_RUNNING,
    Job,
    JobEvent,
)


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
    assert [line["text"] for line in json_lines(run("jobs", "logs", "made", "--json"))] == fake.lines
    assert fake.requests["WatchJob"][0].log


def test_log_of_a_failed_job_begins_with_the_cause(run: Run, fake: FakeServer) -> None:
    fake.job = Job(name="jobs/made", state=JOB_STATE_FAILED, error="train/good is empty; upload images")
    fake.lines = ["    0.1 s  check: 3 images, 0.1 s", "Traceback (most recent call last):"]
    assert run("jobs", "logs", "made").stdout.splitlines() == [
        "jobs/made failed: train/good is empty; upload images",
        *fake.lines,
    ]


def test_entries_of_the_log_in_json_are_printed_for_people(run: Run, fake: FakeServer) -> None:
    fake.lines = [
        '{"step": "train", "event": "step started", "job": "a", "level": "info", '
        '"timestamp": "2026-01-02T03:04:05.000000Z"}',
        '{"event": "no time"}',
        "[1, 2]",
    ]
    first, *others = run("jobs", "logs", "made").stdout.splitlines()
    assert first.endswith(" step started step=train")
    assert "2026-01-0" in first
    assert others == fake.lines[1:]


def test_job_is_shown_with_all_state_changes(run: Run, fake: FakeServer) -> None:
    history = [
        JobEvent(state=JOB_STATE_QUEUED),
        JobEvent(state=JOB_STATE_RUNNING, attempt=1, worker="line-3:77"),
        JobEvent(state=JOB_STATE_FAILED, attempt=1, worker="line-3:77", reason="the disk is full"),
    ]
    fake.job = Job(name="jobs/made", state=JOB_STATE_FAILED, history=history, warnings=["few images"])
    shown = run("jobs", "show", "made").stdout
    assert all(word in shown for word in ("line-3:77", "the disk is full", "warning: few images"))
    assert shown.index("queued") < shown.index("running") < shown.rindex("failed")


def test_jobs_are_filtered_by_state(run: Run, fake: FakeServer) -> None:
    run("jobs", "list", "--state", "running", "--limit", 1)
    (request,) = fake.requests["ListJobs"]
    assert list(request.states) == [JOB_STATE_RUNNING]


def test_job_is_named_by_its_first_digits_or_as_the_latest(run: Run, fake: FakeServer) -> None:
    names = ("jobs/abcd000000000001", "jobs/abcd100000000002", "jobs/ef01000000000003")
    fake.jobs = [Job(name=name, state=JOB_STATE_RUNNING) for name in names]
    for typed, name in (("latest", names[0]), ("abcd1", names[1]), ("jobs/ef01", names[2])):
        run("jobs", "cancel", typed)
        assert fake.requests["CancelJob"][-1].name == name
    assert run("jobs", "cancel", "ffff").exit_code == 0
    assert fake.requests["CancelJob"][-1].name == "jobs/ffff"
    several = run("jobs", "cancel", "abcd")
    assert several.exit_code == 2
    assert "abcd fits 2 jobs" in several.stderr


def test_options_before_a_subcommand_reach_it_or_are_refused(run: Run) -> None:
    (shown,) = json_lines(run("jobs", "--json", "show", "made"))
    assert shown["name"] == "jobs/made"
    refused = run("jobs", "--live", "show", "made")
    assert (refused.exit_code, "--live is not an option of `blemish jobs show`" in refused.stderr) == (
        2,
        True,
    )
