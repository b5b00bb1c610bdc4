# SPDX-License-Identifier: Apache-2.0
"""Masks of model inputs: which patches and pixels of an anomaly map count.

With a mask, a model's input has a fourth channel: 1 where the detector looks, and 0 elsewhere. So each
input carries its own mask, also that of a region of a frame.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

_CHANNELS = 3
_LOOKED_SHARE = 0.5
"""Share of a patch's own cell from which on the patch counts. Its receptive field reaches farther, but sees
nothing of ignored pixels, whose content is replaced."""


def with_looks(pixels: Tensor, looks: NDArray[np.bool_]) -> Tensor:
    """Append the mask (H, W) of an image, scaled to the input, to the input (3, h, w)."""
    rows, columns = pixels.shape[-2:]
    shares = cv2.resize(looks.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)
    counted = _counted(torch.from_numpy(np.asarray(shares, np.float32)))
    return torch.cat([pixels, counted[None].float()])


def split_looks(inputs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor | None]]:
    """Return the pixels (3, h, w) of inputs, and the mask, bool (h, w), of each that has one."""
    pixels = [each[:_CHANNELS] for each in inputs]
    return pixels, [each[_CHANNELS] > 0 if len(each) > _CHANNELS else None for each in inputs]


def patch_looks(looks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return which patches of a grid (rows, columns) count, bool, for a mask (h, w).

    A patch counts if at least half of its cell is looked at. At least one does, however small the area is.
    """
    return _counted(functional.adaptive_avg_pool2d(looks.float()[None], grid)[0])


def on_grid(values: Tensor, looks: Tensor | None, grid: tuple[int, int], ignored: float) -> Tensor:
    """Return values (P, ...) of the patches that count on their grid, (rows, columns, ...).

    Args:
        values: values of the patches, row by row.
        looks: mask (h, w) of the input; None if all patches count.
        grid: rows and columns of all patches.
        ignored: value of the others.
    """
    rest = values.shape[1:]
    if looks is None:
        return values.reshape(*grid, *rest)
    full = values.new_full((*grid, *rest), ignored)
    full[patch_looks(looks, grid).to(full.device)] = values
    return full


def hide_ignored(maps: Tensor, looks: Tensor) -> Tensor:
    """Return maps (..., h, w) with their lowest value outside of ``looks`` (h, w)."""
    lowest = maps[..., looks].amin(dim=-1)[..., None, None]
    return torch.where(looks, maps, lowest)


def _counted(shares: Tensor) -> Tensor:
    return shares >= min(_LOOKED_SHARE, float(shares.max()))
