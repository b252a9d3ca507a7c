"""
Connections that wait only so long, and heads that are only so large: uvicorn bounds neither.

A connection that sends nothing, or its head or body byte by byte, would otherwise hold its place
for ever. ``bodies`` answers slow bodies that somebody reads; this closes all the rest.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

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
