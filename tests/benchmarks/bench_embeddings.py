# SPDX-License-Identifier: Apache-2.0
"""Which embedding finds the same kind of image: candidates on datasets in MVTec AD's layout, a table.

    python -m tests.benchmarks.bench_embeddings [FOLDER ...] [--images 300] [--coreset 0.1] [--size 256]
                                                [--ours]

Without folders it takes the three synthetic surfaces of the demo. A PatchCore learns from train/good; every
test image is a query in turn and the others are the index. Precision at k counts the right ones among the k
best, or among as many as there are right ones, where those are fewer: the same side (good or defective) for
every query, and the same class for defective ones. All candidates but the last are of the paper's
PatchCore; ``--ours`` leaves these out. Below them, how well either PatchCore tells good from defective.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from blemish_client.demo.surfaces import CATEGORIES, generate
from blemish_core.detectors.base import Image, Training, TrainingContext, silent
from blemish_core.detectors.common import embedding
from blemish_core.detectors.patchcore.detector import PatchCore, PatchCoreSettings
from blemish_core.detectors.patchcore.training import train as patchcore_training
from blemish_core.evaluation.metrics import image_auroc
from blemish_core.imaging.decode import ImageLimits, decode

GOOD = "good"
TOP = 16  # patches of an image that MaxSim compares
IMAGES = {".png", ".jpg", ".jpeg", ".bmp"}


@dataclass(frozen=True)
class Looked:
    """What a forward pass says of N test images."""

    features: Tensor
    """(N, P, D)."""
    residuals: Tensor
    """(N, P, D), from the nearest bank entry."""
    anomaly: Tensor
    """(N, P)."""
    classes: NDArray[np.str_]
    embeddings: Tensor
    """(N, D + 1), as blemish has them."""
    scores: Tensor
    """(N,)."""
    unlike: Tensor
    """(N, 1), the score, -1 to 1."""
    center: Tensor
    spread: Tensor
    whitening: Tensor


def trained(
    folder: Path, images: int, coreset: float, *, whitened: bool = False, size: int = 256
) -> Training:
    """A PatchCore of at most so many of a folder's good images, ``size`` px a side."""
    train = sorted(each for each in (folder / "train/good").iterdir() if each.suffix.lower() in IMAGES)
    if len(train) > images:
        chosen = np.random.default_rng(0).permutation(len(train))[:images]
        train = [train[number] for number in sorted(chosen)]
    terms = TrainingContext(weights=folder / "none", seed=0, target_false_reject_rate=0.05, progress=silent)
    settings = PatchCoreSettings(coreset_ratio=coreset, whitened=whitened, input_size=size)
    return patchcore_training.train(settings, [partial(read, each) for each in train], terms)


