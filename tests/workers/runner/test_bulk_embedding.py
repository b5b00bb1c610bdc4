# SPDX-License-Identifier: Apache-2.0
"""A bulk embedding is done part by part; one that fails is tried again alone."""

import hashlib
import threading
from typing import Any

import pytest
from tests.workers.conftest import EMBED, FakeSlot, MemoryStore

from blemish_core.datasets import DatasetImage
from blemish_core.jobs import messages
from blemish_core.jobs.attempt import Attempt
from blemish_core.jobs.record import Limits, Phase
from blemish_core.jobs.shards import Shard, ShardTracker, shards_for
from blemish_workers.runner.bulk_embedding import BulkEmbedding
from blemish_workers.runner.step_supervisor import StepFailed, StepSupervisor

PARTS = 3


@pytest.fixture
def attempt(store: MemoryStore) -> Attempt:
    begun = Attempt.begin(store, store.add(EMBED).id, "line-3:77")  # type: ignore[arg-type]
    assert begun is not None
    begun.divide(PARTS)
    return begun


def bulk(store: MemoryStore, attempt: Attempt, slot: FakeSlot) -> BulkEmbedding:
    watch: Any = StepSupervisor(
        store,  # type: ignore[arg-type]
        store.get(attempt.job.id),
        slot,  # type: ignore[arg-type]
        Limits(),
        threading.Event(),
    )
    board = ShardTracker(store, attempt.job.id, PARTS)  # type: ignore[arg-type]
    return BulkEmbedding(attempt.job.id, EMBED, board, watch)


def taken(slot: FakeSlot) -> list[int]:
    return [told.part for told in slot.child().told if isinstance(told, messages.Embed)]


def test_every_part_is_done_once_and_counted(store: MemoryStore, attempt: Attempt) -> None:
    half = messages.Reached(phase=Phase(name="embedding", done=2, total=4, unit="images"))
    slot = FakeSlot([messages.Done(points=4), half, messages.Done(points=5), messages.Done(points=0)])
    seen: list[tuple[int, int]] = []
    tell = attempt.progress
    attempt.progress = lambda phase: (seen.append((phase.done, phase.total)), tell(phase))[1]  # type: ignore[method-assign,func-returns-value]
    assert bulk(store, attempt, slot).see_through(attempt, images=10) == 9
    assert taken(slot) == [0, 1, 2]
    assert seen == [(0, 10), (4, 10), (6, 10), (9, 10), (9, 9)]


def test_what_an_earlier_attempt_did_is_not_done_again(store: MemoryStore, attempt: Attempt) -> None:
    store.set_shard_count(attempt.job.id, "1", 7)
    slot = FakeSlot([messages.Done(points=1), messages.Done(points=1)])
    assert bulk(store, attempt, slot).see_through(attempt, images=9) == 9
    assert taken(slot) == [0, 2]


def test_a_part_that_fails_is_tried_again_alone(store: MemoryStore, attempt: Attempt) -> None:
    slot = FakeSlot([messages.Failed(error="x"), *[messages.Done(points=3)] * 3])
    assert bulk(store, attempt, slot).see_through(attempt, images=9) == 9
    assert taken(slot) == [0, 0, 1, 2]


def test_a_part_that_always_fails_ends_the_job(store: MemoryStore, attempt: Attempt) -> None:
    slot = FakeSlot([messages.Done(points=3), *["was killed by SIGBUS"] * 3])
    with pytest.raises(StepFailed, match="part 2 of 3 failed 3 times, the last time: was killed by SIGBUS"):
        bulk(store, attempt, slot).see_through(attempt, images=9)


def test_helpers_take_what_nobody_is_at(store: MemoryStore, attempt: Attempt) -> None:
    store.leases[f"{attempt.job.id}.0"] = "somebody"
    slot = FakeSlot([messages.Done(points=3), messages.Done(points=3)])
    bulk(store, attempt, slot).help()
    assert taken(slot) == [1, 2]
    assert store.shard_counts(attempt.job.id) == {"1": 3, "2": 3}


def test_equal_contents_fall_to_one_part_and_all_parts_together_have_everything() -> None:
    hashes = [hashlib.sha256(str(number % 500).encode()).hexdigest() for number in range(999)]
    images = [
        DatasetImage("d", "tile", f"test/good/{number}.png", "test", "good", sha256, 64, 64)
        for number, sha256 in enumerate(hashes)
    ]
    of = shards_for(500)
    assert of == 2
    parts = [[image for image in images if Shard(number, of).has(image)] for number in range(of)]
    assert sum(map(len, parts)) == len(images)
    contents = [{image.sha256 for image in part} for part in parts]
    assert not contents[0] & contents[1]
    assert all(contents)
