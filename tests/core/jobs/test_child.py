# SPDX-License-Identifier: Apache-2.0

import io
import time
from typing import Any

import pytest

from blemish_core.jobs import child as module
from blemish_core.jobs import steps, work
from blemish_core.jobs.child import Child, Pace


class Place:
    device = "cpu"


class Enough(Exception):
    """Ends the loop that a child never leaves by itself."""


def test_an_idle_child_gives_back_the_model_of_its_last_embedding(monkeypatch: pytest.MonkeyPatch) -> None:
    def forget() -> None:
        raise Enough

    monkeypatch.setattr(module, "_IDLE_S", 0.01)
    monkeypatch.setattr(work, "forget_model", forget)
    monkeypatch.setattr(Child, "_listen", lambda self: None)
    monkeypatch.setattr("blemish_core.jobs.child.signal.signal", lambda *_: None)
    place: Any = Place()
    said = io.BytesIO()
    with pytest.raises(Enough):
        Child(place, io.BytesIO(), said).run()
    assert steps.SAID.validate_json(said.getvalue()) == steps.Ready(device="cpu")


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
