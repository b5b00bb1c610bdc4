# SPDX-License-Identifier: Apache-2.0
"""The estimated cost of a training on a worker, from images, settings and the worker's measured speed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, isfinite

from blemish_core.detectors.common.split_sizes import FOLDS, held_out_count
from blemish_core.detectors.efficientad.settings import EfficientAdSettings
from blemish_core.detectors.efficientad.training.plan import TrainingPlan
from blemish_core.detectors.patchcore.settings import PatchCoreSettings
from blemish_core.detectors.patchcore.training.plan import (
    CROSS_CALIBRATE_BELOW,
    BankWork,
    plan_for_sizes,
)
from blemish_core.detectors.registry import ALGORITHMS
from blemish_core.imaging.geometry import Size, pixels_of
from blemish_core.jobs.queues import QUEUES
from blemish_core.jobs.record import TrainSpec
from blemish_core.jobs.training_rates import PatchCoreRates, TrainingRates
from blemish_core.jobs.worker_registry import WorkerInfo
from blemish_core.platform.errors import FailedPrecondition

_PUBLICATION = ("openvino", "publish")
"""Phases of a job that write and check its version."""
_NO_PHASES: Mapping[str, float] = {}
_READS = 3
"""Times that a training reads each image: to check it, to find copies, and to learn from it."""
_CHECKED_FRAMES = 8 + 7
"""Frames that check an exported network and measure its latency."""


@dataclass(frozen=True)
class WorkerSpeed:
    """The measured speed of one device of a worker."""

    worker: str
    """Process, ``host:pid``."""
    rates: TrainingRates


def speeds_of(workers: Sequence[WorkerInfo]) -> list[WorkerSpeed]:
    """Return the measured speeds of the workers that train.

    Raises:
        FailedPrecondition: if there are none.
    """
    training = [worker for worker in workers if QUEUES["train"] in worker.queues]
    if not training:
        raise FailedPrecondition("no worker that trains is running; start one")
    found = [WorkerSpeed(worker.name, rates) for worker in training for rates in worker.rates]
    if not found:
        raise FailedPrecondition(
            "no worker has measured its speed yet, which takes an idle minute; try again later"
        )
    return found


def slowest(
    spec: TrainSpec,
    train: Sequence[Size],
    test: Sequence[Size],
    speeds: Sequence[WorkerSpeed],
    earlier: Mapping[str, float],
) -> tuple[WorkerSpeed, "TrainingEstimate"]:
    """Return the worker on which a training takes longest, and its estimate.

    Args:
        spec: specification of the training.
        train: sizes of the training images, px.
        test: sizes of the test images, px.
        speeds: speeds of the workers.
        earlier: seconds per phase of the last job of this kind.

    Raises:
        InvalidRequest, FailedPrecondition: as ``estimate``, for any of the workers.
    """
    estimates = [(speed, estimate(spec, train, test, speed.rates, earlier)) for speed in speeds]
    return max(estimates, key=lambda each: each[1].training_s)


@dataclass(frozen=True)
class TrainingEstimate:
    """The estimated cost of a training and of its model."""

    phases: Mapping[str, float]
    """Time of each phase of the job, in seconds."""
    frame_s: float
    """Time of one frame from its pixels to its prediction, on one thread of a CPU."""
    frame: Size
    """Median size of the training images, px."""
    input: Size
    """Size of the network's input for such a frame, px."""
    bank_entries: int = 0
    """Entries of the memory bank; 0 for a detector without one."""

    @property
    def training_s(self) -> float:
        """Time of the whole job, in seconds."""
        return sum(self.phases.values())


