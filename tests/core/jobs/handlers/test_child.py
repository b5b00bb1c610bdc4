# SPDX-License-Identifier: Apache-2.0
"""A child process, driven through its pipes in a thread."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from tests.support.job_context import make_job_context

from blemish_core.jobs import messages
from blemish_core.jobs.context import JobContext
from blemish_core.jobs.handlers.child import Child
from blemish_core.jobs.handlers.detector_cache import DetectorCache
from blemish_core.jobs.messages import FROM_CHILD, FromChild, ToChild
from blemish_core.jobs.record import EvaluateSpec, TrainSpec

TIMEOUT_S = 30
NEVER_S = 3600.0


class RecordingCache(DetectorCache):
    """A cache that counts how often it is cleared."""

    def __init__(self, context: JobContext) -> None:
        super().__init__(context)
        self.cleared = threading.Semaphore(0)

    def clear(self) -> None:
        super().clear()
        self.cleared.release()


class RunningChild:
    """A child in a thread, with messages in its pipe, and the worker's ends of its pipes."""

    def __init__(self, folder: Path, idle_s: float, messages: Sequence[ToChild]) -> None:
        context = make_job_context(folder)
        self.cache = RecordingCache(context)
        self.warm_ups = self.measurements = 0
        self.warmed_up = threading.Event()
        self.disconnected = threading.Event()
        (requests, to_child), (from_child, replies) = os.pipe(), os.pipe()
        self._to_child, self._from_child = os.fdopen(to_child, "wb"), os.fdopen(from_child, "rb")
        self._ends_of_child = os.fdopen(requests, "rb"), os.fdopen(replies, "wb")
        for message in messages:
            self.send(message)
        child = Child(
            context,
            *self._ends_of_child,
            on_disconnect=self.disconnected.set,
            detectors=self.cache,
            warm_up=self._warm_up,
            measure=self._measure,
            idle_s=idle_s,
        )
        self._thread = threading.Thread(target=child.run, daemon=True)
        self._thread.start()

    def send(self, message: ToChild) -> None:
        self._to_child.write(message.model_dump_json().encode() + b"\n")
        self._to_child.flush()

    def receive(self) -> FromChild:
        return FROM_CHILD.validate_json(self._from_child.readline())

    def disconnect(self) -> bool:
        """Close the pipe to the child; return True if its loop ends."""
        self._to_child.close()
        self._thread.join(TIMEOUT_S)
        for end in (*self._ends_of_child, self._from_child):
            end.close()
        return not self._thread.is_alive()

    def _measure(self, context: JobContext) -> None:
        self.measurements += 1

    def _warm_up(self, context: JobContext) -> None:
        self.warm_ups += 1
        self.warmed_up.set()


Start = Callable[..., RunningChild]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a child that is idle after a time in seconds; check at the end that it stops."""
    children: list[RunningChild] = []

    def started(idle_s: float, *messages: ToChild) -> RunningChild:
        children.append(RunningChild(tmp_path, idle_s, messages))
        return children[-1]

    yield started
    for child in children:
        assert child.disconnect()
        assert child.disconnected.is_set()


def test_child_reports_its_device_first(start: Start) -> None:
    assert start(NEVER_S).receive() == messages.Ready(device="cpu")


def test_failed_step_reports_its_error_and_the_next_step_runs(start: Start) -> None:
    child = start(NEVER_S)
    child.receive()
    child.send(messages.Train(job="one", spec=TrainSpec(dataset="tile", model_id="tile")))
    child.send(messages.Evaluate(job="two", spec=EvaluateSpec(model="models/tile", dataset="tile")))
    first, second = child.receive(), child.receive()
    assert isinstance(first, messages.Failed)
    assert "datasets/tile" in first.error
    assert isinstance(second, messages.Failed)
    assert "model 'tile'" in second.error


def test_log_of_a_failed_step_has_the_cause_before_the_traceback(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    child = start(NEVER_S)
    child.receive()
    child.send(messages.Train(job="one", spec=TrainSpec(dataset="tile", model_id="tile")))
    assert isinstance(child.receive(), messages.Failed)
    lines = capsys.readouterr().err.splitlines()
    (cause,) = [number for number, line in enumerate(lines) if "s  failed: " in line]
    assert "there is no datasets/tile; list the existing ones" in lines[cause]
    assert cause < lines.index("Traceback (most recent call last):")


def test_idle_child_warms_up_once(start: Start) -> None:
    child = start(0.01)
    assert child.warmed_up.wait(TIMEOUT_S)
    for _ in range(3):
        assert child.cache.cleared.acquire(timeout=TIMEOUT_S)
    assert child.warm_ups == 1
    assert child.measurements == 1


def test_idle_child_releases_its_model_without_warm_up_after_a_step(start: Start) -> None:
    step = messages.Evaluate(job="one", spec=EvaluateSpec(model="models/tile", dataset="tile"))
    child = start(0.5, step)
    assert isinstance(child.receive(), messages.Ready)
    assert isinstance(child.receive(), messages.Failed)
    for _ in range(3):
        assert child.cache.cleared.acquire(timeout=TIMEOUT_S)
    assert child.warm_ups == 0


def test_speed_is_measured_once_after_a_step(start: Start) -> None:
    step = messages.Evaluate(job="one", spec=EvaluateSpec(model="models/tile", dataset="tile"))
    child = start(0.5, step)
    for _ in range(3):
        assert child.cache.cleared.acquire(timeout=TIMEOUT_S)
    assert child.measurements == 1
