# SPDX-License-Identifier: Apache-2.0
"""The interface of every detector, and the data that training and inference exchange through it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from blemish_core.imaging.frame_mask import FrameMask, MaskedFrame
from blemish_core.imaging.geometry import Size
from blemish_core.imaging.image_input import Region

if TYPE_CHECKING:
    from torch import Tensor, nn

Image = NDArray[np.uint8]
"""RGB, (H, W, 3)."""


@dataclass(frozen=True)
class Prediction:
    """A detector's result for one image."""

    score: float
    """Raw anomaly score, higher is worse."""
    anomaly_map: NDArray[np.float32]
    """(h, w), score of each pixel of the model's input, which shows the whole frame."""
    embedding: NDArray[np.float32]
    """(dimensions,), L2-normalised vector for similarity search."""


@dataclass(frozen=True)
class PatchFeatures:
    """A prediction with features of each patch of the image, for search by region."""

    prediction: Prediction
    deviations: NDArray[np.float32]
    """(rows, columns, D), whitened difference of each patch from the mean of good patches."""
    anomaly: NDArray[np.float32]
    """(rows, columns), anomaly of each patch."""
    spread: float
    """Scale of the anomaly of good patches."""
    score_scale: NDArray[np.float32]
    """(2,), see ``embedding.score_scale``."""
    margin: int
    """Width of the border that these patches leave out at each edge of the image, in patches."""
    stages: tuple[int, ...] = ()
    """Number of features of each stage, D together; see ``embedding.directions``."""


class RuntimeInfo(Protocol):
    """A name and a size of a runtime."""

    name: str
    """Name in settings, manifests and responses."""

    @property
    def bytes(self) -> int:
        """Memory beyond the detector's own tensors, such as a copy of the weights."""


class Runtime(RuntimeInfo, Protocol):
    """An engine that runs a detector's network."""

    def __call__(self, images: "Tensor") -> "tuple[Tensor, ...]":
        """Run the network on images (B, 3, h, w)."""


Input = TypeVar("Input")
"""A prepared image: an array of NumPy or a tensor of torch, float32 (3, h, w)."""


class ServedDetector(Protocol[Input]):
    """A trained detector that scores images.

    A runtime runs its network, which is nearly all of the work. The detector turns the network's outputs
    into predictions.
    """

    name: str
    """Name of the algorithm in bundles and requests."""
    mask: FrameMask | None
    """Pixels of a frame that the detector looks at; None for all."""

    @property
    def input_size(self) -> int:
        """Shorter side of the input, px."""

    @property
    def frame(self) -> Size | None:
        """Size of the training images, px; None if they differed or it is unknown."""

    @property
    def bytes(self) -> int:
        """Memory of weights, memory bank and runtime, without the scratch memory of a forward pass."""

    @property
    def runtime(self) -> RuntimeInfo:
        """Runtime that runs the network now."""

    def prepare(self, image: Image, region: Region | None = None) -> Input:
        """Return the model's input, float32 (3, h, w), for a frame or a region of it.

        With a mask it is (4, h, w): the last channel is 1 where the detector looks, and 0 elsewhere.

        Raises:
            InvalidImage: if the mask does not fit the frame, or the region exceeds it or is ignored.
        """

    def prepare_masked(self, frame: MaskedFrame) -> Input:
        """Return the model's input, float32 (4, h, w), for a result of ``FrameMask.apply``."""

    def predict(self, inputs: Sequence[Input]) -> list[Prediction]:
        """Score prepared images in one forward pass."""

    def predict_with_patches(self, inputs: Sequence[Input]) -> list[PatchFeatures]:
        """Score prepared images and return features of their patches; slower than ``predict``."""


