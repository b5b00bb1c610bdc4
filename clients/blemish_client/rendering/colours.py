# SPDX-License-Identifier: Apache-2.0
"""The colours of pictures: a heat scale, and one colour per class."""

import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]

INK: Colour = (32, 36, 42)
FAINT: Colour = (112, 120, 130)
PAPER: Colour = (250, 250, 248)
GOOD: Colour = (46, 139, 87)
ANOMALOUS: Colour = (200, 30, 45)

# Pale yellow to deep red. Lightness falls monotonically, so that the scale also works for colour-blind
# people.
_HEAT = np.array(
    [(255, 244, 170), (254, 205, 100), (250, 155, 60), (236, 92, 45), (208, 32, 40), (168, 0, 38)],
    dtype=np.float64,
)

# Distinct from one another and from GOOD, also with red-green colour blindness.
_CLASSES: tuple[Colour, ...] = (
    (213, 94, 0),
    (0, 114, 178),
    (204, 121, 167),
    (230, 159, 0),
    (86, 60, 150),
    (86, 180, 233),
    (140, 80, 50),
    (190, 40, 80),
)


def heat(level: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the colours (..., 3), 0 to 255, of levels (...), 0 to 1."""
    at = np.linspace(0.0, 1.0, len(_HEAT))
    return np.stack([np.interp(level, at, _HEAT[:, channel]) for channel in range(3)], axis=-1)


def class_colours(names: list[str]) -> dict[str, Colour]:
    """Return a colour per class: green for the class good, the others in order of their names."""
    defects = sorted(set(names) - {"good"})
    colours = {name: _CLASSES[i % len(_CLASSES)] for i, name in enumerate(defects)}
    return {"good": GOOD, **colours}
