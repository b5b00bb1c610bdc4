# SPDX-License-Identifier: Apache-2.0

from pathlib import Path

import numpy as np
import pytest
from tests.support.qdrant_twin import in_memory_qdrant

from blemish_core.jobs.record import EmbedSpec
from blemish_core.models.store import ModelStore
from blemish_core.platform.errors import NotFound, Unavailable
from blemish_core.platform.names import ModelRef
from blemish_core.search.item import CAMERA, Item, item_id
from blemish_core.search.search_index import SearchIndex
from blemish_server.search.index_migration import IndexMigrator

ONE, TWO = ModelRef("tile", 1), ModelRef("tile", 2)

pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning")


class FakeJobs:
    """Records the jobs created; fails with ``error`` if it is set."""

    def __init__(self) -> None:
        self.created: list[tuple[str, str]] = []
        self.error: Exception | None = None

    def __call__(self, spec: EmbedSpec, request_id: str) -> None:
        if self.error:
            raise self.error
        content = "(kept frames)" if spec.kept_frames else spec.dataset
        assert (spec.model, request_id) == (str(TWO), f"migrate {TWO} {content}")
        self.created.append((spec.model, content))


class ProductionModels(ModelStore):
    """A store with the given versions in production."""

    def __init__(self, *production: ModelRef) -> None:
        super().__init__(Path("unused"))
        self._production = list(production)

    def in_production(self) -> list[ModelRef]:
        return self._production


@pytest.fixture
def jobs() -> FakeJobs:
    return FakeJobs()


@pytest.fixture
def index() -> SearchIndex:
    index = SearchIndex(in_memory_qdrant())
    index.prepare(ONE, 4)
    for dataset in ("a", "b"):
        embed(index, ONE, dataset)
    index.publish(ONE)
    return index


def embed(index: SearchIndex, version: ModelRef, dataset: str) -> None:
    item = Item(item_id(version, dataset), dataset, 1.0, 0.5, False, dataset=dataset)
    index.put(version, [item], np.ones((1, 4), np.float32))


def migrator(index: SearchIndex, jobs: FakeJobs, production: ModelRef) -> IndexMigrator:
    return IndexMigrator(ProductionModels(production), index, jobs)


def test_first_index_of_a_model_serves_at_once(index: SearchIndex, jobs: FakeJobs) -> None:
    migrator(index, jobs, ONE).check()
    assert (index.serving_version("tile"), jobs.created) == (ONE, [])


def test_promoted_version_gets_an_index_and_then_serves(index: SearchIndex, jobs: FakeJobs) -> None:
    migrator(index, jobs, ONE).check()
    migration = migrator(index, jobs, TWO)
    for _ in range(3):
        migration.check()
    assert sorted(jobs.created) == [(str(TWO), "a"), (str(TWO), "b")]
    index.prepare(TWO, 4)
    embed(index, TWO, "a")
    index.publish(TWO)
    migration.check()
    assert index.serving_version("tile") == ONE
    assert index.resolve(TWO, TWO) == TWO, "a fixed version is served by its own index, complete or not"
    embed(index, TWO, "b")
    migration.check()
    assert index.serving_version("tile") == TWO
    assert len(jobs.created) == 2


def test_search_changes_no_index_and_uses_the_previous_one_until_the_next_check(
    index: SearchIndex, jobs: FakeJobs
) -> None:
    migrator(index, jobs, ONE).check()
    index.prepare(TWO, 4)
    for dataset in ("a", "b"):
        embed(index, TWO, dataset)
    index.publish(TWO)
    for _ in range(2):
        assert index.resolve(ModelRef("tile"), TWO) == ONE
    migrator(index, jobs, TWO).check()
    assert index.resolve(ModelRef("tile"), TWO) == TWO
    assert jobs.created == []


def test_kept_frames_are_migrated(index: SearchIndex, jobs: FakeJobs) -> None:
    frame = Item(item_id(ONE, "f"), "f", 1.0, 0.5, False, source=CAMERA, camera="line-3")
    index.put(ONE, [frame], np.ones((1, 4), np.float32))
    migrator(index, jobs, ONE).check()
    migration = migrator(index, jobs, TWO)
    migration.check()
    migration.check()
    assert sorted(content for _, content in jobs.created) == ["(kept frames)", "a", "b"]
    index.prepare(TWO, 4)
    for dataset in ("a", "b"):
        embed(index, TWO, dataset)
    index.publish(TWO)
    own = Item(item_id(TWO, "own"), "own", 1.0, 0.5, False, source=CAMERA)
    index.put(TWO, [own], np.ones((1, 4), np.float32))
    migration.check()
    assert index.serving_version("tile") == ONE, "frames that TWO scored do not replace the earlier ones"
    again = Item(item_id(TWO, "f"), "f", 2.0, 0.5, False, source=CAMERA)
    index.put(TWO, [again], np.ones((1, 4), np.float32), job="j")
    index.mark_frames(TWO)
    migration.check()
    assert index.serving_version("tile") == TWO
    assert index.item(TWO, again.id).camera == "line-3"


def test_rejected_job_stops_no_check(index: SearchIndex, jobs: FakeJobs) -> None:
    migrator(index, jobs, ONE).check()
    jobs.error = NotFound("there is no datasets/a")
    migration = migrator(index, jobs, TWO)
    migration.check()
    migration.check()
    assert index.serving_version("tile") == ONE


def test_job_is_requested_again_after_redis_was_unavailable(index: SearchIndex, jobs: FakeJobs) -> None:
    migrator(index, jobs, ONE).check()
    migration, jobs.error = migrator(index, jobs, TWO), Unavailable("away", dependency="redis")
    with pytest.raises(Unavailable):
        migration.check()
    jobs.error = None
    migration.check()
    assert sorted(jobs.created) == [(str(TWO), "a"), (str(TWO), "b")]
