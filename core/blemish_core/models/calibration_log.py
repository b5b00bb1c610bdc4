# SPDX-License-Identifier: Apache-2.0
"""The append-only history of a model version's calibrations, each with author, time and comment.

::

    <version>/manifest.json            revision 1, from training
    <version>/calibration/2.json, ...  one file per change, numbered consecutively

The manifest and the weights never change. A reader checks once per frame if the file after its last known
revision exists. This also detects changes within one tick of the file system's clock, and changes by other
processes and machines.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from blemish_core.calibration import Calibration
from blemish_core.localization.settings import RegionSettings
from blemish_core.models.bundle import Manifest
from blemish_core.platform.bounded import Time
from blemish_core.platform.errors import Conflict, Corrupt, InvalidRequest, NotFound
from blemish_core.platform.files import atomic_create, disk_full_errors
from blemish_core.platform.names import job_name
from blemish_layouts.reading import read_regular

FOLDER = "calibration"
MAX_AUTHOR = 100
MAX_COMMENT = 1000
_MAX_BYTES = 1 << 20
"""Longest file of a revision."""
_FILE = re.compile(r"([1-9]\d{0,8})\.json")


class ThresholdRule(StrEnum):
    """How a threshold was chosen."""

    TRAINED = "trained"
    FALSE_REJECT_RATE = "false_reject_rate"
    FIXED = "fixed"


@dataclass(frozen=True)
class CalibrationChange:
    """A requested change of a calibration. Without a rule or without regions, that part remains.

    Raises:
        InvalidRequest: if the author is missing, or if author or comment are too long or not printable on
            one line.
    """

    rule: ThresholdRule | None
    author: str
    value: float = 0.0
    """False-reject rate or threshold; unused for ``TRAINED``."""
    comment: str = ""
    regions: RegionSettings | None = None
    revision: int | None = None
    """Earlier revision whose threshold and regions are restored; excludes ``rule``."""

    def __post_init__(self) -> None:
        """Validate author and comment, because logs and terminals show them."""
        if not self.author.strip():
            raise InvalidRequest("author is empty; give the author of the change", field="author")
        for field, text, most in (
            ("author", self.author, MAX_AUTHOR),
            ("comment", self.comment, MAX_COMMENT),
        ):
            if len(text) > most:
                raise InvalidRequest(f"{field} has {len(text)} characters; use at most {most}", field=field)
            if not text.isprintable():
                raise InvalidRequest(
                    f"{field} has characters that cannot be printed; use one line of text", field=field
                )

    def restoring(self, earlier: "Revision") -> "CalibrationChange":
        """Return this change with the rule and the regions of an earlier revision, named in the comment."""
        regions = self.regions if self.regions is not None else earlier.calibration.regions
        comment = self.comment or f"back to revision {earlier.number}"
        return replace(
            self, rule=earlier.rule, value=earlier.value, regions=regions, comment=comment, revision=None
        )

    def after(self, current: "Revision") -> "CalibrationChange":
        """Return this change with the parts that it does not request as they are in ``current``."""
        change = self
        if change.rule is None:
            change = replace(change, rule=current.rule, value=current.value)
        if change.regions is None:
            change = replace(change, regions=current.calibration.regions)
        return change

    def apply_to(self, trained: Calibration) -> Calibration:
        """Return the calibration from training with the threshold and regions that this change requests.

        Raises:
            InvalidRequest: if the value is not a valid rate or threshold, or a setting of regions is out of
                range.
        """
        calibration = trained if self.regions is None else trained.with_regions(self.regions)
        match self.rule:
            case ThresholdRule.FALSE_REJECT_RATE:
                return calibration.at_false_reject_rate(self.value)
            case ThresholdRule.FIXED:
                return calibration.at_threshold(self.value)
            case ThresholdRule.TRAINED | None:
                return calibration


@dataclass(frozen=True)
class Revision:
    """One entry of the history: a calibration and its origin."""

    number: int
    rule: ThresholdRule
    author: str
    updated: datetime
    comment: str
    calibration: Calibration

    @property
    def value(self) -> float:
        """The false-reject rate or threshold that was requested, 0 for ``TRAINED``."""
        match self.rule:
            case ThresholdRule.FALSE_REJECT_RATE:
                return self.calibration.target_false_reject_rate
            case ThresholdRule.FIXED:
                assert self.calibration.fixed_threshold is not None
                return self.calibration.fixed_threshold
            case ThresholdRule.TRAINED:
                return 0.0


class CalibrationLog:
    """The calibrations of one version. Any number of threads and processes may read and append."""

    def __init__(self, folder: Path, manifest: Manifest, trained: Calibration | None = None) -> None:
        """Open the history in the bundle ``folder`` of the version with ``manifest``.

        ``trained`` is the calibration from training for a runtime with other scores than torch. All
        revisions' rules then apply to its held-out scores; the files contain the thresholds for torch.
        """
        self._folder = folder / FOLDER
        self._manifest = manifest
        self._trained = trained or manifest.calibration
        self._known: Revision | None = None

    def newest(self) -> Revision:
        """Return the current revision, with a single check of the file system if nothing has changed.

        A slow thread may briefly replace the cached revision by an older one; the next call corrects it.

        Raises:
            Corrupt: if the revision is damaged.
        """
        if self._known is None or self._file(self._known.number + 1).exists():
            self._known = self._read(self._newest_number())
        return self._known

    def history(self, limit: int) -> list[Revision]:
        """Return the newest ``limit`` revisions, newest first.

        Raises:
            Corrupt: if a revision is damaged.
        """
        newest = self._newest_number()
        return [self._read(number) for number in range(newest, max(newest - limit, 0), -1)]

    def at(self, number: int) -> Revision:
        """Return one revision.

        Raises:
            NotFound: if there is no such revision.
            Corrupt: if it is damaged.
        """
        newest = self._newest_number()
        if not 1 <= number <= newest:
            raise NotFound(
                f"the calibration of {self._manifest.name} has no revision {number}; choose 1 to {newest}"
            )
        return self._read(number)

    def preview(self, change: CalibrationChange, expected: int | None = None) -> Revision:
        """Return the revision that ``append`` would append now.

        Raises:
            InvalidRequest: if the value is not a valid rate or threshold, or a setting of regions is out of
                range.
            NotFound: if the change restores a revision that does not exist.
            Conflict: if the newest revision is not ``expected``.
        """
        number = self._newest_number()
        if expected is not None and number != expected:
            raise Conflict(
                f"the calibration of {self._manifest.name} is at revision {number}, not {expected}; "
                "read it again and repeat the change if it still applies"
            )
        if change.revision is not None:
            change = change.restoring(self.at(change.revision))
        requested = change.after(self._read(number))
        return Revision(
            number=number + 1,
            rule=requested.rule or ThresholdRule.TRAINED,
            author=requested.author,
            updated=datetime.now(UTC),
            comment=requested.comment,
            calibration=requested.apply_to(self._manifest.calibration),
        )

    def append(
        self,
        change: CalibrationChange,
        expected: int | None = None,
        check: Callable[[Revision], None] = lambda revision: None,
    ) -> Revision:
        """Append a revision with ``change`` and return it. ``check`` may reject it by raising.

        Raises:
            InvalidRequest: if the value is not a valid rate or threshold, or a setting of regions is out of
                range.
            NotFound: if the change restores a revision that does not exist.
            Conflict: if the newest revision is not ``expected``.
            DiskFull: if the disk is full; nothing is changed then.
        """
        while True:
            revision = self.preview(change, expected)
            check(revision)
            try:
                self._create(revision)
            except FileExistsError:
                continue  # another writer took the number
            return revision

    def _file(self, number: int) -> Path:
        return self._folder / f"{number}.json"

    def _newest_number(self) -> int:
        try:
            names = [_FILE.fullmatch(file.name) for file in self._folder.iterdir()]
        except FileNotFoundError:
            return 1
        return max((int(name[1]) for name in names if name), default=1)

    def _read(self, number: int) -> Revision:
        trained = self._manifest.calibration
        if number == 1:
            author, created = job_name(self._manifest.job), self._manifest.created
            return Revision(1, ThresholdRule.TRAINED, author, created, "", self._trained)
        file = self._file(number)
        try:
            record = _RevisionFile.model_validate_json(read_regular(file, _MAX_BYTES))
            change = CalibrationChange(
                record.rule, record.author, record.value or 0.0, record.comment, record.regions
            )
            calibration = change.apply_to(trained)
        except (OSError, ValidationError, InvalidRequest) as error:
            raise Corrupt(f"{file} is not a calibration that blemish reads; restore it") from error
        # People rely on the recorded threshold, so never use another one.
        if calibration.threshold != record.threshold:
            raise Corrupt(
                f"{file} records the threshold {record.threshold}, but the held-out images of "
                f"{self._manifest.name} give {calibration.threshold}, so it belongs to another version; "
                "restore the file from a backup"
            )
        in_force = change.apply_to(self._trained)
        return Revision(number, record.rule, record.author, record.updated, record.comment, in_force)

    def _create(self, revision: Revision) -> None:
        calibration = revision.calibration
        record = _RevisionFile(
            rule=revision.rule,
            value=None if revision.rule is ThresholdRule.TRAINED else revision.value,
            author=revision.author,
            updated=revision.updated,
            comment=revision.comment,
            threshold=calibration.threshold,
            pixel_threshold=calibration.pixel_threshold,
            warranted_false_reject_rate=calibration.warranted_false_reject_rate,
            regions=calibration.regions,
        )
        with disk_full_errors(self._folder):
            self._folder.mkdir(exist_ok=True)
            atomic_create(self._file(revision.number), record.model_dump_json(indent=2).encode())


class _RevisionFile(BaseModel):
    """The file of a revision: the requested change and the resulting thresholds."""

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    rule: ThresholdRule
    value: float | None
    """Requested false-reject rate or threshold."""
    author: str
    updated: Time
    comment: str
    threshold: float
    pixel_threshold: float
    warranted_false_reject_rate: float
    regions: RegionSettings | None = None
    """Settings of regions; None in files of older servers."""
