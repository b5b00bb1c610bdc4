# SPDX-License-Identifier: Apache-2.0

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blemish_core.jobs.record import TRANSITIONS, EmbedSpec, Job, JobState, Phase, now


def job(state: JobState = JobState.QUEUED) -> Job:
    return Job(id="a", spec=EmbedSpec(model="models/m/versions/1", dataset="d"), state=state, created=now())


@pytest.mark.parametrize(("before", "after"), list(product(JobState, JobState)))
def test_only_allowed_transitions_are_made(before: JobState, after: JobState) -> None:
    if after in TRANSITIONS[before]:
        moved = job(before).with_state(after)
        assert moved.state is after
        assert (moved.ended is not None) == after.ended
    else:
        with pytest.raises(ValueError, match="cannot become"):
            job(before).with_state(after)


def test_final_states_have_no_transitions() -> None:
    assert {state for state in JobState if state.ended} == {
        JobState.SUCCEEDED,
        JobState.FAILED,
        JobState.CANCELLED,
    }


def test_phase_is_replaced_in_its_place() -> None:
    record = (
        job()
        .with_phase(Phase(name="a", done=1))
        .with_phase(Phase(name="b"))
        .with_phase(Phase(name="a", done=2))
    )
    assert [(phase.name, phase.done) for phase in record.phases] == [("a", 2), ("b", 0)]


def test_record_survives_json() -> None:
    record = job().with_phase(Phase(name="a", done=1, total=2, unit="images"))
    assert Job.model_validate_json(record.model_dump_json()) == record


def test_history_holds_every_transition() -> None:
    record = job().with_state(JobState.RUNNING, attempt=1, worker="line-3:77")
    record = record.with_state(JobState.RUNNING, attempt=2, worker="line-4:5", why="the first died")
    record = record.with_state(JobState.FAILED, worker="line-4:5", error="the disk is full")
    assert [(event.to, event.attempt, event.worker, event.why) for event in record.history] == [
        (JobState.RUNNING, 1, "line-3:77", ""),
        (JobState.RUNNING, 2, "line-4:5", "the first died"),
        (JobState.FAILED, 2, "line-4:5", "the disk is full"),
    ]
    assert sorted(event.at for event in record.history) == [event.at for event in record.history]


def test_estimate_scales_the_phases_of_the_previous_job_by_rate() -> None:
    """The measured phases took twice as long, so the unmeasured phase counts double too."""
    record = job(JobState.RUNNING).model_copy(update={"expected": {"a": 10.0, "b": 30.0, "c": 60.0}})
    record = record.with_phase(Phase(name="a", done=5, total=5, seconds=20.0))
    record = record.with_phase(Phase(name="b", done=1, total=4, seconds=15.0, remaining_s=45.0))
    estimate = record.progress_estimate
    assert estimate is not None
    assert estimate.weights == pytest.approx({"a": 0.1, "b": 0.3, "c": 0.6})
    assert estimate.done == pytest.approx(35 / 200)
    assert estimate.remaining_s == pytest.approx(165)


def test_first_job_of_its_pattern_has_no_estimate() -> None:
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
def test_estimate_is_consistent_for_any_phases(expected: dict[str, float], phases: list[Phase]) -> None:
    record = job(JobState.RUNNING).model_copy(update={"expected": expected})
    for phase in phases:
        record = record.with_phase(phase)
    if (estimate := record.progress_estimate) is not None:
        assert 0 <= estimate.done <= 1 + 1e-9
        assert estimate.remaining_s >= -1e-6
        assert sum(estimate.weights.values()) == pytest.approx(1)
