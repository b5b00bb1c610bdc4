# SPDX-License-Identifier: Apache-2.0
"""Masks of test images."""

from tests.fuzz.target import Target
from tests.fuzz.targets.encoded_image import LIMITS
from tests.support.hostile_images import small_images

from blemish_core.imaging.decode import read_mask

TARGET = Target(lambda data: read_mask(data, LIMITS), small_images, max_growth_bytes=32 << 20)