class Detector(ServedDetector["Tensor"], Protocol):
    """A detector in torch, which can be trained, stored, and run by any runtime."""

    @property
    def network_size(self) -> Size:
        """Size of the network's input, ``geometry.ANY_SIZE`` if it accepts inputs of different sizes."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """JSON values that ``load`` needs in addition to the tensors."""

    def tensors(self) -> "dict[str, Tensor]":
        """Return all weights and buffers, on the CPU."""

    def exact_search(self) -> AbstractContextManager[None]:
        """Disable approximations whose result may depend on rounding.

        Not thread-safe: no other thread may call ``predict`` meanwhile.
        """

    @property
    def network(self) -> "nn.Module":
        """Network from images (B, 3, h, w) to a tuple of tensors, from which runtimes are made."""

    @property
    def runtime(self) -> Runtime:
        """Runtime that runs the network now; torch by default."""

    def run_on(self, runtime: Runtime) -> None:
        """Run the network by ``runtime`` from now on."""

    def release_weights(self) -> None:
        """Free the network's weights, of which another runtime has a copy."""


@contextmanager
def running_on(detector: Detector, runtime: Runtime | None) -> Iterator[None]:
    """Run a detector's network by ``runtime`` within the block, or by its present one if None."""
    before = detector.runtime
    try:
        detector.run_on(runtime or before)
        yield
    finally:
        detector.run_on(before)


class Progress(Protocol):
    """A callback for progress; it may raise ``JobCancelled`` to end the work."""

    def __call__(self, phase: str, done: int, total: int, unit: str) -> None: ...


def silent(phase: str, done: int, total: int, unit: str) -> None:
    """Ignore progress."""


@dataclass(frozen=True)
class HeldOutScores:
    """Scores of good images that the detector was not trained on."""

    scores: tuple[float, ...]
    map_maxima: tuple[float, ...]
    """Highest pixel of each anomaly map."""
    maps: Mapping[int, NDArray[np.float32]] = field(default_factory=dict, compare=False)
    """Anomaly maps (h, w) of the images with the highest scores, by position in ``scores``."""


MAPS_KEPT = 4
"""Number of anomaly maps that ``HeldOutScores`` keeps."""


def highest(scores: Sequence[float], count: int) -> list[int]:
    """Return the positions of the ``count`` highest scores, the highest first."""
    return sorted(range(len(scores)), key=lambda number: (-scores[number], number))[:count]


@dataclass(frozen=True)
class TrainingResult:
    """A trained detector and its scores of held-out images."""

    detector: Detector
    held_out_scores: HeldOutScores
    learned: int
    """Number of images that the detector was trained on."""
    method: str
    """"held out" or "cross-calibration"."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Details of the training for the model's card."""
    held_out_indices: tuple[int, ...] = ()
    """Indices of the images that ``held_out_scores`` come from; empty after cross-calibration."""
    copies: tuple[tuple[int, ...], ...] = ()
    """Groups of images that show one piece, as ascending indices."""
    scored_indices: tuple[int, ...] = ()
    """Index of the image of each score in ``held_out_scores``."""


ReadImage = Callable[[], Image]
"""Decodes one image on demand: a dataset need not fit in memory."""


@dataclass(frozen=True)
class TrainingContext:
    """Resources and limits of a training."""

    weights: Path
    """Folder of imported weights."""
    seed: int
    target_false_reject_rate: float
    progress: Progress
    device: str = "cpu"
    fast_runtime: "Callable[[nn.Module, Size], Runtime | None]" = lambda network, input_size: None
    """Factory of a runtime that is faster than torch on the device, from a network and its input size."""
    max_feature_bytes: int = 4 << 30
    """Most memory for the features of one training."""
    checkpoint: Path | None = None
    """Folder for the state from which the next attempt resumes; None keeps none."""
    photographs: Path | None = None
    """Folder of photographs of anything but the surface, for detectors that need counterexamples."""
    warn: Callable[[str], None] = lambda text: None
    """Callback for warnings about the job."""
    announce: Callable[[str], None] = lambda plan: None
    """Callback for the plan of the training, its choices and their cost, before the work begins."""
    mask: FrameMask | None = None
    """Pixels of the images that the detector looks at; None for all."""


def release(parameters: "Iterable[nn.Parameter]") -> None:
    """Free the memory of parameters, which cannot be used any more."""
    import torch

    for parameter in parameters:
        parameter.data = torch.empty(0)


def held_bytes(network: "nn.Module") -> int:
    """Return the memory of a network's parameters and buffers."""
    tensors = (*network.parameters(), *network.buffers())
    return sum(tensor.nbytes for tensor in tensors)
