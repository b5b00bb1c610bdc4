# SPDX-License-Identifier: Apache-2.0

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from blemish_core.imaging.decode import ImageLimits
from blemish_core.models.store import ModelStore
from blemish_core.platform.errors import Corrupt, NotFound
from blemish_core.platform.names import ModelRef
from blemish_core.runtimes.choice import RuntimeChoice
from blemish_server.scoring import model_cache
from blemish_server.scoring.batcher import BatchingPolicy
from blemish_server.scoring.model_cache import ModelCache

A, B, C = (ModelRef(name, 1) for name in "abc")
NAME, NEXT = ModelRef("a"), ModelRef("a", 2)


class Loading:
    """Stands for the store: counts loads, and holds them up while ``gate`` is closed."""

    def __init__(self) -> None:
        self.loads: list[str] = []
        self.looks = 0
        self.warmed = 0
        self.gate = threading.Event()
        self.gate.set()
        self.corrupt = False
        self.newest = 1
        self.gone = {"gone"}

    def load(self, folder: Path, device: str, choice: RuntimeChoice) -> tuple[Any, Any]:
        self.loads.append(f"{folder.parent.name}{folder.name}")
        self.gate.wait(5)
        if self.corrupt:
            raise Corrupt("changed")
        manifest = SimpleNamespace(calibration=None, calibration_under=lambda runtime: None)
        detector = SimpleNamespace(
            inspect=self.inspect,
            prepare=lambda image: image,
            input_size=16,
            runtime=SimpleNamespace(name=choice.name),
            bytes=100,
        )
        return manifest, detector

    def inspect(self, items: list[Any]) -> list[Any]:
        self.warmed += 1
        return items

    def resolve(self, ref: ModelRef) -> ModelRef:
        self.looks += 1
        if ref.model in self.gone:
            raise NotFound("there is no such model")
        return ref if ref.version else ModelRef(ref.model, self.newest)


@pytest.fixture
def loading(monkeypatch: pytest.MonkeyPatch) -> Loading:
    stand_in = Loading()
    monkeypatch.setattr(model_cache, "load_detector", stand_in.load)
    monkeypatch.setattr(ModelStore, "resolve", lambda _, ref: stand_in.resolve(ref))
    monkeypatch.setattr(ModelStore, "manifest", lambda _, ref: SimpleNamespace(size_bytes=100))
    return stand_in


def models(tmp_path: Path, *, capacity: int = 2, lanes: int = 1) -> ModelCache:
    return ModelCache(
        ModelStore(tmp_path),
        ImageLimits(),
        device="cpu",
        runtime=RuntimeChoice("openvino"),
        policy=BatchingPolicy(max_batch_size=1, lanes=lanes),
        budget_bytes=capacity * 100,
    )


async def touch(kept: ModelCache, *refs: ModelRef) -> None:
    for ref in refs:
        async with kept.use(ref):
            pass


async def test_the_least_recently_used_makes_room(loading: Loading, tmp_path: Path) -> None:
    kept = models(tmp_path)
    await touch(kept, A, B, A, C)
    assert list(kept.runtimes.items()) == [(str(C), "openvino"), (str(A), "openvino")]
    assert kept.bytes == 200
    await touch(kept, A, B)
    assert loading.loads == ["a1", "b1", "c1", "b1"]
    kept.close()


async def test_one_in_use_stays_and_makes_room_afterwards(loading: Loading, tmp_path: Path) -> None:
    kept = models(tmp_path, capacity=1)
    async with kept.use(A), kept.use(B):
        async with kept.use(C):
            assert len(kept.runtimes) == 3
        assert set(kept.runtimes) == {str(A), str(B)}
    assert len(kept.runtimes) == 1
    kept.close()


async def test_one_larger_than_the_budget_is_served_alone(loading: Loading, tmp_path: Path) -> None:
    kept = models(tmp_path, capacity=0)
    await touch(kept, A, A, B, B)
    assert list(kept.runtimes) == [str(B)]
    assert loading.loads == ["a1", "b1"]
    kept.close()


async def test_every_lane_is_warm_before_the_first_use(loading: Loading, tmp_path: Path) -> None:
    kept = models(tmp_path, lanes=3)
    async with kept.use(A):
        assert loading.warmed == 3
    kept.close()


async def test_what_is_loaded_ahead_stays_within_the_budget(loading: Loading, tmp_path: Path) -> None:
    kept = models(tmp_path)
    await kept.warm([A, B, C])
    assert set(kept.runtimes) == {str(A), str(B)}
    kept.close()


async def test_one_that_cannot_be_loaded_ahead_is_no_reason_not_to_serve(
    loading: Loading, tmp_path: Path
) -> None:
    kept = models(tmp_path)
    loading.corrupt = True
    await kept.warm([A, B])
    assert kept.runtimes == {}
    assert loading.loads == ["a1", "b1"]
    kept.close()


