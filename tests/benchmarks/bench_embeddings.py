# SPDX-License-Identifier: Apache-2.0
"""Compare candidates for the embedding: how precisely each finds images of the same kind.

    python -m tests.benchmarks.bench_embeddings [FOLDER ...] [--images 300] [--per-class 40] [--coreset 0.1]
                                                [--size PX]

Without folders the three synthetic surfaces of the demo are used. A PatchCore learns from train/good. Every
test image is a query in turn, and the others are the index. Precision at 5 is the share of right images
among the five best. If there are fewer right images, their number counts. Right images are those of the
query's side (good or defective), and for defective queries also those of its class. All candidates use the
same patches. Images may differ in size.
"""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tests.benchmarks.report import parser, section
from torch import Tensor
from torch.nn import functional

from blemish_client.demo.surfaces import CATEGORIES, generate
from blemish_core.detectors.base import Image, PatchFeatures, TrainingContext, TrainingResult, silent
from blemish_core.detectors.common import embedding
from blemish_core.detectors.patchcore.settings import requested
from blemish_core.detectors.patchcore.training import train as patchcore_training
from blemish_core.detectors.patchcore.training.trainable import TrainablePatchCore
from blemish_core.evaluation.metrics import image_auroc
from blemish_core.imaging.decode import ImageLimits, decode

GOOD = "good"
IMAGES = {".png", ".jpg", ".jpeg", ".bmp"}
_K = 5
_REGIONS = 5
_RADIUS = 2  # patches around the peak of a region
_RESAMPLES = 1000
_SAMPLE = 200  # patches of a training image that the earlier whitening is fitted to


@dataclass(frozen=True)
class DescribedImage:
    """A test image and what candidates need to describe it."""

    class_name: str
    patches: PatchFeatures
    features: Tensor
    """(P, D), in the features of the bank."""
    residuals: Tensor
    """(P, D), whitened differences from the nearest bank entries."""


@dataclass(frozen=True)
class DescribedSet:
    """The test images of a folder, and statistics of its good training images."""

    images: list[DescribedImage]
    bank_mean: Tensor
    """(D,)."""
    patch_whitening: Tensor
    """(D, D), by the covariance of good patches."""

    @property
    def classes(self) -> NDArray[np.str_]:
        return np.array([each.class_name for each in self.images])

    def each(self, describe: Callable[[DescribedImage], Tensor]) -> Tensor:
        """Return what describes each image, (N, ...)."""
        return torch.stack([describe(image) for image in self.images])

    def similarities(self, describe: Callable[[DescribedImage], Tensor]) -> Tensor:
        """Return similarities (N, N) by the cosine of vectors (V,)."""
        vectors = functional.normalize(self.each(describe), dim=1)
        return vectors @ vectors.T


def trained(
    folder: Path, images: int, coreset: float, *, whitened: bool = False, size: int | None = 256
) -> TrainingResult:
    """Train a PatchCore with at most ``images`` good images of a folder."""
    context = TrainingContext(
        weights=folder / "none", seed=0, target_false_reject_rate=0.05, progress=silent
    )
    settings = requested(coreset_ratio=coreset, whitened=whitened, input_size=size)
    return patchcore_training.train(
        settings, [partial(read, each) for each in _some(_files(folder / "train/good"), images)], context
    )


