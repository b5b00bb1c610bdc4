# SPDX-License-Identifier: Apache-2.0
"""The white level of images: the value of a sample that is shown and scored as white.

Most cameras deliver 10, 12 or 14 bits in samples of 16. A pixel format such as Mono12 and a TIFF of 12 bits
define their own white. A PNG or TIFF of 16 bits may state it: sBIT (PNG, 3rd edition, section 11.3.2.7),
MaxSampleValue and SMaxSampleValue (TIFF 6.0, tags 281 and 341). Without a statement it is given for a whole
dataset, or assumed to be 65,535. It is never estimated from the samples of one image, because equal parts
would then differ in brightness from image to image.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from blemish_core.platform.errors import InvalidRequest

FULL = 65_535
"""White of samples that fill 16 bits."""
LOWEST = 255
"""Lowest white level that can be given."""

_DARK_SHARE = 16
"""An image is dark if its highest sample is at most white divided by this."""
_NAMED = 5

Level = Annotated[int, Field(ge=1, le=FULL)]


class WhiteLevel(BaseModel):
    """The white level of a dataset or a model version.

    It applies to samples of 16 bits: PNG, TIFF, PGM, PPM and Mono16. Formats of fewer bits define their own
    white, unless the level has the same number of bits. Floating-point samples are fractions of white.
    """

    model_config = ConfigDict(frozen=True)

    level: Level | None = None
    """Value of white; None if each file is taken at its word, and fills 16 bits without one."""
    given: bool = False
    """True if a person gave it. It then replaces the statements of files."""


@dataclass(frozen=True)
class Depth:
    """The depth of an image whose samples have more than 8 bits."""

    white: int
    """Value that was taken as white."""
    highest: int
    """Highest sample."""
    stated: bool
    """False if white was assumed, because neither the format nor the file or a person defines it."""

    @property
    def is_dark(self) -> bool:
        """True if the image uses at most a sixteenth of its range."""
        return self.highest * _DARK_SHARE <= self.white

    def note(self) -> str:
        """Return a note about a dark image, or an empty string."""
        if not self.is_dark:
            return ""
        # No sample in the text: streams leave out a note that they have sent before.
        used = f"the image uses at most a sixteenth of its range, in which {self.white} is white"
        if self.stated:
            return f"{used}; use more light or a longer exposure"
        return (
            f"{used}; if white is lower, send a pixel format such as Mono12, or train on a dataset with "
            "the right --white-level"
        )


def bits_of(level: int) -> int:
    """Return the number of bits that hold a white level."""
    return level.bit_length()


def highest_of(level: int) -> int:
    """Return the highest sample that can occur with a white level: all its bits set."""
    return (1 << bits_of(level)) - 1


def validate_level(level: int, field: str = "white_level") -> int:
    """Return a white level that a person gave.

    Raises:
        InvalidRequest: if it is outside 255 to 65,535.
    """
    if not LOWEST <= level <= FULL:
        raise InvalidRequest(
            f"the white level is {level}, but must be {LOWEST} to {FULL}; give the highest value of the "
            "camera, such as 4095 for 12 bits",
            field=field,
        )
    return level


@dataclass(frozen=True)
class StoredDepth:
    """The depth of an image of a dataset, as recorded when it was stored."""

    path: str
    highest: int
    white: int | None
    """White by the format or a statement of the file; None without one, 65,535 for fractions of white."""
    by_format: bool = False
    """True if the format defines white, so that a level of other bits does not apply."""


def white_level_of(depths: Sequence[StoredDepth], given: int | None) -> WhiteLevel:
    """Return the white level of a dataset by the level that a person gave, or by its images.

    The level that all statements agree on also applies to images without one, if their samples fit.
    """
    if given is not None:
        return WhiteLevel(level=given, given=True)
    stated = {each.white for each in depths if each.white not in (None, FULL)}
    if len(stated) != 1:
        return WhiteLevel()
    (level,) = stated
    others = [each.highest for each in depths if each.white is None]
    return WhiteLevel(level=level if max(others, default=0) <= highest_of(level) else None)


def white_level_warnings(depths: Sequence[StoredDepth], given: int | None, dataset: str) -> list[str]:
    """Return warnings about images that are too dark for their white level, or disagree on it."""
    white = white_level_of(depths, given)
    remedy = f"give it with `blemish dataset update {dataset} --white-level`, for example 4095 for 12 bits"
    warnings = []
    assumed = white.level or FULL
    dark = [
        each
        for each in depths
        if Depth(
            each.white if each.white and (each.by_format or given is None) else assumed, each.highest, True
        ).is_dark
    ]
    if dark:
        highest = max(each.highest for each in dark)
        warnings.append(
            f"{len(dark)} images use at most a sixteenth of the range of their samples, up to {highest}: "
            f"{_named(each.path for each in dark)}; if white is lower, {remedy}"
        )
    levels = Counter(each.white or FULL for each in depths if each.white != FULL)
    if given is None and white.level is None and len(levels) > 1:
        found = ", ".join(f"{level} ({count} images)" for level, count in sorted(levels.items()))
        warnings.append(
            f"the images differ in their white level: {found}; each is scaled by its own. If they are from "
            f"one camera, {remedy}"
        )
    return warnings


def _named(paths: Iterable[str]) -> str:
    named = list(paths)
    more = len(named) - _NAMED
    return ", ".join(named[:_NAMED]) + (f" and {more} more" if more > 0 else "")
