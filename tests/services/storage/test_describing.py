"""DescribeImage over gRPC."""

import pytest
from PIL import Image, PngImagePlugin
from PIL.ExifTags import IFD

from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.storage.v1.image_description_pb2 import DescribeImageRequest
from services.rpc.errors import InvalidRequest
from services.storage.decoding.describing import MOST_TEXT_BYTES, MOST_TEXTS
from tests.services.storage.pictures import picture, png_header

PIECE_BYTES = 1000
ORIENTATION, USER_COMMENT = 0x0112, 0x9286


async def describe(storage, content, *, header_only=False):
    async def messages():
        head, rest = content[:PIECE_BYTES], content[PIECE_BYTES:]
        # The first message may hold bytes, and need not.
        yield DescribeImageRequest(chunk=head, header_only=header_only)
        for start in range(0, len(rest), PIECE_BYTES):
            yield DescribeImageRequest(chunk=rest[start : start + PIECE_BYTES])

    return await storage.DescribeImage(messages())


def commented(comment, form="JPEG", orientation=1):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exif.get_ifd(IFD.Exif)[USER_COMMENT] = comment
    return picture(form, exif=exif)


def png_of(texts):
    info = PngImagePlugin.PngInfo()
    for name, text in texts:
        info.add_text(name, text)
    return picture(pnginfo=info)


@pytest.mark.parametrize(
    ("form", "media_type"), [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp")]
)
async def test_an_image_is_described_as_it_is_shown(suite, form, media_type):
    """
    A camera's note about its position is obeyed.
    """
    upright = await describe(suite, picture(form))
    turned = await describe(suite, commented(b"ASCII\0\0\0a cat", form, orientation=6))

    assert (upright.media_type, upright.width_px, upright.height_px) == (media_type, 64, 48)
    assert (turned.width_px, turned.height_px, turned.user_comment) == (48, 64, "a cat")
    assert (list(upright.texts), upright.user_comment) == ([], "")


async def test_the_texts_of_a_png_file_are_told_in_their_order(suite):
    """
    Plain, compressed and in Unicode; what is no text is left out.
    """
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a cat\nSteps: 20")
    info.add_text("Software", "a program", zip=True)
    info.add_itxt("Comment", "ein K\u00e4tzchen \u732b")
    described = await describe(suite, picture(pnginfo=info, dpi=(72, 72)))

    assert [(one.name, one.text) for one in described.texts] == [
        ("parameters", "a cat\nSteps: 20"),
        ("Software", "a program"),
        ("Comment", "ein K\u00e4tzchen \u732b"),
    ]


@pytest.mark.parametrize(
    ("comment", "said"),
    [
        (b"UNICODE\0" + "a c\u00e4t".encode("utf-16-be"), "a c\u00e4t"),
        (b"ASCII\0\0\0a cat\0", "a cat"),
        ("a c\u00e4t".encode(), "a c\u00e4t"),
        (b"UNICODE\0\xd8", "\ufffd"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"", ""),
    ],
)
async def test_the_comment_of_a_photo_is_told(suite, comment, said):
    """
    In whichever encoding it says it has; what that cannot be is no error.
    """
    assert (await describe(suite, commented(comment))).user_comment == said


async def test_texts_have_a_bound(suite):
    """
    Nobody's parameters are that long; what would be too much is left out, and the rest is told.
    """
    large = "x" * (MOST_TEXT_BYTES // 2)
    long = await describe(suite, png_of([("a", large), ("b", large), ("c", "short")]))
    many = await describe(suite, png_of([(f"t{k}", "x") for k in range(MOST_TEXTS + 9)]))

    assert [one.name for one in long.texts] == ["a", "c"]
    assert len(many.texts) == MOST_TEXTS


async def test_of_a_beginning_the_header_is_told(suite):
    """
    Where that is all that is wanted; otherwise an image must be whole.
    """
    head = png_of([("parameters", "a cat")])[:2000]
    described = await describe(suite, head, header_only=True)

    assert (described.width_px, described.texts[0].text) == (64, "a cat")
    with pytest.raises(InvalidRequest, match="incomplete"):
        await describe(suite, head)


@pytest.mark.parametrize("header_only", [False, True])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", reasons.ERROR_REASON_INPUT_IMAGE_INVALID),
        (b"no image", reasons.ERROR_REASON_INPUT_IMAGE_INVALID),
        (picture()[:20], reasons.ERROR_REASON_INPUT_IMAGE_INVALID),
        (b"GIF89a" + bytes(20), reasons.ERROR_REASON_MEDIA_TYPE_UNSUPPORTED),
        (png_header(60_000, 60_000), reasons.ERROR_REASON_INPUT_IMAGE_TOO_LARGE),
        (bytes(26 * 1024 * 1024), reasons.ERROR_REASON_INPUT_IMAGE_TOO_LARGE),
    ],
    ids=["nothing", "text", "header", "gif", "pixels", "bytes"],
)
async def test_what_is_no_image_is_refused(suite, content, reason, header_only):
    """
    As an upload of it would be.
    """
    with pytest.raises(InvalidRequest) as error:
        await describe(suite, content, header_only=header_only)

    assert error.value.reason == reason
