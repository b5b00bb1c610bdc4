# SPDX-License-Identifier: Apache-2.0

import os
import time
from datetime import timedelta
from pathlib import Path

import pytest
from tests.support.job_store import FakeJobStore

from blemish_core.imaging.mask_summary import MaskSummary
from blemish_core.jobs.record import EmbedSpec, JobState, TrainSpec, now
from blemish_core.jobs.retention import Retention
from blemish_core.models.store import ModelStore
from blemish_core.platform.names import ModelRef


class StoreWithVersions:
    """A store with five versions of model tile, and a running job that uses version 2."""

    def __init__(self, folder: Path, keep_versions: int) -> None:
        self.home = folder / "models" / "tile"
        self.checkpoints = folder / "checkpoints"
        self.dropped: list[ModelRef] = []
        """Versions whose index was dropped."""
        self.serving: ModelRef | None = None
        """Version whose index serves searches."""
        self.jobs = FakeJobStore()
        self.jobs.add(
            EmbedSpec(model="models/tile/versions/2", dataset="tile"), JobState.RUNNING, id="open"
        )
        self.retention = Retention(
            self.jobs,
            ModelStore(folder / "models"),
            self.checkpoints,
            drop_index=self.dropped.append,
            serves_searches=lambda ref: ref == self.serving,
            keep_jobs=timedelta(days=30),
            keep_versions=keep_versions,
        )
        for number in range(1, 6):
            (self.home / str(number)).mkdir(parents=True)

    def versions(self) -> list[str]:
        return sorted(folder.name for folder in self.home.iterdir() if folder.name.isdecimal())


def make_folder(folder: Path, age_s: float) -> Path:
    folder.mkdir(parents=True)
    os.utime(folder, (time.time() - age_s,) * 2)
    return folder


def test_newest_versions_and_needed_ones_are_kept(tmp_path: Path) -> None:
    filled = StoreWithVersions(tmp_path, keep_versions=1)
    (filled.home / "3" / "pinned").touch()
    (filled.home / "aliases.json").write_text('{"production": 4}')
    filled.retention.sweep()
    assert filled.versions() == ["2", "3", "4", "5"]
    assert filled.dropped == [ModelRef("tile", 1)]


def test_version_with_a_serving_index_is_kept(tmp_path: Path) -> None:
    filled = StoreWithVersions(tmp_path, keep_versions=1)
    (filled.home / "aliases.json").write_text('{"production": 5}')
    filled.serving = ModelRef("tile", 4)
    filled.retention.sweep()
    assert filled.versions() == ["2", "4", "5"]
    assert ModelRef("tile", 4) not in filled.dropped
    filled.serving = ModelRef("tile", 5)
    filled.jobs.claims.clear()
    filled.retention.sweep()
    assert filled.versions() == ["2", "5"]
    assert filled.dropped[-1] == ModelRef("tile", 4)


def test_zero_keeps_all_versions(tmp_path: Path) -> None:
    filled = StoreWithVersions(tmp_path, keep_versions=0)
    filled.retention.sweep()
    assert len(filled.versions()) == 5


def test_jobs_are_deleted_after_their_retention_time(tmp_path: Path) -> None:
    filled = StoreWithVersions(tmp_path, keep_versions=0)
    filled.retention.sweep()
    assert filled.jobs.deleted_before is not None
    age = now() - filled.jobs.deleted_before
    assert age.total_seconds() == pytest.approx(30 * 86400, abs=60)


def test_old_leftovers_of_dead_processes_are_deleted(tmp_path: Path) -> None:
    filled = StoreWithVersions(tmp_path, keep_versions=0)
    leftovers = [
        make_folder(filled.home / ".staging-dead-1", 120),
        make_folder(filled.home / "1" / "evaluations" / ".staging-dead-2", 120),
        make_folder(filled.checkpoints / "dead", 120),
    ]
    kept = [
        make_folder(filled.home / ".staging-open-1", 120),
        make_folder(filled.home / ".staging-young-1", 1),
        make_folder(filled.checkpoints / "open", 120),
    ]
    filled.retention.sweep()
    assert not any(folder.exists() for folder in leftovers)
    assert all(folder.exists() for folder in kept)


def test_sweep_of_another_worker_counts_for_all(tmp_path: Path) -> None:
    filled = StoreWithVersions(tmp_path, keep_versions=1)
    filled.jobs.claimed_by_others = True
    filled.retention.sweep()
    assert len(filled.versions()) == 5


def test_masks_of_open_trainings_are_kept(tmp_path: Path) -> None:
    filled = StoreWithVersions(tmp_path, keep_versions=0)
    models = ModelStore(tmp_path / "models")
    for letter in "abc":
        models.keep_mask(b"mask", letter * 64)
    for letter in "ab":  # the last one was stored a moment ago
        os.utime(tmp_path / "models" / ".masks" / f"{letter * 64}.png", (time.time() - 7200,) * 2)
    mask = MaskSummary(sha256="a" * 64, width=32, height=32, ignored_share=0.5)
    filled.jobs.add(TrainSpec(dataset="tile", model_id="tile", mask=mask), JobState.RUNNING)
    filled.retention.sweep()
    kept = {file.stem[0] for file in (tmp_path / "models" / ".masks").iterdir()}
    assert kept == {"a", "c"}
