"""
Pictures in a size that has other proportions than theirs: cropped, or continued at the edges.

A mask goes the same way as the picture that it belongs to.
"""

from collections.abc import Iterator

from PIL import Image

from services.storage.decoding.images import MOST_PIXELS
from services.storage.decoding.refusal import Refusal

Size = tuple[int, int]
Box = tuple[int, int, int, int]


def placed(
    picture: Image.Image,
    size: Size,
    *,
    crop: bool,
    resampling: Image.Resampling = Image.Resampling.LANCZOS,
) -> Image.Image:
    """
    Bring a picture to *size* without distorting it, in the middle.

    Args:
        picture: What is to be placed.
        size: Width and height in pixels.
        crop: Cover the size and cut off what is over; else fit inside it, and give what is missing
            the colours of the edges.
        resampling: How pixels are computed.

    Raises:
        Refusal: If more pixels than are taken would have to be made on the way.
    """
    ratios = (size[0] / picture.width, size[1] / picture.height)
    scaled_to = scaled(picture.size, max(ratios) if crop else min(ratios), "width_px")
    check_pixels(size, "width_px")
    inner = picture.resize(scaled_to, resampling)
    left, top = (size[0] - inner.width) // 2, (size[1] - inner.height) // 2
    if crop:
        return inner.crop((-left, -top, size[0] - left, size[1] - top))
    outer = Image.new(inner.mode, size)
    for edge, area in _continued(inner.size, size, (left, top)):
        width, height = area[2] - area[0], area[3] - area[1]
        if width > 0 and height > 0:
            outer.paste(inner.crop(edge).resize((width, height)), area[:2])
    outer.paste(inner, (left, top))
    return outer


def scaled(of: Size, ratio: float, field: str) -> Size:
    """
    Return a size that is *ratio* times as large; each side has at least one pixel.

    Raises:
        Refusal: If that are more pixels than are taken; it blames *field*.
    """
    sides = max(1, round(of[0] * ratio)), max(1, round(of[1] * ratio))
    check_pixels(sides, field)
    return sides


def check_pixels(size: Size, field: str) -> None:
    """
    Insist that a size is not beyond what is taken.

    Raises:
        Refusal: If it is; it blames *field*.
    """
    if size[0] * size[1] > MOST_PIXELS:
        raise Refusal(
            "FIELD_OUT_OF_RANGE",
            f"the result would have {size[0]} x {size[1]} pixels; at most {MOST_PIXELS} may be",
            {"field": field},
        )


def _continued(inner: Size, outer: Size, corner: tuple[int, int]) -> Iterator[tuple[Box, Box]]:
    """Yield each edge of the inner picture, and the area of the outer one that it fills."""
    (width, height), (left, top) = inner, corner
    right, bottom = left + width, top + height
    yield (0, 0, 1, height), (0, 0, left, outer[1])
    yield (width - 1, 0, width, height), (right, 0, outer[0], outer[1])
    yield (0, 0, width, 1), (0, 0, outer[0], top)
    yield (0, height - 1, width, height), (0, bottom, outer[0], outer[1])
