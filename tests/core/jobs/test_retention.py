# SPDX-License-Identifier: Apache-2.0

import os
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from blemish_core.jobs.record import EmbedSpec, Job, JobState, now
from blemish_core.jobs.retention import Retention
from blemish_core.models.store import ModelStore
from blemish_core.platform.errors import NotFound
from blemish_core.platform.names import ModelRef

OPEN = Job(
    id="open",
    spec=EmbedSpec(model="models/tile/versions/2", dataset="tile"),
    state=JobState.RUNNING,
    created=now(),
)


class FakeJobs:
    def __init__(self) -> None:
        self.mine = True
        self.forgotten_before: datetime | None = None

    def claim(self, what: str, for_s: float) -> bool:
        return self.mine

    def delete_ended(self, ended_before: datetime) -> list[str]:
        self.forgotten_before = ended_before
        return []

    def get(self, id: str) -> Job:
        if id != OPEN.id:
            raise NotFound(id)
        return OPEN

    def unfinished(self) -> list[Job]:
        return [OPEN]


class Rig:
    def __init__(self, folder: Path, keep_versions: int) -> None:
        self.home = folder / "models" / "tile"
        self.checkpoints = folder / "checkpoints"
        self.dropped: list[str] = []
        self.answering: ModelRef | None = None
        self.jobs = FakeJobs()
        jobs: Any = self.jobs
        self.models = ModelStore(folder / "models")
        self.retention = Retention(
            jobs,
            self.models,
            self.checkpoints,
            lambda ref: self.dropped.append(str(ref)),
            lambda ref: ref == self.answering,
            timedelta(days=30),
            keep_versions,
        )
        for number in range(1, 6):
            (self.home / str(number)).mkdir(parents=True)

    def versions(self) -> list[str]:
        return sorted(folder.name for folder in self.home.iterdir() if folder.name.isdecimal())

    def lay(self, folder: Path, age_s: float) -> Path:
        folder.mkdir(parents=True)
        os.utime(folder, (time.time() - age_s,) * 2)
        return folder


def test_the_newest_stay_and_those_that_are_needed(tmp_path: Path) -> None:
    rig = Rig(tmp_path, keep_versions=1)
    (rig.home / "3" / "pinned").touch()
    (rig.home / "aliases.json").write_text('{"production": 4}')
    rig.retention.sweep()
    assert rig.versions() == ["2", "3", "4", "5"]  # an open job works with 2
    assert rig.dropped == [str(ModelRef("tile", 1))]


def test_a_version_whose_index_still_answers_stays(tmp_path: Path) -> None:
    """Until that of the version in production has taken its labels and kept frames over."""
    rig = Rig(tmp_path, keep_versions=1)
    (rig.home / "aliases.json").write_text('{"production": 5}')
    rig.answering = ModelRef("tile", 4)
    rig.retention.sweep()
    assert (rig.versions(), "models/tile/versions/4" in rig.dropped) == (["2", "4", "5"], False)
    rig.answering = ModelRef("tile", 5)
    rig.retention.sweep()
    assert (rig.versions(), rig.dropped[-1]) == (["2", "5"], "models/tile/versions/4")


def test_zero_keeps_all(tmp_path: Path) -> None:
    rig = Rig(tmp_path, keep_versions=0)
    rig.retention.sweep()
    assert len(rig.versions()) == 5
    assert rig.jobs.forgotten_before is not None
    age = now() - rig.jobs.forgotten_before
    assert age.total_seconds() == pytest.approx(30 * 86400, abs=60)


def test_what_dead_processes_left_goes_once_it_has_settled(tmp_path: Path) -> None:
    rig = Rig(tmp_path, keep_versions=0)
    gone = [
        rig.lay(rig.home / ".staging-dead-1", 120),
        rig.lay(rig.home / "1" / "evaluations" / ".staging-dead-2", 120),
        rig.lay(rig.checkpoints / "dead", 120),
    ]
    kept = [
        rig.lay(rig.home / ".staging-open-1", 120),
        rig.lay(rig.home / ".staging-young-1", 1),
        rig.lay(rig.checkpoints / "open", 120),
    ]
    rig.retention.sweep()
    assert not any(folder.exists() for folder in gone)
    assert all(folder.exists() for folder in kept)


def test_one_sweeps_for_all(tmp_path: Path) -> None:
    rig = Rig(tmp_path, keep_versions=1)
    rig.jobs.mine = False
    rig.retention.sweep()
    assert len(rig.versions()) == 5
