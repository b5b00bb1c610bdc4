# SPDX-License-Identifier: Apache-2.0
"""torch: the default runtime of detectors, and the reference for all others."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from blemish_core.detectors.base import Runtime


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
    """The part of a detector that holds its runtime: torch, until ``run_on`` replaces it."""

    def __init__(self, device: str | torch.device) -> None:
        self._device = torch.device(device)
        self._runtime: Runtime | None = None

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """Network that the runtime runs."""

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
