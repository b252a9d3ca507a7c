import base64

import pytest

from gateway.images import InputFile, decode_base64
from services.rpc.errors import InvalidRequest

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
