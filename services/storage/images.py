"""
What bytes are: PNG, JPEG or WebP, complete, and small enough.

Only the bytes decide, never a name or a header of the request. Size and format are read before
anything is decoded, so an image of a few bytes cannot unfold into gigabytes.
"""

from typing import BinaryIO, NamedTuple

from PIL import ExifTags, Image, UnidentifiedImageError

from pictor.errors.v1 import error_reason_pb2
from services.rpc.errors import InvalidRequest, invalid

MEDIA_TYPES = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    # A JPEG file in which a camera keeps a second picture behind the first.
    "MPO": "image/jpeg",
    "WEBP": "image/webp",
}
# Values of EXIF's orientation for which a picture is shown with its sides exchanged.
LYING = (5, 6, 7, 8)
# 8192 x 8192: four times the area of the largest image that a family draws.
MOST_PIXELS = 64 * 1024 * 1024

# At offset 0, and at offset 4, how images begin that are not taken: to name them in the error.
_OTHERS = {
    b"GIF8": "image/gif",
    b"II*\0": "image/tiff",
    b"MM\0*": "image/tiff",
    b"BM": "image/bmp",
    b"8BPS": "image/vnd.adobe.photoshop",
    b"\0\0\1\0": "image/vnd.microsoft.icon",
    b"\xff\x0a": "image/jxl",
    b"<svg": "image/svg+xml",
    b"%PDF": "application/pdf",
}
_OTHERS_AT_4 = {
    b"ftypavif": "image/avif",
    b"ftypheic": "image/heic",
    b"ftypmif1": "image/heif",
    b"JXL ": "image/jxl",
    b"jP  ": "image/jp2",
}


class Picture(NamedTuple):
    """What an image's bytes say about it."""

    media_type: str
    width_px: int
    height_px: int


def inspect(file: BinaryIO) -> Picture:
    """
    Tell what an image is, upright, and decode it to see that it is complete. Blocks.

    Args:
        file: The image, at any position.

    Raises:
        InvalidRequest: If it is no image, damaged, of another format, or has too many pixels.
    """
    with _opened(file) as image:
        width_px, height_px = image.size
        if width_px * height_px > MOST_PIXELS:
            raise _too_many_pixels(f"{width_px} x {height_px} pixels are")
        try:
            image.load()
            if image.getexif().get(ExifTags.Base.Orientation) in LYING:
                width_px, height_px = height_px, width_px
        except Exception as error:  # noqa: BLE001 - parsers raise whatever they stumble over
            raise _not_an_image(f"the image is damaged or incomplete ({error})") from None
        return Picture(MEDIA_TYPES[str(image.format)], width_px, height_px)


def too_large(size: str, limit: dict[str, str]) -> InvalidRequest:
    """Make the error of an image that is larger than *limit*, e.g. ``{"limit_bytes": "1024"}``."""
    error = invalid("chunk", size, error_reason_pb2.ERROR_REASON_INPUT_IMAGE_TOO_LARGE)
    error.metadata.update(limit)
    return error


def _opened(file: BinaryIO) -> Image.Image:
    file.seek(0)
    try:
        return Image.open(file, formats=("PNG", "JPEG", "WEBP"))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_many_pixels("the image has") from None
    except UnidentifiedImageError:
        raise _unidentified(file) from None
    except Exception as error:  # noqa: BLE001 - parsers raise whatever they stumble over
        raise _not_an_image(f"the image's header is damaged ({error})") from None


def _unidentified(file: BinaryIO) -> InvalidRequest:
    file.seek(0)
    head = file.read(16)
    for start, table in ((0, _OTHERS), (4, _OTHERS_AT_4)):
        for signature, media_type in table.items():
            if head.startswith(signature, start):
                return _unsupported(media_type)
    return _not_an_image("the bytes are no image, or one whose header is damaged")


def _too_many_pixels(subject: str) -> InvalidRequest:
    return too_large(
        f"{subject} more than {MOST_PIXELS} pixels (8192 x 8192), which is the most that is taken",
        {"limit_pixels": str(MOST_PIXELS)},
    )


def _unsupported(media_type: str) -> InvalidRequest:
    error = invalid(
        "chunk",
        f"images of type {media_type} are not taken; send PNG, JPEG or WebP",
        error_reason_pb2.ERROR_REASON_MEDIA_TYPE_UNSUPPORTED,
    )
    error.metadata["media_type"] = media_type
    return error


def _not_an_image(message: str) -> InvalidRequest:
    return invalid(
        "chunk",
        f"{message}; send a whole PNG, JPEG or WebP file",
        error_reason_pb2.ERROR_REASON_INPUT_IMAGE_INVALID,
    )
