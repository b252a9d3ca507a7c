"""
Every connection that this process makes with Python's sockets, as the interpreter reports it.

The interpreter's audit hook sits below every HTTP client, and no code of ours can go around it.
"""

import contextlib
import sys
from collections.abc import Iterator

_watching: list[list[tuple[str, int]]] = []
_hooked = False


def _hear(event: str, arguments: tuple[object, ...]) -> None:
    if event == "socket.connect" and _watching:
        address = arguments[1]
        if isinstance(address, tuple):
            for made in _watching:
                made.append(address[:2])


@contextlib.contextmanager
def connections() -> Iterator[list[tuple[str, int]]]:
    """Collect hosts and ports of the connections that are tried within the block."""
    global _hooked  # noqa: PLW0603 - a hook stays for ever, so there is one
    if not _hooked:
        sys.addaudithook(_hear)
        _hooked = True
    made: list[tuple[str, int]] = []
    _watching.append(made)
    try:
        yield made
    finally:
        _watching.remove(made)
