"""
Connections that wait only so long, and heads that are only so large: uvicorn bounds neither.

A connection that sends nothing, or its head or body byte by byte, would otherwise hold its place
for ever. ``bodies`` answers slow bodies that somebody reads; this closes all the rest.

ASGI has no informational responses with headers of one's own either: ``hint_of`` sends them.
"""

import asyncio
import functools
from collections.abc import Callable, Mapping
from typing import Any

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

HEAD_SECONDS = 30.0
# Longer than bodies.Patience has, so that a reader of the body can still answer 408.
BODY_SECONDS = 305.0
# What the caller may still send of a body that was answered without being read.
LINGER_SECONDS = 10.0
HEAD_BYTES = 64 * 1024
_HEAD_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)

_HINT = "pictor.early_hints"

Hint = Callable[[Mapping[str, str]], None]


def hint_of(scope: Scope) -> Hint | None:
    """
    Return what sends headers ahead of a request's response, with status 103; None where HTTP does
    not permit it, or another server than ours is in front.
    """
    hint: Hint | None = scope.get("state", {}).get(_HINT)
    return hint


class BoundedProtocol(HttpToolsProtocol):
    """
    HTTP as uvicorn speaks it, with a deadline for each part of a request.

    Attributes:
        head_seconds: For the request line and the headers, from the first byte or the connection.
        body_seconds: From there to the last byte of the body.
        linger_seconds: For the rest of a body whose request is answered already.
    """

    head_seconds = HEAD_SECONDS
    body_seconds = BODY_SECONDS
    linger_seconds = LINGER_SECONDS

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._deadline: asyncio.TimerHandle | None = None
        self._in_body = False
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock."""
        super().connection_made(transport)
        self._expect_within(self.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop it."""
        self._expect_nothing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head, and let uvicorn read it."""
        if not self._in_body:
            self._head_bytes += len(data)
            # While an answer is on its way, nobody waits for another request.
            if self._deadline is None and self._answered():
                self._expect_within(self.head_seconds)
        super().data_received(data)
        if self._head_bytes > HEAD_BYTES and not self.transport.is_closing():
            self.transport.write(_HEAD_TOO_LARGE)
            self.transport.close()

    def on_headers_complete(self) -> None:
        """Go on to the body."""
        self._in_body, self._head_bytes = True, 0
        self._expect_within(self.body_seconds)
        super().on_headers_complete()
        # A client of HTTP/1.0 would take the first response for the last one.
        if self.cycle and self.cycle.scope is self.scope and self.scope["http_version"] == "1.1":
            hint = functools.partial(self._hint, self.cycle)
            self.scope["state"][_HINT] = hint

    def on_message_complete(self) -> None:
        """Leave the time to the gateway; but uvicorn's own clock does not follow a late body."""
        self._in_body, self._head_bytes = False, 0
        self._expect_nothing()
        if self._answered():
            self._expect_within(self.head_seconds)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Give a body that nobody wants a short time to end."""
        super().on_response_complete()
        if self._in_body:
            self._expect_within(self.linger_seconds)

    def _hint(self, cycle: RequestResponseCycle, headers: Mapping[str, str]) -> None:
        if cycle.response_started or cycle.disconnected or self.transport.is_closing():
            return
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.transport.write(f"HTTP/1.1 103 Early Hints\r\n{lines}\r\n".encode("latin-1"))

    def _answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _expect_within(self, seconds: float) -> None:
        self._expect_nothing()
        self._deadline = self.loop.call_later(seconds, self._give_up)

    def _expect_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self.transport.abort()
