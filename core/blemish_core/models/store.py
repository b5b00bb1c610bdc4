# SPDX-License-Identifier: Apache-2.0
"""The store of model versions, and the alias ``production``."""

import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from pydantic import BaseModel, PositiveInt, ValidationError

from blemish_core.evaluation import stored_scores
from blemish_core.evaluation.metrics import Metrics
from blemish_core.evaluation.stored_scores import StoredScores
from blemish_core.models import bundle
from blemish_core.models.bundle import Manifest
from blemish_core.models.calibration_log import CalibrationLog
from blemish_core.platform.errors import Corrupt, FailedPrecondition, NotFound
from blemish_core.platform.files import (
    atomic_write,
    disk_full_errors,
    fsync,
    publish_directory,
    staged_directory,
)
from blemish_core.platform.names import LATEST, PRODUCTION, ModelRef, job_name
from blemish_core.runtimes.choice import TORCH
from blemish_layouts.reading import read_regular

_ALIASES = "aliases.json"
_EVALUATIONS = "evaluations"
_STAGING = ".staging-"
_IMPORTING = ".arriving-"
_LOCK = "lock"
_LOCKED_WITHIN_S = 2.0
"""Age from which on an import workspace must be locked, in seconds."""
_MASKS = ".masks"
"""Folder of the masks of accepted trainings, by SHA-256."""
_PINNED = "pinned"
_LAST = "last"
_SHADOW = "shadow"
REPORT_PAGE = "report.html"
_NAMED = 10
_MAX_SMALL_BYTES = 4096
"""Longest file of a single number or alias."""
_MAX_MASK_BYTES = 64 << 20


class _Aliases(BaseModel):
    """The content of ``aliases.json``."""

    production: PositiveInt | None = None


@dataclass(frozen=True)
class Model:
    """A model and its versions, newest first."""

    id: str
    production: int | None
    shadow: int | None
    versions: tuple[Manifest, ...]


