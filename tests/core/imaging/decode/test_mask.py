# SPDX-License-Identifier: Apache-2.0

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from blemish_core.imaging.decode import read_mask, thumbnail
from blemish_core.platform.errors import InvalidImage

if TYPE_CHECKING:
    from tests.core.imaging.decode.conftest import Files

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
SEED = 20_260
PX = 48


class TestThumbnail:
    def test_thumbnail_is_a_jpeg_of_at_most_the_given_side(self, files: "Files") -> None:
        small = thumbnail(files.encoded(files.sample_image(100, 400), "PNG"), 64)
        with Image.open(BytesIO(small)) as image:
            assert image.format == "JPEG"
            assert image.size == (64, 16)

    def test_thumbnail_is_never_larger_than_the_image(self, files: "Files") -> None:
        with Image.open(BytesIO(thumbnail(files.encoded(files.sample_image(), "PNG")))) as image:
            assert image.size == (PX, PX)


class TestMask:
    def test_nonzero_mask_pixels_are_defects(self, files: "Files") -> None:
        mask = np.zeros((PX, PX), np.uint8)
        mask[5:9, 4:7] = 1
        for data in (
            files.encoded(mask, "PNG"),
            files.encoded(mask * 255, "BMP"),
            files.encoded(mask > 0, "PNG"),
        ):
            result = read_mask(data)
            assert result.dtype == np.bool_
            assert (result == (mask > 0)).all()

    def test_16_bit_and_colour_masks_are_read(self, files: "Files") -> None:
        mask = np.zeros((PX, PX, 3), np.uint16)
        mask[7, 8, 1] = 1  # would be nothing in 8 bits
        expected = mask.any(axis=2)
        assert (read_mask(files.png(mask, 2)) == expected).all()
        assert (read_mask(files.png(mask[..., 1:2], 0)) == expected).all()
        assert (read_mask(files.tiff(mask[..., 1:2], ">", 1)) == expected).all()

    @pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
    def test_lossy_masks_are_rejected(self, files: "Files", kind: str) -> None:
        with pytest.raises(InvalidImage, match="losses"):
            read_mask(files.encoded(files.sample_image(), kind))
