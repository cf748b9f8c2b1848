"""Visible watermarks, as picture agencies and shops lay them over their previews."""

import math

import numpy as np
from PIL import Image, ImageDraw

from .draw import lettering

_TEXTS = ("PREVIEW", "SAMPLE", "STOCKLY", "PIXVAULT", "NOT FOR RESALE", "@LENSMILL")
_DARK, _LIGHT = 40, 255
_BRIGHT = 175  # mean level above which light ink would not be seen


def add_watermark(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return an RGB picture with slanted text all over, one line across, or a logo in a corner.

    A quarter to a half of the ink covers the picture, which stays readable below.
    """
    side = min(image.size)
    text = str(rng.choice(_TEXTS))
    form = int(rng.integers(3))
    mask = (_all_over, _across, _corner_logo)[form](image.size, side, text, rng)
    opacity = float(rng.uniform(0.25, 0.5))
    bright = np.asarray(image.resize((8, 8))).mean() > _BRIGHT
    ink = _DARK if rng.random() < 0.5 or bright else _LIGHT
    marked = image.copy()
    marked.paste((ink, ink, ink), mask=mask.point(lambda value: value * opacity))
    return marked


def _all_over(size: tuple[int, int], side: int, text: str, rng: np.random.Generator) -> Image.Image:
    word = _slanted(text, side / 14, float(rng.uniform(20, 40)))
    mask = Image.new("L", size, 0)
    step_x, step_y = round(word.width * 1.15), round(word.height * 1.1)
    shift = int(rng.integers(0, max(2, step_x)))
    for row, top in enumerate(range(-word.height // 2, size[1], max(1, step_y))):
        start = -shift - (row % 2) * step_x // 2
        for left in range(start, size[0], max(1, step_x)):
            mask.paste(word, (left, top))
    return mask


def _across(size: tuple[int, int], side: int, text: str, rng: np.random.Generator) -> Image.Image:
    letters = side * 1.1 / max(6, len(text))
    word = _slanted(text, letters, math.degrees(math.atan2(size[1], size[0])) * 0.8)
    mask = Image.new("L", size, 0)
    spot = tuple((whole - part) // 2 for whole, part in zip(size, word.size, strict=True))
    mask.paste(word, (spot[0], spot[1]))
    return mask


def _corner_logo(
    size: tuple[int, int], side: int, text: str, rng: np.random.Generator
) -> Image.Image:
    mask = Image.new("L", size, 0)
    draw = ImageDraw.Draw(mask)
    word = lettering(text, max(6, round(side / 13)))
    badge = word.height
    corner = int(rng.integers(4))
    margin = side // 30
    left = margin if corner % 2 else size[0] - margin - badge - word.width - 4
    top = margin if corner < 2 else size[1] - margin - badge
    draw.ellipse((left, top, left + badge, top + badge), outline=255, width=max(1, badge // 5))
    mask.paste(word, (left + badge + 4, top))
    return mask


def _slanted(text: str, size: float, degrees: float) -> Image.Image:
    word = lettering(text, max(6, round(size)))
    return word.rotate(degrees, Image.Resampling.BILINEAR, expand=True)
