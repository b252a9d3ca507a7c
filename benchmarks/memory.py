"""Resident memory of the processes without torch: the four services and the gateway together."""

import pathlib
import tempfile

import psutil

from benchmarks.report import Row
from benchmarks.subjects import suite_in

REQUESTS = 20
LIMIT_MB = 250


def measure() -> list[Row]:
    """Read the resident memory when the suite is ready, and after *REQUESTS* pictures."""
    with tempfile.TemporaryDirectory() as name, suite_in(pathlib.Path(name) / "data") as suite:
        suite.ready()
        at_start = _resident_mb(suite.process.pid)
        for _ in range(REQUESTS):
            suite.draw(pathlib.Path(name) / "picture.png")
        after = _resident_mb(suite.process.pid)
    return [
        Row("when ready", [at_start], goal=LIMIT_MB, unit="MB"),
        Row(f"after {REQUESTS} pictures", [after], goal=LIMIT_MB, unit="MB"),
    ]


def _resident_mb(pid: int) -> float:
    """Sum the suite's processes, without those that have torch's library mapped."""
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    lean = [p for p in processes if not any("libtorch" in m.path for m in p.memory_maps())]
    return float(sum(process.memory_info().rss for process in lean) / 1e6)
