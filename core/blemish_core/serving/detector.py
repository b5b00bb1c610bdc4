# SPDX-License-Identifier: Apache-2.0
"""The common part of detectors in NumPy, and the tensors that they are made of."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from blemish_core.detectors.base import Image, PatchFeatures, Prediction
from blemish_core.imaging.frame_mask import FrameMask, MaskedFrame
from blemish_core.imaging.geometry import Size
from blemish_core.imaging.image_input import Region
from blemish_core.serving.masking import with_looks

Floats = NDArray[np.float32]


class ArrayRuntime(Protocol):
    """An engine that runs a network on arrays."""

    name: str
    """Name in settings, manifests and responses."""
    bytes: int
    """Memory of its copy of the weights."""

    @property
    def outputs(self) -> int:
        """Number of arrays that a call returns."""

    def infer(self, images: Floats) -> tuple[Floats, ...]:
        """Run the network on images (B, 3, h, w)."""


class ArrayDetector(ABC):
    """A detector whose inputs and features are arrays."""

    name: str
    """Name of the algorithm in bundles and requests."""

    def __init__(self, runtime: ArrayRuntime) -> None:
        self.mask: FrameMask | None = None
        self._runtime = runtime

    @property
    def runtime(self) -> ArrayRuntime:
        """Runtime that runs the network."""
        return self._runtime

    def prepare(self, image: Image, region: Region | None = None) -> Floats:
        """Return the input, (3, h, w), or with a mask (4, h, w), for a frame or a region of it."""
        if self.mask is not None:
            return self.prepare_masked(self.mask.apply(image, region))
        return self._prepare(image if region is None else region.crop(image))

    def prepare_masked(self, frame: MaskedFrame) -> Floats:
        """Return the input (4, h, w) for a frame without the content of ignored pixels."""
        return with_looks(self._prepare(frame.pixels), frame.looks)

    @property
    @abstractmethod
    def input_size(self) -> int:
        """Shorter side of the input, px."""

    @property
    @abstractmethod
    def frame(self) -> Size | None:
        """Size of the training images, px; None if they differed or it is unknown."""

    @property
    @abstractmethod
    def bytes(self) -> int:
        """Memory of the detector and its runtime."""

    @abstractmethod
    def predict(self, inputs: Sequence[Floats]) -> list[Prediction]:
        """Score prepared images."""

    @abstractmethod
    def predict_with_patches(self, inputs: Sequence[Floats]) -> list[PatchFeatures]:
        """Score prepared images and return features of their patches."""

    @abstractmethod
    def _prepare(self, image: Image) -> Floats:
        """Return the network's input (3, h, w) for an image."""


class TensorFile:
    """The tensors of a bundle, each read on demand: those of the network are not needed."""

    def __init__(self, file: Path, *replacing: Path) -> None:
        """Open ``file``; tensors in ``replacing`` take the place of those of the same name."""
        self._files: dict[str, Any] = {}
        for each in (file, *replacing):
            opened: Any = safe_open(each, framework="np")
            self._files |= dict.fromkeys(opened.keys(), opened)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def __getitem__(self, name: str) -> NDArray[Any]:
        array: NDArray[Any] = self._files[name].get_tensor(name)
        return array

    def get(self, name: str) -> NDArray[Any] | None:
        """Return a tensor, None if the bundle lacks it."""
        return self[name] if name in self._files else None

    def score_scale(self) -> Floats:
        """Return center and width, (2,), of the map from scores to sides, see ``embedding.joined``.

        Older versions store mean and deviation, and their images are indexed at two deviations.
        """
        if "score_scale" in self:
            return self["score_scale"]
        mean, deviation = self["good_scores"]
        return np.array([mean + 2 * deviation, 2 * deviation], np.float32)
