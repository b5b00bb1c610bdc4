# SPDX-License-Identifier: Apache-2.0
"""What goes wrong before a child is asked ends the job as well, with its reason."""

from typing import Any

import pytest
from tests.workers.conftest import EMBED, FakeSlot, MemoryStore

from blemish_core.errors import BlemishError, Corrupt, NotFound, NotPossibleYet
from blemish_core.jobs.record import EmbedSpec, Job, JobState, Limits
from blemish_workers.foreman import Foreman


class BrokenPremises:
    def __init__(self, error: BlemishError) -> None:
        self._error = error

    def count_to_embed(self, spec: EmbedSpec) -> int:
        raise self._error

    def discard_staged(self, job: Job) -> None: ...
    def discard_all(self, job: Job) -> None: ...
    def forget_checkpoint(self, job: Job) -> None: ...


@pytest.mark.parametrize("kind", [Corrupt, NotFound, NotPossibleYet])
def test_a_dataset_that_cannot_be_read_fails_the_job(store: MemoryStore, kind: type[BlemishError]) -> None:
    premises = BrokenPremises(kind("the dataset is damaged"))
    rest: Any = (store, premises, "line-3:77", Limits(), lambda job: None, lambda job, at_most: None)
    foreman = Foreman(*rest)
    slot: Any = FakeSlot()
    job = store.add(EMBED)
    foreman.see_through(job.id, slot)
    ended = store.get(job.id)
    assert (ended.state, ended.error, ended.attempt) == (JobState.FAILED, "the dataset is damaged", 1)
    assert store.leases == {}