def look(folder: Path, images: int, coreset: float, *, whitened: bool = False, size: int = 256) -> Looked:
    detector = trained(folder, images, coreset, whitened=whitened, size=size).detector
    assert isinstance(detector, PatchCore)
    tensors = detector.tensors()
    bank = tensors["memory_bank"]
    test = sorted(each for each in (folder / "test").rglob("*") if each.suffix.lower() in IMAGES)
    features, residuals, anomaly, vectors, scores = [], [], [], [], []
    with torch.inference_mode():
        for each in test:
            patches, grid = detector.features([detector.prepare(read(each))])
            distances = torch.cdist(patches[0], bank)
            nearest = distances.min(1)
            (outcome,) = detector.outcomes(patches, grid)
            features.append(patches[0])
            residuals.append(patches[0] - bank[nearest.indices])
            anomaly.append(nearest.values)
            vectors.append(torch.from_numpy(outcome.embedding))
            scores.append(outcome.score)
    return Looked(
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


def read(path: Path) -> Image:
    return decode(path.read_bytes(), ImageLimits())


def unit(vectors: Tensor) -> Tensor:
    return functional.normalize(vectors, dim=-1)


def scored(vectors: Tensor, of: Looked, weight: float = 0.5) -> Tensor:
    return unit(torch.cat([unit(vectors), weight * of.unlike], dim=1))


def pooled(patches: Tensor, of: Looked, temperature: float = 1.0) -> Tensor:
    return embedding.pooled(patches, of.anomaly, temperature * of.spread)


def whitened(of: Looked) -> Tensor:
    return (pooled(of.features, of, embedding.TEMPERATURE) - of.center) @ of.whitening


def likeness(vectors: Tensor) -> Tensor:
    return vectors @ vectors.T


def max_sim(of: Looked) -> Tensor:
    """The mean over one image's most anomalous patches of the likeness to the most alike of the other's."""
    top = of.anomaly.topk(min(TOP, of.anomaly.shape[1]), dim=1).indices
    patches = torch.take_along_dim(of.features - of.center, top[..., None], 1) @ of.whitening
    patches = unit(patches)  # (N, K, D)
    rows = [(patches[number] @ patches.flatten(0, 1).T) for number in range(len(patches))]
    return torch.stack([row.reshape(row.shape[0], len(patches), -1).amax(2).mean(0) for row in rows])


CANDIDATES: dict[str, Callable[[Looked], Tensor]] = {
    "plain mean": lambda of: likeness(unit(of.features.mean(1))),
    "mean, centred": lambda of: likeness(unit(of.features.mean(1) - of.center)),
    "mean, whitened": lambda of: likeness(unit((of.features.mean(1) - of.center) @ of.whitening)),
    "pooled by anomaly": lambda of: likeness(unit(pooled(of.features, of) - of.center)),
    "pooled, score": lambda of: likeness(scored(pooled(of.features, of) - of.center, of)),
    "residual, score": lambda of: likeness(scored(pooled(of.residuals, of), of)),
    "residual, whitened, score": lambda of: likeness(scored(pooled(of.residuals, of) @ of.whitening, of)),
    "pooled, whitened": lambda of: likeness(
        unit((pooled(of.features, of, 0.7) - of.center) @ of.whitening)
    ),
    "pooled, whitened, score of weight 1": lambda of: likeness(
        scored((pooled(of.features, of, 0.7) - of.center) @ of.whitening, of, 1.0)
    ),
    "MaxSim of 16 patches, whitened": max_sim,
    "MaxSim of 16 patches, whitened, score": lambda of: max_sim(of) + 0.25 * likeness(of.unlike),
    "pooled, whitened, score": lambda of: likeness(of.embeddings),
}
OURS = "**of blemish's PatchCore: pooled, score (ours)**"


def precision(
    similarity: Tensor, classes: NDArray[np.str_], k: int, queries: Sequence[int] | None = None
) -> tuple[float, float]:
    """Of the same side, and of the same class for defective queries; of all queries unless given."""
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
    """What the table says of a folder, by the names of its rows."""
    column = {}
    aurocs = {}
    if not only_ours:
        plain = look(folder, images, coreset, size=size)
        column = {name: cell(similarity(plain), plain.classes) for name, similarity in CANDIDATES.items()}
        aurocs["image AUROC, the paper's PatchCore"] = f"{auroc(plain):.3f}"
        del plain  # gigabytes
    ours = look(folder, images, coreset, whitened=True, size=size)
    column[OURS] = cell(likeness(ours.embeddings), ours.classes)
    return column | aurocs | {"image AUROC, blemish's": f"{auroc(ours):.3f}"}


def auroc(of: Looked) -> float:
    good = torch.from_numpy(of.classes == GOOD)
    return image_auroc(of.scores[good].tolist(), of.scores[~good].tolist()) or float("nan")


def cell(similarity: Tensor, classes: NDArray[np.str_]) -> str:
    sides, same = zip(*(precision(similarity, classes, k) for k in (1, 5, 10)), strict=True)
    return " ".join(f"{share:.2f}" for share in sides) + " / " + " ".join(f"{share:.2f}" for share in same)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*")
    parser.add_argument("--images", type=int, default=300, help="good images learned from, at most")
    parser.add_argument("--coreset", type=float, default=0.1)
    parser.add_argument("--size", type=int, default=256, help="sides of what the detector sees, px")
    parser.add_argument("--ours", action="store_true", help="blemish's PatchCore alone")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folders = asked.folders
        if not folders:
            folders = [Path(made) / category for category in CATEGORIES]
            for folder in folders:
                generate(folder, folder.name, seed=0, train=80, good=20, defective=32, size=256)
        print("Good or defective P@1, P@5, P@10 | the same defect P@1, P@5, P@10\n")
        print("| embedding | " + " | ".join(folder.name for folder in folders) + " |")
        print("|---" * (len(folders) + 1) + "|")
        # One folder after the other: the features of a large one take gigabytes.
        columns = [
            cells(folder, asked.images, asked.coreset, asked.size, only_ours=asked.ours)
            for folder in folders
        ]
        for name in columns[0]:
            print(f"| {name} | " + " | ".join(column[name] for column in columns) + " |", flush=True)


if __name__ == "__main__":
    main()
