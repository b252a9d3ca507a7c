"""
Sizes as the public APIs write them: ``1024x1024``, or a ratio with a tier, ``16:9`` at ``2K``.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

MAX_SIDE_PX = 16_384
# DashScope writes an asterisk, people the sign of multiplication.
_SIZE = re.compile(r"\s*([1-9]\d{0,4})\s*[xX*\u00d7]\s*([1-9]\d{0,4})\s*")


class Size(NamedTuple):
    """A width and a height in pixels."""

    width_px: int
    height_px: int

    def __str__(self) -> str:
        return f"{self.width_px}x{self.height_px}"

    @property
    def ratio(self) -> float:
        """Width by height."""
        return self.width_px / self.height_px


# What Gemini's image models draw at 1K; 2K and 4K are exactly two and four times that.
GEMINI_1K: Mapping[str, Size] = {
    "1:1": Size(1024, 1024),
    "2:3": Size(848, 1264),
    "3:2": Size(1264, 848),
    "3:4": Size(896, 1200),
    "4:3": Size(1200, 896),
    "4:5": Size(928, 1152),
    "5:4": Size(1152, 928),
    "9:16": Size(768, 1376),
    "16:9": Size(1376, 768),
    "21:9": Size(1584, 672),
}
GEMINI_TIERS: Mapping[str, int] = {"1K": 1, "2K": 2, "4K": 4}


def parse(text: str) -> Size | None:
    """Return the size that a text says; None if it says none, or one beyond MAX_SIDE_PX."""
    match = _SIZE.fullmatch(text)
    if match is None or max(int(match[1]), int(match[2])) > MAX_SIDE_PX:
        return None
    return Size(int(match[1]), int(match[2]))


def gemini(ratio: str, tier: str) -> Size:
    """Return the pixels of a ratio of GEMINI_1K at one of GEMINI_TIERS."""
    return Size(*(side * GEMINI_TIERS[tier] for side in GEMINI_1K[ratio]))


def gemini_ratio(size: Size) -> str:
    """Return the ratio of GEMINI_1K that is nearest to that of an image."""
    return min(GEMINI_1K, key=lambda ratio: _difference(GEMINI_1K[ratio], size))


def nearest(size: Size, choices: Iterable[Size]) -> Size:
    """Return the choice whose ratio is nearest to that of *size*."""
    return min(choices, key=lambda choice: _difference(choice, size))


def of_area(size: Size, pixels: int, multiple_px: int) -> Size:
    """Return a size of the same ratio and about this area, with sides that the multiple divides."""
    scale = math.sqrt(pixels / (size.width_px * size.height_px))
    sides = (max(1, round(side * scale / multiple_px)) * multiple_px for side in size)
    return Size(*sides)


def _difference(one: Size, other: Size) -> float:
    return abs(math.log(one.ratio / other.ratio))
