import io

import pytest
from PIL import Image

from gateway import masks
from gateway.images import InputFile
from services.rpc.errors import InvalidRequest

SIZE = (16, 8)
BOX = (2, 2, 10, 6)


def file_of(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def painted(mode, ground, colour):
    image = Image.new(mode, SIZE, ground)
    image.paste(colour, BOX)
    return image


def box_of(content):
    """Return where a canonical mask is white, having checked that it is one."""
    mask = Image.open(io.BytesIO(content))
    assert mask.mode == "L"
    assert {level for _, level in mask.getcolors()} <= {0, 255}
    return mask.getbbox()


@pytest.mark.parametrize(
    "image",
    [
        painted("L", 0, 255),
        painted("L", 127, 128),
        painted("RGB", "black", "white"),
        painted("1", 0, 1),
        painted("RGBA", (0, 0, 0, 255), (255, 255, 255, 255)),
        painted("RGBA", (0, 0, 0, 0), (255, 255, 255, 255)),
    ],
    ids=["L", "half", "RGB", "1", "opaque", "transparent"],
)
@pytest.mark.parametrize("or_transparent", [False, True])
def test_white_is_repainted(image, or_transparent):
    """
    From half of the luminance on, whatever the alpha channel says beside it.
    """
    assert box_of(masks.white("mask", or_transparent=or_transparent)(file_of(image))) == BOX


def test_what_is_transparent_is_meant_only_where_nothing_else_can_be():
    """
    A mask of one colour with holes is OpenAI's kind, and Nebula Block does not know it.
    """
    content = file_of(painted("RGBA", (0, 0, 0, 255), (0, 0, 0, 0)))

    assert box_of(masks.white("mask", or_transparent=True)(content)) == BOX
    with pytest.raises(InvalidRequest, match="mask is empty"):
        masks.white("mask")(content)


def test_a_mask_gets_the_size_of_its_image():
    """
    Without a level between black and white.
    """
    image = InputFile("image", file_of(Image.new("RGB", (64, 32))))

    assert box_of(masks.white("mask", image)(file_of(painted("L", 0, 255)))) == (8, 8, 40, 24)


@pytest.mark.parametrize("content", [b"", b"no image", file_of(Image.new("L", SIZE))[:50]])
def test_what_is_no_image_is_no_mask(content):
    """
    The field is named.
    """
    with pytest.raises(InvalidRequest) as error:
        masks.white("mask_image")(content)

    assert error.value.violations[0].field == "mask_image"


def test_a_mask_with_too_many_pixels_is_not_unfolded():
    """
    A file of a few kilobytes may say that it has billions.
    """
    huge = file_of(Image.new("1", (8193, 8192), 1))
    with pytest.raises(InvalidRequest, match="has more than"):
        masks.white("mask")(huge)
