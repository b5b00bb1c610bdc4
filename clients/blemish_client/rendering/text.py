# SPDX-License-Identifier: Apache-2.0
"""Text in pictures, in Pillow's default font."""

from PIL import Image, ImageDraw, ImageFont

from blemish_client.rendering.colours import INK, PAPER, Colour

_ELLIPSIS = "…"
# Pillow finds these by name in the folders of the system. The first that has all characters is used.
_WIDE_FONTS = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "wqy-zenhei.ttc"),
    *("DroidSansFallbackFull.ttf", "NotoSansDevanagari-Regular.ttf", "NotoSansArabic-Regular.ttf"),
)
_NO_CHARACTER = "\U0010ffff"

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def font(size_px: int) -> _Font:
    return ImageFont.load_default(size=size_px)


def drawable(text: str, size_px: int) -> tuple[str, _Font]:
    """Return a text with a font that has its characters.

    If there is none, the characters that the default font lacks are replaced by their code points, such as
    U+5212, so that names stay distinct.
    """
    default = font(size_px)
    missing = _missing(text, default)
    if not missing:
        return text, default
    for name in _WIDE_FONTS:
        try:
            wide = ImageFont.truetype(name, size_px)
        except OSError:
            continue
        if not _missing(text, wide):
            return text, wide
    return "".join(f"U+{ord(each):04X}" if each in missing else each for each in text), default


def _missing(text: str, letters: _Font) -> set[str]:
    """Return the characters that a font draws as it draws no character at all."""
    absent = bytes(letters.getmask(_NO_CHARACTER))
    return {each for each in set(text) if not each.isascii() and bytes(letters.getmask(each)) == absent}


def write(
    canvas: ImageDraw.ImageDraw,
    at: tuple[int, int],
    text: str,
    size_px: int,
    *,
    width_px: int,
    colour: Colour = INK,
) -> None:
    """Draw one line of text with its upper left corner ``at``, truncated to ``width_px``."""
    text, letters = drawable(text, size_px)
    if canvas.textlength(text, font=letters) > width_px:
        while text and canvas.textlength(text + _ELLIPSIS, font=letters) > width_px:
            text = text[:-1]
        text += _ELLIPSIS
    canvas.text(at, text, font=letters, fill=colour)


def with_caption(picture: Image.Image, caption: str) -> Image.Image:
    """Return the picture with one line of text in a strip below it."""
    size_px = max(12, min(22, picture.width // 26))
    strip = size_px * 2
    page = Image.new("RGB", (picture.width, picture.height + strip), PAPER)
    page.paste(picture, (0, 0))
    margin = size_px // 2
    at = (margin, picture.height + (strip - round(size_px * 1.2)) // 2)
    write(ImageDraw.Draw(page), at, caption, size_px, width_px=picture.width - 2 * margin)
    return page
