"""A network that fails as networks do, between two parts of the suite: a TCP proxy in this loop."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

CHUNK_BYTES = 64 * 1024


@dataclass
class Link:
    """
    A way to a server.

    Attributes:
        address: Where it begins.
        delay_seconds: How much later everything arrives.
        chunk_bytes: How much is passed on at once, each after the delay.
        open: While it is not set, nothing arrives and nobody is told: the line is half open.
    """

    target: str
    address: str = ""
    delay_seconds: float = 0.0
    chunk_bytes: int = CHUNK_BYTES
    open: asyncio.Event = field(default_factory=asyncio.Event)
    accepted: int = 0
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def reset(self) -> None:
        """End every connection with a RST."""
        for writer in self._writers:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        host, _, port = self.target.rpartition(":")
        try:
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(self._pass_on(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(self.chunk_bytes):
                await self.open.wait()
                await asyncio.sleep(self.delay_seconds)
                sink.write(data)
                await sink.drain()
        sink.transport.abort()

    async def close(self) -> None:
        self.reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def link_to(target: str) -> AsyncIterator[Link]:
    """Lay a line to ``host:port`` for the time of the block."""
    link = Link(target)
    link.open.set()
    server = await asyncio.start_server(link.serve, "127.0.0.1", 0)
    link.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield link
    finally:
        server.close()
        await link.close()
