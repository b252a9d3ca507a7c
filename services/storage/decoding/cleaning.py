"""
Uploads without what nobody needs to see: where a photo was taken, what lies behind its end.

A picture keeps its pixels as they are coded, and what colours mean (ICC and the like); the parts
of the file that hold anything else are left out. Only a photo that lies on its side is coded anew.
"""

import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from PIL import Image, ImageOps

from services.storage.decoding.images import Picture, described, opened, orientation

# Of PNG: pixels, and what their colours mean.
_PNG_KEPT = frozenset(
    {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT"}
    | {b"cICP", b"mDCV", b"cLLI"}
)
_WEBP_KEPT = frozenset({b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ICCP"})
# The bits of VP8X that announce EXIF and XMP.
_WEBP_ANNOUNCED = 0x0C
_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_SOI, _EOI, _SOS, _COMMENT = 0xD8, 0xD9, 0xDA, 0xFE
# Colours: JFIF says that they are YCbCr, Adobe's segment that they are something else.
_JPEG_KEPT = {0xE0: b"JFIF\0", 0xE2: b"ICC_PROFILE\0", 0xEE: b"Adobe"}
_APPLICATION = range(0xE0, 0xF0)
_QUALITY = 95


def clean(source: BinaryIO, target: BinaryIO) -> tuple[Picture, bool]:
    """
    Tell what an image is, and write it upright and without metadata.

    Returns:
        What it is, and whether anything was written; if not, *source* is clean as it is.

    Raises:
        Refusal: If it is no image that is taken.
    """
    image = opened(source)
    picture = described(image)
    if orientation(image) != 1:
        _turned(image).save(target, **_options(image))
        return picture, True
    name = str(image.format)
    # The pixels' memory may be needed for the file.
    del image
    source.seek(0)
    return picture, _stripped(name, source.read(), target)


def _stripped(name: str, data: bytes, target: BinaryIO) -> bool:
    parts = list(_WALKS[name](data))
    if sum(len(part) for part in parts) == len(data):
        return False
    target.writelines(parts)
    return True


def _turned(image: Image.Image) -> Image.Image:
    turned = ImageOps.exif_transpose(image)
    turned.info = {}
    return turned


def _options(image: Image.Image) -> dict[str, Any]:
    options: dict[str, Any] = {"icc_profile": image.info.get("icc_profile")}
    if image.format == "PNG":
        return {"format": "PNG", "compress_level": 1, **options}
    if image.format == "WEBP":
        return {"format": "WEBP", "quality": _QUALITY, **options}
    return {"format": "JPEG", "quality": _QUALITY, "subsampling": 0, **options}


def _png(data: bytes) -> Iterator[memoryview]:
    view, start = memoryview(data), 8
    yield view[:start]
    while start < len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4])
        kind = data[start + 4 : start + 8]
        if kind in _PNG_KEPT:
            yield view[start:end]
        if kind == b"IEND":
            return
        start = end


def _webp(data: bytes) -> Iterator[bytes | memoryview]:
    end = min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    kept, start = [], 12
    while start < end:
        size = int.from_bytes(data[start + 4 : start + 8], "little")
        after = start + 8 + size + size % 2
        kind = data[start : start + 4]
        if kind == b"VP8X":
            flags = data[start + 8] & ~_WEBP_ANNOUNCED
            kept.append(data[start : start + 8] + bytes([flags]) + data[start + 9 : after])
        elif kind in _WEBP_KEPT:
            kept.append(data[start:after])
        start = after
    size = 4 + sum(len(part) for part in kept)
    yield b"RIFF" + size.to_bytes(4, "little") + b"WEBP"
    yield from kept


def _jpeg(data: bytes) -> Iterator[memoryview]:
    view, start = memoryview(data), 0
    while match := _JPEG_MARKER.search(data, start):
        marker, at = data[match.start() + 1], match.start()
        if marker == _SOI:
            yield view[at : at + 2]
            start = at + 2
            continue
        if marker == _EOI:
            # Whatever lies behind: a second picture, or another file.
            yield view[at : at + 2]
            return
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if marker == _SOS:
            following = _JPEG_MARKER.search(data, end)
            end = following.start() if following else len(data)
        if _is_kept(marker, data[at + 4 : at + 16]):
            yield view[at:end]
        start = end


def _is_kept(marker: int, head: bytes) -> bool:
    if marker in _APPLICATION:
        return marker in _JPEG_KEPT and head.startswith(_JPEG_KEPT[marker])
    return marker != _COMMENT


_WALKS = {"PNG": _png, "WEBP": _webp, "JPEG": _jpeg, "MPO": _jpeg}
