"""
The suite in one process whose event loop and memory are watched.

    python -m benchmarks.watched_suite

prints its addresses and key as JSON on standard error, begins to watch with a line on standard
input, and with the next one prints what it saw and ends.
"""

import asyncio
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psutil

from services.__main__ import running, until_ready

TICK_SECONDS = 0.005


@dataclass(frozen=True)
class WatchedSuite:
    """
    A suite in another process.

    Attributes:
        url: Of the gateway.
        storage: ``host:port`` of storage.
        key: The first API key.
    """

    url: str
    storage: str
    key: str
    _process: subprocess.Popen[Any]

    def begin(self) -> None:
        """Let it watch itself from now on."""
        _line(self._process)

    def end(self) -> dict[str, float]:
        """
        End it, and return what it has seen.

        Returns:
            ``grown_mb``: memory above that of the beginning, at most. ``late_ms`` and
            ``latest_ms``: how late a timer was, the 99th percentile and the most.
        """
        _line(self._process)
        return _said(self._process)


@contextlib.contextmanager
def watched_suite(folder: pathlib.Path, **settings: str) -> Iterator[WatchedSuite]:
    """
    Run a suite within the block.

    Args:
        folder: For its data.
        settings: More of them, by variable.
    """
    parts = ("HTTP", "ACCOUNTS", "CATALOG", "INFERENCE", "STORAGE")
    ports = {f"PICTOR_{part}_ADDRESS": "127.0.0.1:0" for part in parts}
    more = {"PICTOR_DATA_DIR": str(folder / "data"), "PICTOR_LOG_LEVEL": "error", **settings}
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.watched_suite"],
        env={**os.environ, **ports, **more},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield WatchedSuite(**_said(process), _process=process)
        finally:
            process.terminate()


def _said(process: subprocess.Popen[Any]) -> dict[str, Any]:
    """Read the next JSON object; warnings may come before it."""
    while line := process.stderr.readline():  # type: ignore[union-attr]  # it is piped
        if line.startswith("{"):
            found: dict[str, Any] = json.loads(line)
            return found
    raise RuntimeError("the suite has ended")


def _line(process: subprocess.Popen[Any]) -> None:
    process.stdin.write("\n")  # type: ignore[union-attr]  # it is piped
    process.stdin.flush()  # type: ignore[union-attr]


async def main() -> None:
    """Serve, and watch between two lines."""
    async with running(os.environ) as suite:
        await until_ready(suite)
        key = suite.key_file.read_text(encoding="ascii").strip()
        where = {"url": suite.settings.base_url, "storage": suite.settings.storage_address}
        _say({**where, "key": key})
        await asyncio.to_thread(sys.stdin.readline)
        watching = asyncio.create_task(_watch())
        await asyncio.to_thread(sys.stdin.readline)
        watching.cancel()
        _say(await watching)


async def _watch() -> dict[str, float]:
    process = psutil.Process()
    before, most, late = process.memory_info().rss, 0, list[float]()
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            begin = time.perf_counter()
            await asyncio.sleep(TICK_SECONDS)
            late.append(time.perf_counter() - begin - TICK_SECONDS)
            most = max(most, process.memory_info().rss)
    return {
        "grown_mb": (most - before) / 1e6,
        "late_ms": statistics.quantiles(late, n=100)[98] * 1000,
        "latest_ms": max(late) * 1000,
    }


def _say(value: Mapping[str, object]) -> None:
    # Standard output is the logs'.
    print(json.dumps(value), file=sys.stderr, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
