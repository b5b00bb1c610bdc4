# SPDX-License-Identifier: Apache-2.0
import shutil
from pathlib import Path

import numpy as np
import pytest
from qdrant_client import grpc as pb
from structlog.testing import capture_logs

from blemish_local.qdrant.errors import (
    BadRequest,
    EngineFailed,
    Missing,
    NameTaken,
    NoSpace,
    StoreUnusable,
)
from blemish_local.qdrant.storage import store as store_module
from blemish_local.qdrant.storage.store import DELETE_BYTES, WRITE_BYTES, CollectionStore


def create_request(name: str, size: int = 4) -> pb.CreateCollection:
    params = pb.VectorParams(size=size, distance=pb.Distance.Cosine)
    return pb.CreateCollection(collection_name=name, vectors_config=pb.VectorsConfig(params=params))


def put(store: CollectionStore, name: str, vectors: np.ndarray) -> None:
    points = [
        pb.PointStruct(
            id=pb.PointId(num=number),
            vectors=pb.Vectors(vector=pb.Vector(dense=pb.DenseVector(data=vector))),
        )
        for number, vector in enumerate(vectors)
    ]
    store.find(name).upsert(pb.UpsertPoints(points=points))


def count(store: CollectionStore, name: str) -> int:
    return store.find(name).count(pb.CountPoints())


def alias(name: str, of: str) -> pb.AliasOperations:
    return pb.AliasOperations(create_alias=pb.CreateAlias(alias_name=name, collection_name=of))


def test_restart_keeps_points_and_aliases(tmp_path: Path) -> None:
    store = CollectionStore(tmp_path)
    store.create(create_request("a"))
    store.create(create_request("b"))
    store.change_aliases([alias("x", "a")])
    put(store, "x", np.eye(4))
    store.close()
    store = CollectionStore(tmp_path)
    assert store.names == ["a", "b"]
    assert (count(store, "x"), count(store, "a"), count(store, "b")) == (4, 4, 0)
    assert "x" in store
    assert "y" not in store
    store.close()


def test_full_disk_is_written_to_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CollectionStore(tmp_path)
    store.create(create_request("a"))
    put(store, "a", np.eye(4))
    size = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda path: size._replace(free=WRITE_BYTES - 1))
        with pytest.raises(NoSpace, match="No space left on device; free some"):
            store.find_to_write("a")
        with pytest.raises(NoSpace):
            store.create(create_request("b"))
        store.find_to_write("a", DELETE_BYTES)
        full.setattr(shutil, "disk_usage", lambda path: size._replace(free=0))
        with pytest.raises(NoSpace):
            store.find_to_write("a", DELETE_BYTES)
        with pytest.raises(NoSpace):
            store.change_aliases([alias("x", "a")])
        store.settle()
        assert count(store, "a") == 4
    store.find_to_write("a")
    store.close()


def test_store_that_is_opened_on_a_full_disk_waits_for_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CollectionStore(tmp_path)
    store.create(create_request("a"))
    store.close()
    size = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda path: size._replace(free=0))
        store = CollectionStore(tmp_path)
        assert not store.is_open
        for request in (lambda: count(store, "a"), lambda: store.names, lambda: store.aliases):
            with pytest.raises(NoSpace):
                request()
        store.settle()
    assert count(store, "a") == 0
    store.close()


def test_name_or_alias_is_taken_once(tmp_path: Path) -> None:
    store = CollectionStore(tmp_path)
    store.create(create_request("a"))
    store.change_aliases([alias("x", "a")])
    for name in ("a", "x"):
        with pytest.raises(NameTaken):
            store.create(create_request(name))
    with pytest.raises(Missing, match="'none'"):
        store.find("none")
    store.close()


