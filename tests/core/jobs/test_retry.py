# SPDX-License-Identifier: Apache-2.0

import pytest

from blemish_core.jobs import retry
from blemish_core.jobs.retry import retry_until_available
from blemish_core.platform.errors import JobCancelled, Unavailable


@pytest.fixture(autouse=True)
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "INTERVAL_S", 0.0)


def unavailable_times(times: int) -> list[Unavailable]:
    return [Unavailable("Qdrant does not answer", dependency="qdrant")] * times


def test_result_is_returned_once_the_dependency_answers() -> None:
    failures, retries = unavailable_times(2), []

    def call() -> str:
        if failures:
            raise failures.pop()
        return "answer"

    assert retry_until_available(call, on_retry=lambda: retries.append(len(failures))) == "answer"
    assert retries == [1, 0]


def test_unavailable_is_raised_after_the_timeout() -> None:
    def call() -> None:
        raise Unavailable("Qdrant does not answer", dependency="qdrant")

    with pytest.raises(Unavailable):
        retry_until_available(call, timeout_s=0.0)


def test_retries_stop_when_the_callback_raises() -> None:
    def call() -> None:
        raise Unavailable("Qdrant does not answer", dependency="qdrant")

    def cancel() -> None:
        raise JobCancelled("jobs/a was cancelled")

    with pytest.raises(JobCancelled):
        retry_until_available(call, on_retry=cancel)
