"""A token in its text as a small picture: what an atlas of blocks shows of a language model.

The token stands on a coloured ground, with as much of the text before and after it as fits. Not covered: scripts
that the font of Pillow lacks (they show as boxes) and right-to-left text.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZE = 144
GROUND, INK, FAINT, MARK = "#f3f5f6", "#1d2730", "#6a7680", "#0f7c86"


@lru_cache(maxsize=4)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def text_tile(before: str, token: str, after: str, *, size: int = SIZE) -> np.ndarray:
    """The picture ``(size, size, 3)`` uint8 of ``token`` between the end of ``before`` and the start of ``after``."""
    font, line = _font(size // 7), size // 6
    room, most = size - size // 9, 5
    shown = token.replace("\n", "⏎").strip() or "␣"
    marked = _cut(shown, font, room)
    words = [(w, False) for w in before.replace("\n", " ").split()[-12:]]
    place = len(words)
    words += [(marked, True), *((w, False) for w in after.replace("\n", " ").split()[:8])]
    # The token moves to the second last line that fits: what stands before it explains it more often.
    for start in range(place + 1):
        lines = _lines(words[start:], font, room)
        at = next(i for i, one in enumerate(lines) if any(mark for _, mark, _ in one))
        if at < most - 1:
            break
    picture = Image.new("RGB", (size, size), GROUND)
    draw = ImageDraw.Draw(picture)
    top = (size - line * min(len(lines), most)) // 2
    for i, one in enumerate(lines[:most]):
        for word, mark, x in one:
            left, y = size // 18 + x, top + i * line
            if mark:
                draw.rounded_rectangle((left - 3, y - 1, left + font.getlength(word) + 3, y + line - 2), 4, fill=MARK)
            draw.text((left, y), word, font=font, fill="white" if mark else INK if i <= at else FAINT)
    return np.asarray(picture)


def _cut(word: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: float) -> str:
    while len(word) > 1 and font.getlength(word) > room:
        word = word[:-2] + "…"
    return word


def _lines(words: list[tuple[str, bool]], font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
           room: float) -> list[list[tuple[str, bool, float]]]:  # fmt: skip
    space, x = font.getlength(" "), 0.0
    lines: list[list[tuple[str, bool, float]]] = [[]]
    for word, mark in words:
        word = _cut(word, font, room)
        width = font.getlength(word)
        if lines[-1] and x + width > room:
            lines.append([])
            x = 0.0
        lines[-1].append((word, mark, x))
        x += width + space
    return lines