class ModelStore:
    """The bundles in ``root/<model>/<version>/``.

    Any number of processes may read and publish. A version appears by a single rename, and concurrent
    publishers get different numbers.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def folder(self, model: str, version: int) -> Path:
        """Return the path of a version's bundle, existing or not."""
        return self._root / model / str(version)

    def resolve(self, ref: ModelRef) -> ModelRef:
        """Return the version that ``ref`` refers to at this moment.

        Raises:
            NotFound: if the model or version does not exist, or no version is in production.
        """
        versions = self.numbers(ref.model)
        if not versions:
            raise NotFound(
                f"there is no model {ref.model!r}; list models with `blemish models` or train one with "
                "`blemish train`"
            )
        number = versions[0] if ref.alias == LATEST else ref.version
        if number is None:
            number = self.production(ref.model)
            if number is None and ref.alias == PRODUCTION:
                raise NotFound(
                    f"no version of {ref.model} is in production; promote one with "
                    f"`blemish models promote {ref.model}/{versions[0]}`"
                )
            number = number or versions[0]
        if number not in versions:
            raise NotFound(f"models/{ref.model} has no version {number}; the newest one is {versions[0]}")
        return ModelRef(ref.model, number)

    def manifest(self, ref: ModelRef) -> Manifest:
        """Return the manifest of the version that ``ref`` refers to.

        Raises:
            NotFound: if the model or version does not exist.
            Corrupt: if the manifest is damaged.
        """
        fixed = self.resolve(ref)
        return bundle.read_manifest(self._folder_of(fixed))

    def calibrations(self, manifest: Manifest, runtime: str = TORCH) -> CalibrationLog:
        """Return the calibration history of a version for ``runtime``."""
        folder = self.folder(manifest.model, manifest.version)
        return CalibrationLog(folder, manifest, manifest.calibration_under(runtime))

    def scores(self, manifest: Manifest, job: str | None = None) -> StoredScores | None:
        """Return the scores of the test images by the training, or by the evaluation ``job``, if stored."""
        return stored_scores.read_scores(self._report_folder(manifest.model, manifest.version, job))

    def metrics(self, manifest: Manifest, threshold: float) -> Metrics | None:
        """Return the metrics on the test images of the training, with the figures of ``threshold``.

        Figures that need the images are those of the training, and so are all figures without stored
        scores. Each has the threshold to which it belongs. None without test images.
        """
        if manifest.metrics is None:
            return None
        trained = manifest.calibration
        measured = Metrics.model_validate(
            {
                "threshold": trained.threshold,
                "regions_threshold": trained.threshold,
                "regions_pixel_threshold": trained.pixel_threshold,
            }
            | manifest.metrics.model_dump(exclude_none=True)
        )
        if threshold == measured.threshold or (scores := self.scores(manifest)) is None:
            return measured
        return stored_scores.at_threshold(measured, scores, threshold)

    def evaluation_folders(self, manifest: Manifest) -> dict[str, Path]:
        """Return the folders of the reports of a version's evaluations, by job."""
        home = self.folder(manifest.model, manifest.version) / _EVALUATIONS
        return {folder.name: folder for folder in sorted(home.glob("[!.]*"))}

    def training_report_folder(self, manifest: Manifest) -> Path:
        """Return the folder of the report of a version's training, existing or not."""
        return self._report_folder(manifest.model, manifest.version, None)

    def numbers(self, model: str) -> list[int]:
        """Return the version numbers of a model, newest first."""
        home = self._root / model
        if not home.is_dir():
            return []
        numbers = (folder.name for folder in home.iterdir() if folder.name.isdecimal())
        return sorted(map(int, numbers), reverse=True)

    def has(self, fixed: ModelRef) -> bool:
        """Return whether the version exists."""
        return self._folder_of(fixed).is_dir()

    def get(self, model: str) -> Model:
        """Return a model with all manifests; it has no versions if the model does not exist."""
        versions = self.numbers(model)
        return Model(
            model,
            self.production(model),
            self.shadow(model),
            tuple(bundle.read_manifest(self.folder(model, number)) for number in versions),
        )

    def page(self, after: str = "", limit: int = 100) -> list[Model]:
        """Return up to ``limit`` models with ids after ``after``, sorted by id."""
        if not self._root.exists():
            return []
        ids = sorted(
            folder.name
            for folder in self._root.iterdir()
            if folder.name > after and not folder.name.startswith(".") and self.numbers(folder.name)
        )
        return [self.get(model) for model in ids[:limit]]

    def production(self, model: str) -> int | None:
        """Return the number of the version in production, or None."""
        file = self._root / model / _ALIASES
        try:
            return _Aliases.model_validate_json(read_regular(file, _MAX_SMALL_BYTES)).production
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise Corrupt(f"{file} cannot be read; promote a version again") from error

    def in_production(self) -> list[ModelRef]:
        """Return all versions in production, the most recently promoted first."""
        if not self._root.exists():
            return []
        files = sorted(
            self._root.glob(f"[!.]*/{_ALIASES}"), key=lambda file: file.stat().st_mtime, reverse=True
        )
        numbers = ((file.parent.name, self.production(file.parent.name)) for file in files)
        return [ModelRef(model, number) for model, number in numbers if number]

    def promote(self, ref: ModelRef) -> Manifest:
        """Put a version in production.

        Raises:
            NotFound: if the version does not exist.
        """
        manifest = self.manifest(ref)
        aliases = json.dumps({PRODUCTION: manifest.version}).encode()
        atomic_write(self._root / manifest.model / _ALIASES, aliases)
        if self._number_in(manifest.model, _SHADOW) == manifest.version:
            self._end_shadow(manifest.model)
        return manifest

    def shadow(self, model: str) -> int | None:
        """Return the number of the shadow, which also scores the frames of production, or None."""
        number = self._number_in(model, _SHADOW)
        production = self.production(model)
        if not number or production in (None, number) or not self.has(ModelRef(model, number)):
            return None
        return number

    def shadows(self) -> list[ModelRef]:
        """Return the shadow of each model that has one."""
        models = (file.parent.name for file in self._root.glob(f"[!.]*/{_SHADOW}"))
        return [ModelRef(model, number) for model in models if (number := self.shadow(model))]

    def set_shadow(self, ref: ModelRef, shadow: bool) -> Manifest:
        """Make a version the shadow of the one in production, or end that.

        Raises:
            NotFound: if the version does not exist.
            FailedPrecondition: if it is in production itself, or no version is.
        """
        manifest = self.manifest(ref)
        model, number = manifest.model, manifest.version
        if not shadow:
            if self._number_in(model, _SHADOW) == number:
                self._end_shadow(model)
            return manifest
        production = self.production(model)
        if production is None:
            raise FailedPrecondition(
                f"no version of {model} is in production to compare {manifest.name} with; promote one first"
            )
        if production == number:
            raise FailedPrecondition(f"{manifest.name} is in production itself; choose another version")
        atomic_write(self._root / model / _SHADOW, str(number).encode())
        return manifest

    def published_by(self, job: str, model: str) -> Manifest | None:
        """Return the version of ``model`` that a job has published, or None."""
        manifests = (bundle.read_manifest(self.folder(model, number)) for number in self.numbers(model))
        return next((manifest for manifest in manifests if manifest.job == job), None)

    def publish(
        self,
        model: str,
        job: str,
        write: Callable[[Path, int], None],
        commit: Callable[[], None] = lambda: None,
    ) -> Manifest:
        """Publish a version with the files that ``write`` creates, and return its manifest.

        Each job publishes at most one version, even if two attempts run concurrently.

        Args:
            model: id of the model.
            job: id of the job that publishes.
            write: called with an empty folder and the version's number; called again, with the same folder
                and the next number, if another job took the number.
            commit: called right before the version appears; raises to prevent that.

        Raises:
            DiskFull: if the disk has no space for the files.
        """
        home = self._root / model
        home.mkdir(parents=True, exist_ok=True)
        with staged_directory(home / _staging(job)) as staging:
            while True:
                number = max([self._last(model), *self.numbers(model)]) + 1
                # Look only after choosing the number: another attempt may have published in between.
                if published := self.published_by(job, model):
                    return published
                with disk_full_errors(home):
                    write(staging, number)
                target = self.folder(model, number)
                if publish_directory(staging, target, commit):
                    return bundle.read_manifest(target)

    @contextmanager
    def import_workspace(self) -> Iterator[Path]:
        """Yield a temporary folder for the files of an import, on the disk of the store."""
        self._root.mkdir(parents=True, exist_ok=True)
        self.discard_stale_imports()
        with TemporaryDirectory(prefix=_IMPORTING, dir=self._root) as folder, _locked(Path(folder)):
            yield Path(folder)

    def discard_stale_imports(self) -> None:
        """Remove import workspaces of killed processes."""
        for folder in self._root.glob(f"{_IMPORTING}*"):
            with suppress(OSError):  # removed in the meantime, or locked by a running import
                if time.time() - folder.stat().st_mtime > _LOCKED_WITHIN_S:
                    with _locked(folder):
                        shutil.rmtree(folder, ignore_errors=True)

    def keep_mask(self, png: bytes, sha256: str) -> None:
        """Store the mask of a training that is about to be accepted, under its SHA-256 in hex."""
        folder = self._root / _MASKS
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / f"{sha256}.png", png)

    def mask_of(self, manifest: Manifest) -> bytes:
        """Return the mask of a version as a PNG.

        Raises:
            NotFound: if the version was deleted.
            Corrupt: if the mask is damaged.
        """
        file = self.folder(manifest.model, manifest.version) / bundle.MASK
        try:
            png = read_regular(file, _MAX_MASK_BYTES)
        except FileNotFoundError as error:
            raise NotFound(f"{manifest.name} was deleted; name another version") from error
        except OSError as error:
            raise Corrupt(f"the mask of {manifest.name} cannot be read; train again") from error
        if manifest.mask is None or hashlib.sha256(png).hexdigest() != manifest.mask.sha256:
            raise Corrupt(f"the mask of {manifest.name} was changed; train again")
        return png

    def mask(self, sha256: str) -> bytes:
        """Return a stored mask.

        Raises:
            NotFound: if it does not exist.
            Corrupt: if it was changed.
        """
        try:
            png = read_regular(self._root / _MASKS / f"{sha256}.png", _MAX_MASK_BYTES)
        except FileNotFoundError as error:
            raise NotFound(f"there is no mask {sha256[:12]}; start the training again") from error
        except OSError as error:
            raise Corrupt(f"the mask {sha256[:12]} cannot be read; start the training again") from error
        if hashlib.sha256(png).hexdigest() != sha256:
            raise Corrupt(f"the mask {sha256[:12]} was changed; start the training again")
        return png

    def discard_masks(self, needed: Collection[str], min_age_s: float) -> list[str]:
        """Delete the masks whose SHA-256 no training needs, and return theirs.

        Younger masks than ``min_age_s`` stay: the job that needs one is created after it.
        """
        discarded = []
        for file in (self._root / _MASKS).glob("*.png"):
            with suppress(FileNotFoundError):  # another process deleted it
                if file.stem not in needed and time.time() - file.stat().st_mtime > min_age_s:
                    file.unlink()
                    discarded.append(file.stem)
        return discarded

    def add_evaluation(
        self,
        ref: ModelRef,
        job: str,
        write: Callable[[Path], None],
        commit: Callable[[], None] = lambda: None,
    ) -> None:
        """Store an evaluation of a version with the files that ``write`` creates in the given folder.

        Each job stores at most one evaluation; the first one is kept. ``commit`` is called right before the
        evaluation appears, and raises to prevent that.
        """
        home = self._folder_of(ref) / _EVALUATIONS
        if (home / job).exists():
            return
        home.mkdir(exist_ok=True)
        fsync(home.parent)
        with staged_directory(home / _staging(job)) as staging:
            write(staging)
            publish_directory(staging, home / job, commit)

    def pin(self, ref: ModelRef, pinned: bool) -> Manifest:
        """Exclude a version from retention, or include it again.

        Raises:
            NotFound: if the version does not exist.
        """
        manifest = self.manifest(ref)
        mark = self.folder(manifest.model, manifest.version) / _PINNED
        if pinned:
            mark.touch()
        else:
            mark.unlink(missing_ok=True)
        return manifest

    def is_pinned(self, model: str, version: int) -> bool:
        return (self.folder(model, version) / _PINNED).exists()

    def beyond_retention(self, keep: int) -> list[ModelRef]:
        """Return all versions except the ``keep`` newest, pinned, production and shadow ones."""
        homes = self._root.glob("[!.]*") if self._root.exists() else ()
        return [
            ModelRef(home.name, number)
            for home in homes
            for number in self.numbers(home.name)[keep:]
            if number not in (self.production(home.name), self.shadow(home.name))
            and not self.is_pinned(home.name, number)
        ]

    def delete(self, ref: ModelRef) -> None:
        """Delete a version. Its number is never reused. Processes that have loaded it can finish.

        Raises:
            NotFound: if the version does not exist.
        """
        fixed = self.resolve(ref)
        # Caches and search indexes identify versions by their numbers.
        if (number := fixed.version or 0) > self._last(fixed.model):
            atomic_write(self._root / fixed.model / _LAST, str(number).encode())
        deleted = self._root / fixed.model / f".deleted-{fixed.version}-{uuid4().hex}"
        self._folder_of(fixed).rename(deleted)
        fsync(deleted.parent)
        # Include folders that a killed process left here.
        for folder in deleted.parent.glob(".deleted-*"):
            shutil.rmtree(folder, ignore_errors=True)

    def retire(self, model: str) -> None:
        """Take the model out of production and end its shadow."""
        (self._root / model / _ALIASES).unlink(missing_ok=True)
        self._end_shadow(model)

    def staged_folders(self) -> dict[str, list[Path]]:
        """Return the folders that running or killed jobs have not published, by job."""
        found: dict[str, list[Path]] = {}
        for pattern in (f"*/{_STAGING}*", f"*/*/{_EVALUATIONS}/{_STAGING}*"):
            for folder in self._root.glob(pattern):
                found.setdefault(folder.name.removeprefix(_STAGING).split("-")[0], []).append(folder)
        return found

    def discard(self, job: str) -> None:
        """Delete the unpublished folders of a job."""
        for folder in self.staged_folders().get(job, ()):
            shutil.rmtree(folder, ignore_errors=True)

    def report(self, ref: ModelRef, job: str | None = None) -> Path:
        """Return the path of a version's training report, or of its evaluation report by ``job``.

        Raises:
            NotFound: if the version or the report does not exist; the message names the existing reports.
        """
        fixed = self.resolve(ref)
        folder = self._folder_of(fixed)
        page = self._report_folder(fixed.model, fixed.version or 0, job) / REPORT_PAGE
        if page.is_file():
            return page
        evaluations = sorted(
            (folder / _EVALUATIONS).glob(f"[!.]*/{REPORT_PAGE}"),
            key=lambda each: each.stat().st_mtime,
            reverse=True,
        )
        existing = [job_name(each.parent.name) for each in evaluations[:_NAMED]]
        if (folder / bundle.REPORT / REPORT_PAGE).is_file():
            existing.insert(0, "that of its training")
        missing = f"an evaluation by {job_name(job)}" if job else "its training with an old blemish"
        raise NotFound(
            f"{fixed} has no report of {missing}; "
            + (f"choose {' or '.join(existing)}" if existing else "create one with `blemish evaluate`")
        )

    def _report_folder(self, model: str, version: int, job: str | None) -> Path:
        folder = self.folder(model, version)
        return folder / _EVALUATIONS / job if job else folder / bundle.REPORT

    def _folder_of(self, fixed: ModelRef) -> Path:
        return self.folder(fixed.model, fixed.version or 0)

    def _last(self, model: str) -> int:
        """Return the highest number of a deleted version, or 0."""
        return self._number_in(model, _LAST)

    def _end_shadow(self, model: str) -> None:
        (self._root / model / _SHADOW).unlink(missing_ok=True)

    def _number_in(self, model: str, file: str) -> int:
        """Return the number in a file of the model, or 0 if the file does not exist."""
        path = self._root / model / file
        try:
            return int(read_regular(path, _MAX_SMALL_BYTES))
        except FileNotFoundError:
            return 0
        except (OSError, ValueError) as error:
            raise Corrupt(f"{path} cannot be read; restore it from a backup, or delete it") from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder.

    Raises:
        OSError: if another process holds it, or the folder does not exist.
    """
    with (folder / _LOCK).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def _staging(job: str) -> str:
    """Return a folder name that is unique to this attempt of the job."""
    return f"{_STAGING}{job}-{uuid4().hex}"
