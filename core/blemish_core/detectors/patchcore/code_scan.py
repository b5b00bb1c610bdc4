# SPDX-License-Identifier: Apache-2.0
"""Loops over the 8-bit codes of entries: what a code says of a distance, and of the entry behind it.

With q a patch, e an entry's decoded code: |q - e|^2 = |q|^2 + 2 (|e|^2 / 2 - q . e), and q . e is the
product of the patch times the steps with the code itself.
"""

import numpy as np
from numpy.typing import NDArray

from blemish_core.platform.compiled import compiled

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]
Codes = NDArray[np.int8]

# A sum of squares in single precision, of lengths L and of as many dimensions as backbones have, is off by
# less than this share of L.
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
    """Have each of the four patches of each cell (C, 4) read the same lists, the ``probes`` nearest ones.

    Of patches (P, D), the distance to the entry whose code is nearest goes to ``distances`` (P,), its row
    number to ``found`` (P,); what finds none is left alone. ``to_lists`` (C, L) tells how far each list is;
    list l is codes ``ends[l]`` to ``ends[l + 1]``, in units of ``step`` (D,), of the entries ``rows``.
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
            # Two entries at once, an odd last one twice: what is read of a patch serves both. Written out,
            # for eight sums that stay in registers.
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
    """Return the distance from a patch (D,) to the nearest entry and its row number; or those given.

    The entry behind a code is at most ``errors`` (N,) nearer than the code: only what could be nearer than
    the nearest so far is looked at itself.
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
def _lowest(values: Floats, places: Integers) -> None:
    """Fill ``places`` with those of the lowest values, lowest first."""
    count, highest = 0, np.float32(np.inf)
    for place in range(len(values)):
        value = values[place]
        if count < len(places):
            count += 1
        elif not value < highest:
            continue
        at = count - 1
        while at > 0 and value < values[places[at - 1]]:
            places[at] = places[at - 1]
            at -= 1
        places[at] = place
        highest = values[places[count - 1]]


@compiled
def _distance(one: Floats, other: Floats) -> np.float32:
    square = np.float32(0)
    for k in range(len(one)):
        difference = one[k] - other[k]
        square += difference * difference
    return np.float32(np.sqrt(square))
