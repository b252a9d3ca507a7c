"""
What bytes are: PNG, JPEG or WebP, complete, and small enough.

Only the bytes decide, never a name or a header of the request. Size and format are read before
anything is decoded, so an image of a few bytes cannot unfold into gigabytes.
"""

from typing import BinaryIO, NamedTuple

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from services.storage.decoding.refusal import Refusal

MEDIA_TYPES = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    # A JPEG file in which a camera keeps a second picture behind the first.
    "MPO": "image/jpeg",
    "WEBP": "image/webp",
}
NO_DECODER = "could not create decoder object"
FORMATS = ("PNG", "JPEG", "WEBP")
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
    Tell what an image is, upright, and decode it to see that it is complete.

    Args:
        file: The image, at any position.

    Raises:
        Refusal: If it is no image, damaged, of another format, animated, or has too many pixels.
    """
    return described(opened(file))


def described(image: Image.Image) -> Picture:
    """Tell what an image is that was decoded."""
    width_px, height_px = image.size
    if orientation(image) in LYING:
        width_px, height_px = height_px, width_px
    return Picture(MEDIA_TYPES[str(image.format)], width_px, height_px)


def opened(file: BinaryIO) -> Image.Image:
    """
    Decode an image, as it lies in the file.

    Raises:
        Refusal: As ``inspect`` does.
    """
    image = header(file)
    try:
        image.load()
    except MemoryError:
        raise too_much_memory() from None
    except Exception as error:  # noqa: BLE001 - parsers raise whatever they stumble over
        raise _not_an_image(f"the image is damaged or incomplete ({error})") from None
    return image


def header(file: BinaryIO) -> Image.Image:
    """
    Read an image's header, and decode nothing.

    Raises:
        Refusal: As ``inspect`` does, but for pixels that are missing or damaged.
    """
    image = _identified(file)
    width_px, height_px = image.size
    if width_px * height_px > MOST_PIXELS:
        raise too_many_pixels(f"{width_px} x {height_px} pixels are")
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise _not_an_image("the image is animated")
    return image


def orientation(image: Image.Image) -> int:
    """Return how the camera was held, as EXIF numbers it; 1 is upright, also where it is unsaid."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001 - damaged metadata are dropped, the picture is good
        return 1
    return value if isinstance(value, int) and 1 < value <= 8 else 1


def upright(image: Image.Image) -> Image.Image:
    """Turn an image as EXIF says; one that is upright is not copied, for there may be no memory."""
    return image if orientation(image) == 1 else ImageOps.exif_transpose(image)


def too_many_pixels(subject: str) -> Refusal:
    """Make the refusal of *subject*, which has more pixels than are taken."""
    return Refusal(
        "INPUT_IMAGE_TOO_LARGE",
        f"{subject} more than {MOST_PIXELS} pixels (8192 x 8192), which is the most that is taken",
        {"limit_pixels": str(MOST_PIXELS)},
    )


def too_much_memory() -> Refusal:
    """Make the refusal of an image for which there is not enough memory."""
    return Refusal(
        "INPUT_IMAGE_TOO_LARGE",
        "the image takes more memory than decoding one may; scale it down, or save it anew",
        {"limit_pixels": str(MOST_PIXELS)},
    )


def _identified(file: BinaryIO) -> Image.Image:
    file.seek(0)
    try:
        return Image.open(file, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise too_many_pixels("the image has") from None
    except UnidentifiedImageError:
        raise _unidentified(file) from None
    except MemoryError:
        raise too_much_memory() from None
    except Exception as error:  # noqa: BLE001 - parsers raise whatever they stumble over
        if NO_DECODER in str(error):
            # libwebp says the same of both.
            raise _not_an_image("the WebP file is damaged, or too large to be decoded") from None
        raise _not_an_image(f"the image's header is damaged ({error})") from None


def _unidentified(file: BinaryIO) -> Refusal:
    file.seek(0)
    head = file.read(16)
    for start, table in ((0, _OTHERS), (4, _OTHERS_AT_4)):
        for signature, media_type in table.items():
            if head.startswith(signature, start):
                return _unsupported(media_type)
    return _not_an_image("the bytes are no image, or one whose header is damaged")


def _unsupported(media_type: str) -> Refusal:
    return Refusal(
        "MEDIA_TYPE_UNSUPPORTED",
        f"images of type {media_type} are not taken; send PNG, JPEG or WebP",
        {"media_type": media_type},
    )


def _not_an_image(message: str) -> Refusal:
    return Refusal("INPUT_IMAGE_INVALID", f"{message}; send a whole PNG, JPEG or WebP file")
