# SPDX-License-Identifier: Apache-2.0
"""Removes datasets, images and models for good, from disk and from every index.

An index goes before what it was made from: whoever is killed in between, or finds Qdrant away, has left
something that can still be named, and the same request goes on.
"""

from collections.abc import Sequence

from blemish_core.datasets import Dataset, DatasetStore
from blemish_core.jobs.record import Job, TrainSpec
from blemish_core.jobs.store import JobStore
from blemish_core.models.store import ModelStore
from blemish_core.platform.errors import FailedPrecondition
from blemish_core.platform.names import ModelRef, dataset_name, job_name
from blemish_core.search.frame_store import FrameStore
from blemish_core.search.search_index import SearchIndex


class Removal:
    def __init__(
        self,
        datasets: DatasetStore,
        models: ModelStore,
        index: SearchIndex,
        frames: FrameStore,
        jobs: JobStore,
    ) -> None:
        self._datasets = datasets
        self._models = models
        self._index = index
        self._frames = frames
        self._jobs = jobs

    def images(self, dataset_id: str, paths: Sequence[str]) -> tuple[Dataset, int]:
        """Remove images of a dataset and their masks; return what it is then, and how many went.

        Raises:
            InvalidRequest: if a path is not in the layout.
            NotFound: if there is no such dataset, or nothing under one of the paths; then all stay.
            FailedPrecondition: if a job works with the dataset.
            DiskFull: if the disk has no room for the new list of what is there.
            Unavailable: if Redis or Qdrant does not answer.
        """
        gone = self._datasets.select(dataset_id, paths)
        self._check_idle(dataset_id)
        images = {entry.path: entry.sha256 for entry in gone if entry.layout_path.part != "ground_truth"}
        for version in self._index.versions() if images else ():
            self._index.remove_images(version, dataset_id, images)
        self._datasets.remove(dataset_id, [entry.path for entry in gone])
        return self._datasets.get(dataset_id), len(gone)

    def dataset(self, dataset_id: str) -> None:
        """Remove a dataset, also a damaged one.

        Raises:
            NotFound: if there is no such dataset.
            FailedPrecondition: if a job works with it.
            Unavailable: if Redis or Qdrant does not answer.
        """
        self._datasets.require(dataset_id)
        self._check_idle(dataset_id)
        for version in self._index.versions():
            self._index.remove_dataset(version, dataset_id)
        self._datasets.delete(dataset_id)

    def version(self, ref: ModelRef) -> None:
        """Remove one version of a model; with the last one go the frames that were kept of the model.

        Raises:
            NotFound: if there is no such version.
            FailedPrecondition: if it is in production or pinned, a job uses it, or its index answers for
                its model.
            Unavailable: if Redis or Qdrant does not answer.
        """
        fixed = self._models.resolve(ref)
        production = self._models.production(fixed.model)
        if production == fixed.version:
            raise FailedPrecondition(
                f"{fixed} is in production: promote another version first, or remove models/{fixed.model}"
            )
        self._check_free([fixed], self._jobs.unfinished())
        if self._index.serving_version(fixed.model) == fixed:
            raise FailedPrecondition(
                f"the index of {fixed} answers for models/{fixed.model} until that of "
                f"versions/{production} has all that is in it; `blemish jobs --live` shows how far it is"
            )
        self._remove(fixed)

    def model(self, model: str, force: bool) -> None:
        """Remove all versions of a model and the frames that were kept of it.

        Raises:
            NotFound: if there is no such model.
            FailedPrecondition: if a version is pinned, a job works with one or trains another, or, without
                ``force``, one is in production.
            Unavailable: if Redis or Qdrant does not answer.
        """
        self._models.resolve(ModelRef(model))
        versions = [ModelRef(model, number) for number in self._models.numbers(model)]
        production = self._models.production(model)
        if production is not None and not force:
            raise FailedPrecondition(
                f"models/{model}/versions/{production} is in production: set force (--force) if it is to "
                "go too"
            )
        open_jobs = self._jobs.unfinished()
        self._check_free(versions, open_jobs)
        for job in open_jobs:
            if isinstance(job.spec, TrainSpec) and model in (job.spec.model_id, _alarms_of(job.spec)):
                raise _at_work(job, f"models/{model}")
        self._models.retire(model)
        for version in reversed(versions):  # the newest last: what a name means changes once
            self._remove(version)

    def _remove(self, fixed: ModelRef) -> None:
        self._index.drop(fixed)
        self._models.delete(fixed)
        if not self._models.numbers(fixed.model):
            self._frames.remove_all(fixed.model)

    def _check_idle(self, dataset_id: str) -> None:
        for job in self._jobs.unfinished():
            if job.spec.dataset == dataset_id:
                raise _at_work(job, dataset_name(dataset_id))

    def _check_free(self, versions: Sequence[ModelRef], open_jobs: Sequence[Job]) -> None:
        at_work = {job.spec.model: job for job in open_jobs if not isinstance(job.spec, TrainSpec)}
        for version in versions:
            if self._models.is_pinned(version.model, version.version or 0):
                short = f"{version.model}/{version.version}"
                raise FailedPrecondition(f"{version} is pinned; `blemish models pin --off {short}` first")
            if job := at_work.get(str(version)):
                raise _at_work(job, str(version))


def _alarms_of(spec: TrainSpec) -> str:
    """The model whose false alarms a training takes in."""
    return ModelRef.parse(spec.false_alarms_of).model if spec.false_alarms_of else ""


def _at_work(job: Job, what: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"{job_name(job.id)} works with {what}: wait for its end, or `blemish jobs cancel {job.id}`"
    )
