# SPDX-License-Identifier: Apache-2.0
"""Training of PatchCore: patches of good images, a coreset of them, and calibration on held-out images."""

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blemish_core.detectors.base import (
    HeldOutScores,
    ReadImage,
    TrainingContext,
    TrainingResult,
    running_on,
)
from blemish_core.detectors.common.embedding import FarPatches
from blemish_core.detectors.common.split import Split, split_images
from blemish_core.detectors.patchcore.detector import Measured, Patches
from blemish_core.detectors.patchcore.settings import MIN_IMAGES, PatchCoreSettings
from blemish_core.detectors.patchcore.training.coreset import greedy_coreset
from blemish_core.detectors.patchcore.training.features import (
    all_patches,
    patches_of,
    sample,
    sample_patches,
)
from blemish_core.detectors.patchcore.training.plan import (
    CROSS_CALIBRATE_BELOW,
    BankWork,
    ScalePlan,
    bank_size,
    plan,
)
from blemish_core.detectors.patchcore.training.trainable import TrainablePatchCore
from blemish_core.platform.errors import FailedPrecondition

_TIMED_ROWS = 2048
_GPU_SPARE_BYTES = 2 << 30  # for the blocks of a coreset


def train(
    settings: PatchCoreSettings, images: Sequence[ReadImage], context: TrainingContext
) -> TrainingResult:
    """Train on good images and calibrate on images held out of them.

    With images of fewer than 500 pieces, each piece is scored by a detector trained on others
    (cross-calibration), and the published detector is trained on all images. So the threshold depends less
    on the images that happen to be held out, and the detector has more to learn from (bench_thresholds).
    Some are held out instead if there are more, or if the patches of all exceed the memory limit. They are
    a fifth, or as many as the target false-reject rate needs, but at most a third.

    Held-out images guarantee the rate, because the memory bank does not depend on them. The unit of
    distance follows their medians, which one image hardly changes. Cross-calibration guarantees it for no
    distribution (Barber et al., arXiv:1905.02928, on the jackknife). It errs on the safe side, because
    detectors trained on more images score new ones lower. bench_calibration measures the rates.

    Raises:
        FailedPrecondition: with fewer than 2 images, if all are identical, or if the backbone's weights are
            not available.
        InvalidRequest: if the settings do not fit the images.
        TooLarge: if the features exceed the memory limit of the context.
    """
    if len(images) < MIN_IMAGES:
        raise FailedPrecondition(
            f"PatchCore needs at least {MIN_IMAGES} good images, but the dataset has {len(images)} in "
            "train/good; upload more"
        )
    planned = plan(settings, images)
    detector = TrainablePatchCore(planned.settings, context.device)
    detector.mask = context.mask
    detector.load_pretrained(context.weights)
    random = np.random.default_rng(context.seed)
    below = CROSS_CALIBRATE_BELOW if _fit_in_memory(detector, planned, len(images), context) else 0
    split = split_images(images, random, context, cross_calibrate_below=below)
    context.progress("features", 0, len(images), "images")  # converting the network takes seconds
    training = _Training(detector, planned, images, context, split, random)
    scores = training.cross_calibrated() if split.folds else training.held_out()
    if not max(scores.scores) > 0:
        raise FailedPrecondition(
            f"the {len(images)} good images are identical, so their variation cannot be measured; upload "
            "images of several pieces"
        )
    detector.measure_score_scale(scores.scores)
    return TrainingResult(
        detector,
        scores,
        len(split.learned),
        "cross-calibration" if split.folds else "held out",
        training.facts,
        tuple(split.held_out.tolist()),
        split.copies,
        split.scored_indices,
    )


def _fit_in_memory(
    detector: TrainablePatchCore, planned: ScalePlan, images: int, context: TrainingContext
) -> bool:
    """Return True if the memory limit allows the patches of all images."""
    with torch.inference_mode():
        (patches,) = detector.patches([torch.zeros(3, *planned.input)])
    return images * patches.features.nbytes <= context.max_feature_bytes


