# SPDX-License-Identifier: Apache-2.0
"""anomalib's own PatchCore as an outside reference, at the geometry and on the backbone of ours.

Features, search, image score and anomaly map are those of anomalib's ``PatchcoreModel``. Preprocessing, the
scale, the weights of the backbone and the method of the coreset are the product's: anomalib's selection of
a coreset would take minutes for each set. Large inputs are not cut into tiles.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blemish_core.detectors.base import (
    HeldOutScores,
    Prediction,
    ReadImage,
    TrainingContext,
    TrainingResult,
)
from blemish_core.detectors.common.split import split_images
from blemish_core.detectors.patchcore import settings as patchcore
from blemish_core.detectors.patchcore.detector import PatchCore
from blemish_core.detectors.patchcore.settings import PatchCoreSettings
from blemish_core.detectors.patchcore.training.coreset import greedy_coreset
from blemish_core.detectors.patchcore.training.plan import MOST_PATCHES, plan
from blemish_core.detectors.patchcore.training.trainable import TrainablePatchCore
from blemish_core.detectors.registry import Algorithm

_NO_EMBEDDING = np.empty(0, np.float32)


class AnomalibPatchCore(TrainablePatchCore):
    """A PatchCore whose predictions are those of anomalib's model; it embeds no images."""

    name = "anomalib"

    def predict(self, inputs: Sequence[Tensor]) -> list[Prediction]:
        return [self._predict_one(image) for image in inputs]  # together their distances take gigabytes

    def embedded(self, image: Tensor) -> Tensor:
        """Return the patches (P, D) of anomalib's model in training, of an input (3, h, w)."""
        with torch.inference_mode():
            patches: Tensor = self.model.train()(image[None])
        self.model.eval()
        return patches

    def _predict_one(self, image: Tensor) -> Prediction:
        with torch.inference_mode():
            result = self.model.eval()(image[None])
        return Prediction(float(result.pred_score), result.anomaly_map[0, 0].numpy(), _NO_EMBEDDING)


def train(
    settings: PatchCoreSettings, images: Sequence[ReadImage], context: TrainingContext
) -> TrainingResult:
    """Train on good images and calibrate on those that are held out."""
    planned = plan(settings, images).settings
    detector = AnomalibPatchCore(planned, context.device)
    detector.load_pretrained(context.weights)
    random = np.random.default_rng(context.seed)
    split = split_images(images, random, context)
    held_out, learned = split.held_out, split.learned
    quota = MOST_PATCHES // len(learned)
    sampled = []
    for done, number in enumerate(learned):
        context.progress("features", done, len(learned), "images")
        patches = detector.embedded(detector.prepare(images[number]()))
        sampled.append(patches[torch.from_numpy(random.permutation(len(patches))[:quota])])
    points = torch.cat(sampled)
    keep = max(1, min(int(planned.coreset_ratio * len(points)), planned.max_entries))
    picks = greedy_coreset(
        points,
        keep,
        int(random.integers(len(points))),
        on_picks=lambda picked: context.progress("coreset", picked, keep, "patches"),
    )
    detector.set_memory_bank(points[picks])
    predictions = [detector.predict([detector.prepare(images[number]())])[0] for number in held_out]
    return TrainingResult(
        detector,
        HeldOutScores(
            tuple(each.score for each in predictions),
            tuple(float(each.anomaly_map.max()) for each in predictions),
        ),
        len(learned),
        "held out",
        {},
        tuple(held_out.tolist()),
    )


def _load(settings: Mapping[str, Any], tensors: Mapping[str, Tensor], device: str) -> PatchCore:
    raise NotImplementedError("the reference is trained in each run; train it again")


ANOMALIB = Algorithm(
    "anomalib", "anomalib's PatchCore", patchcore.requested, train, _load, patchcore.MIN_IMAGES
)