async def test_many_who_ask_at_once_wait_for_one_load(loading: Loading, tmp_path: Path) -> None:
    kept = models(tmp_path)
    loading.gate.clear()
    asking = [asyncio.create_task(touch(kept, A)) for _ in range(20)]
    await asyncio.sleep(0.05)
    asking[0].cancel()  # whoever asked first leaves; the others are served all the same
    loading.gate.set()
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert loading.loads == ["a1"]
    assert loading.looks == 1
    assert [type(result) for result in results] == [asyncio.CancelledError] + 19 * [type(None)]
    kept.close()


async def test_a_load_that_fails_is_tried_again(loading: Loading, tmp_path: Path) -> None:
    kept = models(tmp_path)
    loading.corrupt = True
    with pytest.raises(Corrupt):
        await touch(kept, A)
    loading.corrupt = False
    await touch(kept, A)
    assert loading.loads == ["a1", "a1"]
    kept.close()


async def test_what_is_not_there_is_looked_for_each_time(loading: Loading, tmp_path: Path) -> None:
    kept = models(tmp_path)
    for _ in range(2):
        with pytest.raises(NotFound):
            await touch(kept, ModelRef("gone"))
    assert loading.looks == 2
    kept.close()


async def test_what_another_server_removed_is_let_go(
    loading: Loading, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModelStore, "has", lambda _, fixed: True)
    kept = models(tmp_path)
    await touch(kept, A, B)
    loading.gone.add("a")
    with pytest.raises(NotFound):
        await touch(kept, NAME)
    assert set(kept.runtimes) == {str(A), str(B)}, "not in production, but there"
    monkeypatch.setattr(ModelStore, "has", lambda _, fixed: fixed == B)
    with pytest.raises(NotFound):
        await touch(kept, NAME)
    assert set(kept.runtimes) == {str(B)}
    loading.gone.remove("a")
    await touch(kept, A)
    assert loading.loads == ["a1", "b1", "a1"]
    kept.close()


async def test_a_name_is_not_looked_up_for_every_frame(loading: Loading, tmp_path: Path) -> None:
    kept = models(tmp_path)
    await touch(kept, *[NAME] * 50)
    assert loading.looks <= 2
    kept.close()


async def test_the_version_before_serves_until_the_new_one_is_warm(
    loading: Loading, tmp_path: Path
) -> None:
    kept = models(tmp_path)
    await touch(kept, NAME)
    loading.newest = 2
    loading.gate.clear()
    kept.forget_meanings("a")
    for _ in range(3):
        async with kept.use(NAME) as model:
            assert model.ref == A
    loading.gate.set()
    await kept.load(NEXT)
    kept.forget_meanings("a")
    async with kept.use(NAME) as model:
        assert model.ref == NEXT
    assert loading.loads == ["a1", "a2"]
    kept.close()


async def test_a_new_version_that_does_not_load_leaves_the_one_before(
    loading: Loading, tmp_path: Path
) -> None:
    kept = models(tmp_path)
    await touch(kept, NAME)
    loading.newest, loading.corrupt = 2, True
    for _ in range(5):
        kept.forget_meanings("a")
        async with kept.use(NAME) as model:
            assert model.ref == A
        await asyncio.sleep(0.05)
    assert loading.loads == ["a1", "a2"]  # and not for every frame
    kept.close()


async def test_a_promotion_counts_from_the_next_frame_on(loading: Loading, tmp_path: Path) -> None:
    kept = models(tmp_path)
    await touch(kept, NAME)
    loading.newest = 2
    await kept.load(NEXT)
    async with kept.use(NAME) as model:
        assert model.ref == A  # taken for granted
    kept.forget_meanings("a")
    async with kept.use(NAME) as model:
        assert model.ref == NEXT
    kept.close()


async def test_what_was_removed_is_let_go_unless_it_is_in_use(loading: Loading, tmp_path: Path) -> None:
    kept = models(tmp_path, capacity=9)
    await touch(kept, A, NEXT, B, C)
    kept.forget(NEXT)
    assert set(kept.runtimes) == {str(A), str(B), str(C)}
    kept.forget(ModelRef("a"))
    assert set(kept.runtimes) == {str(B), str(C)}
    async with kept.use(B):
        kept.forget(B)
        kept.forget(C)
        assert set(kept.runtimes) == {str(B)}
    kept.close()


async def test_nothing_is_loaded_once_it_is_closed(loading: Loading, tmp_path: Path) -> None:
    kept = models(tmp_path)
    loading.gate.clear()
    load = asyncio.create_task(kept.load(A))
    while not loading.loads:
        await asyncio.sleep(0.001)
    kept.close()
    loading.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await load
    assert kept.runtimes == {}
