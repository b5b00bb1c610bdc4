# SPDX-License-Identifier: Apache-2.0
"""Deletion of datasets, images and models from disk and from every search index.

An index is deleted before its source. After a crash, or while Qdrant is unavailable, the source still
exists, so the same request can be repeated.
"""

from collections.abc import Mapping, Sequence

from blemish_core.datasets import Dataset, DatasetStore
from blemish_core.jobs.record import Job, TrainSpec
from blemish_core.jobs.store import JobStore
from blemish_core.models.store import ModelStore
from blemish_core.platform.errors import FailedPrecondition
from blemish_core.platform.names import ModelRef, dataset_name, job_name
from blemish_core.search.frame_store import FrameStore
from blemish_core.search.search_index import SearchIndex


class Removal:
    """Deletes datasets, images and models that no job uses."""

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
        """Delete images of a dataset and their masks; return the dataset and the number of files.

        Raises:
            InvalidRequest: if a path is not in the layout.
            NotFound: if there is no such dataset, or no file at one of the paths; nothing is deleted then.
            FailedPrecondition: if a job uses the dataset.
            DiskFull: if the disk has no room for the new list of files.
            Unavailable: if Redis or Qdrant does not answer.
        """
        files = self._datasets.select(dataset_id, paths)
        self._check_dataset_unused(dataset_id)
        images = {entry.path: entry.sha256 for entry in files if entry.layout_path.part != "ground_truth"}
        for version in self._index.versions() if images else ():
            self._index.remove_images(version, dataset_id, images)
        self._datasets.remove(dataset_id, [entry.path for entry in files])
        return self._datasets.get(dataset_id), len(files)

    def before_moving(self, dataset_id: str, paths: Sequence[str], folder: str) -> None:
        """Delete the index entries of images that are to be moved, because they name path and class.

        Raises:
            InvalidRequest: see ``DatasetStore.move``; nothing is deleted then.
            NotFound: see ``DatasetStore.move``; nothing is deleted then.
            AlreadyExists: see ``DatasetStore.move``; nothing is deleted then.
            FailedPrecondition: if a job uses the dataset.
            Unavailable: if Redis or Qdrant does not answer.
        """
        plan = self._datasets.plan_moves(dataset_id, paths, folder)
        moved = {move.entry.path: move.entry.sha256 for move in plan.images if not move.stays}
        if moved:
            self.before_replacing(dataset_id, moved)

    def before_replacing(self, dataset_id: str, images: Mapping[str, str]) -> None:
        """Delete the index entries of images, given as SHA-256 digests by path, that are to be replaced.

        A label is a judgement of the previous content, so it is deleted as well.

        Raises:
            FailedPrecondition: if a job uses the dataset.
            Unavailable: if Redis or Qdrant does not answer.
        """
        self._check_dataset_unused(dataset_id)
        indexed = {path: sha256 for path, sha256 in images.items() if not path.startswith("ground_truth/")}
        for version in self._index.versions() if indexed else ():
            self._index.remove_images(version, dataset_id, indexed)

    def dataset(self, dataset_id: str) -> None:
        """Delete a dataset, even a damaged one.

        Raises:
            NotFound: if there is no such dataset.
            FailedPrecondition: if a job uses it.
            Unavailable: if Redis or Qdrant does not answer.
        """
        self._datasets.require(dataset_id)
        self._check_dataset_unused(dataset_id)
        for version in self._index.versions():
            self._index.remove_dataset(version, dataset_id)
        self._datasets.delete(dataset_id)

    def version(self, ref: ModelRef) -> None:
        """Delete a version of a model; the last one takes the model's stored frames with it.

        Raises:
            NotFound: if there is no such version.
            FailedPrecondition: if it is in production or pinned, a job uses it, or its index serves the
                searches of its model.
            Unavailable: if Redis or Qdrant does not answer.
        """
        fixed = self._models.resolve(ref)
        production = self._models.production(fixed.model)
        if production == fixed.version:
            raise FailedPrecondition(
                f"{fixed} is in production; promote another version first, or delete models/{fixed.model}"
            )
        self._check_versions_unused([fixed], self._jobs.unfinished())
        if self._index.serving_version(fixed.model) == fixed:
            raise FailedPrecondition(
                f"the index of {fixed} serves models/{fixed.model} until the index of "
                f"versions/{production} is complete; watch `blemish jobs --live` and retry"
            )
        self._delete(fixed)

    def model(self, model: str, force: bool) -> None:
        """Delete all versions of a model and its stored frames.

        Raises:
            NotFound: if there is no such model.
            FailedPrecondition: if a version is pinned, a job uses the model, or a version is in production
                and ``force`` is not set.
            Unavailable: if Redis or Qdrant does not answer.
        """
        self._models.resolve(ModelRef(model))
        versions = [ModelRef(model, number) for number in self._models.numbers(model)]
        production = self._models.production(model)
        if production is not None and not force:
            raise FailedPrecondition(
                f"models/{model}/versions/{production} is in production; set force (--force) to delete it"
            )
        open_jobs = self._jobs.unfinished()
        self._check_versions_unused(versions, open_jobs)
        for job in open_jobs:
            if isinstance(job.spec, TrainSpec) and model in (
                job.spec.model_id,
                _false_alarm_model(job.spec),
            ):
                raise _in_use(job, f"models/{model}")
        self._models.retire(model)
        for version in reversed(
            versions
        ):  # newest last, so that the model's name resolves to it until then
            self._delete(version)

    def _delete(self, fixed: ModelRef) -> None:
        self._index.drop(fixed)
        self._models.delete(fixed)
        if not self._models.numbers(fixed.model):
            self._frames.remove_all(fixed.model)

    def _check_dataset_unused(self, dataset_id: str) -> None:
        for job in self._jobs.unfinished():
            if job.spec.dataset == dataset_id:
                raise _in_use(job, dataset_name(dataset_id))

    def _check_versions_unused(self, versions: Sequence[ModelRef], open_jobs: Sequence[Job]) -> None:
        jobs = {job.spec.model: job for job in open_jobs if not isinstance(job.spec, TrainSpec)}
        for version in versions:
            if self._models.is_pinned(version.model, version.version or 0):
                short = f"{version.model}/{version.version}"
                raise FailedPrecondition(
                    f"{version} is pinned; run `blemish models pin --off {short}` first"
                )
            if job := jobs.get(str(version)):
                raise _in_use(job, str(version))


def _false_alarm_model(spec: TrainSpec) -> str:
    """Return the model whose false alarms a training uses."""
    return ModelRef.parse(spec.false_alarms_of).model if spec.false_alarms_of else ""


def _in_use(job: Job, what: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"{job_name(job.id)} uses {what}; wait for its end, or run `blemish jobs cancel {job.id}`"
    )
