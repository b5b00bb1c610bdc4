# SPDX-License-Identifier: Apache-2.0
"""Features of inputs of any size: small ones in batches, large ones in overlapping tiles.

A network computes the features of a tile as if the tile were an image, so features near its edge lack their
surroundings. Tiles overlap, and each patch is taken from the tile in which it lies farther from the edge.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import groupby, product
from typing import Any

from blemish_core.imaging.geometry import Span, spans

LONGEST = 1280
"""Longest side of a tile, px. It may be longer if the other side of the input is short."""
OVERLAP = 256
"""Least overlap of two tiles, px. The patches that a tile keeps hardly see its edge then."""


def tiled_features(
    runtime: Callable[[Any], tuple[Any, ...]], inputs: Sequence[Any], arrays: Any
) -> Iterator[Any]:
    """Yield the features (D, rows, columns) of each input (3, h, w).

    Args:
        runtime: runs the network.
        inputs: images of one library.
        arrays: that library, numpy or torch.
    """
    for (_, height, width), same in groupby(inputs, key=lambda image: image.shape):
        images = list(same)
        at_once = LONGEST**2 // (height * width)
        if not at_once:
            yield from (_features_of_tiles(runtime, image, arrays) for image in images)
            continue
        for start in range(0, len(images), at_once):
            some = images[start : start + at_once]
            # A view avoids a copy of a single input, the usual case on a CPU.
            (features,) = runtime(some[0][None] if len(some) == 1 else arrays.stack(some))
            yield from features


def _features_of_tiles(runtime: Callable[[Any], tuple[Any, ...]], image: Any, arrays: Any) -> Any:
    height, width = image.shape[-2:]
    down = spans(height, max(LONGEST, LONGEST**2 // width), OVERLAP)
    across = spans(width, max(LONGEST, LONGEST**2 // height), OVERLAP)

    def features(tile: tuple[Span, Span]) -> Any:
        rows, columns = tile
        (found,) = runtime(image[None, :, rows.begin : rows.end, columns.begin : columns.end])
        stride = (rows.end - rows.begin) // found.shape[-2]
        return found[0, :, _kept(rows, stride), _kept(columns, stride)]

    # The runtime runs one for each of its lanes at a time.
    parts = list(_threads(os.getpid()).map(features, product(down, across)))
    rows = [
        arrays.concatenate(parts[start : start + len(across)], axis=2)
        for start in range(0, len(parts), len(across))
    ]
    return arrays.concatenate(rows, axis=1)


@cache
def _threads(process: int) -> ThreadPoolExecutor:
    """Return the threads of this process; a fork does not inherit threads."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="tiles")


def _kept(span: Span, stride: int) -> slice:
    """Return the patches of a tile that it contributes, along one axis."""
    return slice((span.keep_begin - span.begin) // stride, (span.keep_end - span.begin) // stride)
