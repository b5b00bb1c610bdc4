# SPDX-License-Identifier: Apache-2.0
"""A factory of manifests of model versions."""

from datetime import UTC, datetime

from blemish_core.calibration import Calibration
from blemish_core.models.bundle import Manifest, TrainingSplit


def make_manifest(model: str, number: int, job: str) -> Manifest:
    """Return the manifest of a PatchCore version without files."""
    return Manifest(
        model=model,
        version=number,
        detector="patchcore",
        settings={"input_size": 64},
        input_size=64,
        category="tile",
        dataset="tile",
        dataset_snapshot="0" * 64,
        created=datetime(2026, 1, 1, tzinfo=UTC),
        job=job,
        seed=0,
        split=TrainingSplit(learned=3, held_out=2, method="held out"),
        calibration=Calibration.of([1.0, 2.0], [1.0, 2.0], 0.05),
        metrics=None,
        libraries={},
        sha256={},
        size_bytes=0,
    )
