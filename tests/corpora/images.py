"""
Files that are no images, or that are made to hurt whoever decodes them: made by rules, from a seed.

``corpus()`` yields a name and the bytes of each; none of them is one that is taken.
"""

import io
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator

from PIL import Image

TAKEN = {"PNG", "JPEG", "WEBP", "MPO"}
FUZZED = 150
SEED = 20261121


def written(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, pixels: bytes, *more: bytes, depth: int = 8, colour: int = 2):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), *more, chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    )


def bombs() -> Iterator[tuple[str, bytes]]:
    """Few bytes that would become many."""
    zeros = zlib.compress(bytes(10_000_000), 9)
    for side in (8193, 13_300, 65_535, 2**31 - 1):
        yield f"bomb {side}", png(side, side, zeros)
    yield "bomb 1 x 2^30", png(1, 2**30, zeros)
    yield "bomb of text", png(64, 64, b"", chunk(b"zTXt", b"a\0\0" + zeros))
    yield "bomb of ICC", png(64, 64, b"", chunk(b"iCCP", b"a\0\0" + zeros))
    yield (
        "jpeg 65535",
        written(Image.new("L", (8, 8)), "JPEG").replace(
            b"\x08\x00\x08\x00\x08", b"\x08\xff\xff\xff\xff"
        ),
    )


def others() -> Iterator[tuple[str, bytes]]:
    """Every format that Pillow writes and that is not taken."""
    Image.init()
    for form in sorted(set(Image.SAVE) - TAKEN):
        for mode in ("RGB", "L", "1", "P"):
            try:
                content = written(Image.new(mode, (32, 32)), form)
            except Exception:  # noqa: BLE001 - each format has its own way to decline
                continue
            yield f"{form} {mode}", content
            break


def animated() -> Iterator[tuple[str, bytes]]:
    """More than one picture in a file."""
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "green", "blue")]
    for form in ("GIF", "PNG", "WEBP", "TIFF"):
        more = {"save_all": True, "append_images": frames[1:]}
        yield f"animated {form}", written(frames[0], form, **more)


def truncated() -> Iterator[tuple[str, bytes]]:
    """Images without their ends."""
    noise = Image.effect_noise((200, 200), 90).convert("RGB")
    for form in ("PNG", "JPEG", "WEBP"):
        content = written(noise, form)
        for part in (0.01, 0.1, 0.5, 0.9):
            yield f"{form} cut at {part}", content[: int(len(content) * part)]


def impostors() -> Iterator[tuple[str, bytes]]:
    """Other things, whatever their name says."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a", "b" * 1000)
    yield "empty", b""
    yield "zip", archive.getvalue()
    yield "pickle", pickle.dumps({"weights": list(range(100))})
    yield "html", b"<!doctype html><script>alert(1)</script>"
    yield "svg", b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>'
    yield "svg with xml", b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>'
    yield "pdf", b"%PDF-1.7\n%%EOF"
    yield "elf", b"\x7fELF" + bytes(100)
    yield "gif and script", b"GIF89a/*" + bytes(20) + b"*/=1;alert(1)"
    yield "png signature and html", b"\x89PNG\r\n\x1a\n<html><script>alert(1)</script>"
    yield "safetensors", struct.pack("<Q", 2) + b"{}"
    yield "text", b"hello, world\n" * 1000
    yield "nothing but FF", b"\xff" * 5000


def fuzzed() -> Iterator[tuple[str, bytes]]:
    """Images with bytes that were changed in their heads; some of them are still good."""
    rng = random.Random(SEED)
    noise = Image.effect_noise((64, 64), 90).convert("RGB")
    for number in range(FUZZED):
        form = ("PNG", "JPEG", "WEBP")[number % 3]
        content = bytearray(written(noise, form))
        for _ in range(rng.randint(1, 30)):
            content[rng.randrange(8, 120)] = rng.randrange(256)
        yield f"fuzzed {form} {number}", bytes(content)


def odd() -> Iterator[tuple[str, bytes]]:
    """Images that are odd and good: they are taken."""
    yield "1x1", written(Image.new("RGB", (1, 1)), "PNG")
    yield "1x16384", written(Image.new("L", (1, 16384)), "PNG")
    yield "CMYK", written(Image.new("CMYK", (32, 32)), "JPEG")
    yield "16 bits", written(Image.new("I;16", (32, 32)), "PNG")
    yield "one bit", written(Image.new("1", (33, 7)), "PNG")
    yield "palette", written(Image.new("P", (32, 32)), "PNG", transparency=0)
    yield "grey and alpha", written(Image.new("LA", (32, 32)), "PNG")
    yield "progressive", written(Image.new("RGB", (64, 64)), "JPEG", progressive=True)
    yield "lossless", written(Image.new("RGBA", (64, 64)), "WEBP", lossless=True)


def refused() -> Iterator[tuple[str, bytes]]:
    """Yield what must be refused."""
    for source in (bombs, others, animated, truncated, impostors):
        yield from source()
