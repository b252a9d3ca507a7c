"""Images inside of JSON: base64 in all its spellings, and uploads."""

import base64
import binascii
import io
import re
from collections.abc import Callable
from dataclasses import dataclass

import imagesize

from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import generation_pb2
from pictor.storage.v1 import mask_convention_pb2, storage_service_pb2
from services.rpc.errors import invalid

_DATA_URL = re.compile(r"\s*data:[^,]{0,200}?;base64,", re.IGNORECASE)
_URL = re.compile(r"\s*https?://", re.IGNORECASE)
_URL_SAFE = str.maketrans("-_", "+/")
# How files begin of the formats that are taken.
SIGNATURES = (
    re.compile(rb"\x89PNG\r\n\x1a\n"),
    re.compile(rb"\xff\xd8\xff"),
    re.compile(rb"RIFF....WEBP", re.DOTALL),
)
# What storage takes at most; a file may claim anything.
MOST_PIXELS = 64 * 1024 * 1024
# A camera puts its whole preview before what says the size. In base64, a multiple of 4.
_HEAD_BYTES = 768 * 1024
_HEAD_CHARACTERS = _HEAD_BYTES // 3 * 4


@dataclass(frozen=True)
class Upload:
    """A file from a form. Its name and media type are the client's word and are not kept."""

    content: bytes


@dataclass(frozen=True)
class MaskRule:
    """
    How a mask is meant; storage makes it what the suite has for masks.

    Attributes:
        convention: What in it is to be repainted.
        of_first_image: The mask is not the file's own content, but the first input image itself.
        conversion: What is wanted of storage, where that is more than the convention says and the
            first image's size; its own size then counts.
    """

    convention: mask_convention_pb2.MaskConvention.ValueType
    of_first_image: bool = False
    conversion: storage_service_pb2.MaskConversion | None = None


@dataclass(frozen=True)
class InputFile:
    """
    An image that came with a request.

    Attributes:
        field: Where it stood, for errors, e.g. ``input_images_base64.0``.
        source: The bytes, or text in one of the spellings of ``decode_base64``. Text is decoded
            only when its turn comes, so that checks keep the order that an API documents.
        role: What the image is for.
        convert: Takes the file's bytes and returns those to go on with, or refuses them; it opens
            no image, which only storage does.
        resize: What storage makes of it before it is stored, where it is to have another size.
        mask: How it is meant, where it is a mask.
        may_be_url: The text may be a URL, http or https, under which storage finds the image.
    """

    field: str
    source: bytes | str
    role: generation_pb2.InputImage.Role.ValueType = generation_pb2.InputImage.ROLE_UNSPECIFIED
    convert: Callable[[bytes], bytes] | None = None
    resize: storage_service_pb2.Resize | None = None
    mask: MaskRule | None = None
    may_be_url: bool = False

    @property
    def url(self) -> str:
        """The URL under which the image is, or nothing where it came with the request."""
        source = self.source
        is_url = self.may_be_url and isinstance(source, str) and _URL.match(source)
        return str(source).strip() if is_url else ""

    def content(self, fetched: bytes | None = None) -> bytes:
        """
        Return the file, converted.

        Args:
            fetched: What storage has found under the URL, where there is one.

        Raises:
            InvalidRequest: With INPUT_IMAGE_INVALID, if the text is not base64.
        """
        source = self.source if fetched is None else fetched
        content = source if isinstance(source, bytes) else decode_base64(source, self.field)
        return self.convert(content) if self.convert else content


def decode_base64(text: str, field: str) -> bytes:
    """
    Decode base64: plain or URL-safe, with or without padding and white space, or a data URL.

    Raises:
        InvalidRequest: With INPUT_IMAGE_INVALID, if the text is anything else, or empty.
    """
    digits = "".join(_DATA_URL.sub("", text, count=1).split()).translate(_URL_SAFE).rstrip("=")
    try:
        content = base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
    except (binascii.Error, ValueError):
        content = b""
    if not content:
        raise invalid(
            field,
            f"{field} is not an image in base64: send the file's bytes in base64, plain or as a"
            " data URL (data:image/png;base64,...)",
            reasons.ERROR_REASON_INPUT_IMAGE_INVALID,
        )
    return content


def size_of(file: InputFile) -> tuple[int, int] | None:
    """
    Return width and height of an image as it is shown; None where its beginning does not tell.

    Only the header is read, and nothing is raised: whether the image is good is said when its turn
    comes.
    """
    source = file.source
    head = source[:_HEAD_BYTES] if isinstance(source, bytes) else _head(source)
    if not any(signature.match(head) for signature in SIGNATURES):
        return None
    width, height = imagesize.get(io.BytesIO(head))
    return (width, height) if min(width, height) > 0 and width * height <= MOST_PIXELS else None


def _head(text: str) -> bytes:
    return _decoded(_DATA_URL.sub("", text, count=1)[:_HEAD_CHARACTERS])


def _decoded(text: str) -> bytes:
    digits = "".join(text.split()).translate(_URL_SAFE).rstrip("=")
    # One digit alone is no byte: here the text was cut.
    digits = digits[:-1] if len(digits) % 4 == 1 else digits
    try:
        return base64.b64decode(digits + "=" * (-len(digits) % 4))
    except (binascii.Error, ValueError):
        return b""
