# SPDX-License-Identifier: Apache-2.0

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from blemish_core.batching import BatchingPolicy
from blemish_core.errors import Corrupt, Overloaded
from blemish_core.models import ModelStore
from blemish_core.names import ModelRef
from blemish_core.runtimes.choice import RuntimeChoice
from blemish_server import loaded
from blemish_server.loaded import LoadedModels

A, B, C = (ModelRef(name, 1) for name in "abc")


class Loading:
    """Stands for the bundles on disk; counts loads, and holds them up while ``gate`` is closed."""

    def __init__(self) -> None:
        self.loads: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.corrupt = False

    def __call__(self, folder: Path, device: str, choice: RuntimeChoice) -> tuple[Any, Any]:
        self.loads.append(folder.parent.name)
        self.gate.wait(5)
        if self.corrupt:
            raise Corrupt("changed")
        runtime = SimpleNamespace(name=choice.name)
        manifest = SimpleNamespace(calibration=None, calibration_under=lambda runtime: None)
        return manifest, SimpleNamespace(inspect=lambda items: list(items), runtime=runtime)


@pytest.fixture
def loading(monkeypatch: pytest.MonkeyPatch) -> Loading:
    stand_in = Loading()
    monkeypatch.setattr(loaded, "load_detector", stand_in)
    monkeypatch.setattr(ModelStore, "resolve", lambda _, ref: ref)
    return stand_in


def models(tmp_path: Path, *, capacity: int = 2, max_queued: int = 4) -> LoadedModels:
    policy = BatchingPolicy(max_queued=max_queued)
    return LoadedModels(
        ModelStore(tmp_path),
        device="cpu",
        runtime=RuntimeChoice("openvino"),
        policy=policy,
        capacity=capacity,
    )


async def touch(kept: LoadedModels, *refs: ModelRef) -> None:
    for ref in refs:
        async with kept.use(ref):
            pass


async def test_the_least_recently_used_makes_room(loading: Loading, tmp_path: Path) -> None:
    kept = models(tmp_path)
    await touch(kept, A, B, A, C)
    assert list(kept.runtimes.items()) == [(str(C), "openvino"), (str(A), "openvino")]
    await touch(kept, A, B)
    assert loading.loads == ["a", "b", "c", "b"]
    kept.close()


async def test_one_in_use_stays(loading: Loading, tmp_path: Path) -> None:
    kept = models(tmp_path, capacity=1)
    async with kept.use(A) as model:
        await touch(kept, B, C)
        assert str(A) in kept.runtimes
        assert not model.loop.done()
    kept.close()


async def test_many_who_ask_at_once_wait_for_one_load(loading: Loading, tmp_path: Path) -> None:
    kept = models(tmp_path, max_queued=64)
    loading.gate.clear()
    asking = [asyncio.create_task(touch(kept, A)) for _ in range(20)]
    await asyncio.sleep(0.05)
    asking[0].cancel()  # whoever asked first leaves; the others are served all the same
    loading.gate.set()
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert loading.loads == ["a"]
    assert [type(result) for result in results] == [asyncio.CancelledError] + 19 * [type(None)]
    kept.close()


async def test_a_load_that_fails_is_tried_again(loading: Loading, tmp_path: Path) -> None:
    kept = models(tmp_path)
    loading.corrupt = True
    with pytest.raises(Corrupt):
        await touch(kept, A)
    loading.corrupt = False
    await touch(kept, A)
    assert loading.loads == ["a", "a"]
    kept.close()


async def test_more_than_may_wait_are_refused_at_the_door(loading: Loading, tmp_path: Path) -> None:
    kept = models(tmp_path, max_queued=1)
    async with kept.use(A):
        with pytest.raises(Overloaded, match="BLEMISH_MAX_QUEUED"):
            await touch(kept, A)
        await touch(kept, B)
    await touch(kept, A)
    kept.close()
