# SPDX-License-Identifier: Apache-2.0
"""Compiled loops that search for the nearest bank entry through the entries' 8-bit codes.

For a patch q and the decoded code e of an entry, |q - e|^2 = |q|^2 + 2 (|e|^2 / 2 - q . e). The product
q . e is computed from the code itself and the patch multiplied by the quantization step.
"""

import numpy as np
from numpy.typing import NDArray

from blemish_core.platform.compiled import compiled

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]
Codes = NDArray[np.int8]

# Bound on the relative rounding error of a sum of squares in single precision, for the dimensions of
# backbones.
_ROUNDING = np.float32(1e-5)


@compiled
def nearest_code(
    patches: Floats,
    cells: Integers,
    to_lists: Floats,
    probes: int,
    ends: Integers,
    step: Floats,
    codes: Codes,
    half_squares: Floats,
    rows: Integers,
    entries: Floats,
    distances: Floats,
    found: Integers,
) -> None:
    """Find the entry with the nearest code for each patch. The four patches of a cell read the same lists.

    Args:
        patches: (P, D).
        cells: (C, 4), patch numbers of each cell.
        to_lists: (C, L), distance of each cell to each list.
        probes: number of nearest lists that a cell reads.
        ends: (L + 1,); list l has the codes ``ends[l]`` to ``ends[l + 1]``.
        step: (D,), unit of the codes.
        codes: (N, D).
        half_squares: (N,), half the squared length of each decoded code.
        rows: (N,), row number in ``entries`` of each code.
        entries: (N, D).
        distances: (P,), output: distance to the entry; unchanged where no entry is found.
        found: (P,), output: row number of the entry; unchanged where no entry is found.
    """
    dimensions = patches.shape[1]
    a, b, c, d = np.empty((4, dimensions), np.float32)
    lists, nearest = np.empty(probes, np.int64), np.empty(4, np.int64)
    for cell in range(len(cells)):
        four = cells[cell]
        for k in range(dimensions):
            a[k] = patches[four[0], k] * step[k]
            b[k] = patches[four[1], k] * step[k]
            c[k] = patches[four[2], k] * step[k]
            d[k] = patches[four[3], k] * step[k]
        _lowest(to_lists[cell], lists)
        least_a = least_b = least_c = least_d = np.float32(np.inf)
        nearest[:] = -1
        for number in lists:
            end = ends[number + 1]
            # Two entries at a time, an odd last one twice, so that both share the loads of a patch. The
            # loop is unrolled to keep the eight sums in registers.
            for one in range(ends[number], end, 2):
                two = min(one + 1, end - 1)
                first, second = codes[one], codes[two]
                first_a = first_b = first_c = first_d = np.float32(0)
                second_a = second_b = second_c = second_d = np.float32(0)
                for k in range(dimensions):
                    x, y = np.float32(first[k]), np.float32(second[k])
                    first_a += x * a[k]
                    first_b += x * b[k]
                    first_c += x * c[k]
                    first_d += x * d[k]
                    second_a += y * a[k]
                    second_b += y * b[k]
                    second_c += y * c[k]
                    second_d += y * d[k]
                half = half_squares[one]
                if half - first_a < least_a:
                    least_a, nearest[0] = half - first_a, one
                if half - first_b < least_b:
                    least_b, nearest[1] = half - first_b, one
                if half - first_c < least_c:
                    least_c, nearest[2] = half - first_c, one
                if half - first_d < least_d:
                    least_d, nearest[3] = half - first_d, one
                half = half_squares[two]
                if half - second_a < least_a:
                    least_a, nearest[0] = half - second_a, two
                if half - second_b < least_b:
                    least_b, nearest[1] = half - second_b, two
                if half - second_c < least_c:
                    least_c, nearest[2] = half - second_c, two
                if half - second_d < least_d:
                    least_d, nearest[3] = half - second_d, two
        for patch in range(4):
            if nearest[patch] >= 0:
                row = rows[nearest[patch]]
                distances[four[patch]] = _distance(patches[four[patch]], entries[row])
                found[four[patch]] = row


@compiled
def nearest_entry(
    patch: Floats,
    step: Floats,
    codes: Codes,
    half_squares: Floats,
    errors: Floats,
    rows: Integers,
    entries: Floats,
    distance: np.float32,
    row: int,
) -> tuple[np.float32, int]:
    """Return the distance from a patch (D,) to the nearest entry and its row number.

    ``distance`` and ``row`` are the start of the search and the result if no entry is nearer. An entry is
    at most ``errors`` (N,) nearer than its code, so only entries that could be the nearest are read.
    """
    scaled = patch * step
    square = np.float32(0)
    for k in range(len(patch)):
        square += patch[k] * patch[k]
    for code in range(len(codes)):
        eight_bits = codes[code]
        product = np.float32(0)
        for k in range(len(patch)):
            product += np.float32(eight_bits[k]) * scaled[k]
        reach = distance + errors[code]
        half = half_squares[code]
        if square + 2 * (half - product) < reach * reach + _ROUNDING * (square + 2 * half):
            nearer = _distance(patch, entries[rows[code]])
            if nearer < distance:
                distance, row = nearer, rows[code]
    return distance, row


@compiled
def _lowest(values: Floats, indices: Integers) -> None:
    """Fill ``indices`` with those of the lowest values, lowest first."""
    count, highest = 0, np.float32(np.inf)
    for index in range(len(values)):
        value = values[index]
        if count < len(indices):
            count += 1
        elif not value < highest:
            continue
        at = count - 1
        while at > 0 and value < values[indices[at - 1]]:
            indices[at] = indices[at - 1]
            at -= 1
        indices[at] = index
        highest = values[indices[count - 1]]


@compiled
def _distance(one: Floats, other: Floats) -> np.float32:
    square = np.float32(0)
    for k in range(len(one)):
        difference = one[k] - other[k]
        square += difference * difference
    return np.float32(np.sqrt(square))
