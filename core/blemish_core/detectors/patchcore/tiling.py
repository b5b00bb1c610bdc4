# SPDX-License-Identifier: Apache-2.0
"""Features of inputs of any size: small ones in batches, large ones in overlapping tiles.

A network computes the features of a tile as if the tile were an image, so features near its edge lack their
surroundings. Tiles overlap, and each patch is taken from the tile in which it lies farther from the edge.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor

from blemish_core.detectors.base import Runtime
from blemish_core.imaging.geometry import Span, spans

LONGEST = 1280
"""Longest side of a tile, px. It may be longer if the other side of the input is short."""
OVERLAP = 256
"""Least overlap of two tiles, px. The patches that a tile keeps hardly see its edge then."""


def tiled_features(runtime: Runtime, inputs: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield the features (D, rows, columns) of each input (3, h, w)."""
    for size, same in groupby(inputs, key=lambda image: image.shape):
        images = list(same)
        if size[-2] * size[-1] > LONGEST**2:
            for image in images:
                yield _features_of_tiles(runtime, image)
            continue
        # A view avoids a copy of a single input, the usual case on a CPU.
        (features,) = runtime(images[0][None] if len(images) == 1 else torch.stack(images))
        yield from features


def _features_of_tiles(runtime: Runtime, image: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    rows = []
    for down in spans(height, max(LONGEST, LONGEST**2 // width), OVERLAP):
        row = []
        for across in spans(width, max(LONGEST, LONGEST**2 // height), OVERLAP):
            (features,) = runtime(image[None, :, down.begin : down.end, across.begin : across.end])
            stride = (down.end - down.begin) // features.shape[-2]
            row.append(features[0, :, _kept(down, stride), _kept(across, stride)])
        rows.append(torch.cat(row, dim=2))
    return torch.cat(rows, dim=1)


def _kept(span: Span, stride: int) -> slice:
    """Return the patches of a tile that it contributes, along one axis."""
    return slice((span.keep_begin - span.begin) // stride, (span.keep_end - span.begin) // stride)
