# SPDX-License-Identifier: Apache-2.0
"""The calibrations that a model version has had: who drew the line where, when and why; never rewritten.

::

    <version>/manifest.json            revision 1, what training left
    <version>/calibration/2.json, ...  one file a change, counting up

The manifest and the weights stay as they were published. Whoever reads finds the newest revision by looking
whether the file after the last one he knows is there: one look a frame, right also for changes that follow
each other within a tick of the file system's clock, and for those of another process or machine (as soon
as its file system tells of them).
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from blemish_core.calibration import Calibration
from blemish_core.models.bundle import Manifest
from blemish_core.platform.errors import Conflict, Corrupt, InvalidRequest
from blemish_core.platform.files import atomic_create, disk_full_errors
from blemish_core.platform.names import job_name

FOLDER = "calibration"
MAX_AUTHOR = 100
MAX_COMMENT = 1000
_FILE = re.compile(r"([1-9]\d{0,8})\.json")


class ThresholdRule(StrEnum):
    """How a threshold came about."""

    TRAINED = "trained"
    FALSE_REJECT_RATE = "false_reject_rate"
    FIXED = "fixed"


@dataclass(frozen=True)
class CalibrationChange:
    """What somebody asks for.

    Raises:
        InvalidRequest: if the author is missing, or author or comment are too long or hold what cannot be
            printed on one line.
    """

    rule: ThresholdRule
    author: str
    value: float = 0.0
    """The false-reject rate or the threshold; of no meaning for ``TRAINED``."""
    comment: str = ""

    def __post_init__(self) -> None:
        """Check what logs and terminals will show."""
        if not self.author.strip():
            raise InvalidRequest("author is empty; say who changes the calibration", field="author")
        for field, text, most in (
            ("author", self.author, MAX_AUTHOR),
            ("comment", self.comment, MAX_COMMENT),
        ):
            if len(text) > most:
                raise InvalidRequest(
                    f"{field} has {len(text)} characters, but at most {most} are kept", field=field
                )
            if not text.isprintable():
                raise InvalidRequest(
                    f"{field} has characters that cannot be printed; write one line of text", field=field
                )

    def apply_to(self, trained: Calibration) -> Calibration:
        """Draw the line.

        Raises:
            InvalidRequest: if the value cannot be a rate or a threshold.
        """
        match self.rule:
            case ThresholdRule.FALSE_REJECT_RATE:
                return trained.at_false_reject_rate(self.value)
            case ThresholdRule.FIXED:
                return trained.at_threshold(self.value)
            case ThresholdRule.TRAINED:
                return trained


@dataclass(frozen=True)
class Revision:
    """A calibration, and how it came about."""

    number: int
    rule: ThresholdRule
    author: str
    updated: datetime
    comment: str
    calibration: Calibration


class CalibrationLog:
    """The revisions of one version; any number of processes may read and append at once."""

    def __init__(self, folder: Path, manifest: Manifest, trained: Calibration | None = None) -> None:
        """Look into ``folder``, which holds the version that ``manifest`` is the card of.

        ``trained`` is what training left for a runtime whose scores are not torch's. The rules of all
        revisions then hold for its held-out scores; on record is what they make of torch's.
        """
        self._folder = folder / FOLDER
        self._manifest = manifest
        self._trained = trained or manifest.calibration
        self._known: Revision | None = None

    def newest(self) -> Revision:
        """Return the revision in force; costs one look at the file system where nothing has changed.

        Threads may share the log: one that returns late may put an older revision in the place of a newer
        one, which the next look mends.

        Raises:
            Corrupt: if it cannot be read.
        """
        if self._known is None or self._file(self._known.number + 1).exists():
            self._known = self._read(self._newest_number())
        return self._known

    def history(self, limit: int) -> list[Revision]:
        """Return the newest ``limit`` revisions, newest first.

        Raises:
            Corrupt: if one cannot be read.
        """
        newest = self._newest_number()
        return [self._read(number) for number in range(newest, max(newest - limit, 0), -1)]

    def append(self, change: CalibrationChange, expected: int | None = None) -> Revision:
        """Put ``change`` in force.

        Raises:
            InvalidRequest: if its value cannot be a rate or a threshold.
            Conflict: if the newest revision is not ``expected``.
            DiskFull: if there is no room; nothing is changed.
        """
        calibration = change.apply_to(self._manifest.calibration)
        while True:
            number = self._newest_number()
            if expected is not None and number != expected:
                raise Conflict(
                    f"the calibration of {self._manifest.name} is at revision {number}, not {expected}: it "
                    "was changed meanwhile; read it again and decide anew"
                )
            revision = Revision(
                number=number + 1,
                rule=change.rule,
                author=change.author,
                updated=datetime.now(UTC),
                comment=change.comment,
                calibration=calibration,
            )
            try:
                self._create(revision)
            except FileExistsError:
                continue  # another was quicker
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
            record = _RevisionFile.model_validate_json(file.read_bytes())
            change = CalibrationChange(record.rule, record.author, record.value or 0.0, record.comment)
            calibration = change.apply_to(trained)
        except (FileNotFoundError, ValidationError, InvalidRequest) as error:
            raise Corrupt(f"{file} is no calibration that this version of blemish reads") from error
        # The figures on record are what people were told; never judge by others.
        if calibration.threshold != record.threshold:
            raise Corrupt(
                f"{file} records the threshold {record.threshold}, but the held-out images of "
                f"{self._manifest.name} give {calibration.threshold}: it belongs to another version"
            )
        in_force = change.apply_to(self._trained)
        return Revision(number, record.rule, record.author, record.updated, record.comment, in_force)

    def _create(self, revision: Revision) -> None:
        calibration = revision.calibration
        values = {
            ThresholdRule.TRAINED: None,
            ThresholdRule.FALSE_REJECT_RATE: calibration.target_false_reject_rate,
            ThresholdRule.FIXED: calibration.fixed_threshold,
        }
        record = _RevisionFile(
            rule=revision.rule,
            value=values[revision.rule],
            author=revision.author,
            updated=revision.updated,
            comment=revision.comment,
            threshold=calibration.threshold,
            pixel_threshold=calibration.pixel_threshold,
            warranted_false_reject_rate=calibration.warranted_false_reject_rate,
        )
        with disk_full_errors(self._folder):
            self._folder.mkdir(exist_ok=True)
            atomic_create(self._file(revision.number), record.model_dump_json(indent=2).encode())


class _RevisionFile(BaseModel):
    """A revision's file: what was asked for, by whom, and what came of it."""

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    rule: ThresholdRule
    value: float | None
    """The false-reject rate or the threshold asked for."""
    author: str
    updated: datetime
    comment: str
    threshold: float
    pixel_threshold: float
    warranted_false_reject_rate: float
