# SPDX-License-Identifier: Apache-2.0
"""The calls that the demo makes for one category, and their results."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from pathlib import Path

from rich.console import Console

from blemish.v1.inspection_pb2 import Inspection
from blemish.v1.job_pb2 import JOB_STATE_SUCCEEDED, EfficientAd, Job, PatchCore
from blemish.v1.model_pb2 import ModelVersion
from blemish.v1.search_pb2 import Hit
from blemish_client.cli.failures import UNSUCCESSFUL, Failure
from blemish_client.cli.output import state
from blemish_client.cli.progress import follow
from blemish_client.client import Client
from blemish_client.demo.material import Material

JUDGED = 5
"""Number of best hits that are compared with the query's class."""
_SHOWN = 10


@dataclass(frozen=True)
class Lookup:
    """One search, by a test image that is itself in the index and left out of its hits."""

    image: Path
    class_name: str
    inspection: Inspection
    hits: tuple[Hit, ...]
    left_out: bool
    """True if the query image was among the hits."""
    others_on_side: int
    """Test images that are good as the query is, or defective as it is, itself not counted."""
    others_in_class: int

    @property
    def judged(self) -> tuple[Hit, ...]:
        return self.hits[:JUDGED]

    @property
    def same_side(self) -> int:
        good = self.class_name == "good"
        return sum((hit.class_name == "good") == good for hit in self.judged)

    @property
    def same_class(self) -> int:
        return sum(hit.class_name == self.class_name for hit in self.judged)


@dataclass(frozen=True)
class Portrait:
    """A test image and its inspection, with the map, to be drawn."""

    image: Path
    mask: Path | None
    inspection: Inspection


def bring(client: Client, material: Material) -> str:
    """Import the images; return a summary of the dataset."""
    told = client.import_dataset(material.id, str(material.folder))
    tested = sum(kind.images for kind in told.dataset.test_images)
    left_out = f", {told.skipped_count} files left out" if told.skipped_count else ""
    return f"{material.id}: {told.dataset.train_images} to train on, {tested} to test with{left_out}"


def start_training(client: Client, material: Material, detector: PatchCore | EfficientAd, seed: int) -> Job:
    """Start to train a model of a category."""
    return client.train(material.id, detector=detector, seed=seed, promote=True)


def trained(
    client: Client, materials: Sequence[Material], jobs: Sequence[Job], name: str, screen: Console
) -> list[ModelVersion]:
    """Wait for the training of each category; return the model versions.

    Raises:
        Failure: if a job does not succeed.
    """
    ended = [
        succeeded(client, job, screen, f"{name} {material.id}")
        for job, material in zip(jobs, materials, strict=True)
    ]
    return [client.model(job.result.model_version) for job in ended]


def index(
    client: Client, materials: Sequence[Material], models: Sequence[ModelVersion], screen: Console
) -> list[int]:
    """Index the test images of each category; return the number of indexed images."""
    jobs = [
        client.embed(model.name, material.id) if material.has_test_images else None
        for material, model in zip(materials, models, strict=True)
    ]
    return [
        succeeded(client, job, screen, f"index {material.id}").result.indexed_images if job else 0
        for job, material in zip(jobs, materials, strict=True)
    ]


def succeeded(client: Client, job: Job, screen: Console, label: str) -> Job:
    """Follow a job to its end.

    Raises:
        Failure: if it did not succeed.
    """
    ended = follow(client.watch(job), screen, label)
    if ended.state != JOB_STATE_SUCCEEDED:
        raise Failure(f"{label}: {job.name} {state(ended)}: {ended.error}", UNSUCCESSFUL)
    for warning in ended.warnings:
        screen.print(f"note on {label}: {warning}", markup=False)
    return ended


def look_up(client: Client, material: Material, model: ModelVersion) -> list[Lookup]:
    """Search with the last good test image and the last one of the first defect class."""
    classes = ["good", *material.defects()[:1]]
    return [
        _look_up(client, material, model, name, material.images(name)[-1])
        for name in classes
        if material.images(name)
    ]


def _look_up(
    client: Client, material: Material, model: ModelVersion, class_name: str, image: Path
) -> Lookup:
    found = client.search(image.read_bytes(), model.name, _SHOWN + 1, thumbnails=True)
    path = image.relative_to(material.folder).as_posix()
    hits = list(found)
    others = [hit for hit in hits if hit.path != path]
    side = ["good"] if class_name == "good" else material.defects()
    return Lookup(
        image,
        class_name,
        found.query or Inspection(),
        tuple(others[:_SHOWN]),
        left_out=len(others) < len(hits),
        others_on_side=sum(len(material.images(name)) for name in side) - 1,
        others_in_class=len(material.images(class_name)) - 1,
    )


def portraits(client: Client, material: Material, model: ModelVersion) -> list[Portrait]:
    """Inspect a good test image and three defective ones, of as many classes as there are."""
    by_class = [material.images(name) for name in material.defects()]
    in_turns = [image for image in chain.from_iterable(zip_longest(*by_class)) if image is not None]
    chosen = [*material.images("good")[-1:], *islice(in_turns, 3)]
    return [
        Portrait(
            image,
            material.mask(image),
            client.score(image.read_bytes(), model.name, anomaly_map=True, regions=True, preview=True),
        )
        for image in chosen
    ]
