# SPDX-License-Identifier: Apache-2.0
"""Where EfficientAD's student begins: its last layer solved for, not walked to.

From random weights a student is of use after some ten thousand steps, hours on a CPU. But what the
paper's loss asks of the last layer alone (be the teacher on good images, be zero on photographs of anything
else; arXiv:2303.14535, section 3.2) is linear least squares. So the student takes the teacher's earlier
layers, and its last layer W, from inputs x, is the solution of

    min  E_good |W x - teacher|^2  +  b E_photograph |W x|^2  +  l |W|^2

where b weighs the penalty. Directions of x that photographs use and the surface does not are answered with
zero, so a defect that uses them is seen. The second half, which follows the autoencoder, is solved for
likewise once that has learned a little. The paper's steps go on from there.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from blemish_core.detectors.efficientad.detector import EfficientAdSettings

if TYPE_CHECKING:
    from blemish_core.detectors.common.anomalib_models import EfficientAdModel

SOLVED, RANDOM = "solved", "random"
PENALTY = 0.1  # b
_FEW_STEPS = 10_000
_RIDGE = 1e-3  # l, of the mean square of an input
_POSITIONS = 24_000  # of the surface that are solved over; several for each of 4,097 unknowns
_BLOCK = 512  # unknowns at once: 0.59 times the time of one product for all of the matrix


def is_solved_for(settings: EfficientAdSettings, device: str) -> bool:
    """Whether a training begins so: where it is asked for, or where steps are too few or too slow.

    The paper's 70,000 steps take about 40 hours on two cores.
    """
    if settings.start:
        return settings.start == SOLVED
    return torch.device(device).type == "cpu" or settings.max_steps < _FEW_STEPS


def last_layer(student: nn.Module) -> nn.Conv2d:
    """The student's last layer: two pools stand behind it in anomalib's networks."""
    layer = list(student.children())[-3]
    if not isinstance(layer, nn.Conv2d):
        raise TypeError(f"anomalib's network ends in {layer}; this is a bug")
    return layer


def take_over(model: "EfficientAdModel") -> None:
    """Give the student the teacher's layers; one that is twice as wide takes them twice."""
    teacher = dict(model.teacher.named_parameters())
    for name, own in model.student.named_parameters():
        given = teacher[name]
        if own.dim() > 1 and own.shape[1] != given.shape[1]:
            continue  # the last layer of M, which is solved for
        own.data.copy_(torch.cat([given] * (own.shape[0] // given.shape[0])))


class LeastSquares:
    """The sums that the last layer is solved from, taken image by image."""

    def __init__(self, model: "EfficientAdModel", images: int, random: np.random.Generator) -> None:
        self._student = model.student
        self._layer = last_layer(model.student)
        self._each = max(1, _POSITIONS // images)
        self._random = random
        inputs = self._layer.in_channels * self._layer.kernel_size[0] ** 2 + 1
        device = self._layer.weight.device
        self._good = torch.zeros(inputs, inputs, device=device)
        self._other = torch.zeros(inputs, inputs, device=device)
        self._wanted = torch.zeros(inputs, self._layer.out_channels, device=device)
        self._seen, self._others = 0, 0

    def add_good(self, image: Tensor, wanted: Tensor) -> None:
        """Take an image (1, 3, S, S) of the surface and what to answer to it, (1, 768, R, R)."""
        inputs, at = self._inputs(image)
        _add_squares(self._good, inputs)
        self._wanted.addmm_(inputs.T, wanted[0].flatten(1).T[at])
        self._seen += len(inputs)

    def add_other(self, image: Tensor) -> None:
        """Take a photograph (1, 3, S, S) of something else."""
        inputs, _ = self._inputs(image)
        _add_squares(self._other, inputs)
        self._others += len(inputs)

    def solve(self) -> None:
        """Set the last layer."""
        upper = (self._good / self._seen + PENALTY * self._other / max(self._others, 1)).triu().double()
        squares = upper + upper.triu(1).T
        squares.diagonal().add_(_RIDGE * self._good.diagonal().mean().item() / self._seen)
        factor = torch.linalg.cholesky(squares)
        solution = torch.cholesky_solve((self._wanted / self._seen).double(), factor).float()
        self._layer.weight.data.copy_(solution[:-1].T.reshape(self._layer.weight.shape))
        if self._layer.bias is not None:
            self._layer.bias.data.copy_(solution[-1])

    def _inputs(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs of the last layer at some positions, (N, C * K * K + 1), and those positions."""
        caught: list[Tensor] = []
        side = self._layer.kernel_size[0]

        def catch(_: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
            caught.append(given[0])
            return (given[0][..., :side, :side],)  # the layer's own answer is not wanted

        hook = self._layer.register_forward_pre_hook(catch)
        try:
            self._student(image)
        finally:
            hook.remove()
        field = caught[0][0]  # (C, H, W)
        rows, columns = (length - side + 1 for length in field.shape[1:])
        count = min(self._each, rows * columns)
        at = torch.from_numpy(self._random.choice(rows * columns, count, replace=False)).to(field.device)
        within = torch.arange(side, device=field.device)
        down = (at // columns)[:, None, None] + within[:, None]
        across = (at % columns)[:, None, None] + within
        inputs = field[:, down, across].transpose(0, 1).flatten(1)  # (N, C * K * K)
        return torch.cat([inputs, inputs.new_ones(count, 1)], dim=1), at


def _add_squares(sums: Tensor, inputs: Tensor) -> None:
    """Add the products of inputs (N, D) with each other to (D, D), above its diagonal alone."""
    for first in range(0, len(sums), _BLOCK):
        sums[first : first + _BLOCK, first:].addmm_(inputs[:, first : first + _BLOCK].T, inputs[:, first:])
