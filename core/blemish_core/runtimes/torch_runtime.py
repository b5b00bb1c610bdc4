# SPDX-License-Identifier: Apache-2.0
"""torch: the reference that other runtimes are held to, and the one for CUDA."""

import torch
from torch import Tensor, nn


class TorchRuntime:
    name = "torch"
    bytes = 0  # the network is the detector's own

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self._network = network
        self._device = device

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        with torch.inference_mode():
            answers: tuple[Tensor, ...] = self._network(images.to(self._device))
        return answers
