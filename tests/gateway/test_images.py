import base64
import io
import struct
import time

import pytest
from PIL import Image

from gateway.images import InputFile, decode_base64, size_of
from services.rpc.errors import InvalidRequest
from tests.gateway.house import png

CONTENT = bytes(range(256))
PLAIN = base64.b64encode(CONTENT).decode()


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        PLAIN.rstrip("="),
        base64.urlsafe_b64encode(CONTENT).decode(),
        "\n".join(PLAIN[i : i + 76] for i in range(0, len(PLAIN), 76)),
        f"data:image/png;base64,{PLAIN}",
        f"  DATA:image/png;name=a.png;BASE64,{PLAIN}\n",
        f"data:;base64,{PLAIN}",
    ],
)
def test_all_spellings_of_base64_are_read(text):
    """
    Plain, URL-safe, without padding, in lines, and as data URLs.
    """
    assert decode_base64(text, "image") == CONTENT


@pytest.mark.parametrize(
    "text",
    ["", " ", "a", "not base64!", "data:image/png,abcd", "http://a/b.png", "abc\u00e9", "data:"],
)
def test_anything_else_is_refused_by_name(text):
    """
    The error names the field and what is wanted.
    """
    with pytest.raises(InvalidRequest, match=r"images\.1 is not an image in base64"):
        decode_base64(text, "images.1")


def test_a_file_is_converted_when_its_turn_comes():
    """
    A dialect says how its masks become canonical; nothing happens before the file is wanted.
    """
    file = InputFile("mask", PLAIN, convert=lambda content: content[:2])

    assert file.content() == CONTENT[:2]


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_the_size_of_an_image_is_read_from_its_beginning(form):
    """
    From bytes, from base64 and from a data URL with white space; nothing is decoded for it.
    """
    content = png((640, 480), form)
    text = base64.encodebytes(content).decode()
    for source in (content, text, f"data:image/{form};base64,{text}", text.rstrip("=\n")):
        assert size_of(InputFile("image", source)) == (640, 480)


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_the_size_of_a_large_image_is_known_too(form):
    """
    Wherever the text is cut; of WebP nothing is known without the end.
    """
    noise = io.BytesIO()
    Image.effect_noise((1300, 1200), 100).save(noise, form, lossless=True)
    text = base64.b64encode(noise.getvalue()).decode()

    assert len(text) > 1024 * 1024
    for shift in range(4):
        assert size_of(InputFile("image", " " * shift + text)) == (1300, 1200)


def test_the_size_of_a_photograph_is_as_it_is_shown():
    """
    A camera that was held upright turns the sides around.
    """
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.new("RGB", (64, 48)).save(file, "JPEG", exif=exif)

    assert size_of(InputFile("image", file.getvalue())) == (48, 64)


@pytest.mark.parametrize("padding", [b"\xff", b"\0", b"\xff\xe1\0\x02", b"\xff\xd0"])
def test_a_file_that_never_says_its_size_is_left_soon(padding):
    """
    Whatever its beginning is full of: the event loop waits for it.
    """
    content = b"\xff\xd8\xff" + padding * (25 * 1024 * 1024 // len(padding))
    begin = time.perf_counter()

    assert size_of(InputFile("image", content)) is None
    assert time.perf_counter() - begin < 2


def gif():
    file = io.BytesIO()
    Image.new("RGB", (64, 48)).save(file, "GIF")
    return file.getvalue()


def claiming(width_px, height_px):
    """The beginning of a PNG file that claims to have any number of pixels."""
    return png()[:16] + struct.pack(">II", width_px, height_px) + png()[24:]


@pytest.mark.parametrize(
    "source",
    [
        *(b"", "", "no image!", "https://a.test/b.png", b"\x89PNG", b"\xff\xd8\xff\xc0"),
        *(gif(), b'<svg width="64" height="48"/>', b"RIFF\0\0\0\0WEBPVP9 " + bytes(40)),
        *(claiming(0, 48), claiming(2**32 - 1, 1), claiming(2**31, 2**31)),
    ],
)
def test_what_is_no_image_has_no_size(source):
    """
    It is refused when its turn comes, and not here.
    """
    assert size_of(InputFile("image", source)) is None