class _Training:
    """One training, in the order of its steps."""

    def __init__(
        self,
        detector: TrainablePatchCore,
        planned: ScalePlan,
        images: Sequence[ReadImage],
        context: TrainingContext,
        split: Split,
        random: np.random.Generator,
    ) -> None:
        self._detector = detector
        self._planned = planned
        self._images = images
        self._context = context
        self._split = split
        self._random = random
        height, width = planned.input
        self.facts = {
            "scale": f"{planned.settings.scale:.4g}, from {planned.reason}",
            "input": f"{width} x {height} px, {planned.patches} patches",
        }

    def held_out(self) -> HeldOutScores:
        """Train on the learned images; return scores of the held-out ones."""
        held_out, learned = self._split.held_out, self._split.learned
        detector, context = self._detector, self._context
        with running_on(detector, context.fast_runtime(detector.network, detector.network_size)):
            self._announce()
            learned_patches = sample_patches(detector, self._chosen(learned), context, self._random)
            self._fit(learned_patches)
            measured, far = [], []
            for patches in patches_of(detector, self._chosen(held_out), context, "calibration"):
                measured.append(detector.measure(patches))
                far.append(FarPatches.of(patches.features, measured[-1].distances))
        detector.set_units(measured)
        detector.fit_embeddings(measured, far)
        return detector.held_out_scores(measured)

    def cross_calibrated(self) -> HeldOutScores:
        """Score an image of each piece by a bank of other pieces, then train on all; return the scores."""
        detector, context = self._detector, self._context
        with running_on(detector, context.fast_runtime(detector.network, detector.network_size)):
            self._announce()
            patches = all_patches(detector, self._images, context)
        measured: list[Measured] = []
        pieces = self._split.scored
        for fold in self._split.folds:
            others = np.setdiff1d(self._split.learned, fold.excluded)
            self._fit_fold(self._sample(patches, others), len(measured))
            with torch.inference_mode():
                for number in fold.scored:
                    context.progress("calibration", len(measured), pieces, "images")
                    measured.append(detector.measure(patches[number]))
        context.progress("calibration", pieces, pieces, "images")
        self._fit(self._sample(patches, self._split.learned))
        detector.set_units(measured)
        scored = np.concatenate([fold.scored for fold in self._split.folds])
        far = [
            FarPatches.of(patches[number].features, image.distances)
            for number, image in zip(scored, measured, strict=True)
        ]
        detector.fit_embeddings(measured, far)
        return detector.held_out_scores(measured)

    def _sample(self, patches: Sequence[Patches], numbers: NDArray[np.int64]) -> Tensor:
        """Return patches (N, D) of some images."""
        return sample((patches[number].features for number in numbers), len(numbers), self._random)

    def _announce(self) -> None:
        """Announce the plan with the time of the network, which the next steps use."""
        detector = self._detector
        self.facts["features by"] = detector.runtime.name
        blank = [torch.zeros(3, *self._planned.input)]
        detector.patches(blank)  # allocates memory
        began = time.perf_counter()
        (patches,) = detector.patches(blank)
        network_s = time.perf_counter() - began
        began = time.perf_counter()
        detector.prepare(self._images[0]())
        image_s = network_s + time.perf_counter() - began
        bank_s = self._products(patches) / products_per_s(patches.features)
        training_s = len(self._images) * image_s + bank_s
        self._context.announce(self._planned.describe(1000 * network_s, training_s))

    def _products(self, patches: Patches) -> float:
        """Return about how many products of two features the coresets and searches compute.

        Args:
            patches: patches of one frame.
        """
        count, features = patches.features.shape
        work = BankWork.of(
            self._planned.settings,
            count,
            learned=len(self._split.learned),
            scored=self._split.scored,
            banks=1 + len(self._split.folds),
        )
        return features * work.pairs

    def _fit_fold(self, patches: Tensor, scored: int) -> None:
        """Build the bank of a fold from patches (N, D) of others, after so many images were scored."""

        def keep_alive(picked: int) -> None:
            # A cancellation takes effect here.
            self._context.progress("calibration", scored, self._split.scored, "images")

        self._detector.set_memory_bank(patches[self._coreset(patches, keep_alive)])

    def _fit(self, patches: Tensor) -> None:
        """Build the bank from patches (N, D)."""
        keep, context = self._bank_size(len(patches)), self._context
        picks = self._coreset(patches, lambda done: context.progress("coreset", done, keep, "patches"))
        self._detector.set_memory_bank(patches[picks])
        self._detector.find_supports(lambda done: context.progress("supports", done, keep, "entries"))
        self.facts["bank"] = f"{keep} of {len(patches)} patches"

    def _chosen(self, numbers: NDArray[np.int64]) -> list[ReadImage]:
        return [self._images[number] for number in numbers]

    def _bank_size(self, patches: int) -> int:
        return bank_size(self._planned.settings, patches)

    def _coreset(self, patches: Tensor, on_picks: Callable[[int], None]) -> Tensor:
        """Return the row numbers to keep of patches (N, D)."""
        on_picks(0)
        device = self._context.device
        with torch.inference_mode():
            points = patches.to(device) if fits_on_device(patches, device) else patches
            first = int(self._random.integers(len(patches)))
            picks = greedy_coreset(
                points, self._bank_size(len(patches)), first, device=device, on_picks=on_picks
            )
        return torch.tensor(picks)


def products_per_s(patches: Tensor) -> float:
    """Return how many products of two features the device of patches (P, D) computes in a second."""
    features = patches.shape[1]
    rows = torch.ones(_TIMED_ROWS, features, device=patches.device)
    float((rows @ rows.T).sum())  # allocates memory
    began = time.perf_counter()
    float((rows @ rows.T).sum())  # waits for a GPU
    return _TIMED_ROWS**2 * features / (time.perf_counter() - began)


def fits_on_device(patches: Tensor, device: str) -> bool:
    """Return True if a GPU has memory for all patches and the work; else they are copied in blocks."""
    if torch.device(device).type != "cuda":
        return False
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return patches.nbytes + _GPU_SPARE_BYTES < free_bytes
