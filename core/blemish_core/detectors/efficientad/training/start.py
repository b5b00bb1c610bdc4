# SPDX-License-Identifier: Apache-2.0
"""Initial weights of EfficientAD's student, whose last layer is solved for by least squares.

From random weights a student needs some ten thousand steps, hours on a CPU. The paper's loss for the last
layer alone is linear least squares (arXiv:2303.14535, section 3.2): equal the teacher on good images, and
be zero on photographs of anything else. So the student copies the teacher's earlier layers, and its last
layer W, with inputs x, is the solution of

    min  E_good |W x - teacher|^2  +  b E_photograph |W x|^2  +  l |W|^2

where b weights the penalty. Directions of x that occur in photographs only are mapped to zero, so a defect
that has them is detected. The second half of the layer, which predicts the autoencoder, is solved for in
the same way after a short training of the autoencoder. The paper's steps continue from there.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from blemish_core.detectors.efficientad.settings import EfficientAdSettings

if TYPE_CHECKING:
    from blemish_core.detectors.common.anomalib_models import EfficientAdModel

SOLVED = "solved"
PENALTY = 0.1
"""b in the formula above."""
_FEW_STEPS = 10_000
_RIDGE = 1e-3  # l, relative to the mean square of an input
_POSITIONS = 24_000  # of the surface; several for each of the 4,097 unknowns
_BLOCK = 512  # unknowns at once; blocks save the half of the symmetric matrix below its diagonal


def is_solved_for(settings: EfficientAdSettings, device: str) -> bool:
    """Return True if the last layer is solved for: on request, with few steps, or on a CPU."""
    if settings.start:
        return settings.start == SOLVED
    return torch.device(device).type == "cpu" or settings.max_steps < _FEW_STEPS


def last_layer(student: nn.Module) -> nn.Conv2d:
    """Return the student's last layer, which two pooling layers follow in anomalib's networks."""
    layer = list(student.children())[-3]
    if not isinstance(layer, nn.Conv2d):
        raise TypeError(f"anomalib's network ends in {layer}; this is a bug")
    return layer


def copy_teacher(model: "EfficientAdModel") -> None:
    """Copy the teacher's layers to the student, twice into a layer that is twice as wide."""
    teacher = dict(model.teacher.named_parameters())
    for name, own in model.student.named_parameters():
        source = teacher[name]
        if own.dim() > 1 and own.shape[1] != source.shape[1]:
            continue  # the last layer of M, which is solved for
        own.data.copy_(torch.cat([source] * (own.shape[0] // source.shape[0])))


class LeastSquares:
    """The normal equations of the last layer, accumulated image by image."""

    def __init__(self, model: "EfficientAdModel", images: int, random: np.random.Generator) -> None:
        self._student = model.student
        self._layer = last_layer(model.student)
        self._positions_per_image = max(1, _POSITIONS // images)
        self._random = random
        inputs = self._layer.in_channels * self._layer.kernel_size[0] ** 2 + 1
        device = self._layer.weight.device
        self._good = torch.zeros(inputs, inputs, device=device)
        self._other = torch.zeros(inputs, inputs, device=device)
        self._targets = torch.zeros(inputs, self._layer.out_channels, device=device)
        self._good_count, self._other_count = 0, 0

    def add_good(self, image: Tensor, targets: Tensor) -> None:
        """Add an image (1, 3, S, S) of the surface and its target features (1, 768, R, R)."""
        inputs, positions = self._inputs(image)
        _add_squares(self._good, inputs)
        self._targets.addmm_(inputs.T, targets[0].flatten(1).T[positions])
        self._good_count += len(inputs)

    def add_other(self, image: Tensor) -> None:
        """Add a photograph (1, 3, S, S) of something else."""
        inputs, _ = self._inputs(image)
        _add_squares(self._other, inputs)
        self._other_count += len(inputs)

    def solve(self) -> None:
        """Set the last layer to the solution."""
        penalty = PENALTY * self._other / max(self._other_count, 1)
        upper = (self._good / self._good_count + penalty).triu().double()
        squares = upper + upper.triu(1).T
        squares.diagonal().add_(_RIDGE * self._good.diagonal().mean().item() / self._good_count)
        factor = torch.linalg.cholesky(squares)
        solution = torch.cholesky_solve((self._targets / self._good_count).double(), factor).float()
        self._layer.weight.data.copy_(solution[:-1].T.reshape(self._layer.weight.shape))
        if self._layer.bias is not None:
            self._layer.bias.data.copy_(solution[-1])

    def _inputs(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return inputs (N, C * K * K + 1) of the last layer at random positions, and the positions."""
        captured: list[Tensor] = []
        side = self._layer.kernel_size[0]

        def capture(_: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor]:
            captured.append(arguments[0])
            return (arguments[0][..., :side, :side],)  # the layer's output is not used

        hook = self._layer.register_forward_pre_hook(capture)
        try:
            self._student(image)
        finally:
            hook.remove()
        field = captured[0][0]  # (C, H, W)
        rows, columns = (length - side + 1 for length in field.shape[1:])
        count = min(self._positions_per_image, rows * columns)
        positions = torch.from_numpy(self._random.choice(rows * columns, count, replace=False))
        positions = positions.to(field.device)
        within = torch.arange(side, device=field.device)
        down = (positions // columns)[:, None, None] + within[:, None]
        across = (positions % columns)[:, None, None] + within
        inputs = field[:, down, across].transpose(0, 1).flatten(1)  # (N, C * K * K)
        return torch.cat([inputs, inputs.new_ones(count, 1)], dim=1), positions


def _add_squares(sums: Tensor, inputs: Tensor) -> None:
    """Add the products of inputs (N, D) with each other to ``sums`` (D, D), its upper triangle only."""
    for first in range(0, len(sums), _BLOCK):
        sums[first : first + _BLOCK, first:].addmm_(inputs[:, first : first + _BLOCK].T, inputs[:, first:])
