"""What is taken for an image."""

import io

import pytest
from PIL import Image

from services.storage.decoding.images import MOST_PIXELS, inspect
from services.storage.decoding.refusal import Refusal
from tests.services.storage.pictures import picture, png_header


def refusal(data):
    with pytest.raises(Refusal) as caught:
        inspect(io.BytesIO(data))
    return caught.value


@pytest.mark.parametrize(
    ("form", "media_type"),
    [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp")],
)
def test_formats_are_found_from_the_bytes(form, media_type):
    """
    The three formats are told apart by content, with their size.
    """
    assert inspect(io.BytesIO(picture(form))) == (media_type, 64, 48)


@pytest.mark.parametrize(
    ("form", "media_type"),
    [("GIF", "image/gif"), ("TIFF", "image/tiff"), ("BMP", "image/bmp"), ("ICO", "image/vnd.micr")],
)
def test_other_formats_are_named_in_the_error(form, media_type):
    """
    An image of another format is told what it is and what is taken.
    """
    error = refusal(picture(form))

    assert error.reason == "MEDIA_TYPE_UNSUPPORTED"
    assert error.metadata["media_type"].startswith(media_type)
    assert "PNG, JPEG or WebP" in error.message


@pytest.mark.parametrize(
    "data", [b"x", b"hello, world" * 100, b"\x89PNG\r\n\x1a\n", b"RIFF1234WEBP"]
)
def test_what_is_no_image_is_refused(data):
    """
    Text and lone signatures are not images.
    """
    assert refusal(data).reason == "INPUT_IMAGE_INVALID"


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.95])
def test_an_incomplete_image_is_refused(form, part):
    """
    A file whose end is missing is refused, wherever it was cut.
    """
    data = picture(form, (200, 200))

    error = refusal(data[: int(len(data) * part)])

    assert error.reason == "INPUT_IMAGE_INVALID"


@pytest.mark.parametrize("size", [(8192, 8193), (10_000, 9_500), (100_000, 100_000)])
def test_too_many_pixels_are_refused_before_decoding(size):
    """
    The header alone is enough to refuse a file of a hundred bytes that would unfold to gigabytes.
    """
    error = refusal(png_header(*size))

    assert error.reason == "INPUT_IMAGE_TOO_LARGE"
    assert error.metadata["limit_pixels"] == str(MOST_PIXELS)


def test_a_jpeg_with_a_second_picture_is_a_jpeg():
    """
    Cameras hide a preview behind the picture; the file is a JPEG all the same.
    """
    file = io.BytesIO()
    first, second = (Image.effect_noise((32, 32), 50) for _ in range(2))
    first.save(file, "MPO", save_all=True, append_images=[second])

    assert inspect(file).media_type == "image/jpeg"


@pytest.mark.parametrize(("orientation", "size"), [(1, (64, 48)), (3, (64, 48)), (6, (48, 64))])
def test_a_photo_that_lies_on_its_side_has_the_size_that_people_see(orientation, size):
    """
    EXIF says how a camera was held; what draws from the photo puts it upright.
    """
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.new("RGB", (64, 48)).save(file, "JPEG", exif=exif)

    assert inspect(file)[1:] == size
