# SPDX-License-Identifier: Apache-2.0
"""How EfficientAD learns: steps of one image each, within a time, gone on with after a kill."""

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blemish_core.detectors.base import Held, Prediction, ReadImage, Training, TrainingContext
from blemish_core.detectors.common.embedding import temperature
from blemish_core.detectors.common.split import held_out_count
from blemish_core.detectors.efficientad import teacher as teachers
from blemish_core.detectors.efficientad.detector import EfficientAd, EfficientAdSettings
from blemish_core.detectors.efficientad.teacher import CHANNELS
from blemish_core.detectors.efficientad.training.losses import standardised
from blemish_core.detectors.efficientad.training.photographs import photographs
from blemish_core.detectors.efficientad.training.steps import Steps, Surface
from blemish_core.platform.errors import FailedPrecondition

if TYPE_CHECKING:
    from blemish_core.detectors.common.anomalib_models import EfficientAdModel

MIN_IMAGES = 3  # two to learn, one to hold out
_SHARED_BELOW = 10  # held-out images that are too few to spare some for the maps' quantiles alone
_CENTERED = 32  # images whose mean is the center of embeddings
_EVERY = 4  # patches lie close enough for three of four to be no news
_BATCH = 4


def train(settings: EfficientAdSettings, images: Sequence[ReadImage], terms: TrainingContext) -> Training:
    """Learn from good images, of which some are held out.

    A fifth of the images, or as many as the target false-reject rate needs (at most a third), are held out
    to calibrate by, and half as many again for the quantiles of the maps and to see when to stop; where
    fewer than 10 are held out they serve for both.

    Raises:
        FailedPrecondition: with fewer than 3 images, or without a teacher or photographs.
    """
    if len(images) < MIN_IMAGES:
        raise FailedPrecondition(
            f"EfficientAD learns from at least {MIN_IMAGES} good images, but the dataset has "
            f"{len(images)} in train/good; upload more"
        )
    teacher = teachers.find(settings.size, terms.weights)
    torch.manual_seed(terms.seed)
    detector = EfficientAd(settings, terms.device)
    detector.model.teacher.load_state_dict(teacher.weights)
    others, source = photographs(terms.photographs, terms.weights / "imagenette")

    order = np.random.default_rng(terms.seed).permutation(len(images))
    count = held_out_count(len(images), terms.target_false_reject_rate)
    held_out, learned = np.split(order, [count])
    judging = held_out
    if count >= _SHARED_BELOW:
        judging, learned = np.split(learned, [ceil(count / 2)])
    surface = Surface(detector, images, terms)
    _measure_teacher(detector.model, surface, learned, terms)
    steps = Steps(detector, surface, learned, judging, others, terms, settings)
    facts = steps.run() | {"teacher": teacher.origin, "penalty": source}

    _measure_maps(detector, surface, judging)
    _measure_center(detector, surface, np.concatenate([judging, learned])[:_CENTERED], terms)
    outcomes = _outcomes(detector, surface, held_out, terms)
    scores = tuple(outcome.score for outcome in outcomes)
    detector.measure_scores(scores)
    held = Held(scores, tuple(float(outcome.anomaly_map.max()) for outcome in outcomes))
    return Training(detector, held, len(learned), "held out", facts, tuple(held_out.tolist()))


def _measure_teacher(
    model: "EfficientAdModel", surface: Surface, learned: NDArray[np.int64], terms: TrainingContext
) -> None:
    """Have the teacher's channels standardised over the learned images."""
    total = squares = torch.zeros(CHANNELS, dtype=torch.float64)
    count = 0
    with torch.inference_mode():
        for done, number in enumerate(learned):
            terms.progress("teacher", done, len(learned), "images")
            answer = surface.answered(int(number)).double().transpose(0, 1).flatten(1).cpu()
            total = total + answer.sum(1)
            squares = squares + answer.square().sum(1)
            count += answer.shape[1]
    terms.progress("teacher", len(learned), len(learned), "images")
    mean = total / count
    std = (squares / count - mean.square()).clamp_min(1e-12).sqrt()
    model.mean_std["mean"].data.copy_(mean.float().view(1, -1, 1, 1))
    model.mean_std["std"].data.copy_(std.float().view(1, -1, 1, 1))


def _measure_maps(detector: EfficientAd, surface: Surface, judging: NDArray[np.int64]) -> None:
    """Take the quantiles and the spread of the maps from good images not learned."""
    model = detector.model
    with torch.inference_mode():
        pairs = [model.get_maps(surface.prepared(int(number)), normalize=False) for number in judging]
        quantiles: dict[str, Tensor] = {}
        for name, maps in zip(("st", "ae"), zip(*pairs, strict=True), strict=True):
            # NumPy: torch.quantile ends at 16 M values.
            low, high = np.quantile(torch.cat(maps).cpu().numpy(), [0.9, 0.995])
            quantiles |= {f"qa_{name}": torch.tensor(low), f"qb_{name}": torch.tensor(high)}
        # As the model joins them: both in units of their quantiles, a twentieth of each.
        units = [quantiles[f"qb_{name}"] - quantiles[f"qa_{name}"] for name in ("st", "ae")]
        spread = temperature(torch.cat([0.05 * (st / units[0] + ae / units[1]) for st, ae in pairs]))
    detector.measure_maps(quantiles, spread)


def _measure_center(
    detector: EfficientAd, surface: Surface, good: NDArray[np.int64], terms: TrainingContext
) -> None:
    """Take the mean of the pooled features of several good images, and what their patches vary in.

    Of one image alone, the mean is that image.
    """
    total = torch.zeros(CHANNELS, dtype=torch.float64)
    patches = []
    with torch.inference_mode():
        for done, number in enumerate(good):
            terms.progress("center", done, len(good), "images")
            # Most were learned from, so that the teacher's answer to them is kept.
            taught = standardised(detector.model, surface.answered(int(number)))
            total += detector.pooled(surface.prepared(int(number)), taught)[0].double().cpu()
            patches.append(taught[0].flatten(1).T[::_EVERY].cpu())
    terms.progress("center", len(good), len(good), "images")
    detector.measure_center((total / len(good)).float())
    detector.measure_directions(torch.cat(patches))


def _outcomes(
    detector: EfficientAd, surface: Surface, held_out: NDArray[np.int64], terms: TrainingContext
) -> list[Prediction]:
    outcomes: list[Prediction] = []
    for start in range(0, len(held_out), _BATCH):
        terms.progress("calibration", start, len(held_out), "images")
        batch = [surface.prepared(int(number))[0] for number in held_out[start : start + _BATCH]]
        outcomes += detector.inspect(batch)
    terms.progress("calibration", len(held_out), len(held_out), "images")
    return outcomes
