# SPDX-License-Identifier: Apache-2.0
"""Text in pictures, in Pillow's default font."""

from PIL import Image, ImageDraw, ImageFont

from blemish_client.rendering.colours import INK, PAPER, Colour

_ELLIPSIS = "…"


def font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size_px)


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
    letters = font(size_px)
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
