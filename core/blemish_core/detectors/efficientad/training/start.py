# SPDX-License-Identifier: Apache-2.0
"""Initial weights of EfficientAD's student, whose last layer is solved for by least squares.

From random weights a student needs some ten thousand steps, hours on a CPU. The paper's loss for the last
layer alone is linear least squares (arXiv:2303.14535, section 3.2): equal the teacher on good images, and
be zero on photographs of anything else. So the student copies the teacher's earlier layers, and its last
layer W, with inputs x, is the solution of

    min  E_good |W x - teacher|^2  +  b E_photograph |W x|^2  +  l |W|^2

where b weights the penalty. Directions of x that occur in photographs only are mapped to zero, so a defect
that has them is detected. There is no autoencoder: after few steps its map is of no use on average.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from blemish_core.detectors.efficientad import teacher as teachers

if TYPE_CHECKING:
    from blemish_core.detectors.common.anomalib_models import EfficientAdModel

PENALTY = 0.1
"""b in the formula above."""
_RIDGE = 1e-3  # l, relative to the mean square of an input
_POSITIONS = 24_000  # of the surface; several for each of the 4,097 unknowns
_BLOCK = 512  # unknowns at once; blocks save the half of the symmetric matrix below its diagonal


def last_layer(student: nn.Module) -> nn.Conv2d:
    """Return the student's last layer, which two pooling layers follow in anomalib's networks."""
    layer = list(student.children())[-3]
    if not isinstance(layer, nn.Conv2d):
        raise TypeError(f"anomalib's network ends in {layer}; this is a bug")
    return layer


def copy_teacher(model: "EfficientAdModel") -> None:
    """Copy the teacher's layers to a student of the same shape."""
    model.student.load_state_dict(model.teacher.state_dict())


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

    def add_good(self, field: Tensor, targets: Tensor) -> None:
        """Add an image of the surface.

        Args:
            field: input (1, C, H, W) of the student's upper layers.
            targets: target features (1, 384, R, R).
        """
        inputs, positions = self._inputs(field)
        _add_squares(self._good, inputs)
        self._targets.addmm_(inputs.T, targets[0].flatten(1).T[positions])
        self._good_count += len(inputs)

    def add_other(self, field: Tensor) -> None:
        """Add the input (1, C, H, W) of the student's upper layers for a photograph of something else."""
        inputs, _ = self._inputs(field)
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

    def _inputs(self, field: Tensor) -> tuple[Tensor, Tensor]:
        """Return inputs (N, C * K * K + 1) of the last layer at random positions, and the positions."""
        side = self._layer.kernel_size[0]
        field = teachers.last_input(dict(self._student.named_parameters()), field)[0]  # (C, H, W)
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
