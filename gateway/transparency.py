"""
Masks that say by transparency what is repainted, as OpenAI's do.

They become what the suite has for masks: one channel, 255 is repainted, 0 is kept. No more is
decoded than the image has to which the mask belongs.
"""

import io

from PIL import ExifTags, Image, ImageOps

from pictor.errors.v1 import error_reason_pb2 as reasons
from services.rpc.errors import InvalidRequest, invalid

FORMATS = ("PNG", "JPEG", "WEBP")
# In the metadata of an error: what is wrong with a mask that is one.
PROBLEM = "problem"
EMPTY = "empty_mask"


def mask_of(content: bytes, image: bytes, field: str) -> bytes:
    """
    Make the mask that repaints what is fully transparent; colours count for nothing.

    Args:
        content: The mask's file.
        image: The file of the image to which it belongs, which has been found good.
        field: Where the mask stood, for errors.

    Raises:
        InvalidRequest: If it is no image, is not of the image's size, has no alpha channel, or
            leaves nothing to repaint.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as file:
            _check_size(file, image, field)
            if not file.has_transparency_data:
                raise _unusable(
                    field,
                    f"{field} has no alpha channel; its fully transparent pixels are repainted,"
                    " and whatever colour the others have is kept",
                )
            mask = ImageOps.exif_transpose(file).convert("RGBA").getchannel("A")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _unusable(field, f"{field} cannot be decoded; send a whole PNG file") from error
    canonical = mask.point([255] + [0] * 255)
    if canonical.getbbox() is None:
        empty = _unusable(field, f"{field} has no fully transparent pixel: nothing is repainted")
        empty.metadata[PROBLEM] = EMPTY
        raise empty
    written = io.BytesIO()
    canonical.save(written, "PNG", compress_level=1)
    return written.getvalue()


def _check_size(mask: Image.Image, image: bytes, field: str) -> None:
    with Image.open(io.BytesIO(image), formats=FORMATS) as file:
        wanted = _upright(file)
    size = _upright(mask)
    if size != wanted:
        raise _unusable(
            field,
            f"{field} is {size[0]}x{size[1]} and the first image {wanted[0]}x{wanted[1]};"
            " they must have the same size",
        )


def _upright(image: Image.Image) -> tuple[int, int]:
    """Return an image's size as it is shown; nothing is decoded for it."""
    width, height = image.size
    turned = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    return (height, width) if turned else (width, height)


def _unusable(field: str, message: str) -> InvalidRequest:
    return invalid(field, message, reasons.ERROR_REASON_INPUT_IMAGE_INVALID)
