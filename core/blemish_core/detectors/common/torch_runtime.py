# SPDX-License-Identifier: Apache-2.0
"""torch: the default runtime of detectors, and the reference for all others."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from blemish_core.detectors.base import Image, Runtime
from blemish_core.detectors.common.masking import with_looks
from blemish_core.imaging.frame_mask import FrameMask, MaskedFrame
from blemish_core.imaging.image_input import Region


class TorchRuntime:
    """A runtime that calls the network itself, on any of torch's devices."""

    name = "torch"
    bytes = 0  # the network is the detector's own

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self._network = network
        self._device = device

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        with torch.inference_mode():
            outputs: tuple[Tensor, ...] = self._network(images.to(self._device))
        return outputs


class RuntimeHolder(ABC):
    """The part of a detector that holds its mask, and its runtime: torch, until ``run_on`` replaces it."""

    def __init__(self, device: str | torch.device) -> None:
        self.mask: FrameMask | None = None
        self._device = torch.device(device)
        self._runtime: Runtime | None = None

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """Network that the runtime runs."""

    @abstractmethod
    def _prepare(self, image: Image) -> Tensor:
        """Return the network's input (3, size, size) for an image."""

    def prepare(self, image: Image, region: Region | None = None) -> Tensor:
        if self.mask is not None:
            return self.prepare_masked(self.mask.apply(image, region))
        return self._prepare(image if region is None else region.crop(image))

    def prepare_masked(self, frame: MaskedFrame) -> Tensor:
        """Return the input (4, h, w) for a frame without the content of ignored pixels."""
        return with_looks(self._prepare(frame.pixels), frame.looks)

    @property
    @abstractmethod
    def _own_bytes(self) -> int:
        """Memory of the detector without its runtime."""

    @property
    def runtime(self) -> Runtime:
        """Runtime in use."""
        if self._runtime is None:
            self._runtime = TorchRuntime(self.network, self._device)
        return self._runtime

    @property
    def bytes(self) -> int:
        """Memory of the detector and its runtime."""
        return self._own_bytes + (self._runtime.bytes if self._runtime is not None else 0)

    def run_on(self, runtime: Runtime) -> None:
        """Run the network by ``runtime`` from now on."""
        self._runtime = runtime