def estimate(
    spec: TrainSpec,
    train: Sequence[Size],
    test: Sequence[Size],
    rates: TrainingRates,
    earlier: Mapping[str, float] = _NO_PHASES,
) -> TrainingEstimate:
    """Estimate the cost of a training, without masks, copies of pieces, labelled frames and INT8.

    Args:
        spec: specification of the training.
        train: sizes of the training images, px.
        test: sizes of the test images, px.
        rates: speed of the worker.
        earlier: seconds per phase of the last job of this kind. Its publication replaces the estimated one,
            because it depends little on the images.

    Raises:
        InvalidRequest: if a setting is out of range or does not fit the images.
        FailedPrecondition: if the worker did not measure such a training.
    """
    settings = ALGORITHMS[spec.detector].settings(**spec.settings)
    read_s = rates.decode_s * (_READS * sum(map(pixels_of, train)) + sum(map(pixels_of, test)))
    if isinstance(settings, PatchCoreSettings):
        rate = spec.target_false_reject_rate
        found = _patchcore(settings, train, len(test), rate, rates.patchcore, read_s, rates.threads)
    else:
        found = _efficientad(settings, train, len(test), spec, rates, read_s)
    if any(phase in earlier for phase in _PUBLICATION):
        publication_s = sum(earlier.get(phase, 0.0) for phase in _PUBLICATION)
        return replace(found, phases={**found.phases, "publication": publication_s})
    return found


def _patchcore(
    settings: PatchCoreSettings,
    train: Sequence[Size],
    test: int,
    target: float,
    rates: PatchCoreRates | None,
    read_s: float,
    threads: int,
) -> TrainingEstimate:
    if rates is None or rates.backbone != settings.backbone:
        measured = f"only with {rates.backbone}" if rates else "without PatchCore"
        raise FailedPrecondition(f"the worker's speed was measured {measured}; start without an estimate")
    planned = plan_for_sizes(settings, train)
    patches, images = planned.patches, len(train)
    crossed = images < CROSS_CALIBRATE_BELOW
    held_out = 0 if crossed else held_out_count(images, target)
    work = BankWork.of(
        planned.settings,
        patches,
        learned=images - held_out,
        scored=images if crossed else held_out,
        banks=1 + min(images, FOLDS) if crossed else 1,
    )
    search_s = _search_s(rates.frame_search_s, work.entries)
    frame_s = patches * (rates.frame_features_s + search_s)
    return TrainingEstimate(
        {
            "images": read_s,
            "features": images * patches * rates.features_s,
            "memory bank": work.pairs * rates.pair_s,
            "evaluation": test * patches * (rates.features_s + search_s / threads),
            "publication": rates.publish_s + _CHECKED_FRAMES * patches * (rates.checked_s + search_s),
        },
        frame_s,
        planned.frame,
        planned.input,
        work.entries,
    )


def _search_s(measured: Sequence[tuple[int, float]], entries: int) -> float:
    """Return the time to score a patch with a bank, on the line through two measured sizes of banks."""
    (small, small_s), (large, large_s) = measured
    return max(0.0, small_s + (entries - small) * (large_s - small_s) / (large - small))


def _efficientad(
    settings: EfficientAdSettings,
    train: Sequence[Size],
    test: int,
    spec: TrainSpec,
    all_rates: TrainingRates,
    read_s: float,
) -> TrainingEstimate:
    rates = all_rates.efficientad
    if rates is None or rates.size != settings.size:
        measured = f"only with size {rates.size}" if rates else "without EfficientAD"
        raise FailedPrecondition(f"the worker's speed was measured {measured}; start without an estimate")
    plan = TrainingPlan.of(settings, all_rates.device)
    if plan.solved is not rates.solved and not isfinite(plan.seconds):
        raise FailedPrecondition(
            "the worker's speed was measured with another start of the student; set a time limit, or start "
            "without an estimate"
        )
    input_size = (settings.input_size, settings.input_size)
    larger = pixels_of(input_size) / EfficientAdSettings().input_size ** 2
    held_out = held_out_count(len(train), spec.target_false_reject_rate)
    learned = len(train) - held_out - ceil(held_out / 2)
    # Steps on crops take the same time for all sizes of inputs.
    step_s = rates.step_s * (1.0 if plan.solved else larger)
    frame_s = rates.frame_s * larger
    frame = sorted(train, key=pixels_of)[len(train) // 2]
    return TrainingEstimate(
        {
            "images": read_s,
            "training": plan.duration_s(max(learned, 1), rates.teacher_s * larger, step_s),
            "calibration": held_out * frame_s / all_rates.threads,
            "evaluation": test * frame_s / all_rates.threads,
            "publication": _CHECKED_FRAMES * frame_s,
        },
        frame_s,
        frame,
        input_size,
    )
