"""Masks: what each convention repaints."""

import io

import pytest
from PIL import Image

from services.storage.decoding import masks
from services.storage.decoding.refusal import Refusal

SIZE = (16, 8)
BOX = (2, 2, 10, 6)


def file_of(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def converted(content, convention="WHITE", size=None):
    target = io.BytesIO()
    masks.convert(io.BytesIO(content), target, convention, size)
    return target.getvalue()


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
@pytest.mark.parametrize("convention", ["WHITE", "WHITE_OR_TRANSPARENT"])
def test_white_is_repainted(image, convention):
    """
    From half of the luminance on, whatever the alpha channel says beside it.
    """
    assert box_of(converted(file_of(image), convention)) == BOX


def test_what_is_transparent_is_meant_only_where_nothing_else_can_be():
    """
    A mask of one colour with holes is OpenAI's kind, and Nebula Block does not know it.
    """
    content = file_of(painted("RGBA", (0, 0, 0, 255), (0, 0, 0, 0)))

    assert box_of(converted(content, "WHITE_OR_TRANSPARENT")) == BOX
    with pytest.raises(Refusal, match="mask is empty"):
        converted(content)


def test_a_mask_gets_the_size_of_its_image():
    """
    Without a level between black and white.
    """
    content = file_of(painted("L", 0, 255))

    assert box_of(converted(content, size=(64, 32))) == (8, 8, 40, 24)


@pytest.mark.parametrize("content", [b"", b"no image", file_of(Image.new("L", SIZE))[:50]])
def test_what_is_no_image_is_no_mask(content):
    """
    The reason is that of any other image.
    """
    with pytest.raises(Refusal) as error:
        converted(content)

    assert error.value.reason == "INPUT_IMAGE_INVALID"


def test_a_mask_with_too_many_pixels_is_not_unfolded():
    """
    A file of a few kilobytes may say that it has billions.
    """
    huge = file_of(Image.new("1", (8193, 8192), 1))
    with pytest.raises(Refusal, match="more than"):
        converted(huge)


def hole(size=SIZE, box=BOX):
    """A picture that is fully transparent in *box*, and half so to the right of it."""
    picture = Image.new("RGBA", size, (0, 0, 0, 255))
    picture.paste((255, 255, 255, 128), (box[2], 0, box[2] + 2, 4))
    picture.paste((255, 255, 255, 0), box)
    return picture


def test_the_transparent_part_of_a_mask_is_repainted():
    """
    Alpha 0 is repainted; what is half transparent is kept, and colours count for nothing.
    """
    assert box_of(converted(file_of(hole()), "TRANSPARENT", SIZE)) == BOX


def test_a_palette_may_hold_a_masks_transparency():
    """
    A PNG with a palette has no alpha channel, and transparent pixels all the same.
    """
    picture = Image.new("P", SIZE, 1)
    picture.putpalette([0, 0, 0, 255, 0, 0])
    picture.paste(0, BOX)

    assert box_of(converted(file_of(picture, transparency=0), "TRANSPARENT", SIZE)) == BOX


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (hole((8, 16), (0, 0, 4, 4)), "the mask is 8x16 and the first image 16x8"),
        (Image.new("RGB", SIZE), "the mask has no alpha channel"),
        (Image.new("RGBA", SIZE, (0, 0, 0, 255)), "the mask has no fully transparent pixel"),
    ],
    ids=["size", "opaque", "nothing"],
)
def test_a_mask_that_breaks_its_convention_is_told_which_rule(image, says):
    """
    The sentence begins with the mask, for whoever knows the field's name to put that there.
    """
    with pytest.raises(Refusal, match=says):
        converted(file_of(image), "TRANSPARENT", SIZE)
