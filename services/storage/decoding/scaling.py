"""Images in another size."""

from typing import BinaryIO

from PIL import Image, PngImagePlugin

from services.storage.decoding.images import MOST_PIXELS, opened, upright
from services.storage.decoding.refusal import Refusal

# What an AUTOMATIC1111 picture says of itself; it is as true of the larger one.
KEPT_TEXT = "parameters"
FILTERS = {
    "LANCZOS": Image.Resampling.LANCZOS,
    "NEAREST": Image.Resampling.NEAREST,
    "BILINEAR": Image.Resampling.BILINEAR,
    "BICUBIC": Image.Resampling.BICUBIC,
}
THUMBNAIL_QUALITY = 82

Size = tuple[int, int]


def resize(
    source: BinaryIO,
    target: BinaryIO,
    *,
    factor: float | None,
    size: Size,
    crop: bool,
    resampling: str,
) -> None:
    """
    Write an image in another size, as PNG.

    Args:
        source: The image's file.
        target: Where to.
        factor: Multiplies both sides; None where *size* says.
        size: What the image fits into, or covers.
        crop: Cover *size* and cut off what is over.
        resampling: A key of FILTERS.

    Raises:
        Refusal: If it is no image that is taken, or would have too many pixels.
    """
    file = opened(source)
    text, image = file.info.get(KEPT_TEXT), upright(file)
    scaled = _scaled(image.size, factor, size, crop=crop)
    mode = "RGBA" if image.has_transparency_data else "RGB"
    # A conversion to the same mode would be a copy, for which there may be no memory.
    image = image if image.mode == mode else image.convert(mode)
    result = image.resize(scaled, FILTERS[resampling])
    if crop and factor is None:
        left, top = (result.width - size[0]) // 2, (result.height - size[1]) // 2
        result = result.crop((left, top, left + size[0], top + size[1]))
    info = PngImagePlugin.PngInfo()
    if isinstance(text, str):
        info.add_text(KEPT_TEXT, text)
    result.save(target, "PNG", pnginfo=info, compress_level=1)


def thumbnail(source: BinaryIO, target: BinaryIO, width_px: int) -> Size:
    """
    Write a small image, as WebP, at most *width_px* wide; return its size.

    Raises:
        Refusal: If it is no image that is taken.
    """
    image = upright(opened(source))
    mode = "RGBA" if image.has_transparency_data else "RGB"
    image = image if image.mode == mode else image.convert(mode)
    width = min(width_px, image.width)
    height = max(1, round(image.height * width / image.width))
    # Large pictures are first averaged down, which costs little and looks the same.
    small = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    small.save(target, "WEBP", quality=THUMBNAIL_QUALITY)
    return small.size


def _scaled(of: Size, factor: float | None, size: Size, *, crop: bool) -> Size:
    """Return the size to which the whole image is scaled; what is over is cut off later."""
    if factor is None:
        ratios = (size[0] / of[0], size[1] / of[1])
        ratio = max(ratios) if crop else min(ratios)
    else:
        ratio = factor
    scaled = max(1, round(of[0] * ratio)), max(1, round(of[1] * ratio))
    if scaled[0] * scaled[1] > MOST_PIXELS:
        raise Refusal(
            "FIELD_OUT_OF_RANGE",
            f"the result would have {scaled[0]} x {scaled[1]} pixels; at most {MOST_PIXELS} may be",
            {"field": "factor" if factor is not None else "width_px"},
        )
    return scaled
