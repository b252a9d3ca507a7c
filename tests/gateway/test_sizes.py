import pytest

from gateway import sizes
from gateway.sizes import Size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1024x768", (1024, 768)),
        (" 1024 X 768 ", (1024, 768)),
        ("1024*768", (1024, 768)),
        ("1024\u00d7768", (1024, 768)),
        ("16384x1", (16384, 1)),
        ("16385x1", None),
        ("0x512", None),
        ("512", None),
        ("512x", None),
        ("-1x512", None),
        ("auto", None),
        ("9" * 5000 + "x1", None),
    ],
)
def test_a_size_is_read_with_any_sign_between_its_sides(text, size):
    """
    What is no size, or one that nobody draws, is none.
    """
    assert sizes.parse(text) == size


def test_an_area_keeps_the_ratio():
    """
    The sides are multiples, and never nothing.
    """
    assert sizes.of_area(Size(640, 480), 1024 * 1024, 32) == (1184, 896)
    assert sizes.of_area(Size(10_000, 1), 1024, 32) == (3200, 32)


@pytest.mark.parametrize(
    ("size", "ratio"), [((1000, 1000), "1:1"), ((1920, 1080), "16:9"), ((1, 9), "9:16")]
)
def test_an_image_has_the_nearest_of_geminis_ratios(size, ratio):
    """
    Also where it is longer than all of them.
    """
    assert sizes.gemini_ratio(Size(*size)) == ratio
