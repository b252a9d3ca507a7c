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


def converted(content, convention="WHITE", size=None, **options):
    target = io.BytesIO()
    masks.convert(io.BytesIO(content), target, convention, size, **options)
    return target.getvalue()


def levels(content, *points):
    """Return a mask's levels at some points, having checked that it is one."""
    with Image.open(io.BytesIO(content)) as mask:
        assert mask.mode == "L"
        return [mask.getpixel(point) for point in points]


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


def half(alpha):
    """A mask that is white at its left, and has another alpha channel at its right."""
    mask = Image.new("RGBA", (8, 4), (255, 255, 255, 255))
    mask.paste((0, 0, 0, alpha), (4, 0, 8, 4))
    return file_of(mask)


GRAY = file_of(Image.linear_gradient("L"))
BLACK_AND_WHITE = file_of(painted("RGB", "black", "white"))


@pytest.mark.parametrize(
    ("content", "convention", "invert", "expected"),
    [
        # Opaque is repainted: the inverse of OpenAI's rule.
        (half(0), "OPAQUE", False, [255, 0]),
        (half(0), "OPAQUE", True, [0, 255]),
        (half(128), "OPAQUE", False, [255, 0]),
        (half(129), "OPAQUE", False, [255, 255]),
        (half(100), "OPAQUE_SOFT", False, [255, 100]),
        (half(100), "OPAQUE_SOFT", True, [0, 155]),
        # An alpha channel that says nothing leaves it to the colours.
        (half(255), "OPAQUE", False, [255, 0]),
        (half(255), "OPAQUE_SOFT", True, [0, 255]),
    ],
)
def test_what_is_opaque_is_repainted(content, convention, invert, expected):
    """
    As AUTOMATIC1111 reads a mask; soft ones keep their levels.
    """
    mask = converted(content, convention, invert=invert)

    assert levels(mask, (0, 0), (7, 3)) == expected


def test_the_levels_of_an_opaque_mask_are_kept():
    """
    Grey is repainted as much as it is white.
    """
    for convention in ("OPAQUE", "OPAQUE_SOFT"):
        assert levels(converted(GRAY, convention), (0, 3), (0, 100)) == [3, 100]


def test_a_mask_may_be_empty_where_opaque_is_repainted():
    """
    AUTOMATIC1111 then repaints nothing, and says nothing of it.
    """
    assert box_of(converted(file_of(Image.new("L", SIZE)), "OPAQUE")) is None
    with pytest.raises(Refusal, match="mask is empty"):
        converted(file_of(Image.new("L", SIZE, 255)), "WHITE", invert=True)


def test_the_edge_of_a_mask_becomes_soft():
    """
    In the direction that is blurred; the middle of each side keeps its value.
    """
    wide = Image.new("L", (64, 8), 255)
    wide.paste(0, (32, 0, 64, 8))
    across = levels(
        converted(file_of(wide), "OPAQUE", blur=(4, 0)), (0, 4), (30, 4), (33, 4), (63, 4)
    )

    assert (across[0], across[3]) == (255, 0)
    assert 255 > across[1] > across[2] > 0
    assert box_of(converted(file_of(wide), "OPAQUE", blur=(0, 4))) == (0, 0, 32, 8)


def test_a_mask_is_cropped_or_continued_as_its_picture_is():
    """
    Cropped, its ends are gone; filled, its edges reach out to the new edges.
    """
    wide = Image.new("L", (48, 16), 0)
    wide.paste(255, (0, 0, 16, 16))
    wide.paste(255, (24, 0, 25, 16))
    cropped = converted(file_of(wide), "OPAQUE", (16, 16), crop=True)
    filled = converted(file_of(wide), "OPAQUE", (48, 48), fill=True)

    assert levels(cropped, (0, 8), (8, 8), (15, 8)) == [0, 255, 0]
    assert levels(filled, (4, 0), (4, 47), (24, 0), (40, 24)) == [255, 255, 255, 0]


@pytest.mark.parametrize("options", [{"crop": True}, {"fill": True}])
def test_a_mask_is_not_unfolded_beyond_what_is_taken(options):
    """
    Nor on the way to a size that would be taken: a line that covers a square is first enlarged.
    """
    line = file_of(Image.new("L", (10_000, 1), 255))
    with pytest.raises(Refusal, match="pixels") as error:
        converted(line, "OPAQUE", (9_000, 9_000), **options)

    assert error.value.reason == "FIELD_OUT_OF_RANGE"
