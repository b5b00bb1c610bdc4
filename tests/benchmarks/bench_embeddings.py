# SPDX-License-Identifier: Apache-2.0
"""Compare candidates for the embedding: how precisely each finds images of the same kind.

    python -m tests.benchmarks.bench_embeddings [FOLDER ...] [--images 300] [--coreset 0.1] [--size 256]
                                                [--ours]

Without folders the three synthetic surfaces of the demo are used. A PatchCore learns from train/good. Every
test image is a query in turn, and the others are the index. Precision at k is the share of right images
among the k best. If there are fewer than k right images, k is their number. Right images are those of the
query's side (good or defective), and for defective queries also those of its class. All candidates but the
last use the PatchCore of the paper; ``--ours`` leaves them out. The last rows give the image AUROC.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tests.benchmarks.report import parser, section
from tests.support.patches import patch_features
from torch import Tensor
from torch.nn import functional

from blemish_client.demo.surfaces import CATEGORIES, generate
from blemish_core.detectors.base import Image, TrainingContext, TrainingResult, silent
from blemish_core.detectors.common import embedding
from blemish_core.detectors.patchcore.settings import requested
from blemish_core.detectors.patchcore.training import train as patchcore_training
from blemish_core.detectors.patchcore.training.trainable import TrainablePatchCore
from blemish_core.evaluation.metrics import image_auroc
from blemish_core.imaging.decode import ImageLimits, decode

GOOD = "good"
TOP = 16  # patches of an image in MaxSim
IMAGES = {".png", ".jpg", ".jpeg", ".bmp"}


@dataclass(frozen=True)
class Forward:
    """The results of forward passes over N test images."""

    features: Tensor
    """(N, P, D)."""
    residuals: Tensor
    """(N, P, D), from the nearest bank entry."""
    anomaly: Tensor
    """(N, P)."""
    classes: NDArray[np.str_]
    embeddings: Tensor
    """(N, D + 1), as the detector returns them."""
    scores: Tensor
    """(N,)."""
    unlike: Tensor
    """(N, 1), the score mapped to -1 to 1."""
    center: Tensor
    spread: Tensor
    whitening: Tensor


def trained(
    folder: Path, images: int, coreset: float, *, whitened: bool = False, size: int = 256
) -> TrainingResult:
    """Train a PatchCore with at most ``images`` good images of a folder."""
    train = sorted(each for each in (folder / "train/good").iterdir() if each.suffix.lower() in IMAGES)
    if len(train) > images:
        chosen = np.random.default_rng(0).permutation(len(train))[:images]
        train = [train[number] for number in sorted(chosen)]
    context = TrainingContext(
        weights=folder / "none", seed=0, target_false_reject_rate=0.05, progress=silent
    )
    settings = requested(coreset_ratio=coreset, whitened=whitened, input_size=size)
    return patchcore_training.train(settings, [partial(read, each) for each in train], context)


def forward(
    folder: Path, images: int, coreset: float, *, whitened: bool = False, size: int = 256
) -> Forward:
    """Train a PatchCore and pass all test images through it."""
    detector = trained(folder, images, coreset, whitened=whitened, size=size).detector
    assert isinstance(detector, TrainablePatchCore)
    tensors = detector.tensors()
    bank = tensors["memory_bank"]
    test = sorted(each for each in (folder / "test").rglob("*") if each.suffix.lower() in IMAGES)
    features, residuals, anomaly, vectors, scores = [], [], [], [], []
    with torch.inference_mode():
        for each in test:
            patches, _ = patch_features(detector, [detector.prepare(read(each))])
            distances = torch.cdist(patches[0], bank)
            nearest = distances.min(1)
            (prediction,) = detector.predict([detector.prepare(read(each))])
            features.append(patches[0])
            residuals.append(patches[0] - bank[nearest.indices])
            anomaly.append(nearest.values)
            vectors.append(torch.from_numpy(prediction.embedding))
            scores.append(prediction.score)
    return Forward(
        torch.stack(features),
        torch.stack(residuals),
        torch.stack(anomaly),
        np.array([each.parent.name for each in test]),
        torch.stack(vectors),
        torch.tensor(scores),
        embedding.sides(torch.tensor(scores), tensors["score_scale"])[:, None],
        tensors["center"],
        tensors["spread"] / embedding.TEMPERATURE,
        tensors["whitening"],
    )


def surfaces(folder: Path) -> list[Path]:
    """Draw the demo's surfaces below ``folder``; return the folder of each."""
    made = [folder / category for category in CATEGORIES]
    for each in made:
        generate(each, each.name, seed=0, train=80, good=20, defective=32, size=256)
    return made


def read(path: Path) -> Image:
    return decode(path.read_bytes(), ImageLimits())


def unit(vectors: Tensor) -> Tensor:
    return functional.normalize(vectors, dim=-1)


def scored(vectors: Tensor, each: Forward, weight: float = 0.5) -> Tensor:
    return unit(torch.cat([unit(vectors), weight * each.unlike], dim=1))


def pooled(patches: Tensor, each: Forward, temperature: float = 1.0) -> Tensor:
    return embedding.pooled(patches, each.anomaly, temperature * each.spread)


def whitened(each: Forward) -> Tensor:
    return (pooled(each.features, each, embedding.TEMPERATURE) - each.center) @ each.whitening


