"""
Masks: from an API's convention to the canonical form, one channel in which 255 is repainted.
"""

from collections.abc import Callable
from typing import Any, BinaryIO

from PIL import Image, ImageFilter, ImageOps

from services.storage.decoding.images import MOST_PIXELS, opened, upright
from services.storage.decoding.placing import placed
from services.storage.decoding.refusal import Refusal

OPAQUE, HALF = 255, 128
# In the metadata of a refusal: what is wrong with a mask that is one.
PROBLEM = "problem"
EMPTY = "empty_mask"

Size = tuple[int, int]


def convert(
    source: BinaryIO,
    target: BinaryIO,
    convention: str,
    size: Size | None,
    *,
    invert: bool = False,
    blur: tuple[int, int] = (0, 0),
    crop: bool = False,
    fill: bool = False,
) -> None:
    """
    Write a mask's canonical form as PNG.

    Args:
        source: The mask's file.
        target: Where to.
        convention: A name of pictor.storage.v1.MaskConvention, without its prefix.
        size: Of the picture that is repainted, upright; None where it is not known.
        invert: Repaint what would be kept, and the reverse.
        blur: Of the edges: a Gaussian's standard deviation in pixels, horizontally and vertically.
        crop: Bring the mask to *size* by cutting off what is over.
        fill: Bring the mask to *size* by continuing its edges. With neither it is stretched.

    Raises:
        Refusal: If it is no image, breaks the convention, leaves nothing to repaint, or would have
            too many pixels.
    """
    mask = CONVENTIONS[convention](_picture(source), size)
    if invert:
        mask = ImageOps.invert(mask)
    if any(blur):
        mask = mask.filter(ImageFilter.GaussianBlur(blur))
    if convention in _EMPTY_WORDS and mask.getbbox() is None:
        raise Refusal("INPUT_IMAGE_INVALID", _EMPTY_WORDS[convention], {PROBLEM: EMPTY})
    if size and (crop or fill):
        mask = placed(mask, size, crop=crop)
    elif size and size != mask.size and size[0] * size[1] <= MOST_PIXELS:
        mask = mask.resize(size, Image.Resampling.NEAREST)
    mask.save(target, "PNG", compress_level=1)


def _picture(source: BinaryIO) -> Image.Image:
    try:
        return upright(opened(source))
    except Refusal as refusal:
        if refusal.reason != "INPUT_IMAGE_INVALID":
            raise
        words = "the mask cannot be decoded; send a whole PNG, JPEG or WebP file"
        raise Refusal(refusal.reason, words) from refusal


def _white(picture: Image.Image, _size: Size | None) -> Image.Image:
    return picture.convert("L").point(lambda level: 255 if level >= HALF else 0)


def _white_or_transparent(picture: Image.Image, size: Size | None) -> Image.Image:
    if picture.has_transparency_data:
        rgba = picture if picture.mode == "RGBA" else picture.convert("RGBA")
        alpha = rgba.getchannel("A")
        if _is_uniform(rgba.convert("RGB").convert("L")) and not _is_uniform(alpha):
            return _of_alpha(alpha)
    return _white(picture, size)


def _transparent(picture: Image.Image, size: Size | None) -> Image.Image:
    if size and picture.size != size:
        width, height = picture.size
        raise Refusal(
            "INPUT_IMAGE_INVALID",
            f"the mask is {width}x{height} and the first image {size[0]}x{size[1]};"
            " they must have the same size",
        )
    if not picture.has_transparency_data:
        raise Refusal(
            "INPUT_IMAGE_INVALID",
            "the mask has no alpha channel; its fully transparent pixels are repainted,"
            " and whatever colour the others have is kept",
        )
    rgba = picture if picture.mode == "RGBA" else picture.convert("RGBA")
    return _of_alpha(rgba.getchannel("A"))


def _opaque(picture: Image.Image, _size: Size | None) -> Image.Image:
    alpha = _alpha(picture)
    if alpha is None:
        return picture.convert("L")
    return alpha.point(lambda level: OPAQUE if level > HALF else 0)


def _opaque_soft(picture: Image.Image, _size: Size | None) -> Image.Image:
    return _alpha(picture) or picture.convert("L")


def _alpha(picture: Image.Image) -> Image.Image | None:
    """Return the alpha channel; None where it says nothing, for everything is opaque."""
    if not picture.has_transparency_data:
        return None
    alpha = (picture if picture.mode == "RGBA" else picture.convert("RGBA")).getchannel("A")
    return None if alpha.getextrema() == (OPAQUE, OPAQUE) else alpha


def _of_alpha(alpha: Image.Image) -> Image.Image:
    table: Any = [255] + [0] * 255
    return alpha.point(table)


def _is_uniform(channel: Image.Image) -> bool:
    low, high = channel.getextrema()
    return low == high


CONVENTIONS: dict[str, Callable[[Image.Image, Size | None], Image.Image]] = {
    "WHITE": _white,
    "WHITE_OR_TRANSPARENT": _white_or_transparent,
    "TRANSPARENT": _transparent,
    "OPAQUE": _opaque,
    "OPAQUE_SOFT": _opaque_soft,
}
# Of the others a mask may be empty.
_EMPTY_WORDS = {
    "WHITE": "the mask is empty: there is nothing in it that is to be repainted",
    "WHITE_OR_TRANSPARENT": "the mask is empty: there is nothing in it that is to be repainted",
    "TRANSPARENT": "the mask has no fully transparent pixel: nothing is repainted",
}
