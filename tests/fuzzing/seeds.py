"""
What the fuzzers begin with: a few good and bad inputs of each door.

    python -m tests.fuzzing.seeds
"""

import base64
import pathlib

from PIL import Image

from tests.corpora import images, ssrf

CORPUS = pathlib.Path(__file__).with_name("corpus")
FORM = (
    b'--x\r\nContent-Disposition: form-data; name="image[]"; filename="a.png"\r\n'
    b"Content-Type: image/png\r\n\r\nabc\r\n"
    b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na red circle\r\n--x--\r\n'
)


def seeds() -> dict[str, list[bytes]]:
    """Return the inputs of each door."""
    small = [
        images.written(Image.new("RGB", (4, 4)), form, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0")
        for form in ("PNG", "JPEG", "WEBP")
    ]
    encoded = [base64.b64encode(one) for one in small]
    return {
        "url": [one.encode("utf-8", "surrogateescape") for one in ssrf.kept()[::12]],
        "base64": [*encoded, base64.urlsafe_b64encode(small[0]), b" a b = \n"],
        "data_url": encoded,
        "multipart": [FORM, FORM[:-6], FORM.replace(b"\r\n", b"\n"), b"--x--"],
        "json": [b'{"prompt": "a", "n": 1e3}', b"[[[]]]", b'"\\ud83d\\ude00"', b"NaN"],
        **dict.fromkeys(("image", "size", "text"), small),
    }


if __name__ == "__main__":
    for door, inputs in seeds().items():
        folder = CORPUS / door
        folder.mkdir(parents=True, exist_ok=True)
        for number, content in enumerate(inputs):
            (folder / f"seed-{number:02}").write_bytes(content)
