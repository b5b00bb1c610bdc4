# SPDX-License-Identifier: Apache-2.0
"""How PatchCore learns: features of good images, a coreset of them, some held out to calibrate by."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from blemish_core.detectors.base import Held, Prediction, ReadImage, Training, TrainingContext, running_on
from blemish_core.detectors.common.scratch import allocate
from blemish_core.detectors.common.split import held_out_count
from blemish_core.detectors.patchcore.detector import PatchCore, PatchCoreSettings
from blemish_core.detectors.patchcore.training.coreset import greedy_coreset
from blemish_core.detectors.patchcore.training.synthetic import altered, disturbed
from blemish_core.detectors.patchcore.training.whitening import Changes, Whitening
from blemish_core.platform.errors import FailedPrecondition, TooLarge

MIN_IMAGES = 2  # one to learn, one to hold out
_CROSS_BELOW = 20  # fewer images than this are too few to spare any for calibration alone
_FOLDS = 5
_BATCH = 8
_WHITENED = 64  # images, those held out first; tens of thousands of patches
# Copies of good images, and patches of each copy at most. Four times as many copies told nothing else; a
# large spot is to say no more than a small one.
_COPIES = 64
_ALTERED, _DISTURBED = (altered, 16), (disturbed, 64)
_PLACED = 32  # images that say what is usual at a place, each measured against the whole bank
_GPU_SPARE_BYTES = 2 << 30  # for the blocks of a coreset


def train(settings: PatchCoreSettings, images: Sequence[ReadImage], terms: TrainingContext) -> Training:
    """Learn from good images, of which some are held out to calibrate by.

    With 20 images or more, a fifth or as many as the target false-reject rate needs (at most a third) are
    held out. With fewer each is scored by a detector that learned from the others (cross-calibration), and
    the one that is kept learned from all.

    What is held out warrants its rate exactly: no score depends on it. Cross-calibration warrants nothing
    for every distribution (see Barber et al., arXiv:1905.02928, on the jackknife); it errs to the safe side
    as far as a detector that learned from more images scores new ones lower. On the synthetic surfaces, 20
    trainings each, it rejected 13.0 % of unseen good images where 4 images would warrant 20 %, 8.0 % where
    8 would warrant 11.1 %, 6.1 % where 12 would warrant 7.7 %, 4.0 % where 19 would warrant 5 %, on average
    (``tests/benchmarks/bench_calibration.py --size 64``); single trainings up to 68 %, 43 %, 33 % and 28 %.

    Raises:
        FailedPrecondition: with fewer than 2 images, if all are the same one, or if the backbone's weights
            cannot be had.
        TooLarge: if the features would need more than the terms allow of memory and of disk, or the
            memory bank more than they allow of memory.
        DiskFull: if the disk for the features is full.
    """
    if len(images) < MIN_IMAGES:
        raise FailedPrecondition(
            f"PatchCore learns from at least {MIN_IMAGES} good images, but the dataset has "
            f"{len(images)} in train/good; upload more"
        )
    progress = terms.progress
    detector = PatchCore(settings, terms.device)
    detector.load_pretrained(terms.weights)
    random = np.random.default_rng(terms.seed)
    order = random.permutation(len(images))
    if len(images) < _CROSS_BELOW:
        method, learned, held_out = "cross-calibration", len(images), order[:0]
        gathered = _gathered(detector, images, terms)
        features, grid = gathered.features, gathered.grid
        outcomes = _cross_calibrated(detector, gathered, order, random, terms)
        if settings.whitened:
            _whiten(detector, features, Whitening.of(features, gathered.changes))
        _learn(detector, features, grid, random, terms)
    else:
        method = "held out"
        held = held_out_count(len(images), terms.target_false_reject_rate)
        learned, held_out = len(images) - held, order[:held]
        # Those held out come first: what is learned from is then a view and no copy.
        gathered = _gathered(detector, [images[number] for number in order], terms, spared=held)
        features, grid = gathered.features, gathered.grid
        if settings.whitened:
            _whiten(detector, features, Whitening.of(features, gathered.changes, without=range(held)))
        _learn(detector, features[held:], grid, random, terms)
        outcomes = _held_outcomes(
            detector, features[:held], grid, lambda done: progress("calibration", done, held, "images")
        )
    scores = tuple(outcome.score for outcome in outcomes)
    if not max(scores) > 0:
        raise FailedPrecondition(
            f"the {len(images)} good images are alike to the last bit, which says nothing of how far good "
            "ones differ; upload images of several pieces, as the camera takes them"
        )
    detector.measure_scores(scores)
    if not settings.whitened:
        detector.measure_directions(features[:_WHITENED])
    maxima = tuple(float(outcome.anomaly_map.max()) for outcome in outcomes)
    facts = {"features by": gathered.runtime}
    if settings.whitened:
        facts["weighed by"] = f"{_COPIES} copies altered, {_COPIES} disturbed"
    return Training(detector, Held(scores, maxima), learned, method, facts, tuple(held_out.tolist()))


@dataclass(frozen=True)
class Gathered:
    """What the network says of N images."""

    features: Tensor
    """(N, P, D), in memory or mapped."""
    grid: tuple[int, int]
    """Rows and columns of the P patches."""
    changes: list[Changes]
    """Of each image."""
    runtime: str
    """What ran it."""


def _whiten(detector: PatchCore, features: Tensor, whitening: Whitening) -> None:
    """Have the detector's features mapped from now on, and those (N, P, D) that it gave before."""
    whitening.apply(features, out=features)
    detector.whiten(whitening.matrix, whitening.shift, whitening.levelling)


