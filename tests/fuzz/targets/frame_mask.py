# SPDX-License-Identifier: Apache-2.0
"""Masks of models as PNG files."""

from tests.fuzz.target import Target
from tests.fuzz.targets.encoded_image import LIMITS
from tests.support.hostile_images import small_images

from blemish_core.imaging.frame_mask import FrameMask


def run(data: bytes) -> None:
    mask = FrameMask.from_png(data, LIMITS)
    again = FrameMask.from_png(mask.to_png(), LIMITS)
    assert again.summary() == mask.summary()


def seeds() -> dict[str, bytes]:
    return {name: data for name, data in small_images().items() if name.startswith("png")}


TARGET = Target(run, seeds, max_growth_bytes=32 << 20)
