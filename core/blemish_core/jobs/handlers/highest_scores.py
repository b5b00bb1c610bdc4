# SPDX-License-Identifier: Apache-2.0
"""The good images of a training with the highest scores, for the report and `blemish dataset suspects`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from blemish_core.datasets import DatasetImage
from blemish_core.detectors.base import MAPS_KEPT, highest, running_on
from blemish_core.evaluation.evaluate import ExampleImage, example_image
from blemish_core.evaluation.examples import Example, correctness
from blemish_core.evaluation.metrics import GOOD
from blemish_core.jobs.context import JobContext
from blemish_core.jobs.handlers.export import faster_runtime
from blemish_core.jobs.handlers.publish import TrainedModel
from blemish_core.jobs.reporter import StepReporter
from blemish_core.models.suspects import find_suspects, outstanding_warning

_MOST_LEARNED = 1000
"""Number of learned images that are scored, evenly spread, which bounds the time."""


@dataclass(frozen=True)
class _HighScore:
    """An image with its score and map."""

    number: int
    score: float
    anomaly_map: NDArray[np.float32]


def with_highest_scores(context: JobContext, trained: TrainedModel, reporter: StepReporter) -> TrainedModel:
    """Return the training with the images of the highest scores, and warn of those that stand out."""
    held_out = trained.training.held_out_scores
    numbers = trained.training.scored_indices
    found = [
        _HighScore(numbers[each], held_out.scores[each], held_out.maps[each])
        for each in highest(held_out.scores, MAPS_KEPT)
        if each in held_out.maps
    ]
    trained = replace(trained, held_out_examples=_examples(trained, found))
    if trained.training.method == "held out":
        trained = _with_learned(context, trained, reporter)
    suspects = find_suspects(trained.good, trained.calibration, MAPS_KEPT)
    for each in suspects[:1]:
        following = f", the next {each.next_score:.4g}" if each.next_score is not None else ""
        reporter.note(f"highest score of a good image: {each.image.shown} {each.score:.4g}{following}")
    warning = outstanding_warning(suspects, trained.calibration, trained.images.dataset.id)
    if warning is not None:
        reporter.warn(warning)
    return replace(trained, outstanding=warning is not None)


def _with_learned(context: JobContext, trained: TrainedModel, reporter: StepReporter) -> TrainedModel:
    """Return the training with the scores of images that the detector has learned."""
    detector = trained.training.detector
    learned = [number for number, image in enumerate(trained.good) if not image.held_out]
    chosen = learned[:: -(-len(learned) // _MOST_LEARNED)] if learned else []
    good, kept = list(trained.good), list[_HighScore]()
    runtime = faster_runtime(context.device, context.runtime, detector.network, detector.network_size)
    with running_on(detector, runtime):
        for done, number in enumerate(chosen):
            reporter.progress("training scores", done, len(chosen), "images")
            (prediction,) = detector.predict([detector.prepare(trained.images.reads[number]())])
            good[number] = good[number].model_copy(update={"score": prediction.score})
            kept.append(_HighScore(number, prediction.score, prediction.anomaly_map))
            kept = [kept[each] for each in highest([one.score for one in kept], MAPS_KEPT)]
    reporter.progress("training scores", len(chosen), len(chosen), "images")
    return replace(trained, good=good, learned_examples=_examples(trained, kept))


def _examples(trained: TrainedModel, found: Sequence[_HighScore]) -> list[ExampleImage]:
    calibration, mask = trained.calibration, trained.training.detector.mask
    examples = []
    for each in found:
        image, pixels = trained.good[each.number], trained.images.reads[each.number]()
        height, width, _ = pixels.shape
        dataset = trained.images.dataset
        shown = DatasetImage(
            dataset.id,
            dataset.category,
            image.path,
            "train",
            GOOD,
            image.sha256,
            width,
            height,
            image.original,
        )
        result = correctness(True, each.score, calibration.threshold)
        no_defect = np.zeros(each.anomaly_map.shape, np.bool_)
        example = Example(shown, each.score, result, each.anomaly_map, no_defect)
        examples.append(example_image(example, pixels, calibration, mask))
    return examples