def _learn(
    detector: PatchCore,
    features: Tensor,
    grid: tuple[int, int],
    random: np.random.Generator,
    terms: TrainingContext,
) -> None:
    """Have the detector remember the coreset of features (N, P, D)."""
    keep = _bank_size(detector, *features.shape[:2])

    def told(picked: int) -> None:
        terms.progress("coreset", picked, keep, "patches")

    picks = _coreset(features, keep, random, terms.device, told)
    detector.remember(features.flatten(0, 1)[picks])
    detector.find_supports(lambda done: terms.progress("supports", done, keep, "entries"))
    placed = min(len(features), _PLACED)

    def seen(done: int) -> None:
        terms.progress("places", done, placed, "images")

    _measure_places(detector, features, grid, range(len(features)), picks, seen)


def _measure_places(
    detector: PatchCore,
    features: Tensor,
    grid: tuple[int, int],
    images: Sequence[int],
    picks: Tensor,
    on_images: Callable[[int], None],
) -> None:
    """Measure what is usual at a place by ``images`` of features (N, P, D), or _PLACED of them."""
    if not detector.settings["whitened"]:
        return
    chosen = np.linspace(0, len(images) - 1, min(len(images), _PLACED)).round().astype(int)
    owners = picks // features.shape[1]
    detector.measure_places(features, grid, [images[each] for each in chosen], owners, on_images)


def _cross_calibrated(
    detector: PatchCore,
    gathered: Gathered,
    order: NDArray[np.int64],
    random: np.random.Generator,
    terms: TrainingContext,
) -> list[Prediction]:
    """Score the features of each image by a bank of images other than it."""
    features, grid = gathered.features, gathered.grid
    outcomes: list[Prediction] = []
    whitened = detector.settings["whitened"]
    own = _allocated(tuple(features.shape), "the whitened features", terms) if whitened else features

    def score(fold: NDArray[np.int64], before: int) -> list[Prediction]:
        if whitened:
            # What is to be new to the bank has no part in how features are whitened either.
            Whitening.of(features, gathered.changes, without=fold).apply(features, out=own)

        def told(done: int) -> None:
            terms.progress("calibration", before + done, len(order), "images")

        keep = _bank_size(detector, len(features) - len(fold), features.shape[1])
        # Picks are not counted here, but a cancellation is heard.
        picks = _coreset(own, keep, random, terms.device, lambda _: told(0), without=fold)
        detector.remember(own.flatten(0, 1)[picks])
        others = np.setdiff1d(order, fold).tolist()
        _measure_places(detector, own, grid, others, picks, lambda _: told(0))
        return _held_outcomes(detector, own[fold], grid, told)

    for fold in np.array_split(order, min(len(order), _FOLDS)):
        outcomes += score(fold, len(outcomes))
    return outcomes


def _gathered(
    detector: PatchCore, images: Sequence[ReadImage], terms: TrainingContext, *, spared: int = 0
) -> Gathered:
    """Features of all images, and changes of all but the first ``spared``."""
    features: Tensor | None = None
    grid = (0, 0)
    terms.progress("features", 0, len(images), "images")  # to convert a network takes seconds
    fast = terms.fast(detector.network, detector.input_size)
    with torch.inference_mode(), running_on(detector, fast):
        for start in range(0, len(images), _BATCH):
            terms.progress("features", start, len(images), "images")
            batch = [detector.prepare(read()) for read in images[start : start + _BATCH]]
            patches, grid = detector.features(batch)
            if features is None:
                # Refused here, after one batch, or not at all.
                features = _room(detector, len(images), patches.shape[1], patches.shape[2], terms)
            features[start : start + len(batch)] = patches
        terms.progress("features", len(images), len(images), "images")
        assert features is not None
        none = features.new_empty(0, features.shape[2])
        changes = [Changes(none, none)] * len(images)
        if detector.settings["whitened"]:
            changes[spared:] = changes_of(
                detector,
                images[spared:],
                features[spared:],
                terms.seed,
                lambda done: terms.progress("alterations", done, _COPIES, "images"),
            )
        return Gathered(features, grid, changes, detector.runtime.name)


