# SPDX-License-Identifier: Apache-2.0
"""Datasets, images and models are deleted with their indexes unless a job or policy needs them."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.core.models.test_store import publish
from tests.support.job_store import FakeJobStore
from tests.support.qdrant_twin import in_memory_qdrant

from blemish_core.datasets import DatasetStore
from blemish_core.imaging.decode import ImageLimits
from blemish_core.jobs.record import EmbedSpec, EvaluateSpec, JobState, Spec, TrainSpec
from blemish_core.jobs.removal import Removal
from blemish_core.models.store import ModelStore
from blemish_core.platform.errors import FailedPrecondition, NotFound, Unavailable
from blemish_core.platform.names import ModelRef
from blemish_core.search.conditions import ANY_ITEM
from blemish_core.search.frame_store import FrameStore
from blemish_core.search.item import CAMERA, Item, item_id
from blemish_core.search.search_index import SearchIndex

ONE, TWO = ModelRef("m", 1), ModelRef("m", 2)
FRAME = "f" * 64

pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning")


class FilledStore:
    """A store with datasets tile and grid, and model m with two versions that have indexed both.

    Version 2 is in production. No job runs.
    """

    def __init__(self, folder: Path) -> None:
        self.datasets = DatasetStore(folder / "datasets", ImageLimits())
        self.models = ModelStore(folder / "models")
        self.index = SearchIndex(in_memory_qdrant())
        self.frames = FrameStore(folder / "frames")
        self.jobs = FakeJobStore()
        self.removal = Removal(self.datasets, self.models, self.index, self.frames, self.jobs)
        for number, dataset in enumerate(("tile", "grid")):
            self.datasets.create(dataset, "")
            for name in range(3):
                self.datasets.add(dataset, f"test/crack/{name}.png", png(10 * number + name))
        self.datasets.add("tile", "ground_truth/crack/0_mask.png", png(99))
        for job in "ab":
            version = ModelRef("m", publish(self.models, "m", job).version)
            self.index.prepare(version, 4)
            for dataset in ("tile", "grid"):
                self.embed(version, dataset)
            self.index.publish(version)
        self.models.promote(TWO)
        self.index.set_serving_version(TWO)
        self.frames.put("m", FRAME, b"frame")

    def run_job(self, spec: Spec) -> None:
        self.jobs.add(spec, JobState.RUNNING, id="busy")

    def embed(self, version: ModelRef, dataset: str) -> None:
        entries = self.datasets.entries(dataset, "test/")
        items = [
            Item(
                item_id(version, each.sha256), each.sha256, 1.0, 0.5, False, dataset=dataset, path=each.path
            )
            for each in entries
        ]
        self.index.put(version, items, np.ones((len(items), 4), np.float32))

    def indexed(self, version: ModelRef) -> list[str]:
        items, _ = self.index.items(version, ANY_ITEM, 100)
        return sorted(f"{item.dataset} {item.path[-5]}" for item in items)


def png(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (16, 16), dtype=np.uint8)
    out = BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def filled(tmp_path: Path) -> FilledStore:
    return FilledStore(tmp_path)


def test_images_are_deleted_from_the_dataset_and_every_index(filled: FilledStore) -> None:
    left, removed = filled.removal.images("tile", ["test/crack/0.png", "test/crack/2.png"])
    assert (removed, left.test_images, left.masks) == (3, {"crack": 1}, 0)
    for version in (ONE, TWO):
        assert filled.indexed(version) == ["grid 0", "grid 1", "grid 2", "tile 1"]


def test_item_for_the_same_content_elsewhere_stays(filled: FilledStore) -> None:
    content = filled.datasets.read_path("tile", "test/crack/1.png")
    filled.datasets.add("grid", "test/crack/same.png", content)
    filled.embed(TWO, "grid")
    filled.removal.images("tile", ["test/crack/1.png"])
    assert filled.indexed(TWO) == ["grid 0", "grid 1", "grid 2", "grid e", "tile 0", "tile 2"]


def test_index_entries_of_images_are_deleted_before_they_move(filled: FilledStore) -> None:
    filled.removal.before_moving("tile", ["test/crack/0.png", "test/crack/1.png"], "test/hole")
    for version in (ONE, TWO):
        assert filled.indexed(version) == ["grid 0", "grid 1", "grid 2", "tile 2"]


def test_refused_move_keeps_the_index_entries(filled: FilledStore) -> None:
    with pytest.raises(NotFound):
        filled.removal.before_moving("tile", ["test/crack/0.png", "test/crack/9.png"], "test/hole")
    filled.removal.before_moving("tile", ["test/crack/0.png"], "test/crack")
    filled.run_job(EvaluateSpec(model="m", dataset="tile"))
    with pytest.raises(FailedPrecondition):
        filled.removal.before_moving("tile", ["test/crack/0.png"], "test/hole")
    assert len(filled.indexed(TWO)) == 6


def test_deleting_a_mask_keeps_the_indexes(filled: FilledStore) -> None:
    left, removed = filled.removal.images("tile", ["ground_truth/crack/0_mask.png"])
    assert (removed, left.masks) == (1, 0)
    assert len(filled.indexed(TWO)) == 6


def test_dataset_is_deleted_with_its_items(filled: FilledStore) -> None:
    unpublished = ModelRef("n", 7)
    filled.index.prepare(unpublished, 4)
    filled.embed(unpublished, "tile")
    filled.removal.dataset("tile")
    with pytest.raises(NotFound):
        filled.datasets.get("tile")
    for version in (ONE, TWO):
        assert filled.indexed(version) == ["grid 0", "grid 1", "grid 2"]
    filled.index.publish(unpublished)
    assert filled.index.count(unpublished) == 0
    assert filled.models.numbers("m") == [2, 1]


@pytest.mark.parametrize(
    "spec",
    [
        TrainSpec(dataset="tile", model_id="other"),
        EmbedSpec(model=str(TWO), dataset="tile"),
        EvaluateSpec(model=str(TWO), dataset="tile"),
    ],
)
def test_dataset_used_by_a_job_stays(filled: FilledStore, spec: Spec) -> None:
    filled.run_job(spec)
    for delete in (
        lambda: filled.removal.dataset("tile"),
        lambda: filled.removal.images("tile", ["test/crack/0.png"]),
    ):
        with pytest.raises(FailedPrecondition, match=r"jobs/busy uses datasets/tile.*jobs cancel busy"):
            delete()
    filled.removal.dataset("grid")
    assert filled.indexed(TWO) == ["tile 0", "tile 1", "tile 2"]


def test_nothing_is_deleted_while_qdrant_is_unavailable(
    filled: FilledStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unavailable(*_: object) -> None:
        raise Unavailable("Qdrant does not answer", dependency="qdrant")

    for method in ("versions", "drop", "serving_version"):
        monkeypatch.setattr(SearchIndex, method, unavailable)
    for delete in (
        lambda: filled.removal.dataset("tile"),
        lambda: filled.removal.images("tile", ["test/crack/0.png"]),
        lambda: filled.removal.version(ONE),
        lambda: filled.removal.model("m", force=True),
    ):
        with pytest.raises(Unavailable):
            delete()
    assert filled.datasets.get("tile").test_images == {"crack": 3}
    assert filled.models.numbers("m") == [2, 1]
    monkeypatch.undo()
    filled.removal.model("m", force=True)
    assert filled.models.page() == []


def test_version_is_deleted_with_its_index(filled: FilledStore) -> None:
    filled.removal.version(ONE)
    assert (filled.models.numbers("m"), filled.index.versions()) == ([2], [TWO])
    assert filled.frames.contents("m") == [FRAME], "frames belong to the model, not to the version"
    with pytest.raises(NotFound, match="no version 1"):
        filled.removal.version(ONE)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda filled: filled.models.promote(ONE), "is in production; promote another"),
        (lambda filled: filled.models.pin(ONE, True), "is pinned; run `blemish models pin --off m/1`"),
        (lambda filled: filled.run_job(EmbedSpec(model=str(ONE), kept_frames=True)), "jobs/busy uses"),
        (lambda filled: filled.run_job(EvaluateSpec(model=str(ONE), dataset="tile")), "jobs/busy uses"),
    ],
)
def test_needed_version_stays(
    filled: FilledStore, prepare: Callable[[FilledStore], object], message: str
) -> None:
    prepare(filled)
    with pytest.raises(FailedPrecondition, match=message):
        filled.removal.version(ONE)
    assert (filled.models.numbers("m"), len(filled.indexed(ONE))) == ([2, 1], 6)


def test_version_with_a_serving_index_stays(filled: FilledStore) -> None:
    three = ModelRef("m", publish(filled.models, "m", "c").version)
    filled.models.promote(three)
    with pytest.raises(FailedPrecondition, match="serves models/m until the index of versions/3"):
        filled.removal.version(TWO)
    filled.index.prepare(three, 4)
    for dataset in ("tile", "grid"):
        filled.embed(three, dataset)
    filled.index.publish(three)
    filled.index.set_serving_version(three)
    filled.removal.version(TWO)
    assert filled.models.numbers("m") == [3, 1]


def test_model_in_production_is_deleted_only_with_force(filled: FilledStore) -> None:
    frame = Item(item_id(TWO, FRAME), FRAME, 1.0, 0.5, False, source=CAMERA)
    filled.index.put(TWO, [frame], np.ones((1, 4), np.float32))
    publish(filled.models, "other", "o")
    with pytest.raises(FailedPrecondition, match=r"versions/2 is in production.*--force"):
        filled.removal.model("m", force=False)
    filled.removal.model("m", force=True)
    assert (filled.index.versions(), filled.frames.contents("m")) == ([], [])
    assert (filled.models.in_production(), filled.index.serving_version("m")) == ([], None)
    assert [model.id for model in filled.models.page()] == ["other"]
    with pytest.raises(NotFound, match="no model 'm'"):
        filled.removal.model("m", force=True)
    assert publish(filled.models, "m", "new").version == 3


@pytest.mark.parametrize(
    "prepare",
    [
        lambda filled: filled.models.pin(ONE, True),
        lambda filled: filled.run_job(EmbedSpec(model=str(ONE), dataset="tile")),
        lambda filled: filled.run_job(TrainSpec(dataset="tile", model_id="m")),
        lambda filled: filled.run_job(
            TrainSpec(dataset="tile", model_id="x", false_alarms_of="models/m/versions/2")
        ),
    ],
)
def test_needed_model_stays_complete(filled: FilledStore, prepare: Callable[[FilledStore], object]) -> None:
    prepare(filled)
    with pytest.raises(FailedPrecondition):
        filled.removal.model("m", force=True)
    assert (filled.models.numbers("m"), filled.models.production("m")) == ([2, 1], 2)
    assert (len(filled.indexed(ONE)), filled.frames.contents("m")) == (6, [FRAME])


def test_frames_of_a_model_are_deleted_with_its_last_version(filled: FilledStore) -> None:
    alone = ModelRef("alone", publish(filled.models, "alone", "z").version)
    filled.frames.put("alone", FRAME, b"frame")
    filled.removal.version(alone)
    assert filled.frames.contents("alone") == []
    assert filled.frames.contents("m") == [FRAME]
