# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import qdrant_edge as qe

from blemish_local.qdrant.errors import BadRequest, EngineFailed, Missing
from blemish_local.qdrant.storage.engine import engine_errors

Call = Callable[[qe.EdgeShard], object]


@pytest.fixture
def shard(tmp_path: Path) -> Iterator[qe.EdgeShard]:
    config = qe.EdgeConfig(vectors=qe.EdgeVectorParams(2, qe.Distance.Dot))
    shard = qe.EdgeShard.create(str(tmp_path), config)
    yield shard
    shard.close()


def ask(vector: object, name: str | None = None) -> Call:
    query = qe.Query.Nearest(vector, name)  # type: ignore[arg-type]
    return lambda shard: shard.query(qe.QueryRequest(limit=1, query=query))


def order(shard: qe.EdgeShard, offset: int | None = None) -> object:
    return shard.scroll(qe.ScrollRequest(limit=1, offset=offset, order_by=qe.OrderBy("n")))


def facet(shard: qe.EdgeShard) -> object:
    return shard.facet(qe.FacetRequest("n", 1, True, None))


@pytest.mark.parametrize(
    "call",
    [
        ask([1.0]),
        ask([1.0, 2.0], "none"),
        ask(qe.SparseVector([0], [1.0])),
        ask([[1.0, 2.0]]),
        order,
        facet,
        lambda shard: order(shard, offset=1),
        lambda shard: shard.retrieve(["zz"], True, True),
        lambda shard: qe.FieldCondition("a[", match=qe.MatchValue(1)),
        lambda shard: qe.RangeDateTime(gte="yesterday"),
    ],
)
def test_mistake_of_the_caller_is_a_bad_request(shard: qe.EdgeShard, call: Call) -> None:
    with pytest.raises(BadRequest, match="engine rejected"), engine_errors():
        call(shard)


def test_absent_point_is_missing(shard: qe.EdgeShard) -> None:
    with pytest.raises(Missing, match="77"), engine_errors():
        shard.update(qe.UpdateOperation.set_payload([77], {"a": 1}, None))


def test_other_failure_is_a_failure_of_the_engine(shard: qe.EdgeShard, tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match="already contains"), engine_errors():
        config = qe.EdgeConfig(vectors=qe.EdgeVectorParams(2, qe.Distance.Dot))
        qe.EdgeShard.create(str(tmp_path), config)


def test_panic_is_translated(shard: qe.EdgeShard) -> None:
    with pytest.raises(EngineFailed, match="panicked"), engine_errors():
        # Vectors are checked for this reason: once logged, this prevents the shard from loading.
        nothing: list[list[float]] = [[]]
        shard.update(qe.UpdateOperation.upsert_points([qe.Point(1, nothing, {})]))


def test_other_exceptions_pass_unchanged() -> None:
    for error in (KeyError("x"), KeyboardInterrupt(), BadRequest("x")):
        with pytest.raises(type(error)), engine_errors():
            raise error
