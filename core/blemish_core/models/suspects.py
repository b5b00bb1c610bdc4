# SPDX-License-Identifier: Apache-2.0
"""Good images of a training with the highest scores, some of which may be defective.

A single defective image among the held-out ones can set the threshold.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import median

from blemish_core.calibration import Calibration
from blemish_core.models.bundle import Manifest
from blemish_core.models.good_images import GoodImage, read_good_images
from blemish_core.models.store import ModelStore
from blemish_core.platform.errors import FailedPrecondition, InvalidRequest, NotFound
from blemish_core.platform.names import ModelRef, dataset_name

_GAP_SPREADS = 3.0
"""Distance to the next score from which on an image stands out, in robust standard deviations."""
_CONSISTENT = 1.4826  # ratio of a standard deviation to the median absolute deviation of normal values
_LEAST_IMAGES = 10  # fewer do not show how scores spread
_MAX_MODELS = 100_000
_MOST_SHARE = 0.05  # of the images may stand out together, but three at least


@dataclass(frozen=True)
class Suspect:
    """A good image with one of the highest scores."""

    image: GoodImage
    score: float
    rank: int
    """Rank of the score, 1 for the highest, among the held-out images or among the others."""
    count: int
    """Number of these images."""
    next_score: float | None
    """Next lower score, None for the last image."""
    stands_out: bool
    """True if the score is far above those of nearly all others."""
    threshold_without: float | None
    """Threshold that the other held-out images give; None for other images and for a fixed threshold."""


def scored_version(models: ModelStore, ref: ModelRef | None, dataset: str) -> Manifest:
    """Return the version whose scores to list: ``ref``, or else the newest one trained on a dataset.

    Args:
        models: store of the version.
        ref: reference of the version, None for the newest one of any model.
        dataset: id of the dataset, may be empty if ``ref`` is given.

    Raises:
        NotFound: if there is none.
        InvalidRequest: if the version was trained on another dataset.
    """
    if ref is None:
        return _newest_on(models, dataset)
    manifest = models.manifest(ref)
    if dataset and manifest.dataset != dataset:
        raise InvalidRequest(
            f"{manifest.name} was trained on {dataset_name(manifest.dataset)}, not on "
            f"{dataset_name(dataset)}; use `blemish dataset suspects {manifest.dataset}`, or name another "
            "version",
            field="dataset",
        )
    return manifest


def _newest_on(models: ModelStore, dataset: str) -> Manifest:
    """Return the newest version of any model that was trained on a dataset.

    Raises:
        NotFound: if there is none.
    """
    versions = [
        version
        for model in models.page(limit=_MAX_MODELS)
        for version in model.versions
        if version.dataset == dataset
    ]
    if not versions:
        raise NotFound(
            f"no version was trained on {dataset_name(dataset)}; train one with `blemish train {dataset}`"
        )
    return max(versions, key=lambda version: version.created)


def suspects_of(
    models: ModelStore, manifest: Manifest, present: Collection[str] | None, limit: int
) -> "list[Suspect]":
    """Return up to ``limit`` good images of each use with the highest scores of a version.

    Args:
        models: store of the version.
        manifest: manifest of the version.
        present: paths that its dataset still has, None if the dataset was deleted.
        limit: number of images of each use.

    Raises:
        FailedPrecondition: if the version was trained by an older blemish.
        Corrupt: if the stored scores or the newest calibration are damaged.
    """
    images = read_good_images(models.folder(manifest.model, manifest.version))
    if images is None:
        raise FailedPrecondition(
            f"{manifest.name} has no scores of its good images, because an older blemish trained it; train "
            f"again with `blemish train {manifest.dataset}`"
        )
    calibration = models.calibrations(manifest).newest().calibration
    found = find_suspects(images, calibration, len(images))
    kept: list[Suspect] = []
    for held_out in (True, False):
        of_use = [each for each in found if each.image.held_out is held_out]
        kept += [each for each in of_use if _is_present(each.image, present)][:limit]
    return kept


def _is_present(image: GoodImage, present: Collection[str] | None) -> bool:
    return present is None or image.path in present or not image.path.startswith("train/")


def find_suspects(images: Sequence[GoodImage], calibration: Calibration, limit: int) -> list[Suspect]:
    """Return up to ``limit`` images with the highest scores of the held-out ones, then of the others.

    Args:
        images: images of a training with their scores.
        calibration: calibration of the version.
        limit: number of images of each kind.
    """
    found: list[Suspect] = []
    for held_out in (True, False):
        scored = [
            (image.score, image)
            for image in images
            if image.held_out is held_out and image.score is not None
        ]
        scored.sort(key=lambda each: (-each[0], each[1].path))
        scores = [score for score, _ in scored]
        outstanding = _outstanding(scores)
        for number, (score, image) in enumerate(scored[:limit]):
            found.append(
                Suspect(
                    image,
                    score,
                    number + 1,
                    len(scored),
                    scores[number + 1] if number + 1 < len(scores) else None,
                    number < outstanding,
                    _threshold_without(calibration, [score]) if held_out else None,
                )
            )
    return found


def outstanding_warning(suspects: Sequence[Suspect], calibration: Calibration, dataset: str) -> str | None:
    """Return a warning about held-out images that raise the threshold; None if there are none.

    Args:
        suspects: the images with the highest scores.
        calibration: calibration of the version.
        dataset: id of the dataset.
    """
    odd = [each for each in suspects if each.stands_out and each.image.held_out]
    without = _threshold_without(calibration, [each.score for each in odd])
    if not odd or without is None or without >= calibration.threshold:
        return None
    names = ", ".join(f"{each.image.shown} ({each.score:.4g})" for each in odd)
    following = f", the next has {odd[-1].next_score:.4g}" if odd[-1].next_score is not None else ""
    return (
        f"the threshold {calibration.threshold:.4g} comes from few good images with far higher scores than "
        f"the others: {names}{following}; without them it would be {without:.4g}; look at them, and if "
        f"they are not good, use `blemish dataset remove {dataset} PATH` and train again"
    )


def _outstanding(descending: Sequence[float]) -> int:
    """Return how many of the highest scores lie beyond a large gap."""
    count = len(descending)
    if count < _LEAST_IMAGES:
        return 0
    middle = median(descending)
    spread = _CONSISTENT * median(abs(score - middle) for score in descending)
    gaps = [
        descending[number - 1] - descending[number]
        for number in range(1, max(3, int(_MOST_SHARE * count)) + 1)
    ]
    largest = max(range(len(gaps)), key=gaps.__getitem__)
    return largest + 1 if gaps[largest] > _GAP_SPREADS * spread else 0


def _threshold_without(calibration: Calibration, scores: Sequence[float]) -> float | None:
    if calibration.fixed_threshold is not None:
        return None
    left = list(calibration.scores)
    for score in scores:
        if score in left:
            left.remove(score)
    return calibration.model_copy(update={"scores": tuple(left)}).threshold if left else None
