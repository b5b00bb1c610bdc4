# SPDX-License-Identifier: Apache-2.0

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blemish_core.jobs.record import TRANSITIONS, EmbedSpec, Job, JobState, Phase, now


def job(state: JobState = JobState.QUEUED) -> Job:
    return Job(id="a", spec=EmbedSpec(model="models/m/versions/1", dataset="d"), state=state, created=now())


@pytest.mark.parametrize(("before", "after"), list(product(JobState, JobState)))
def test_only_legal_moves_are_made(before: JobState, after: JobState) -> None:
    if after in TRANSITIONS[before]:
        moved = job(before).with_state(after)
        assert moved.state is after
        assert (moved.ended is not None) == after.ended
    else:
        with pytest.raises(ValueError, match="cannot become"):
            job(before).with_state(after)


def test_the_last_states_are_last() -> None:
    assert {state for state in JobState if state.ended} == {
        JobState.SUCCEEDED,
        JobState.FAILED,
        JobState.CANCELLED,
    }


def test_a_phase_is_replaced_in_its_place() -> None:
    record = (
        job()
        .with_phase(Phase(name="a", done=1))
        .with_phase(Phase(name="b"))
        .with_phase(Phase(name="a", done=2))
    )
    assert [(phase.name, phase.done) for phase in record.phases] == [("a", 2), ("b", 0)]


def test_a_record_survives_json() -> None:
    record = job().with_phase(Phase(name="a", done=1, total=2, unit="images"))
    assert Job.model_validate_json(record.model_dump_json()) == record


def test_every_move_is_in_the_history() -> None:
    record = job().with_state(JobState.RUNNING, attempt=1, worker="line-3:77")
    record = record.with_state(JobState.RUNNING, attempt=2, worker="line-4:5", why="the first died")
    record = record.with_state(JobState.FAILED, worker="line-4:5", error="the disk is full")
    assert [(event.to, event.attempt, event.worker, event.why) for event in record.history] == [
        (JobState.RUNNING, 1, "line-3:77", ""),
        (JobState.RUNNING, 2, "line-4:5", "the first died"),
        (JobState.FAILED, 2, "line-4:5", "the disk is full"),
    ]
    assert sorted(event.at for event in record.history) == [event.at for event in record.history]


def test_the_outlook_weighs_phases_by_the_job_before_and_goes_by_the_pace_of_this_one() -> None:
    """Twice as slow so far: taken to stay so."""
    record = job(JobState.RUNNING).model_copy(update={"expected": {"a": 10.0, "b": 30.0, "c": 60.0}})
    record = record.with_phase(Phase(name="a", done=5, total=5, seconds=20.0))
    record = record.with_phase(Phase(name="b", done=1, total=4, seconds=15.0, remaining_s=45.0))
    outlook = record.progress_estimate
    assert outlook is not None
    assert outlook.weights == pytest.approx({"a": 0.1, "b": 0.3, "c": 0.6})
    assert outlook.done == pytest.approx(35 / 200)
    assert outlook.remaining_s == pytest.approx(165)


def test_without_a_job_before_there_is_no_outlook() -> None:
    running = job(JobState.RUNNING).with_phase(
        Phase(name="a", done=1, total=2, seconds=1.0, remaining_s=1.0)
    )
    assert running.progress_estimate is None
    assert (
        running.model_copy(update={"expected": {"a": 2.0}, "state": JobState.QUEUED}).progress_estimate
        is None
    )


@given(
    expected=st.dictionaries(st.sampled_from("abcd"), st.floats(0, 1e6), max_size=4),
    phases=st.lists(
        st.builds(
            Phase,
            name=st.sampled_from("abcde"),
            done=st.integers(0, 9),
            total=st.integers(0, 9),
            seconds=st.floats(0, 1e6),
            remaining_s=st.none() | st.floats(0, 1e6),
        ),
        max_size=5,
    ),
)
def test_an_outlook_is_always_possible(expected: dict[str, float], phases: list[Phase]) -> None:
    record = job(JobState.RUNNING).model_copy(update={"expected": expected})
    for phase in phases:
        record = record.with_phase(phase)
    if (outlook := record.progress_estimate) is not None:
        assert 0 <= outlook.done <= 1 + 1e-9
        assert outlook.remaining_s >= -1e-6
        assert sum(outlook.weights.values()) == pytest.approx(1)
