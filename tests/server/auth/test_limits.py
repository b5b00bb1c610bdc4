# SPDX-License-Identifier: Apache-2.0
import pytest

from blemish.v1.dataset_pb2 import UploadImagesRequest
from blemish_core.platform.errors import LimitExceeded
from blemish_server.auth.limits import NO_LIMITS, CallerLimiter, CallerLimits


class Clock:
    """A clock that tests set."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limiter(clock: Clock) -> CallerLimiter:
    return CallerLimiter(clock=clock)


def admitted(limiter: CallerLimiter, limits: CallerLimits, calls: int, name: str = "press-7") -> int:
    """Return the number of calls, one after the other, that are admitted."""
    count = 0
    for _ in range(calls):
        try:
            with limiter.call(name, limits):
                count += 1
        except LimitExceeded:
            pass
    return count


@pytest.mark.parametrize(("per_second", "in_ten_s"), [(10.0, 111), (1.0, 12), (0.2, 3)])
def test_rate_holds_over_time(
    limiter: CallerLimiter, clock: Clock, per_second: float, in_ten_s: int
) -> None:
    limits, total = CallerLimits(requests_per_second=per_second), 0
    for _ in range(1001):
        total += admitted(limiter, limits, 3)
        clock.now_s += 0.01
    assert abs(total - in_ten_s) <= 1


def test_delay_of_a_refusal_is_enough(limiter: CallerLimiter, clock: Clock) -> None:
    limits = CallerLimits(requests_per_second=0.2)
    assert admitted(limiter, limits, 2) == 1
    with pytest.raises(LimitExceeded) as refused, limiter.call("press-7", limits):
        pass
    clock.now_s += refused.value.retry_after_s
    assert admitted(limiter, limits, 1) == 1


def test_large_request_uses_up_the_bytes_of_later_ones(limiter: CallerLimiter, clock: Clock) -> None:
    limits = CallerLimits(bytes_per_second=1000)
    request = UploadImagesRequest(chunk=bytes(4997))
    with limiter.call("press-7", limits) as usage:
        assert usage is not None
        usage.charge(request)
    clock.now_s += request.ByteSize() / 1000 - 1.1
    with (
        pytest.raises(LimitExceeded, match="bytes_per_second = 1000; send less"),
        limiter.call("press-7", limits),
    ):
        pass
    clock.now_s += 0.2
    assert admitted(limiter, limits, 1) == 1


def test_callers_have_limits_of_their_own(limiter: CallerLimiter) -> None:
    limits = CallerLimits(requests_per_second=1)
    assert admitted(limiter, limits, 9) == admitted(limiter, limits, 9, name="press-8") == 2
    assert admitted(limiter, NO_LIMITS, 9, name="mes") == 9


def test_failed_call_is_no_longer_in_progress(limiter: CallerLimiter) -> None:
    limits = CallerLimits(streams=1)
    for _ in range(3):
        with pytest.raises(RuntimeError), limiter.call("press-7", limits):
            raise RuntimeError
    with limiter.call("press-7", limits):
        assert admitted(limiter, limits, 1) == 0


def test_raised_limit_takes_effect_at_once(limiter: CallerLimiter) -> None:
    with limiter.call("press-7", CallerLimits(streams=1)):
        assert admitted(limiter, CallerLimits(streams=2), 1) == 1


def test_queued_jobs_are_limited(limiter: CallerLimiter) -> None:
    limits = CallerLimits(queued_jobs=2)
    limiter.refuse_job("mes", limits, 1)
    limiter.refuse_job("mes", NO_LIMITS, 100)
    with pytest.raises(LimitExceeded, match="mes has reached its limit queued_jobs = 2"):
        limiter.refuse_job("mes", limits, 2)


def test_refusals_are_counted_by_limit(clock: Clock) -> None:
    refused: list[str] = []
    limiter = CallerLimiter(refused.append, clock=clock)
    assert admitted(limiter, CallerLimits(requests_per_second=1), 4) == 2
    assert refused == ["requests_per_second"] * 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"streams": 0},
        {"requests_per_second": 0},
        {"requests_per_second": float("inf")},
        {"bytes_per_second": -1},
        {"queued_jobs": 0},
        {"frames": 1},
    ],
)
def test_impossible_limits_are_rejected(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        CallerLimits.model_validate(wrong)


def test_refusal_can_be_asked_for_before_the_call_begins(limiter: CallerLimiter, clock: Clock) -> None:
    limits = CallerLimits(streams=1)
    assert limiter.refusal("press-7", NO_LIMITS) is None
    assert limiter.refusal("press-7", limits) is None
    with limiter.call("press-7", limits):
        refused = limiter.refusal("press-7", limits)
        assert refused is not None and "streams = 1" in str(refused)
        assert limiter.refusal("press-8", limits) is None
    assert limiter.refusal("press-7", limits) is None
