"""Images in another size."""

from typing import BinaryIO

from PIL import Image, PngImagePlugin

from services.storage.decoding.images import opened, upright
from services.storage.decoding.placing import placed, scaled

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
    fill: bool,
    flatten: bool,
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
        fill: Fit into *size* and give what is missing the colours of the edges.
        flatten: Lay the image on white, and keep its pixels alone.
        resampling: A key of FILTERS.

    Raises:
        Refusal: If it is no image that is taken, or would have too many pixels.
    """
    file = opened(source)
    text, image = file.info.get(KEPT_TEXT), upright(file)
    image = _flat(image) if flatten else _coloured(image)
    if (crop or fill) and factor is None:
        result = placed(image, size, crop=crop, resampling=FILTERS[resampling])
    else:
        result = image.resize(_scaled(image.size, factor, size), FILTERS[resampling])
    info = PngImagePlugin.PngInfo()
    if flatten:
        result.info = {}
    elif isinstance(text, str):
        info.add_text(KEPT_TEXT, text)
    result.save(target, "PNG", pnginfo=info, compress_level=1)


def thumbnail(source: BinaryIO, target: BinaryIO, width_px: int) -> Size:
    """
    Write a small image, as WebP, at most *width_px* wide; return its size.

    Raises:
        Refusal: If it is no image that is taken.
    """
    image = _coloured(upright(opened(source)))
    width = min(width_px, image.width)
    height = max(1, round(image.height * width / image.width))
    # Large pictures are first averaged down, which costs little and looks the same.
    small = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    small.save(target, "WEBP", quality=THUMBNAIL_QUALITY)
    return small.size


def _coloured(image: Image.Image) -> Image.Image:
    mode = "RGBA" if image.has_transparency_data else "RGB"
    # A conversion to the same mode would be a copy, for which there may be no memory.
    return image if image.mode == mode else image.convert(mode)


def _flat(image: Image.Image) -> Image.Image:
    coloured = _coloured(image)
    if coloured.mode == "RGB":
        return coloured
    white = Image.new("RGBA", coloured.size, "white")
    return Image.alpha_composite(white, coloured).convert("RGB")


def _scaled(of: Size, factor: float | None, size: Size) -> Size:
    """Return the size to which the whole image is scaled."""
    if factor is not None:
        return scaled(of, factor, "factor")
    return scaled(of, min(size[0] / of[0], size[1] / of[1]), "width_px")
