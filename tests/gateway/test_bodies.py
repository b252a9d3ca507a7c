import pytest

from gateway.bodies import parse_form, parse_json
from gateway.images import Upload
from services.rpc.errors import InvalidRequest

MULTIPART = "multipart/form-data; boundary=--x--"


def part(head, value):
    return b"----x--\r\nContent-Disposition: form-data; " + head + b"\r\n\r\n" + value + b"\r\n"


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b"\xef\xbb\xbf[]", []),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        (b"[" * 90 + b"]" * 90, None),
    ],
)
def test_good_json_is_read(content, value):
    """
    Also with a byte order mark, with surrogate pairs, and as deep as bodies reasonably are.
    """
    parsed = parse_json(content)

    assert value is None or parsed == value


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"a": Infinity}',
        b'{"a": "\\ud800"}',
        b'{"\\uDFFF": 1}',
        b"\xff\xfe",
        b"[" * 200 + b"]" * 200,
        b"[" * 100_000,
        b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
        b"1" * 5_000,
    ],
)
def test_bad_json_is_the_callers_mistake(content):
    """
    Whatever is sent ends in InvalidRequest, and not in the interpreter's own errors.
    """
    with pytest.raises(InvalidRequest):
        parse_json(content)


def test_a_form_keeps_files_as_bytes_and_repeats_in_order():
    """
    Names with brackets, repeated names, quotes and line ends inside of files are all kept.
    """
    content = (
        part(b'name="prompt"', "ein Füchs".encode())
        + part(b'name="image[]"; filename="a.png"\r\nContent-Type: text/plain', b"\r\n\x89\r\n\r\n")
        + part(b'filename="b"; name="image[]"', b"")
        + part(rb'name="a\"b"', b"1")
        + b"----x----\r\n"
    )

    assert parse_form(content, MULTIPART) == {
        "prompt": ["ein Füchs"],
        "image[]": [Upload(b"\r\n\x89\r\n\r\n"), Upload(b"")],
        'a"b': ["1"],
    }


def test_an_urlencoded_form_is_read():
    """
    Plain HTML forms work too.
    """
    form = parse_form(b"prompt=a+b&n=2&n=3&empty=", "application/x-www-form-urlencoded")

    assert form == {"prompt": ["a b"], "n": ["2", "3"], "empty": [""]}


@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        (b"", MULTIPART),
        (b"", "multipart/form-data"),
        (part(b'name="a"', b"1"), MULTIPART),
        (part(b"", b"1") + b"----x----", MULTIPART),
        (part(b'name="a"', b"\xff") + b"----x----", MULTIPART),
        (part(b'name="a"', b"1") * 2000 + b"----x----", MULTIPART),
        (b"a=%ff&" * 2000, "application/x-www-form-urlencoded"),
    ],
)
def test_a_broken_form_is_the_callers_mistake(content, media_type):
    """
    A form that was cut off, has no boundary, no names or too many parts is refused.
    """
    with pytest.raises(InvalidRequest):
        parse_form(content, media_type)