def test_failed_creation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CollectionStore(tmp_path)
    with pytest.raises(BadRequest):
        store.create(create_request("a", size=0))

    def full(_path: Path, _data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(store_module, "atomic_write", full)
        store.create(create_request("a"))
    assert list((tmp_path / "collections").iterdir()) == []
    store.create(create_request("a"))
    store.close()


def test_dropping_a_collection_drops_its_aliases(tmp_path: Path) -> None:
    store = CollectionStore(tmp_path)
    store.create(create_request("a"))
    store.create(create_request("b"))
    store.change_aliases([alias("x", "a"), alias("y", "b")])
    assert store.drop("x") is False
    assert store.drop("a") is True
    assert store.drop("a") is False
    assert store.aliases == {"y": "b"}
    assert not (tmp_path / "collections" / "a").exists()
    store.create(create_request("a"))
    assert count(store, "a") == 0
    store.close()


def test_interrupted_removal_is_finished_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CollectionStore(tmp_path)
    store.create(create_request("a"))
    store.change_aliases([alias("x", "a")])

    def die(_folder: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", die)
        store.drop("a")
    store = CollectionStore(tmp_path)
    assert store.names == []
    assert store.aliases == {}
    assert list((tmp_path / "collections").iterdir()) == []
    store.close()


@pytest.mark.parametrize("left", [[], ["shard"], [".collection.pb.new"], ["shard", ".collection.pb.new"]])
def test_unfinished_collection_is_removed_at_the_start(tmp_path: Path, left: list[str]) -> None:
    store = CollectionStore(tmp_path)
    store.create(create_request("a"))
    store.create(create_request("half"))
    store.change_aliases([alias("x", "half"), alias("y", "a")])
    store.close()
    folder = tmp_path / "collections" / "half"
    (folder / "collection.pb").unlink()
    if "shard" not in left:
        shutil.rmtree(folder / "shard")
    for name in set(left) - {"shard"}:
        (folder / name).write_bytes(b"half")
    with capture_logs() as logs:
        store = CollectionStore(tmp_path)
    assert [entry["collection"] for entry in logs] == ["half"]
    assert store.names == ["a"]
    assert store.aliases == {"y": "a"}
    assert not folder.exists()
    store.close()


def test_foreign_folder_is_kept(tmp_path: Path) -> None:
    photo = tmp_path / "collections" / "holidays" / "1.jpg"
    photo.parent.mkdir(parents=True)
    photo.write_bytes(b"x")
    with pytest.raises(StoreUnusable, match=r"holidays is not a collection, .*'1\.jpg'.*--dir"):
        CollectionStore(tmp_path)
    assert photo.exists()


@pytest.mark.parametrize("damaged", ["collection.pb", "shard"])
def test_damaged_collection_is_reported(tmp_path: Path, damaged: str) -> None:
    store = CollectionStore(tmp_path)
    store.create(create_request("a"))
    store.close()
    path = tmp_path / "collections" / "a" / damaged
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.write_bytes(b"\xff\xff\xff")
    with pytest.raises(StoreUnusable, match=r"collections/a cannot be opened .*backup"):
        CollectionStore(tmp_path)


def test_rejected_write_changes_nothing(tmp_path: Path) -> None:
    store = CollectionStore(tmp_path)
    store.create(create_request("a"))
    good = pb.PointStruct(id=pb.PointId(num=1), vectors=pb.Vectors(vector=pb.Vector(data=[1, 0, 0, 0])))
    bad = pb.PointStruct(id=pb.PointId(num=2), vectors=pb.Vectors(vector=pb.Vector(data=[1])))
    with pytest.raises(BadRequest):
        store.find("a").upsert(pb.UpsertPoints(points=[good, bad]))
    assert count(store, "a") == 0
    store.close()


@pytest.mark.parametrize(("value", "hits"), [(True, 2), (False, 1)])
def test_boolean_matches_booleans_only(tmp_path: Path, value: bool, hits: int) -> None:
    store = CollectionStore(tmp_path)
    store.create(create_request("a"))
    put(store, "a", np.eye(4))
    for number, truth in enumerate((True, True, False, 1)):
        chosen = pb.PointsSelector(points=pb.PointsIdsList(ids=[pb.PointId(num=number)]))
        kind = "bool_value" if isinstance(truth, bool) else "integer_value"
        payload = {"ok": pb.Value(**{kind: truth})}  # type: ignore[arg-type]  # one of the two
        store.find("a").set_payload(pb.SetPayloadPoints(points_selector=chosen, payload=payload))
    match = pb.FieldCondition(key="ok", match=pb.Match(boolean=value))
    where = pb.Filter(must=[pb.Condition(field=match)])
    assert store.find("a").count(pb.CountPoints(filter=where)) == hits
    store.close()


def test_failed_settling_of_a_changed_collection_is_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CollectionStore(tmp_path)
    store.create(create_request("a"))
    store.create(create_request("b"))
    put(store, "b", np.eye(4))
    assert [store.find(name).unsettled is not None for name in "ab"] == [False, True]

    def fail() -> None:
        raise EngineFailed("no space")

    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(store.find("b"), "settle", fail)
        patch.setattr(store.find("a"), "settle", lambda: pytest.fail("a is unchanged"))
        store.settle()
    assert logs[0]["collection"] == "b"
    store.settle()
    assert store.find("b").unsettled is None
    store.close()


def test_collection_settles_after_a_pause_or_at_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    store = CollectionStore(tmp_path)
    store.create(create_request("a"))

    def search() -> pb.QueryPoints:
        ask = pb.VectorInput(dense=pb.DenseVector(data=[1, 0, 0, 0]))
        return pb.QueryPoints(query=pb.Query(nearest=ask))

    def waits() -> bool:
        store.settle(quiet_s=2, max_age_s=60, max_points=400)
        return store.find("a").unsettled is not None

    for _ in range(60):
        put(store, "a", np.eye(4))
        assert waits()
        now_s += 1
    put(store, "a", np.eye(4))
    assert not waits(), "a minute of writes without a pause"
    put(store, "a", np.eye(4))
    now_s += 1
    assert waits()
    now_s += 1
    assert not waits(), "two seconds without a write"
    put(store, "a", np.eye(4))
    for _ in range(3):
        now_s += 1
        store.find("a").query(search())
        assert waits(), "a search restarts the pause"
    now_s += 2
    assert not waits()
    for _ in range(99):
        put(store, "a", np.eye(4))
    assert waits()
    put(store, "a", np.eye(4))
    assert not waits(), "400 points"
    store.close()


def test_quantized_search_finds_the_true_neighbours(tmp_path: Path) -> None:
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    print(f"seed {seed}")
    random = np.random.default_rng(seed)
    # Just over the size from which the engine quantizes: 2,800 x 1,024 floats are 11 MB.
    stored = random.standard_normal((2_800, 1_024), np.float32)
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    store = CollectionStore(tmp_path)
    store.create(create_request("a", size=1_024))
    put(store, "a", stored)
    assert store.find("a").describe().indexed_vectors_count == 0
    store.settle()
    assert store.find("a").describe().indexed_vectors_count == len(stored)
    asks = stored[:20] + random.standard_normal((20, 1_024), np.float32) * 0.02
    requests = [
        pb.QueryPoints(query=pb.Query(nearest=pb.VectorInput(dense=pb.DenseVector(data=ask))))
        for ask in asks
    ]
    found = [store.find("a").query(request) for request in requests]
    truth = np.argsort(-(stored @ asks.T), axis=0)[:10].T
    hits = sum(
        len({point.id.num for point in points} & set(best.tolist()))
        for points, best in zip(found, truth, strict=True)
    )
    assert hits >= 0.99 * truth.size, f"seed {seed}"
    scores = [point.score for point in found[0]]
    best = np.sort(stored @ (asks[0] / np.linalg.norm(asks[0])))[::-1][:10]
    np.testing.assert_allclose(scores, best, atol=1e-3, err_msg=f"seed {seed}")
    store.close()


def test_strict_mode_is_kept_without_effect(tmp_path: Path) -> None:
    strict = pb.StrictModeConfig(enabled=True, max_query_limit=3, unindexed_filtering_retrieve=False)
    request = create_request("a")
    request.strict_mode_config.CopyFrom(strict)
    store = CollectionStore(tmp_path)
    store.create(request)
    put(store, "a", np.eye(4))
    store.close()
    reopened = CollectionStore(tmp_path)
    assert reopened.find("a").describe().config.strict_mode_config == strict
    assert len(reopened.find("a").scroll(pb.ScrollPoints(limit=4))[0]) == 4
    reopened.close()