def forward(folder: Path, images: int, per_class: int, coreset: float, size: int | None) -> DescribedSet:
    """Train a PatchCore and pass the test images through it."""
    detector = trained(folder, images, coreset, whitened=True, size=size).detector
    assert isinstance(detector, TrainablePatchCore)
    tensors = detector.tensors()
    bank, whitening = tensors["memory_bank"], tensors["whitening"]
    sample = []
    with torch.inference_mode():
        for each in _some(_files(folder / "train/good"), 40):
            (patches,) = detector.patches([detector.prepare(read(each))])
            sample.append(patches.features[:: max(1, len(patches.features) // _SAMPLE)])
        found = []
        for each in [
            path for kind in sorted((folder / "test").iterdir()) for path in _some(_files(kind), per_class)
        ]:
            inputs = [detector.prepare(read(each))]
            (described,), (patches,) = detector.predict_with_patches(inputs), detector.patches(inputs)
            nearest = torch.cdist(patches.features, bank).argmin(1)
            residuals = (patches.features - bank[nearest]) @ whitening
            found.append(DescribedImage(each.parent.name, described, patches.features, residuals))
    return DescribedSet(found, bank.mean(0), embedding.whitening(torch.cat(sample)))


def _files(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if each.suffix.lower() in IMAGES)


def _some(paths: Sequence[Path], count: int) -> list[Path]:
    chosen = np.random.default_rng(0).permutation(len(paths))[:count]
    return [paths[number] for number in sorted(chosen)]


def surfaces(folder: Path) -> list[Path]:
    """Draw the demo's surfaces below ``folder``; return the folder of each."""
    made = [folder / category for category in CATEGORIES]
    for each in made:
        generate(each, each.name, seed=0, train=80, good=20, defective=32, size=256)
    return made


def read(path: Path) -> Image:
    return decode(path.read_bytes(), ImageLimits())


def pooled(of: DescribedImage, values: Tensor, share: float = 1.0) -> Tensor:
    """Pool values (P, V) of an image's patches to (V,), at a share of the detector's temperature."""
    weights = torch.softmax(anomaly_of(of) / (share * of.patches.spread), dim=0)
    return weights @ values


def deviations(of: DescribedImage) -> Tensor:
    return torch.from_numpy(of.patches.deviations).flatten(0, 1)


def anomaly_of(of: DescribedImage) -> Tensor:
    """Return the anomaly (P,) of an image's patches."""
    return torch.from_numpy(of.patches.anomaly).flatten()


def with_score(direction: Tensor, of: DescribedImage, score: float | None = None) -> Tensor:
    """Add the score's dimension to a direction (D,) as embeddings do; by default that of the image."""
    scores = torch.tensor([of.patches.prediction.score if score is None else score])
    return embedding.joined(direction[None], scores, torch.from_numpy(of.patches.score_scale))[0]


def regions(of: DescribedImage) -> tuple[Tensor, Tensor]:
    """Return vectors (R, D + 1) of the worst regions, each with the weight of its peak, (R,)."""
    rows, columns = of.patches.anomaly.shape
    anomaly, values = anomaly_of(of), deviations(of)
    down, across = torch.arange(rows).repeat_interleave(columns), torch.arange(columns).repeat(rows)
    free = torch.ones(len(anomaly), dtype=torch.bool)
    vectors, peaks = [], []
    for _ in range(_REGIONS):
        if not free.any():
            break
        peak = int(torch.where(free, anomaly, -torch.inf).argmax())
        distance = torch.maximum((down - down[peak]).abs(), (across - across[peak]).abs())
        near = distance <= _RADIUS
        weights = torch.softmax(anomaly[near] / of.patches.spread, dim=0)
        direction = embedding.directions(weights @ values[near], of.patches.stages)
        drop = float(anomaly.max() - anomaly[peak])
        vectors.append(with_score(direction, of, of.patches.prediction.score - drop))
        peaks.append(anomaly[peak])
        free &= distance > 2 * _RADIUS
    return torch.stack(vectors), torch.softmax(torch.stack(peaks) / of.patches.spread, dim=0)


def max_sim(of: DescribedSet) -> Tensor:
    """Return similarities (N, N): for each region of one image the best of the other's, by its weight."""
    described = [regions(each) for each in of.images]
    return torch.stack(
        [
            torch.stack([(one @ other.T).amax(1) @ weights for other, _ in described])
            for one, weights in described
        ]
    )


def by_patch_whitening(of: DescribedSet, each: DescribedImage) -> Tensor:
    return functional.normalize((pooled(each, each.features) - of.bank_mean) @ of.patch_whitening, dim=0)


def staged(of: DescribedImage, values: Tensor, share: float = 1.0) -> Tensor:
    return embedding.directions(pooled(of, values, share), of.patches.stages)


CANDIDATES: dict[str, Callable[[DescribedSet], Tensor]] = {
    "plain mean": lambda of: of.similarities(lambda each: each.features.mean(0) - of.bank_mean),
    "pooled, not whitened": lambda of: of.similarities(
        lambda each: with_score(
            functional.normalize(pooled(each, each.features) - of.bank_mean, dim=0), each
        )
    ),
    "whitened by all good patches": lambda of: of.similarities(
        lambda each: with_score(by_patch_whitening(of, each), each)
    ),
    "whitened by the farthest, stages together": lambda of: of.similarities(
        lambda each: with_score(embedding.directions(pooled(each, deviations(each))), each)
    ),
    "residuals from the nearest entries": lambda of: of.similarities(
        lambda each: with_score(staged(each, each.residuals), each)
    ),
    "half the temperature": lambda of: of.similarities(
        lambda each: with_score(staged(each, deviations(each), 0.5), each)
    ),
    "twice the temperature": lambda of: of.similarities(
        lambda each: with_score(staged(each, deviations(each), 2.0), each)
    ),
    "without the score": lambda of: of.similarities(lambda each: staged(each, deviations(each))),
    "score of weight 1": lambda of: of.similarities(
        lambda each: with_score(0.5 * staged(each, deviations(each)), each)
    ),
    "MaxSim of five regions": max_sim,
    "**used: by the farthest, stage by stage**": lambda of: of.similarities(
        lambda each: torch.from_numpy(each.patches.prediction.embedding)
    ),
}


def precisions(
    similarity: Tensor, classes: NDArray[np.str_], k: int, queries: Iterable[int] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the precision of each query for the same side, and of defective ones for the same class."""
    order = similarity.clone().fill_diagonal_(-torch.inf).argsort(dim=1, descending=True).numpy()
    good = classes == GOOD
    sides, same = [], []
    for query in range(len(order)) if queries is None else queries:
        ranked = order[query]
        others = min(k, int((good == good[query]).sum()) - 1)
        sides.append((good[ranked[:others]] == good[query]).mean())
        if not good[query] and (others := min(k, int((classes == classes[query]).sum()) - 1)):
            same.append((classes[ranked[:others]] == classes[query]).mean())
    return np.array(sides, np.float64), np.array(same, np.float64)


def precision(
    similarity: Tensor, classes: NDArray[np.str_], k: int, queries: Sequence[int] | None = None
) -> tuple[float, float]:
    """Return the precision for the same side, and for the same class over defective queries alone."""
    sides, same = precisions(similarity, classes, k, queries)
    return float(sides.mean()), float(same.mean()) if len(same) else float("nan")


def with_interval(samples: Sequence[NDArray[np.float64]]) -> str:
    """Return the mean over folders of a figure per query, with its 95 % interval over the queries."""
    random = np.random.default_rng(0)
    samples = [sample for sample in samples if len(sample)]
    if not samples:
        return "-"
    drawn = [
        np.mean([random.choice(sample, len(sample)).mean() for sample in samples])
        for _ in range(_RESAMPLES)
    ]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return f"{np.mean([sample.mean() for sample in samples]):.3f} [{low:.3f} to {high:.3f}]"


def auroc(of: DescribedSet) -> float:
    scores = {True: [], False: []}  # type: dict[bool, list[float]]
    for each in of.images:
        scores[each.class_name == GOOD].append(each.patches.prediction.score)
    return image_auroc(scores[True], scores[False]) or float("nan")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("folders", type=Path, nargs="*", help="datasets in MVTec AD's layout")
    options.add_argument("--images", type=int, default=300, help="good training images, at most")
    options.add_argument("--per-class", type=int, default=40, help="test images of a class, at most")
    options.add_argument("--coreset", type=float, default=0.1, help="share of patches kept")
    options.add_argument("--size", type=int, help="shorter side of the model's input, px")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as made, section("bench_embeddings", "Embeddings", given) as report:
        folders = given.folders or surfaces(Path(made))
        found: dict[str, list[tuple[NDArray[np.float64], NDArray[np.float64]]]] = {}
        aurocs = []
        # One folder after the other: the features of a large one take gigabytes.
        for folder in folders:
            of = forward(folder, given.images, given.per_class, given.coreset, given.size)
            aurocs.append(auroc(of))
            for name, similarity in CANDIDATES.items():
                found.setdefault(name, []).append(precisions(similarity(of), of.classes, _K))
        report.write(
            "Precision at 5 for good or defective / for the same class. The first two columns are means "
            "over the folders, with 95 % intervals over their queries.\n"
        )
        names = " | ".join(folder.name for folder in folders)
        report.write(f"| embedding | good or defective | same class | {names} |")
        report.write("|---" * (len(folders) + 3) + "|")
        for name, columns in found.items():
            means = (
                with_interval([sides for sides, _ in columns]),
                with_interval([same for _, same in columns]),
            )
            each = [
                f"{sides.mean():.2f} / " + (f"{same.mean():.2f}" if len(same) else "-")
                for sides, same in columns
            ]
            report.write(f"| {name} | {' | '.join((*means, *each))} |")
        report.write("| image AUROC | | | " + " | ".join(f"{value:.3f}" for value in aurocs) + " |")


if __name__ == "__main__":
    main()
