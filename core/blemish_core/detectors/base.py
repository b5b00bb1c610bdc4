# SPDX-License-Identifier: Apache-2.0
"""What every detector offers, so that jobs, bundles and the server need not know which one they hold."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Image = NDArray[np.uint8]
"""RGB, (H, W, 3)."""


@dataclass(frozen=True)
class Prediction:
    """What one forward pass says of one image."""

    score: float
    """Raw anomaly score, higher is worse."""
    anomaly_map: NDArray[np.float32]
    """(size, size), the score of each pixel of the model's input."""
    embedding: NDArray[np.float32]
    """(dimensions,), L2-normalised: what search compares."""


@dataclass(frozen=True)
class PatchFeatures:
    """An outcome, and what each patch of the image is like: for search by a part of it. On the CPU."""

    outcome: Prediction
    deviations: Tensor
    """(rows, columns, D), of each patch from the mean of good ones, whitened."""
    anomaly: Tensor
    """(rows, columns), of each patch."""
    spread: Tensor
    """(), what the anomaly of good patches varies by."""
    score_scale: Tensor
    """(2,), see ``embedding.score_scale``."""
    margin: int
    """Patches at each edge of the image that are not among these."""


class Runtime(Protocol):
    """An engine that runs a detector's network."""

    name: str
    """As settings, manifests and answers spell it."""

    @property
    def bytes(self) -> int:
        """What it holds beside the detector's own tensors: its copy of the weights, if it has one."""

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return what the network makes of images (B, 3, size, size)."""


class Detector(Protocol):
    """A trained detector.

    It is a network, which a runtime runs and which is nearly all of the work, and what the detector makes
    of the network's answers in torch.
    """

    name: str
    """As bundles and requests spell the algorithm."""

    @property
    def input_size(self) -> int:
        """Side of the square input, px."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What ``load`` needs besides the tensors; JSON values."""

    @property
    def bytes(self) -> int:
        """Held in memory: weights, its runtime's copy, and what is looked up; not what a pass needs."""

    def tensors(self) -> dict[str, Tensor]:
        """All weights and buffers, on the CPU."""

    def prepare(self, image: Image) -> Tensor:
        """Return the model's input, float32 (3, size, size): small, whatever the size of the image."""

    def inspect(self, inputs: Sequence[Tensor]) -> list[Prediction]:
        """Score prepared images in one forward pass."""

    def look(self, inputs: Sequence[Tensor]) -> list[PatchFeatures]:
        """Score prepared images and tell what their patches are like; slower than ``inspect``."""

    def exhaustively(self) -> AbstractContextManager[None]:
        """For a while take no short cut whose outcome may hang on rounding; not while others inspect."""

    @property
    def network(self) -> nn.Module:
        """From images (B, 3, size, size) to a tuple of tensors: what runtimes are made from."""

    @property
    def runtime(self) -> Runtime:
        """What runs the network now; torch at first."""

    def run_on(self, runtime: Runtime) -> None:
        """Have ``runtime`` run the network from now on."""

    def release_weights(self) -> None:
        """Let go of what only the network needs: its runtime has a copy of its own."""


@contextmanager
def running_on(detector: Detector, runtime: Runtime | None) -> Iterator[None]:
    """Have ``runtime``, if there is one, run a detector's network for a while, then what did before."""
    before = detector.runtime
    try:
        detector.run_on(runtime or before)
        yield
    finally:
        detector.run_on(before)


class Progress(Protocol):
    """Hears how far the work is, and may raise ``JobCancelled`` to end it."""

    def __call__(self, phase: str, done: int, total: int, unit: str) -> None: ...


def silent(phase: str, done: int, total: int, unit: str) -> None:
    """A ``Progress`` for nobody."""


@dataclass(frozen=True)
class Held:
    """Outcomes of good images that the detector had not learned from when it scored them."""

    scores: tuple[float, ...]
    map_maxima: tuple[float, ...]
    """Highest pixel of each anomaly map."""


@dataclass(frozen=True)
class Training:
    """What training gives: the detector, and how it judges good images new to it."""

    detector: Detector
    held: Held
    learned: int
    """Images whose features the detector keeps."""
    method: str
    """"held out" or "cross-calibration"."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What else the card should tell of how it was made."""
    held_out: tuple[int, ...] = ()
    """Which images ``held`` is of, where the detector has learned from none of them."""


ReadImage = Callable[[], Image]
"""Decodes one image when it is its turn: a dataset need not fit in memory."""


@dataclass(frozen=True)
class TrainingContext:
    """What a training is given besides the detector's settings and the images."""

    weights: Path
    """The store's folder of weights that were brought."""
    seed: int
    target_false_reject_rate: float
    progress: Progress
    device: str = "cpu"
    fast: Callable[[nn.Module, int], Runtime | None] = lambda network, input_size: None
    """Makes a runtime of a network and the side of its input, if one is faster than torch on the device."""
    max_feature_bytes: int = 4 << 30
    """Memory that the features of one training may take."""
    scratch: Path | None = None
    """Folder for features that take more; None keeps them in memory or refuses them."""
    max_scratch_bytes: int = 0
    """Disk that the features of one training may take there."""
    checkpoint: Path | None = None
    """Folder where an attempt leaves what the next one goes on from; None keeps nothing."""
    photographs: Path | None = None
    """Folder of photographs of anything, for detectors that learn what is not the surface."""
    warn: Callable[[str], None] = lambda text: None
    """Hears sentences for whoever reads the job."""


def release(parameters: Iterable[nn.Parameter]) -> None:
    """Free what parameters hold; they cannot be computed with any more."""
    for parameter in parameters:
        parameter.data = torch.empty(0)


def held_bytes(network: nn.Module) -> int:
    """Return what parameters and buffers take."""
    tensors = (*network.parameters(), *network.buffers())
    return sum(tensor.nbytes for tensor in tensors)
