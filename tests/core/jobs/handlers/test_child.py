# SPDX-License-Identifier: Apache-2.0

import io
import time
from typing import Any

import pytest

from blemish_core.jobs import messages
from blemish_core.jobs.handlers import child as module
from blemish_core.jobs.handlers import train as work
from blemish_core.jobs.handlers import warmup
from blemish_core.jobs.handlers.child import Child, Pace
from blemish_core.jobs.record import EvaluateSpec


class Place:
    device = "cpu"


class Enough(Exception):
    """Ends the loop that a child never leaves by itself."""


class Idle:
    """A child that is told nothing, until it has been idle ``times``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
        self.did: list[str] = []
        self._times = times
        monkeypatch.setattr(module, "_IDLE_S", 0.01)
        monkeypatch.setattr(work, "forget_model", self._forget)
        monkeypatch.setattr(warmup, "load", lambda place: self.did.append("load"))
        monkeypatch.setattr(Child, "_listen", lambda self: None)
        monkeypatch.setattr("blemish_core.jobs.handlers.child.signal.signal", lambda *_: None)
        place: Any = Place()
        self.said = io.BytesIO()
        self.child = Child(place, io.BytesIO(), self.said)

    def run(self) -> None:
        with pytest.raises(Enough):
            self.child.run()

    def _forget(self) -> None:
        if self.did.count("forget") == self._times:
            raise Enough
        self.did.append("forget")


def test_an_idle_child_gives_back_the_model_of_its_last_embedding(monkeypatch: pytest.MonkeyPatch) -> None:
    idle = Idle(monkeypatch, times=1)
    idle.run()
    assert "forget" in idle.did
    assert messages.FROM_CHILD.validate_json(idle.said.getvalue()) == messages.Ready(device="cpu")


def test_an_idle_child_loads_what_jobs_need_ahead_of_the_first_and_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    idle = Idle(monkeypatch, times=3)
    idle.run()
    assert idle.did == ["forget", "load", "forget", "forget"]


def test_a_child_that_has_had_a_job_loads_nothing_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    idle = Idle(monkeypatch, times=2)
    monkeypatch.setattr(Child, "_take", lambda self, step: idle.did.append("job"))
    idle.child._messages.put(messages.Evaluate(job="one", spec=EvaluateSpec(model="m/1", dataset="tile")))
    idle.run()
    assert idle.did == ["job", "forget", "forget"]


def test_a_phase_is_told_at_its_begin_and_its_end_and_not_at_every_step() -> None:
    told: list[Any] = []
    pace = Pace(told.append)
    for done in range(1001):
        pace("features", done, 1000, "images")
    assert [each.phase.done for each in (told[0], told[-1])] == [0, 1000]
    assert len(told) < 20
    time.sleep(0.01)
    pace("coreset", 0, 5, "picks")
    assert told[-1].phase.name == "coreset"
    assert told[-1].phase.remaining_s is None
