"""
AUTOMATIC1111's ways with pictures: masks, resize modes, and the text inside of files.

All of it decodes files and blocks; it runs where input files are converted, off the event loop.
"""

import base64
import binascii
import contextlib
import io
from collections.abc import Callable

from PIL import Image, ImageFilter, ImageOps
from PIL.ExifTags import IFD

from gateway.images import decode_base64
from pictor.errors.v1 import error_reason_pb2 as reasons
from services.rpc.errors import invalid

MOST_PIXELS = 64 * 1024 * 1024
FORMATS = ("PNG", "JPEG", "WEBP")
OPAQUE, HALF = 255, 128
# Resize modes by number; the fourth resizes latents in AUTOMATIC1111.
STRETCH, CROP, FILL, LATENT = range(4)
_USER_COMMENT = 0x9286
# The text of a PNG or JPEG file stands before its pixels.
_HEAD_CHARS = 4 * 32 * 1024

Size = tuple[int, int]


def picture_of(content: bytes, field: str) -> Image.Image:
    """
    Decode a file, turned as its camera says.

    Raises:
        InvalidRequest: With INPUT_IMAGE_INVALID or INPUT_IMAGE_TOO_LARGE.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                raise invalid(
                    field,
                    f"{field} has more than {MOST_PIXELS} pixels",
                    reasons.ERROR_REASON_INPUT_IMAGE_TOO_LARGE,
                )
            return ImageOps.exif_transpose(opened).copy()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise invalid(
            field,
            f"{field} is not an image that can be read; send PNG, JPEG or WebP",
            reasons.ERROR_REASON_INPUT_IMAGE_INVALID,
        ) from None


def fitted(mode: int, size: Size, field: str) -> Callable[[bytes], bytes] | None:
    """Make what brings an init image to *size*; None where stretching is enough, or nothing."""
    if mode not in (CROP, FILL):
        return None
    return lambda content: _png(_placed(_flat(picture_of(content, field)), mode, size))


def canonical_mask(
    *, invert: bool, threshold: bool, blur: tuple[int, int], mode: int, size: Size | None
) -> Callable[[bytes], bytes]:
    """
    Make what turns AUTOMATIC1111's mask into the suite's: one channel, 255 is repainted.

    Args:
        invert: Black is repainted, not white.
        threshold: An alpha channel is read as either kept or repainted.
        blur: Of the edges, in pixels, horizontally and vertically.
        mode: How it is brought to *size*, as the init image is.
        size: None where it stays as it is.
    """

    def convert(content: bytes) -> bytes:
        mask = _luminance(picture_of(content, "mask"), threshold=threshold)
        if invert:
            mask = ImageOps.invert(mask)
        if any(blur):
            mask = mask.filter(ImageFilter.GaussianBlur(blur))
        if size and mode in (CROP, FILL):
            mask = _placed(mask, mode, size)
        return _png(mask)

    return convert


def text_of(encoded: str) -> str:
    """Return the parameters that stand in a picture in base64; empty where there are none."""
    for part in (encoded[:_HEAD_CHARS], encoded):
        try:
            content = base64.b64decode(part)
        except (binascii.Error, ValueError):
            continue
        if text := _text(content):
            return text
        if len(part) == len(encoded):
            break
    return ""


def text_and_items(source: str, field: str) -> tuple[str, dict[str, str]]:
    """
    Return the parameters that stand in a picture, and its other texts by name.

    Raises:
        InvalidRequest: With INPUT_IMAGE_INVALID, if it is no picture.
    """
    content = decode_base64(source, field)
    picture_of(content, field)
    with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
        items = {
            key: value
            for key, value in opened.info.items()
            if isinstance(key, str) and isinstance(value, str) and key != "parameters"
        }
    return _text(content), items


def _text(content: bytes) -> str:
    with contextlib.suppress(OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            text = opened.info.get("parameters")
            if isinstance(text, str):
                return text
            comment = opened.getexif().get_ifd(IFD.Exif).get(_USER_COMMENT)
        return _comment(comment) if isinstance(comment, bytes) else str(comment or "")
    return ""


def _comment(comment: bytes) -> str:
    if comment.startswith(b"UNICODE\0"):
        return comment[8:].decode("utf-16-be", "replace")
    return comment.removeprefix(b"ASCII\0\0\0").decode("utf-8", "replace").strip("\0")


def _luminance(picture: Image.Image, *, threshold: bool) -> Image.Image:
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        alpha = picture.convert("RGBA").getchannel("A")
        if alpha.getextrema() != (OPAQUE, OPAQUE):
            # Opaque is repainted here, where OpenAI repaints what is transparent.
            return alpha.point(lambda a: OPAQUE if a > HALF else 0) if threshold else alpha
    return picture.convert("L")


def _flat(picture: Image.Image) -> Image.Image:
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")


def _placed(picture: Image.Image, mode: int, size: Size) -> Image.Image:
    """Crop what is over, or fill what is missing with the colours of the edges."""
    ratios = (size[0] / picture.width, size[1] / picture.height)
    scale = max(ratios) if mode == CROP else min(ratios)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    scaled = picture.resize((width, height), Image.Resampling.LANCZOS)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    placed = Image.new(scaled.mode, size)
    if mode == FILL:
        right, bottom = size[0] - left - width, size[1] - top - height
        for box, area in (
            ((0, 0, 1, height), (left, size[1], 0, 0)),
            ((width - 1, 0, width, height), (right, size[1], left + width, 0)),
            ((0, 0, width, 1), (size[0], top, 0, 0)),
            ((0, height - 1, width, height), (size[0], bottom, 0, top + height)),
        ):
            if area[0] > 0 and area[1] > 0:
                placed.paste(scaled.crop(box).resize(area[:2]), area[2:])
    placed.paste(scaled, (left, top))
    return placed


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()
