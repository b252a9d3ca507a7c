"""
Masks: from an API's convention to the canonical form, in which 255 is repainted and 0 is kept.

Each function makes the ``convert`` of an order's mask. It runs in a thread of its own, after the
limits of the request were checked and before anything is stored.
"""

import dataclasses
import io
from collections.abc import Callable, Sequence

from PIL import Image, ImageOps

from gateway.fields import Fields
from gateway.images import FORMATS, InputFile, size_of
from pictor.errors.v1 import error_reason_pb2 as reasons
from services.rpc.errors import invalid

# The most that storage takes; checked before anything is decoded.
MOST_PIXELS = 64 * 1024 * 1024
HALF = 128

Convert = Callable[[bytes], bytes]


def of(
    fields: Fields, name: str, images: Sequence[InputFile], *, or_transparent: bool = False
) -> InputFile | None:
    """Return the mask that stands in a field, for the first of the images; white is repainted."""
    files = fields.files(name, urls=True)
    if len(files) > 1:
        fields.blame(name, f"{name} must be one image; it is {len(files)}")
    image = images[0] if images else None
    convert = white(name, image, or_transparent=or_transparent)
    return dataclasses.replace(files[0], convert=convert) if files else None


def white(field: str, image: InputFile | None = None, *, or_transparent: bool = False) -> Convert:
    """
    Repaint what is white: where the luminance is at least half.

    Args:
        field: Where the mask stood, for errors.
        image: The picture that is repainted; the mask gets its size.
        or_transparent: Where all of the mask is one colour and its alpha is not, what is fully
            transparent is meant.

    Returns:
        A function that makes a PNG of one channel from a file. It raises InvalidRequest if the file
        is no image or nothing would be repainted.
    """

    def convert(content: bytes) -> bytes:
        with _opened(content, field) as file:
            picture = ImageOps.exif_transpose(file)
            return _written(_of_white(picture, or_transparent=or_transparent), field, image)

    return convert


def _of_white(picture: Image.Image, *, or_transparent: bool) -> Image.Image:
    if or_transparent and picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        if _is_uniform(rgba.convert("RGB").convert("L")) and not _is_uniform(rgba.getchannel("A")):
            return rgba.getchannel("A").point(lambda alpha: 255 if alpha == 0 else 0)
    return picture.convert("L").point(lambda level: 255 if level >= HALF else 0)


def _is_uniform(channel: Image.Image) -> bool:
    low, high = channel.getextrema()
    return low == high


def _opened(content: bytes, field: str) -> Image.Image:
    try:
        file = Image.open(io.BytesIO(content), formats=FORMATS)
        if file.width * file.height <= MOST_PIXELS:
            file.load()
            return file
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        pass
    except Exception as error:
        raise invalid(
            field,
            f"{field} is no whole PNG, JPEG or WebP file",
            reasons.ERROR_REASON_INPUT_IMAGE_INVALID,
        ) from error
    rule = f"{field} has more than {MOST_PIXELS} pixels, which is the most that is taken"
    raise invalid(field, rule, reasons.ERROR_REASON_INPUT_IMAGE_TOO_LARGE)


def _written(mask: Image.Image, field: str, image: InputFile | None) -> bytes:
    if mask.getextrema() == (0, 0):
        raise invalid(field, f"{field} is empty: there is nothing in it that is to be repainted")
    size = size_of(image) if image else None
    if size and size != mask.size and size[0] * size[1] <= MOST_PIXELS:
        mask = mask.resize(size, Image.Resampling.NEAREST)
    file = io.BytesIO()
    mask.save(file, "PNG")
    return file.getvalue()
