# SPDX-License-Identifier: Apache-2.0
"""Loading, unloading and name resolution of the model cache."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.support.inspections import make_manifest
from tests.support.moving_part import STILL, seen, texture

from blemish_core.imaging.alignment import Motion
from blemish_core.imaging.decode import ImageLimits
from blemish_core.imaging.frame_mask import FrameMask, MaskedFrame
from blemish_core.imaging.image_input import ImageInput, RawLayout, Region
from blemish_core.imaging.white_level import WhiteLevel
from blemish_core.models.bundle import Manifest
from blemish_core.models.store import ModelStore
from blemish_core.platform.errors import Corrupt, InvalidImage, NotFound
from blemish_core.platform.names import ModelRef
from blemish_core.platform.threads import has_all_cores
from blemish_core.runtimes.choice import RuntimeChoice
from blemish_server.scoring import model_cache
from blemish_server.scoring.batcher import BatchingPolicy
from blemish_server.scoring.inspection import QueueOptions, ScoringRequest
from blemish_server.scoring.model_cache import ModelCache

A, B, C = (ModelRef(name, 1) for name in "abc")
NAME, NEXT = ModelRef("a"), ModelRef("a", 2)


@dataclass
class FakeRuntime:
    """A runtime with a name."""

    name: str


class FakeDetector:
    """A detector that returns its inputs, and counts its passes."""

    name = "fake"
    input_size = 16
    frame = None
    bytes = 100
    mask: FrameMask | None = None

    def __init__(self, runtime: str) -> None:
        self.runtime = FakeRuntime(runtime)
        self.passes = 0
        self.passes_on_all_cores = 0
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def prepare(self, image: NDArray[np.uint8], region: Region | None = None) -> NDArray[np.uint8]:
        if self.mask is not None:
            return self.prepare_masked(self.mask.apply(image, region))
        return image

    def prepare_masked(self, frame: MaskedFrame) -> NDArray[np.uint8]:
        return frame.pixels

    def predict(self, inputs: Sequence[object]) -> Sequence[object]:
        self.passes += 1
        self.passes_on_all_cores += has_all_cores()
        if not self.gate.is_set():
            self.entered.set()
        assert self.gate.wait(10)
        return inputs


class FakeStore:
    """The versions in a store. It counts loads, and holds them up while ``gate`` is closed."""

    def __init__(self) -> None:
        self.loads: list[str] = []
        self.lookups = 0
        self.detectors: list[FakeDetector] = []
        self.gate = threading.Event()
        self.gate.set()
        self.corrupt = False
        self.level: WhiteLevel | None = None
        self.newest = 1
        self.gone = {"gone"}

    def load(self, folder: Path, device: str, choice: RuntimeChoice) -> tuple[Manifest, FakeDetector]:
        self.loads.append(f"{folder.parent.name}{folder.name}")
        self.gate.wait(5)
        if self.corrupt:
            raise Corrupt("changed")
        self.detectors.append(FakeDetector(choice.name))
        manifest = make_manifest(folder.parent.name, int(folder.name))
        return manifest.model_copy(update={"white_level": self.level}), self.detectors[-1]

    def resolve(self, ref: ModelRef) -> ModelRef:
        self.lookups += 1
        if ref.model in self.gone:
            raise NotFound("there is no such model")
        return ref if ref.version else ModelRef(ref.model, self.newest)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> FakeStore:
    store = FakeStore()
    monkeypatch.setattr(model_cache, "load_for_serving", store.load)
    monkeypatch.setattr(ModelStore, "resolve", lambda _, ref: store.resolve(ref))
    monkeypatch.setattr(ModelStore, "manifest", lambda _, ref: make_manifest(ref.model))
    return store


def make_cache(tmp_path: Path, *, capacity: int = 2, lanes: int = 1) -> ModelCache:
    return ModelCache(
        ModelStore(tmp_path),
        ImageLimits(),
        device="cpu",
        runtime=RuntimeChoice("openvino"),
        policy=BatchingPolicy(max_batch_size=1, lanes=lanes),
        budget_bytes=capacity * 100,
    )


async def touch(cache: ModelCache, *refs: ModelRef) -> None:
    for ref in refs:
        async with cache.use(ref):
            pass


async def test_least_recently_used_version_is_unloaded(store: FakeStore, tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    await touch(cache, A, B, A, C)
    assert list(cache.runtimes.items()) == [(str(C), "openvino"), (str(A), "openvino")]
    assert cache.bytes == 200
    await touch(cache, A, B)
    assert store.loads == ["a1", "b1", "c1", "b1"]
    cache.close()


async def test_version_in_use_is_unloaded_only_afterwards(store: FakeStore, tmp_path: Path) -> None:
    cache = make_cache(tmp_path, capacity=1)
    async with cache.use(A), cache.use(B):
        async with cache.use(C):
            assert len(cache.runtimes) == 3
        assert set(cache.runtimes) == {str(A), str(B)}
    assert len(cache.runtimes) == 1
    cache.close()


async def test_version_larger_than_the_budget_is_loaded_alone(store: FakeStore, tmp_path: Path) -> None:
    cache = make_cache(tmp_path, capacity=0)
    await touch(cache, A, A, B, B)
    assert list(cache.runtimes) == [str(B)]
    assert store.loads == ["a1", "b1"]
    cache.close()


async def test_every_lane_is_warm_before_the_first_use(store: FakeStore, tmp_path: Path) -> None:
    cache = make_cache(tmp_path, lanes=3)
    async with cache.use(A):
        assert store.detectors[0].passes == 4
        assert store.detectors[0].passes_on_all_cores == 1
    cache.close()


async def test_image_takes_all_cores_while_no_other_is_scored(store: FakeStore, tmp_path: Path) -> None:
    cache = make_cache(tmp_path, lanes=2)
    grey = ImageInput(bytes(16 * 16), RawLayout("Mono8", 16, 16))
    requests = [ScoringRequest.of(grey, ref, QueueOptions("a")) for ref in (A, B)]
    async with cache.use(A) as first, cache.use(B) as other:
        lone = store.detectors[0].passes_on_all_cores
        store.detectors[0].gate.clear()
        waits = asyncio.create_task(first.batcher.submit(requests[0]))
        assert await asyncio.to_thread(store.detectors[0].entered.wait, 10)
        assert store.detectors[0].passes_on_all_cores == lone + 1
        shared = store.detectors[1].passes_on_all_cores
        await other.batcher.submit(requests[1])
        assert store.detectors[1].passes_on_all_cores == shared
        store.detectors[0].gate.set()
        await waits
    cache.close()


async def test_preloaded_versions_stay_within_the_budget(store: FakeStore, tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    await cache.warm_up([A, B, C])
    assert set(cache.runtimes) == {str(A), str(B)}
    cache.close()


async def test_preload_continues_after_a_version_that_cannot_be_loaded(
    store: FakeStore, tmp_path: Path
) -> None:
    cache = make_cache(tmp_path)
    store.corrupt = True
    await cache.warm_up([A, B])
    assert cache.runtimes == {}
    assert store.loads == ["a1", "b1"]
    cache.close()


async def test_concurrent_calls_share_one_load_and_one_lookup(store: FakeStore, tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    store.gate.clear()
    calls = [asyncio.create_task(touch(cache, A)) for _ in range(20)]
    await asyncio.sleep(0.05)
    calls[0].cancel()  # the first caller leaves; the others are served
    store.gate.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert store.loads == ["a1"]
    assert store.lookups == 1
    assert [type(result) for result in results] == [asyncio.CancelledError] + 19 * [type(None)]
    cache.close()


async def test_failed_load_is_retried(store: FakeStore, tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    store.corrupt = True
    with pytest.raises(Corrupt):
        await touch(cache, A)
    store.corrupt = False
    await touch(cache, A)
    assert store.loads == ["a1", "a1"]
    cache.close()


async def test_missing_model_is_looked_up_each_time(store: FakeStore, tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    for _ in range(2):
        with pytest.raises(NotFound):
            await touch(cache, ModelRef("gone"))
    assert store.lookups == 2
    cache.close()


async def test_version_removed_by_another_server_is_unloaded(
    store: FakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModelStore, "has", lambda _, fixed: True)
    cache = make_cache(tmp_path)
    await touch(cache, A, B)
    store.gone.add("a")
    with pytest.raises(NotFound):
        await touch(cache, NAME)
    assert set(cache.runtimes) == {str(A), str(B)}, "not in production, but still in the store"
    monkeypatch.setattr(ModelStore, "has", lambda _, fixed: fixed == B)
    with pytest.raises(NotFound):
        await touch(cache, NAME)
    assert set(cache.runtimes) == {str(B)}
    store.gone.remove("a")
    await touch(cache, A)
    assert store.loads == ["a1", "b1", "a1"]
    cache.close()


async def test_name_is_not_resolved_for_every_frame(store: FakeStore, tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    await touch(cache, *[NAME] * 50)
    assert store.lookups <= 2
    cache.close()


async def test_previous_version_serves_until_the_new_one_is_warm(store: FakeStore, tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    await touch(cache, NAME)
    store.newest = 2
    store.gate.clear()
    cache.invalidate("a")
    for _ in range(3):
        async with cache.use(NAME) as model:
            assert model.ref == A
    store.gate.set()
    await cache.load(NEXT)
    cache.invalidate("a")
    async with cache.use(NAME) as model:
        assert model.ref == NEXT
    assert store.loads == ["a1", "a2"]
    cache.close()


async def test_previous_version_serves_while_the_new_one_cannot_be_loaded(
    store: FakeStore, tmp_path: Path
) -> None:
    cache = make_cache(tmp_path)
    await touch(cache, NAME)
    store.newest, store.corrupt = 2, True
    for _ in range(5):
        cache.invalidate("a")
        async with cache.use(NAME) as model:
            assert model.ref == A
        await asyncio.sleep(0.05)
    assert store.loads == ["a1", "a2"]  # once, not for every frame
    cache.close()


async def test_promotion_takes_effect_on_the_next_frame(store: FakeStore, tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    await touch(cache, NAME)
    store.newest = 2
    await cache.load(NEXT)
    async with cache.use(NAME) as model:
        assert model.ref == A  # resolved a moment ago
    cache.invalidate("a")
    async with cache.use(NAME) as model:
        assert model.ref == NEXT
    cache.close()


async def test_removed_versions_are_unloaded_unless_in_use(store: FakeStore, tmp_path: Path) -> None:
    cache = make_cache(tmp_path, capacity=9)
    await touch(cache, A, NEXT, B, C)
    cache.forget(NEXT)
    assert set(cache.runtimes) == {str(A), str(B), str(C)}
    cache.forget(ModelRef("a"))
    assert set(cache.runtimes) == {str(B), str(C)}
    async with cache.use(B):
        cache.forget(B)
        cache.forget(C)
        assert set(cache.runtimes) == {str(B)}
    cache.close()


async def test_close_cancels_a_load(store: FakeStore, tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    store.gate.clear()
    load = asyncio.create_task(cache.load(A))
    while not store.loads:
        await asyncio.sleep(0.001)
    cache.close()
    store.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await load
    assert cache.runtimes == {}


@pytest.mark.parametrize(
    ("shape", "region", "shown", "notes"),
    [
        ((32, 48), None, (32, 48), 0),
        ((64, 96), None, (64, 96), 1),
        ((64, 96), Region(40, 8, 20, 16), (16, 20), 1),
    ],
)
async def test_frame_is_masked_and_a_scaled_mask_noted(
    store: FakeStore,
    tmp_path: Path,
    shape: tuple[int, int],
    region: Region | None,
    shown: tuple[int, int],
    notes: int,
) -> None:
    cache = make_cache(tmp_path)
    looks = np.ones((32, 48), np.bool_)
    looks[:, :24] = False
    pixels = np.full(shape, 200, np.uint8)
    pixels[:, : shape[1] // 2] = 9
    out = BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    request = ScoringRequest.of(ImageInput(out.getvalue(), region=region), NAME, QueueOptions("a"))
    async with cache.use(A) as model:
        store.detectors[0].mask = FrameMask(looks)
        completed = await model.batcher.submit(request)
        inspection = completed.result
        assert (np.asarray(inspection.prediction) == 200).all()
        assert inspection.shape == np.asarray(inspection.prediction).shape[:2] == shown
        assert len(inspection.notes) == notes
        wide = ScoringRequest.of(
            ImageInput(bytes(16 * 64), RawLayout("Mono8", 64, 16)), NAME, QueueOptions("a")
        )
        with pytest.raises(InvalidImage, match="the frame is 64 x 16 px, but the mask is for 48 x 32"):
            await model.batcher.submit(wide)
    cache.close()


async def test_frame_is_aligned_or_has_a_note(store: FakeStore, tmp_path: Path) -> None:
    shape, motion = (96, 128), Motion(11, -7, 3)
    cache = make_cache(tmp_path)
    async with cache.use(A) as model:
        looks = np.ones(shape, np.bool_)
        store.detectors[0].mask = FrameMask(looks).aligned_to(seen(texture(0), STILL, shape))
        inspections = []
        for surface, moved in ((texture(0), motion), (texture(9), STILL)):
            out = BytesIO()
            Image.fromarray(seen(surface, moved, shape)).save(out, "PNG")
            request = ScoringRequest.of(ImageInput(out.getvalue()), NAME, QueueOptions("a"))
            inspections.append((await model.batcher.submit(request)).result)
        aligned, other = inspections
        assert aligned.alignment is not None
        assert aligned.alignment.motion is not None
        assert aligned.alignment.motion.dx_px == pytest.approx(11, abs=0.5)
        assert aligned.notes == ()
        assert other.alignment is not None
        assert other.alignment.motion is None
        (note,) = other.notes
        assert "could not be aligned, so the mask was not moved" in note
    cache.close()


def deep(values: NDArray[np.uint16]) -> bytes:
    """Return a PNG of 16 bits."""
    out = BytesIO()
    Image.fromarray(values).save(out, "PNG")
    return out.getvalue()


async def test_file_and_raw_frame_of_12_bits_are_scored_alike(store: FakeStore, tmp_path: Path) -> None:
    samples = np.random.default_rng(1).integers(0, 4096, (32, 48)).astype(np.uint16)
    store.level = WhiteLevel(level=4095, given=True)
    cache = make_cache(tmp_path)
    found = []
    async with cache.use(A) as model:
        for image in (
            ImageInput(deep(samples)),
            ImageInput(samples.tobytes(), RawLayout("Mono12", 48, 32)),
            ImageInput(samples.tobytes(), RawLayout("Mono16", 48, 32)),
        ):
            completed = await model.batcher.submit(ScoringRequest.of(image, NAME, QueueOptions("a")))
            found.append(np.asarray(completed.result.prediction))
            assert completed.result.notes == ()
    assert found[0].max() == 255
    assert (found[0] == found[1]).all()
    assert (found[0] == found[2]).all()
    cache.close()


@pytest.mark.parametrize("level", [None, WhiteLevel()], ids=["older version", "new version"])
async def test_image_of_a_sixteenth_of_its_range_has_a_note(
    store: FakeStore, tmp_path: Path, level: WhiteLevel | None
) -> None:
    store.level = level
    cache = make_cache(tmp_path)
    async with cache.use(A) as model:
        for highest, notes in ((4095, 1), (4100, 0)):
            image = ImageInput(deep(np.full((32, 48), highest, np.uint16)))
            completed = await model.batcher.submit(ScoringRequest.of(image, NAME, QueueOptions("a")))
            assert len(completed.result.notes) == notes
    cache.close()


@pytest.mark.parametrize("region", [None, Region(8, 4, 20, 16)])
async def test_preview_shows_the_pixels_that_were_scored(
    store: FakeStore, tmp_path: Path, region: Region | None
) -> None:
    samples = np.full((32, 48), 2048, np.uint16)
    store.level = WhiteLevel(level=4095)
    cache = make_cache(tmp_path)
    async with cache.use(A) as model:
        for asked in (False, True):
            image = ImageInput(deep(samples), region=region)
            request = ScoringRequest.of(image, NAME, QueueOptions("a"), with_preview=asked)
            preview = (await model.batcher.submit(request)).result.preview
            if not asked:
                assert preview == b""
                continue
            with Image.open(BytesIO(preview)) as shown:
                assert shown.format == "JPEG"
                assert shown.size == ((48, 32) if region is None else (20, 16))
                assert np.abs(np.asarray(shown).astype(int) - 128).max() <= 2
    cache.close()
