# SPDX-License-Identifier: Apache-2.0
"""The store's models: versions that are complete or absent, and the alias ``production``."""

import fcntl
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from blemish_core.models import bundle
from blemish_core.models.bundle import Manifest
from blemish_core.models.calibration_log import CalibrationLog
from blemish_core.platform.errors import FailedPrecondition, NotFound
from blemish_core.platform.files import atomic_write, fsync, publish_directory, staged_directory
from blemish_core.platform.names import PRODUCTION, ModelRef, job_name
from blemish_core.runtimes.choice import TORCH

_ALIASES = "aliases.json"
_EVALUATIONS = "evaluations"
_STAGING = ".staging-"
_ARRIVING = ".arriving-"
_LOCK = "lock"
_LOCKED_WITHIN_S = 2.0  # of its making, which is a moment before
_PINNED = "pinned"
_LAST = "last"
_SHADOW = "shadow"
REPORT_PAGE = "report.html"
_NAMED = 10


@dataclass(frozen=True)
class Model:
    """A model and its versions, newest first."""

    id: str
    production: int | None
    shadow: int | None
    versions: tuple[Manifest, ...]


class ModelStore:
    """Bundles below ``root/<model>/<version>/``.

    Any number of processes may read and publish at once: a version appears by one rename, and two that
    publish at the same moment get different numbers.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def folder(self, model: str, version: int) -> Path:
        return self._root / model / str(version)

    def resolve(self, ref: ModelRef) -> ModelRef:
        """Return the fixed version that ``ref`` means now.

        Raises:
            NotFound: if there is no such model or version, or none is in production.
        """
        versions = self.numbers(ref.model)
        if not versions:
            raise NotFound(
                f"there is no model {ref.model!r}; `blemish models` lists them, `blemish train` makes one"
            )
        number = ref.version
        if number is None:
            number = self.production(ref.model)
            if number is None and ref.alias == PRODUCTION:
                raise NotFound(
                    f"no version of {ref.model} is in production; promote one with "
                    f"`blemish models promote {ref.model}/{versions[0]}`"
                )
            number = number or versions[0]
        if number not in versions:
            raise NotFound(f"models/{ref.model} has no version {number}; its newest is {versions[0]}")
        return ModelRef(ref.model, number)

    def manifest(self, ref: ModelRef) -> Manifest:
        """Read the card of what ``ref`` means now.

        Raises:
            NotFound: if there is no such model or version.
            Corrupt: if the manifest cannot be read.
        """
        fixed = self.resolve(ref)
        return bundle.read_manifest(self._folder_of(fixed))

    def calibrations(self, manifest: Manifest, runtime: str = TORCH) -> CalibrationLog:
        """The calibrations that a version of this store has had, as they hold under ``runtime``."""
        folder = self.folder(manifest.model, manifest.version)
        return CalibrationLog(folder, manifest, manifest.calibration_under(runtime))

    def numbers(self, model: str) -> list[int]:
        """The numbers of a model's complete versions, newest first."""
        home = self._root / model
        if not home.is_dir():
            return []
        numbers = (folder.name for folder in home.iterdir() if folder.name.isdecimal())
        return sorted(map(int, numbers), reverse=True)

    def has(self, fixed: ModelRef) -> bool:
        """Whether there is this version."""
        return self._folder_of(fixed).is_dir()

    def get(self, model: str) -> Model:
        versions = self.numbers(model)
        return Model(
            model,
            self.production(model),
            self.shadow(model),
            tuple(bundle.read_manifest(self.folder(model, number)) for number in versions),
        )

    def page(self, after: str = "", limit: int = 100) -> list[Model]:
        """Models by id, those that sort behind ``after``."""
        if not self._root.exists():
            return []
        ids = sorted(
            folder.name
            for folder in self._root.iterdir()
            if folder.name > after and not folder.name.startswith(".") and self.numbers(folder.name)
        )
        return [self.get(model) for model in ids[:limit]]

    def production(self, model: str) -> int | None:
        """The promoted version's number."""
        try:
            aliases = json.loads((self._root / model / _ALIASES).read_bytes())
        except FileNotFoundError:
            return None
        number = aliases.get(PRODUCTION)
        return int(number) if number is not None else None

    def in_production(self) -> list[ModelRef]:
        """All versions in production, the most recently promoted first."""
        if not self._root.exists():
            return []
        files = sorted(
            self._root.glob(f"[!.]*/{_ALIASES}"), key=lambda file: file.stat().st_mtime, reverse=True
        )
        numbers = ((file.parent.name, self.production(file.parent.name)) for file in files)
        return [ModelRef(model, number) for model, number in numbers if number]

    def promote(self, ref: ModelRef) -> Manifest:
        """Make a version the production one.

        Raises:
            NotFound: if there is no such version.
        """
        manifest = self.manifest(ref)
        aliases = json.dumps({PRODUCTION: manifest.version}).encode()
        atomic_write(self._root / manifest.model / _ALIASES, aliases)
        if self._noted(manifest.model, _SHADOW) == manifest.version:
            self._end_shadow(manifest.model)
        return manifest

    def shadow(self, model: str) -> int | None:
        """The number of the version that judges beside the one in production."""
        number = self._noted(model, _SHADOW)
        production = self.production(model)
        if not number or production in (None, number) or not self.has(ModelRef(model, number)):
            return None
        return number

    def shadows(self) -> list[ModelRef]:
        """The shadow of each model that has one."""
        models = (file.parent.name for file in self._root.glob(f"[!.]*/{_SHADOW}"))
        return [ModelRef(model, number) for model in models if (number := self.shadow(model))]

    def set_shadow(self, ref: ModelRef, shadow: bool) -> Manifest:
        """Have a version judge beside the one in production, in the place of any other, or no longer.

        Raises:
            NotFound: if there is no such version.
            FailedPrecondition: if it is in production, or none is.
        """
        manifest = self.manifest(ref)
        model, number = manifest.model, manifest.version
        if not shadow:
            if self._noted(model, _SHADOW) == number:
                self._end_shadow(model)
            return manifest
        production = self.production(model)
        if production is None:
            raise FailedPrecondition(
                f"no version of {model} is in production that {manifest.name} could be compared with; "
                "promote one first"
            )
        if production == number:
            raise FailedPrecondition(f"{manifest.name} is in production itself")
        atomic_write(self._root / model / _SHADOW, str(number).encode())
        return manifest

    def published_by(self, job: str, model: str) -> Manifest | None:
        """The version of ``model`` that a job has published, if it has."""
        manifests = (bundle.read_manifest(self.folder(model, number)) for number in self.numbers(model))
        return next((manifest for manifest in manifests if manifest.job == job), None)

    def publish(
        self,
        model: str,
        job: str,
        write: Callable[[Path, int], None],
        commit: Callable[[], None] = lambda: None,
    ) -> Manifest:
        """Make a version of what ``write`` puts into the folder that it is given with a number.

        Idempotent by ``job``: a job that was run twice, also at the same time, has one version. ``commit``
        is called right before the version appears, and raises if it must not.
        """
        home = self._root / model
        home.mkdir(parents=True, exist_ok=True)
        with staged_directory(home / _staging(job)) as staging:
            while True:
                number = max([self._last(model), *self.numbers(model)]) + 1
                # Look only after choosing the number: another attempt may have published in between.
                if published := self.published_by(job, model):
                    return published
                write(staging, number)
                target = self.folder(model, number)
                if publish_directory(staging, target, commit):
                    return bundle.read_manifest(target)

    @contextmanager
    def import_workspace(self) -> Iterator[Path]:
        """A folder for what is to become a version, on the same disk; it goes in the end."""
        self._root.mkdir(parents=True, exist_ok=True)
        self.discard_stale_imports()
        with TemporaryDirectory(prefix=_ARRIVING, dir=self._root) as folder, _locked(Path(folder)):
            yield Path(folder)

    def discard_stale_imports(self) -> None:
        """Remove the folders of ``arrivals`` whose process was killed."""
        for folder in self._root.glob(f"{_ARRIVING}*"):
            with suppress(OSError):  # it has gone just now, or somebody holds its lock
                if time.time() - folder.stat().st_mtime > _LOCKED_WITHIN_S:
                    with _locked(folder):
                        shutil.rmtree(folder, ignore_errors=True)

    def add_evaluation(
        self,
        ref: ModelRef,
        job: str,
        write: Callable[[Path], None],
        commit: Callable[[], None] = lambda: None,
    ) -> None:
        """Keep beside a version what ``write`` puts into the folder that it is given.

        Idempotent by ``job``: of a job that was run twice the first evaluation stays. ``commit`` is called
        right before it appears, and raises if it must not.
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
        """Have a version kept whatever becomes of others, or no longer.

        Raises:
            NotFound: if there is no such version.
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
        """The versions beyond the ``keep`` newest, but for those pinned, in production, or its shadow."""
        homes = self._root.glob("[!.]*") if self._root.exists() else ()
        return [
            ModelRef(home.name, number)
            for home in homes
            for number in self.numbers(home.name)[keep:]
            if number not in (self.production(home.name), self.shadow(home.name))
            and not self.is_pinned(home.name, number)
        ]

    def delete(self, ref: ModelRef) -> None:
        """Remove a version; who has loaded it keeps it until it is done. Its number is not given again.

        Raises:
            NotFound: if there is no such version.
        """
        fixed = self.resolve(ref)
        # Caches, indexes and cards elsewhere know versions by their numbers.
        if (number := fixed.version or 0) > self._last(fixed.model):
            atomic_write(self._root / fixed.model / _LAST, str(number).encode())
        gone = self._root / fixed.model / f".deleted-{fixed.version}-{uuid4().hex}"
        self._folder_of(fixed).rename(gone)  # nobody sees half of it
        fsync(gone.parent)
        # Those too that were left by whoever was killed here.
        for left in gone.parent.glob(".deleted-*"):
            shutil.rmtree(left, ignore_errors=True)

    def retire(self, model: str) -> None:
        """Have no version of a model in production, nor as a shadow."""
        (self._root / model / _ALIASES).unlink(missing_ok=True)
        self._end_shadow(model)

    def staged_folders(self) -> dict[str, list[Path]]:
        """The folders that jobs are writing, or left half written when they were killed, by job."""
        found: dict[str, list[Path]] = {}
        for pattern in (f"*/{_STAGING}*", f"*/*/{_EVALUATIONS}/{_STAGING}*"):
            for folder in self._root.glob(pattern):
                found.setdefault(folder.name.removeprefix(_STAGING).split("-")[0], []).append(folder)
        return found

    def discard(self, job: str) -> None:
        """Drop what a job left half written."""
        for folder in self.staged_folders().get(job, ()):
            shutil.rmtree(folder, ignore_errors=True)

    def report(self, ref: ModelRef, job: str | None = None) -> Path:
        """Where the page is that the training of a version left, or the evaluation of it by ``job``.

        Raises:
            NotFound: if there is no such version or it has no such page; the message says what it has.
        """
        fixed = self.resolve(ref)
        folder = self._folder_of(fixed)
        page = (folder / _EVALUATIONS / job if job else folder / bundle.REPORT) / REPORT_PAGE
        if page.is_file():
            return page
        evaluations = sorted(
            (folder / _EVALUATIONS).glob(f"[!.]*/{REPORT_PAGE}"),
            key=lambda each: each.stat().st_mtime,
            reverse=True,
        )
        there = [job_name(each.parent.name) for each in evaluations[:_NAMED]]
        if (folder / bundle.REPORT / REPORT_PAGE).is_file():
            there.insert(0, "that of its training")
        wanted = f"an evaluation by {job_name(job)}" if job else "its training, which an older blemish did"
        raise NotFound(
            f"{fixed} has no report of {wanted}; "
            + (f"there is {', '.join(there)}" if there else "`blemish evaluate` leaves one")
        )

    def _folder_of(self, fixed: ModelRef) -> Path:
        return self.folder(fixed.model, fixed.version or 0)

    def _last(self, model: str) -> int:
        """The highest number that a removed version had; 0 if none was removed."""
        return self._noted(model, _LAST)

    def _end_shadow(self, model: str) -> None:
        (self._root / model / _SHADOW).unlink(missing_ok=True)

    def _noted(self, model: str, what: str) -> int:
        """The number in a file of the model's; 0 if there is none."""
        try:
            return int((self._root / model / what).read_bytes())
        except FileNotFoundError:
            return 0


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which goes with the process.

    Raises:
        OSError: if another holds it, or the folder is gone.
    """
    with (folder / _LOCK).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def _staging(job: str) -> str:
    """A name that no other attempt at this job takes."""
    return f"{_STAGING}{job}-{uuid4().hex}"
