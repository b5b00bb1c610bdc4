# SPDX-License-Identifier: Apache-2.0

import numpy as np

from blemish_core.imaging.geometry import Square
from blemish_core.imaging.preprocessing import Preprocessing


def test_pixels_inverts_the_normalisation() -> None:
    preprocessing = Preprocessing(Square(16), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    given = preprocessing(image)
    pixels = preprocessing.pixels(given)
    np.testing.assert_allclose(pixels, image.transpose(2, 0, 1) / 255, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(preprocessing.normalized(pixels), given, rtol=1e-5, atol=1e-5)
