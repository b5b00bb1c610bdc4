# SPDX-License-Identifier: Apache-2.0

from itertools import product

import pytest

from blemish_core.jobs.record import MOVES, EmbedSpec, Job, JobState, Phase, now


def job(state: JobState = JobState.QUEUED) -> Job:
    return Job(id="a", spec=EmbedSpec(model="models/m/versions/1", dataset="d"), state=state, created=now())


@pytest.mark.parametrize(("before", "after"), list(product(JobState, JobState)))
def test_only_legal_moves_are_made(before: JobState, after: JobState) -> None:
    if after in MOVES[before]:
        moved = job(before).moved(after)
        assert moved.state is after
        assert (moved.ended is not None) == after.ended
    else:
        with pytest.raises(ValueError, match="cannot become"):
            job(before).moved(after)


def test_the_last_states_are_last() -> None:
    assert {state for state in JobState if state.ended} == {
        JobState.SUCCEEDED,
        JobState.FAILED,
        JobState.CANCELLED,
    }


def test_a_phase_is_replaced_in_its_place() -> None:
    record = job().at(Phase(name="a", done=1)).at(Phase(name="b")).at(Phase(name="a", done=2))
    assert [(phase.name, phase.done) for phase in record.phases] == [("a", 2), ("b", 0)]


def test_a_record_survives_json() -> None:
    record = job().at(Phase(name="a", done=1, total=2, unit="images"))
    assert Job.model_validate_json(record.model_dump_json()) == record


def test_every_move_is_in_the_history() -> None:
    record = job().moved(JobState.RUNNING, attempt=1, worker="line-3:77")
    record = record.moved(JobState.RUNNING, attempt=2, worker="line-4:5", why="the first died")
    record = record.moved(JobState.FAILED, worker="line-4:5", error="the disk is full")
    assert [(event.to, event.attempt, event.worker, event.why) for event in record.history] == [
        (JobState.RUNNING, 1, "line-3:77", ""),
        (JobState.RUNNING, 2, "line-4:5", "the first died"),
        (JobState.FAILED, 2, "line-4:5", "the disk is full"),
    ]
    assert sorted(event.at for event in record.history) == [event.at for event in record.history]
