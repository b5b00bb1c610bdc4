# SPDX-License-Identifier: Apache-2.0

import time

import pytest
from tests.support.clock import FakeClock
from tests.support.job_reporter import RecordingReporter

from blemish_core.jobs.reporter import PhaseTimer, StoryReporter, ThrottledReporter, WarningCollector


def test_throttled_reporter_forwards_begin_and_end_but_not_every_step() -> None:
    target = RecordingReporter()
    reporter = ThrottledReporter(target)
    for done in range(1001):
        reporter.progress("features", done, 1000, "images")
    assert target.progressed[0] == ("features", 0, 1000)
    assert target.progressed[-1] == ("features", 1000, 1000)
    assert len(target.progressed) < 20
    reporter.progress("coreset", 0, 5, "picks")
    assert target.progressed[-1] == ("coreset", 0, 5)


def test_reporters_forward_warnings_and_commits() -> None:
    target = RecordingReporter()
    collector = WarningCollector(StoryReporter(ThrottledReporter(target), lambda line: None))
    collector.warn("an image is damaged")
    collector.commit()
    assert collector.warnings == target.warnings == ["an image is damaged"]
    assert target.commits == 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    clock = FakeClock()
    monkeypatch.setattr(time, "monotonic", clock.monotonic)
    return clock


def test_story_has_each_phase_with_its_time_and_all_warnings(clock: FakeClock) -> None:
    lines: list[str] = []
    target = RecordingReporter()
    story = StoryReporter(target, lines.append)
    story.announce("a bank of 90 patches")
    for done in range(4):
        story.progress("features", done, 3, "images")
        clock.now_s += 2
    story.warn("an image is dark")
    story.progress("coreset", 5, 9, "patches")
    clock.now_s += 1
    story.end_phase(" until the failure")
    assert lines == [
        "    0.0 s  plan: a bank of 90 patches",
        "    8.0 s  warning: an image is dark",
        "    8.0 s  features: 3 images, 8.0 s",
        "    9.0 s  coreset: 5 of 9 patches, 1.0 s until the failure",
    ]
    assert target.progressed[-1] == ("coreset", 5, 9)
    assert (target.warnings, target.plan) == (["an image is dark"], "a bank of 90 patches")


def test_timer_estimates_the_rest_from_the_rate_since_the_phase_began(clock: FakeClock) -> None:
    timer = PhaseTimer()
    begun = timer.measure("training", 100, 200, "steps")
    assert (begun.seconds, begun.remaining_s) == (0.0, None)
    clock.now_s += 10
    later = timer.measure("training", 120, 200, "steps")
    assert later.seconds == 10.0
    assert later.remaining_s == pytest.approx(40.0)


def test_timer_continues_a_phase_that_was_interrupted(clock: FakeClock) -> None:
    timer = PhaseTimer()
    timer.measure("embedding", 0, 10, "images")
    clock.now_s += 4
    timer.measure("waiting for Qdrant", 0, 0, "")
    clock.now_s += 60
    timer.measure("embedding", 2, 10, "images")
    clock.now_s += 2
    again = timer.measure("embedding", 3, 10, "images")
    assert again.seconds == 6.0
    assert again.remaining_s == pytest.approx(14.0)
