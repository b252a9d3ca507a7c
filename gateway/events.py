"""Server-sent events: how they are written, and how a silent stream is kept open."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from starlette.responses import StreamingResponse

T = TypeVar("T")

HEARTBEAT_SECONDS = 15.0
# What goes out while there is nothing to say; clients skip lines that begin with a colon.
HEARTBEAT = ": heartbeat\n\n"
# For clients that do not skip them; what says nothing may be an empty line too.
SILENT_HEARTBEAT = "\n"


def event_text(body: Any, *, name: str = "", event_id: str = "") -> str:
    """Write one event; a text goes out as it is, anything else as JSON in one line."""
    data = body if isinstance(body, str) else json.dumps(body, separators=(",", ":"))
    lines = [f"id: {event_id}"] if event_id else []
    if name:
        lines.append(f"event: {name}")
    return "\n".join([*lines, *(f"data: {line}" for line in data.split("\n"))]) + "\n\n"


async def with_heartbeats(
    items: AsyncIterator[T], seconds: float = HEARTBEAT_SECONDS
) -> AsyncIterator[T | None]:
    """Yield the items, and None after each *seconds* of silence."""
    following: asyncio.Future[T] | None = None
    try:
        while True:
            following = following or asyncio.ensure_future(_next(items))
            await asyncio.wait({following}, timeout=seconds)
            if not following.done():
                yield None
                continue
            item, following = following, None
            try:
                yield item.result()
            except _EndError:
                return
    finally:
        if following:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


def event_response(events: AsyncIterator[str], headers: dict[str, str]) -> StreamingResponse:
    """Send events as they come; nothing between here and the client may hold them back."""
    return StreamingResponse(
        events,
        media_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no", **headers},
    )


async def _next(items: AsyncIterator[T]) -> T:
    try:
        return await anext(items)
    except StopAsyncIteration:
        raise _EndError from None


class _EndError(Exception):
    """The end of the items: a future cannot hold StopAsyncIteration."""
