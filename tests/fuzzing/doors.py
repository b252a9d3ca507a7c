"""
The doors through which callers' bytes come in, for atheris to rattle at.

    python -m tests.fuzzing.doors DOOR SECONDS

finds inputs that raise anything but the caller's own error, or let a URL through that is private;
inputs that reach new code are kept in ``tests/fuzzing/corpus/DOOR`` for the next run.
"""

import asyncio
import contextlib
import io
import ipaddress
import pathlib
import sys
from collections.abc import Callable

import atheris

with atheris.instrument_imports(
    include=["gateway", "services", "httpx", "python_multipart", "imagesize"]
):
    from gateway.bodies import parse_form, parse_json
    from gateway.images import MOST_PIXELS, InputFile, decode_base64, size_of
    from services.outbound import GuardedTransport, Refused, checked, is_public
    from services.rpc.errors import InvalidRequest
    from services.storage.decoding import cleaning, describing
    from services.storage.decoding.refusal import Refusal

CORPUS = pathlib.Path(__file__).with_name("corpus")
MOST_BYTES = 4096


def url(data: bytes) -> None:
    """Read a URL, and resolve what is left of it if it names an address."""
    with contextlib.suppress(Refused):
        found = checked(data.decode("utf-8", "surrogateescape"))
        address = asyncio.run(GuardedTransport(resolve=_literal)._address(found))
        assert is_public(address), (data, address)


async def _literal(host: str, port: int) -> list[str]:
    """Resolve addresses alone: names would ask the network."""
    del port
    return [str(ipaddress.ip_address(host.strip("[]")))]


def base64(data: bytes) -> None:
    """Decode an image in base64."""
    with contextlib.suppress(InvalidRequest):
        assert decode_base64(data.decode("latin-1"), "image")


def data_url(data: bytes) -> None:
    """Decode a data URL."""
    with contextlib.suppress(InvalidRequest):
        assert decode_base64("data:image/png;base64," + data.decode("latin-1"), "image")


def multipart(data: bytes) -> None:
    """Parse a form."""
    with contextlib.suppress(InvalidRequest):
        parse_form(data, "multipart/form-data; boundary=x")


def json(data: bytes) -> None:
    """Parse a JSON body."""
    with contextlib.suppress(InvalidRequest):
        parse_json(data)


def image(data: bytes) -> None:
    """Clean a file, which must then be as good as it was."""
    target = io.BytesIO()
    with contextlib.suppress(Refusal):
        before, is_changed = cleaning.clean(io.BytesIO(data), target)
        if is_changed:
            after, is_changed = cleaning.clean(target, io.BytesIO())
            assert (after, is_changed) == (before, False)


def size(data: bytes) -> None:
    """Read the size of an image from its beginning."""
    found = size_of(InputFile("image", data))
    assert found is None or 0 < found[0] * found[1] <= MOST_PIXELS, found


def text(data: bytes) -> None:
    """Read what an image says of itself from its beginning."""
    with contextlib.suppress(Refusal):
        describing.describe(io.BytesIO(data), io.BytesIO(), header_only=True)


DOORS: dict[str, Callable[[bytes], None]] = {
    door.__name__: door for door in (url, base64, data_url, multipart, json, image, size, text)
}


def main(name: str, seconds: str) -> None:
    """Rattle at one door for a time."""
    folder = CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    options = [f"-max_total_time={seconds}", f"-max_len={MOST_BYTES}", "-timeout=5", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *options, "-rss_limit_mb=2048", str(folder)], DOORS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
