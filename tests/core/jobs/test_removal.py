# SPDX-License-Identifier: Apache-2.0
"""Datasets, images and models that are removed for good, and what keeps them from it."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.core.models.test_store import publish
from tests.support.qdrant_twin import in_memory_qdrant

from blemish_core.datasets import DatasetStore
from blemish_core.imaging.decode import ImageLimits
from blemish_core.jobs.record import EmbedSpec, EvaluateSpec, Job, JobState, Spec, TrainSpec, now
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


class Rig:
    """Datasets tile and grid, two versions of m that have both indexed, two in production; no jobs."""

    def __init__(self, folder: Path) -> None:
        self.datasets = DatasetStore(folder / "datasets", ImageLimits())
        self.models = ModelStore(folder / "models")
        self.index = SearchIndex(in_memory_qdrant())
        self.frames = FrameStore(folder / "frames")
        self.jobs: list[Job] = []
        jobs: Any = self
        self.removal = Removal(self.datasets, self.models, self.index, self.frames, jobs)
        for number, dataset in enumerate(("tile", "grid")):
            self.datasets.create(dataset, "")
            for name in range(3):
                self.datasets.add(dataset, f"test/crack/{name}.png", drawn(10 * number + name))
        self.datasets.add("tile", "ground_truth/crack/0_mask.png", drawn(99))
        for job in "ab":
            version = ModelRef("m", publish(self.models, "m", job).version)
            self.index.prepare(version, 4)
            for dataset in ("tile", "grid"):
                self.embed(version, dataset)
            self.index.publish(version)
        self.models.promote(TWO)
        self.index.set_serving_version(TWO)
        self.frames.put("m", FRAME, b"frame")

    def unfinished(self) -> list[Job]:
        return self.jobs

    def at_work(self, spec: Spec) -> None:
        self.jobs = [Job(id="busy", spec=spec, state=JobState.RUNNING, created=now())]

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


def drawn(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (16, 16), dtype=np.uint8)
    out = BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_images_go_from_the_dataset_and_every_index(rig: Rig) -> None:
    left, removed = rig.removal.images("tile", ["test/crack/0.png", "test/crack/2.png"])
    assert (removed, left.test_images, left.masks) == (3, {"crack": 1}, 0)
    for version in (ONE, TWO):
        assert rig.indexed(version) == ["grid 0", "grid 1", "grid 2", "tile 1"]


def test_an_item_that_stands_for_the_same_content_elsewhere_stays(rig: Rig) -> None:
    content = rig.datasets.read_path("tile", "test/crack/1.png")
    rig.datasets.add("grid", "test/crack/same.png", content)
    rig.embed(TWO, "grid")
    rig.removal.images("tile", ["test/crack/1.png"])
    assert rig.indexed(TWO) == ["grid 0", "grid 1", "grid 2", "grid e", "tile 0", "tile 2"]


def test_a_mask_alone_leaves_the_indexes(rig: Rig) -> None:
    left, removed = rig.removal.images("tile", ["ground_truth/crack/0_mask.png"])
    assert (removed, left.masks) == (1, 0)
    assert len(rig.indexed(TWO)) == 6


def test_a_dataset_goes_with_what_was_indexed_of_it(rig: Rig) -> None:
    unpublished = ModelRef("n", 7)
    rig.index.prepare(unpublished, 4)
    rig.embed(unpublished, "tile")
    rig.removal.dataset("tile")
    with pytest.raises(NotFound):
        rig.datasets.get("tile")
    for version in (ONE, TWO):
        assert rig.indexed(version) == ["grid 0", "grid 1", "grid 2"]
    rig.index.publish(unpublished)
    assert rig.index.count(unpublished) == 0
    assert rig.models.numbers("m") == [2, 1]


@pytest.mark.parametrize(
    "spec",
    [
        TrainSpec(dataset="tile", model_id="other"),
        EmbedSpec(model=str(TWO), dataset="tile"),
        EvaluateSpec(model=str(TWO), dataset="tile"),
    ],
)
def test_a_dataset_that_a_job_works_with_stays(rig: Rig, spec: Spec) -> None:
    rig.at_work(spec)
    for removing in (
        lambda: rig.removal.dataset("tile"),
        lambda: rig.removal.images("tile", ["test/crack/0.png"]),
    ):
        with pytest.raises(
            FailedPrecondition, match=r"jobs/busy works with datasets/tile.*jobs cancel busy"
        ):
            removing()
    rig.removal.dataset("grid")
    assert rig.indexed(TWO) == ["tile 0", "tile 1", "tile 2"]


def test_without_qdrant_nothing_is_removed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise Unavailable("Qdrant does not answer", dependency="qdrant")

    for method in ("versions", "drop", "serving_version"):
        monkeypatch.setattr(SearchIndex, method, away)
    for removing in (
        lambda: rig.removal.dataset("tile"),
        lambda: rig.removal.images("tile", ["test/crack/0.png"]),
        lambda: rig.removal.version(ONE),
        lambda: rig.removal.model("m", force=True),
    ):
        with pytest.raises(Unavailable):
            removing()
    assert rig.datasets.get("tile").test_images == {"crack": 3}
    assert rig.models.numbers("m") == [2, 1]
    monkeypatch.undo()
    rig.removal.model("m", force=True)  # goes on
    assert rig.models.page() == []


def test_a_version_goes_with_its_index(rig: Rig) -> None:
    rig.removal.version(ONE)
    assert (rig.models.numbers("m"), rig.index.versions()) == ([2], [TWO])
    assert rig.frames.contents("m") == [FRAME], "of the model, not of the version"
    with pytest.raises(NotFound, match="no version 1"):
        rig.removal.version(ONE)


@pytest.mark.parametrize(
    ("hinder", "words"),
    [
        (lambda rig: rig.models.promote(ONE), "is in production: promote another"),
        (lambda rig: rig.models.pin(ONE, True), "is pinned; `blemish models pin --off m/1`"),
        (lambda rig: rig.at_work(EmbedSpec(model=str(ONE), kept_frames=True)), "jobs/busy works with"),
        (lambda rig: rig.at_work(EvaluateSpec(model=str(ONE), dataset="tile")), "jobs/busy works with"),
    ],
)
def test_a_version_that_is_needed_stays(rig: Rig, hinder: Callable[[Rig], object], words: str) -> None:
    hinder(rig)
    with pytest.raises(FailedPrecondition, match=words):
        rig.removal.version(ONE)
    assert (rig.models.numbers("m"), len(rig.indexed(ONE))) == ([2, 1], 6)


def test_a_version_whose_index_answers_until_the_next_one_is_full_stays(rig: Rig) -> None:
    three = ModelRef("m", publish(rig.models, "m", "c").version)
    rig.models.promote(three)
    with pytest.raises(FailedPrecondition, match="answers for models/m until that of versions/3"):
        rig.removal.version(TWO)
    rig.index.prepare(three, 4)
    for dataset in ("tile", "grid"):
        rig.embed(three, dataset)
    rig.index.publish(three)
    rig.index.set_serving_version(three)
    rig.removal.version(TWO)
    assert rig.models.numbers("m") == [3, 1]


def test_a_model_in_production_goes_by_force_alone_and_with_its_frames(rig: Rig) -> None:
    frame = Item(item_id(TWO, FRAME), FRAME, 1.0, 0.5, False, source=CAMERA)
    rig.index.put(TWO, [frame], np.ones((1, 4), np.float32))
    publish(rig.models, "other", "o")
    with pytest.raises(FailedPrecondition, match=r"versions/2 is in production.*--force"):
        rig.removal.model("m", force=False)
    rig.removal.model("m", force=True)
    assert (rig.index.versions(), rig.frames.contents("m")) == ([], [])
    assert (rig.models.in_production(), rig.index.serving_version("m")) == ([], None)
    assert [model.id for model in rig.models.page()] == ["other"]
    with pytest.raises(NotFound, match="no model 'm'"):
        rig.removal.model("m", force=True)
    assert publish(rig.models, "m", "new").version == 3


@pytest.mark.parametrize(
    "hinder",
    [
        lambda rig: rig.models.pin(ONE, True),
        lambda rig: rig.at_work(EmbedSpec(model=str(ONE), dataset="tile")),
        lambda rig: rig.at_work(TrainSpec(dataset="tile", model_id="m")),
        lambda rig: rig.at_work(
            TrainSpec(dataset="tile", model_id="x", false_alarms_of="models/m/versions/2")
        ),
    ],
)
def test_a_model_that_is_needed_stays_whole(rig: Rig, hinder: Callable[[Rig], object]) -> None:
    hinder(rig)
    with pytest.raises(FailedPrecondition):
        rig.removal.model("m", force=True)
    assert (rig.models.numbers("m"), rig.models.production("m")) == ([2, 1], 2)
    assert (len(rig.indexed(ONE)), rig.frames.contents("m")) == (6, [FRAME])


def test_the_frames_of_a_model_go_with_its_last_version(rig: Rig) -> None:
    alone = ModelRef("alone", publish(rig.models, "alone", "z").version)
    rig.frames.put("alone", FRAME, b"frame")
    rig.removal.version(alone)
    assert rig.frames.contents("alone") == []
    assert rig.frames.contents("m") == [FRAME]
