# SPDX-License-Identifier: Apache-2.0

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient

from blemish_core.jobs.record import EmbedSpec
from blemish_core.platform.errors import NotFound, Unavailable
from blemish_core.platform.names import ModelRef
from blemish_core.search.item import CAMERA, Item, item_id
from blemish_core.search.search_index import SearchIndex
from blemish_server.search.index_migration import IndexMigrator

ONE, TWO = ModelRef("tile", 1), ModelRef("tile", 2)

pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning")


class Jobs:
    """Notes what is asked for; refuses as told."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.error: Exception | None = None

    def __call__(self, spec: EmbedSpec, request_id: str) -> None:
        if self.error:
            raise self.error
        what = "(kept frames)" if spec.kept_frames else spec.dataset
        assert (spec.model, request_id) == (str(TWO), f"migrate {TWO} {what}")
        self.asked.append((spec.model, what))


@pytest.fixture
def index() -> SearchIndex:
    index = SearchIndex(QdrantClient(":memory:"))
    index.prepare(ONE, 4)
    for dataset in ("a", "b"):
        embed(index, ONE, dataset)
    index.publish(ONE)
    return index


def embed(index: SearchIndex, version: ModelRef, dataset: str) -> None:
    item = Item(item_id(version, dataset), dataset, 1.0, 0.5, False, dataset=dataset)
    index.put(version, [item], np.ones((1, 4), np.float32))


def migration(index: SearchIndex, jobs: Jobs, production: ModelRef) -> IndexMigrator:
    models: Any = SimpleNamespace(in_production=lambda: [production])
    return IndexMigrator(models, index, jobs)


def test_the_first_index_of_a_model_answers_at_once(index: SearchIndex) -> None:
    jobs = Jobs()
    migration(index, jobs, ONE).look()
    assert (index.serving_version("tile"), jobs.asked) == (ONE, [])


def test_a_version_without_an_index_gets_one_and_then_the_searches(index: SearchIndex) -> None:
    jobs = Jobs()
    migration(index, jobs, ONE).look()
    moving = migration(index, jobs, TWO)
    for _ in range(3):
        moving.look()
    assert sorted(jobs.asked) == [(str(TWO), "a"), (str(TWO), "b")]
    index.prepare(TWO, 4)
    embed(index, TWO, "a")
    index.publish(TWO)
    moving.look()
    assert index.serving_version("tile") == ONE
    assert index.serving(ModelRef("tile"), TWO) == ONE
    assert index.serving(TWO, TWO) == TWO, "asked for, its own index answers as far as it is"
    embed(index, TWO, "b")
    moving.look()
    assert index.serving_version("tile") == TWO
    assert len(jobs.asked) == 2


def test_frames_that_were_kept_come_too(index: SearchIndex) -> None:
    frame = Item(item_id(ONE, "f"), "f", 1.0, 0.5, False, source=CAMERA, camera="line-3")
    index.put(ONE, [frame], np.ones((1, 4), np.float32))
    jobs = Jobs()
    migration(index, jobs, ONE).look()
    moving = migration(index, jobs, TWO)
    moving.look()
    moving.look()
    assert sorted(what for _, what in jobs.asked) == ["(kept frames)", "a", "b"]
    index.prepare(TWO, 4)
    for dataset in ("a", "b"):
        embed(index, TWO, dataset)
    index.publish(TWO)
    own = Item(item_id(TWO, "own"), "own", 1.0, 0.5, False, source=CAMERA)
    index.put(TWO, [own], np.ones((1, 4), np.float32))
    moving.look()
    assert index.serving_version("tile") == ONE, "frames of its own are not those before"
    again = Item(item_id(TWO, "f"), "f", 2.0, 0.5, False, source=CAMERA)
    index.put(TWO, [again], np.ones((1, 4), np.float32), job="j")
    index.mark_frames(TWO)
    moving.look()
    assert index.serving_version("tile") == TWO
    assert index.item(TWO, again.id).camera == "line-3"


def test_a_dataset_that_is_gone_holds_nothing_up(index: SearchIndex) -> None:
    jobs = Jobs()
    migration(index, jobs, ONE).look()
    jobs.error = NotFound("there is no datasets/a")
    moving = migration(index, jobs, TWO)
    moving.look()
    moving.look()
    assert index.serving_version("tile") == ONE


def test_what_could_not_be_asked_for_is_asked_for_again(index: SearchIndex) -> None:
    jobs = Jobs()
    migration(index, jobs, ONE).look()
    moving, jobs.error = migration(index, jobs, TWO), Unavailable("away", dependency="redis")
    with pytest.raises(Unavailable):
        moving.look()
    jobs.error = None
    moving.look()
    assert sorted(jobs.asked) == [(str(TWO), "a"), (str(TWO), "b")]