def changes_of(
    detector: PatchCore,
    images: Sequence[ReadImage],
    features: Tensor,
    seed: int,
    on_copies: Callable[[int], None] = lambda done: None,
) -> list[Changes]:
    """By what patches of images change where a spot of them is altered, and where nothing is wrong.

    Args:
        detector: gives features, not whitened yet.
        images: some, of which copies are made.
        features: (N, P, D), theirs.
        seed: decides on the copies.
        on_copies: hears how many are done.

    Returns:
        Of each image; of many images some have none, of few each has several copies.
    """
    anomalous, harmless = ([[features.new_empty(0, features.shape[2])] for _ in images] for _ in range(2))
    numbers = np.linspace(0, len(images), _COPIES, endpoint=False).astype(int).tolist()
    for start in range(0, _COPIES, _BATCH):
        on_copies(start)
        chosen = numbers[start : start + _BATCH]
        inputs = {number: detector.prepare(images[number]()) for number in set(chosen)}
        originals = [detector.preprocessing.pixels(inputs[number]) for number in chosen]
        for (copied, most), changes in ((_ALTERED, anomalous), (_DISTURBED, harmless)):
            # Drawn for each copy anew: what one image is like has no part in what becomes of another.
            random = [np.random.default_rng((seed, start + place)) for place in range(len(chosen))]
            copies = [copied(original, each) for original, each in zip(originals, random, strict=True)]
            patches, grid = detector.features(
                [detector.preprocessing.normalized(copy) for copy, _ in copies]
            )
            for number, found, (_, spot), each in zip(chosen, patches, copies, random, strict=True):
                touched = functional.adaptive_max_pool2d(spot[None].float(), grid).flatten()
                there = each.permutation(torch.nonzero(touched)[:, 0])[:most]
                changes[number].append(found[there].to(features.device) - features[number, there])
    on_copies(_COPIES)
    return [
        Changes(torch.cat(one), torch.cat(other)) for one, other in zip(anomalous, harmless, strict=True)
    ]


def _room(
    detector: PatchCore, images: int, patches: int, dimensions: int, terms: TrainingContext
) -> Tensor:
    """Room for features (N, P, D) of all images."""
    room = _allocated((images, patches, dimensions), f"the features of {images} images", terms)
    bank_bytes = _bank_size(detector, images, patches) * dimensions * room.element_size()
    if bank_bytes > terms.max_feature_bytes:
        raise TooLarge(
            f"the memory bank of {images} images would need {bank_bytes >> 20} MiB, but "
            f"BLEMISH_MAX_FEATURE_BYTES allows {terms.max_feature_bytes >> 20} MiB; take a smaller "
            "coreset_ratio, train on fewer images, or raise the setting"
        )
    return room


def _allocated(shape: tuple[int, ...], what: str, terms: TrainingContext) -> Tensor:
    return allocate(
        shape,
        what,
        memory_bytes=terms.max_feature_bytes,
        folder=terms.scratch,
        disk_bytes=terms.max_scratch_bytes,
    )


def _bank_size(detector: PatchCore, images: int, patches: int) -> int:
    """How many of the patches of all images the memory bank keeps.

    No fewer than weigh the image score: the weight depends on how many there are, and cross-calibration
    would measure by another one.
    """
    settings, count = detector.settings, images * patches
    neighbors: int = settings["neighbors"]
    return max(min(neighbors, count), int(count * settings["coreset_ratio"]))


def _coreset(
    features: Tensor,
    keep: int,
    random: np.random.Generator,
    device: str,
    on_picks: Callable[[int], None],
    *,
    without: Sequence[int] | NDArray[np.int64] = (),
) -> Tensor:
    """The memory bank, as numbers (keep,) of patches of features (N, P, D), ``without`` some images."""
    on_picks(0)
    count, per_image = features.shape[:2]
    patches = features.flatten(0, 1)
    barred = torch.zeros(count, dtype=torch.bool)
    barred[torch.as_tensor(without, dtype=torch.long)] = True
    others = torch.nonzero(~barred)[:, 0]
    start = int(random.integers(len(others) * per_image))
    first = int(others[start // per_image]) * per_image + start % per_image
    with torch.inference_mode():
        points = patches.to(device) if _fits(patches, device) else patches
        picks = greedy_coreset(
            points,
            keep,
            first,
            barred=barred.repeat_interleave(per_image),
            device=device,
            on_picks=on_picks,
        )
        return torch.tensor(picks)


def _fits(patches: Tensor, device: str) -> bool:
    """Whether a GPU has room for all patches and the work; if not, they pass through it in blocks."""
    if torch.device(device).type != "cuda":
        return False
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return patches.nbytes + _GPU_SPARE_BYTES < free_bytes


def _held_outcomes(
    detector: PatchCore, features: Tensor, grid: tuple[int, int], on_images: Callable[[int], None]
) -> list[Prediction]:
    """Score features (N, P, D) that the detector has not learned; their spread becomes its unit."""
    detector.measure_spread(features[:_BATCH])  # thousands of patches are enough
    outcomes: list[Prediction] = []
    with torch.inference_mode():
        for start in range(0, len(features), _BATCH):
            on_images(start)
            outcomes += detector.outcomes(features[start : start + _BATCH], grid)
    on_images(len(outcomes))
    return outcomes
