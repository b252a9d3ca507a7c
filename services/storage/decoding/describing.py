"""What an image's file says of itself, beside its pixels."""

import json
from collections.abc import Iterable
from typing import BinaryIO

from PIL import Image
from PIL.ExifTags import IFD

from services.storage.decoding.images import Picture, described, header, opened

MOST_TEXTS = 1000
MOST_TEXT_BYTES = 1024 * 1024
_USER_COMMENT = 0x9286

Texts = list[tuple[str, str]]


def describe(source: BinaryIO, target: BinaryIO, *, header_only: bool) -> Picture:
    """
    Tell what an image is, and write the texts in its file as JSON, which may be long.

    Args:
        source: The image's file.
        target: Where to: ``{"texts": [[name, text], ...], "user_comment": text}``.
        header_only: The pixels may be missing or damaged.

    Raises:
        Refusal: If it is no image that is taken.
    """
    image = header(source) if header_only else opened(source)
    picture = described(image)
    comment = ("", _user_comment(image))
    # Of PNG, whose texts Pillow puts among what else it has found.
    named = [(key, text) for key, text in image.info.items() if isinstance(key, str)]
    texts = _bounded([comment, *((key, text) for key, text in named if isinstance(text, str))])
    written = {
        "texts": [one for one in texts if one[0]],
        "user_comment": "".join(text for name, text in texts if not name),
    }
    target.write(json.dumps(written).encode())
    return picture


def _bounded(texts: Iterable[tuple[str, str]]) -> Texts:
    """Leave out what would be too much."""
    kept: Texts = []
    left = MOST_TEXT_BYTES
    for name, text in texts:
        size = len(name.encode()) + len(text.encode())
        if size <= left and len(kept) <= MOST_TEXTS:
            kept.append((name, text))
            left -= size
    return kept


def _user_comment(image: Image.Image) -> str:
    try:
        comment = image.getexif().get_ifd(IFD.Exif).get(_USER_COMMENT)
    except Exception:  # noqa: BLE001 - damaged metadata say nothing, the picture is good
        return ""
    return _decoded(comment) if isinstance(comment, bytes) else str(comment or "")


def _decoded(comment: bytes) -> str:
    """Read an EXIF comment, which begins with the name of its encoding in eight bytes."""
    if comment.startswith(b"UNICODE\0"):
        return comment[8:].decode("utf-16-be", "replace")
    return comment.removeprefix(b"ASCII\0\0\0").decode("utf-8", "replace").strip("\0")
