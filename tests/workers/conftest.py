# SPDX-License-Identifier: Apache-2.0

import pytest
from tests.support.job_store import TRAIN, FakeJobStore

from blemish_core.jobs.attempt import Attempt

WORKER = "line-3:77"


@pytest.fixture
def store() -> FakeJobStore:
    return FakeJobStore()


@pytest.fixture
def attempt(store: FakeJobStore) -> Attempt:
    """Begin an attempt at a training job."""
    begun = Attempt.begin(store, store.add(TRAIN).id, WORKER, redis_timeout_s=0.0)
    assert begun is not None
    return begun
