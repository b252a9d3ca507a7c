"""Image files for tests."""

import io
import struct
import zlib

from PIL import Image


def picture(form="PNG", size=(64, 48), **options):
    """
    Encode noise, which no format compresses much, as an image file.
    """
    file = io.BytesIO()
    Image.effect_noise(size, 100).convert("RGB").save(file, form, **options)
    return file.getvalue()


def png_header(width_px, height_px):
    """
    Write a PNG file of a few bytes that claims to have any number of pixels.
    """
    header = struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