def likeness(vectors: Tensor) -> Tensor:
    return vectors @ vectors.T


def max_sim(each: Forward) -> Tensor:
    """Return similarities (N, N): for each of one image's top patches the best of the other's, averaged."""
    top = each.anomaly.topk(min(TOP, each.anomaly.shape[1]), dim=1).indices
    patches = torch.take_along_dim(each.features - each.center, top[..., None], 1) @ each.whitening
    patches = unit(patches)  # (N, K, D)
    rows = [(patches[number] @ patches.flatten(0, 1).T) for number in range(len(patches))]
    return torch.stack([row.reshape(row.shape[0], len(patches), -1).amax(2).mean(0) for row in rows])


CANDIDATES: dict[str, Callable[[Forward], Tensor]] = {
    "plain mean": lambda each: likeness(unit(each.features.mean(1))),
    "mean, centred": lambda each: likeness(unit(each.features.mean(1) - each.center)),
    "mean, whitened": lambda each: likeness(unit((each.features.mean(1) - each.center) @ each.whitening)),
    "pooled by anomaly": lambda each: likeness(unit(pooled(each.features, each) - each.center)),
    "pooled, score": lambda each: likeness(scored(pooled(each.features, each) - each.center, each)),
    "residual, score": lambda each: likeness(scored(pooled(each.residuals, each), each)),
    "residual, whitened, score": lambda each: likeness(
        scored(pooled(each.residuals, each) @ each.whitening, each)
    ),
    "pooled, whitened": lambda each: likeness(
        unit((pooled(each.features, each, 0.7) - each.center) @ each.whitening)
    ),
    "pooled, whitened, score of weight 1": lambda each: likeness(
        scored((pooled(each.features, each, 0.7) - each.center) @ each.whitening, each, 1.0)
    ),
    "MaxSim of 16 patches, whitened": max_sim,
    "MaxSim of 16 patches, whitened, score": lambda each: max_sim(each) + 0.25 * likeness(each.unlike),
    "pooled, whitened, score": lambda each: likeness(each.embeddings),
}
OURS = "**blemish's PatchCore: pooled, score (used)**"


def precision(
    similarity: Tensor, classes: NDArray[np.str_], k: int, queries: Sequence[int] | None = None
) -> tuple[float, float]:
    """Return the precision for the same side, and for the same class over defective queries alone."""
    order = similarity.clone().fill_diagonal_(-torch.inf).argsort(dim=1, descending=True).numpy()
    good = classes == GOOD
    sides, same = [], []
    for query in range(len(order)) if queries is None else queries:
        ranked = order[query]
        others = min(k, int((good == good[query]).sum()) - 1)
        sides.append((good[ranked[:others]] == good[query]).mean())
        if not good[query] and (others := min(k, int((classes == classes[query]).sum()) - 1)):
            same.append((classes[ranked[:others]] == classes[query]).mean())
    return float(np.mean(sides)), float(np.mean(same)) if same else float("nan")


def cells(folder: Path, images: int, coreset: float, size: int, *, only_ours: bool) -> dict[str, str]:
    """Return the cells of a folder's column, by row."""
    column = {}
    aurocs = {}
    if not only_ours:
        plain = forward(folder, images, coreset, size=size)
        column = {name: cell(similarity(plain), plain.classes) for name, similarity in CANDIDATES.items()}
        aurocs["image AUROC, PatchCore of the paper"] = f"{auroc(plain):.3f}"
        del plain  # gigabytes
    ours = forward(folder, images, coreset, whitened=True, size=size)
    column[OURS] = cell(likeness(ours.embeddings), ours.classes)
    return column | aurocs | {"image AUROC, blemish's PatchCore": f"{auroc(ours):.3f}"}


def auroc(each: Forward) -> float:
    good = torch.from_numpy(each.classes == GOOD)
    return image_auroc(each.scores[good].tolist(), each.scores[~good].tolist()) or float("nan")


def cell(similarity: Tensor, classes: NDArray[np.str_]) -> str:
    sides, same = zip(*(precision(similarity, classes, k) for k in (1, 5, 10)), strict=True)
    return " ".join(f"{share:.2f}" for share in sides) + " / " + " ".join(f"{share:.2f}" for share in same)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("folders", type=Path, nargs="*", help="datasets in MVTec AD's layout")
    options.add_argument("--images", type=int, default=300, help="good training images, at most")
    options.add_argument("--coreset", type=float, default=0.1, help="share of patches kept")
    options.add_argument("--size", type=int, default=256, help="sides of the model's input, px")
    options.add_argument("--ours", action="store_true", help="blemish's PatchCore alone")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as made, section("bench_embeddings", "Embeddings", given) as report:
        folders = given.folders or surfaces(Path(made))
        report.write("Each cell: good or defective P@1, P@5, P@10, then the same defect P@1, P@5, P@10.\n")
        report.write("| embedding | " + " | ".join(folder.name for folder in folders) + " |")
        report.write("|---" * (len(folders) + 1) + "|")
        # One folder after the other: the features of a large one take gigabytes.
        columns = [
            cells(folder, given.images, given.coreset, given.size, only_ours=given.ours)
            for folder in folders
        ]
        for name in columns[0]:
            report.write(f"| {name} | " + " | ".join(column[name] for column in columns) + " |")


if __name__ == "__main__":
    main()
