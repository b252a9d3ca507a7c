"""
The suite in one process whose event loop and memory are watched.

    python -m benchmarks.watched_suite

prints its URL and key as JSON on standard error, begins to watch with a line on standard input, and
with the next one prints what it saw and ends.
"""

import asyncio
import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Mapping

import psutil

from services.__main__ import running, until_ready

TICK_SECONDS = 0.005


async def main() -> None:
    """Serve, and watch between two lines."""
    async with running(os.environ) as suite:
        await until_ready(suite)
        key = suite.key_file.read_text(encoding="ascii").strip()
        _say({"url": suite.settings.base_url, "key": key})
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
