# SPDX-License-Identifier: Apache-2.0
"""Fonts for class names in any script."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from matplotlib.font_manager import findfont, fontManager, get_font

_USUAL = "DejaVu Sans"
# Fonts that draw the same box for every character of a script.
_WITHOUT_SHAPES = ("Last Resort High-Efficiency", "Last Resort", "Adobe Blank")


@dataclass(frozen=True)
class DrawableName:
    """A name as it can be drawn, and the fonts that it needs."""

    text: str
    families: tuple[str, ...]


def drawable(name: str) -> DrawableName:
    """Return a name with installed fonts that have its characters.

    Characters of no installed font are replaced by their code points, such as U+5212, so that names stay
    distinct.
    """
    families = [_USUAL]
    text = ""
    for character in name:
        family = _family_of(character)
        text += f"U+{ord(character):04X}" if family is None else character
        if family is not None and family not in families:
            families.append(family)
    return DrawableName(text, tuple(families))


@cache
def _family_of(character: str) -> str | None:
    """Return a font family that has a character."""
    return next((family for family, file in _fonts() if _has(file, character)), None)


def _fonts() -> Iterable[tuple[str, str]]:
    yield _USUAL, findfont(_USUAL)
    for font in sorted(
        fontManager.ttflist, key=lambda font: (font.style != "normal", font.weight, font.name)
    ):
        if font.name not in _WITHOUT_SHAPES:
            yield font.name, font.fname


def _has(file: str, character: str) -> bool:
    try:
        return bool(get_font(file).get_char_index(ord(character)))
    except (OSError, RuntimeError):
        return False  # removed since matplotlib listed it, or in a format that it cannot read
