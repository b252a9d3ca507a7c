"""
Cold start: from the command to ready, and to the first picture, over a bare script.

Both start from nothing in a warm file cache, alternately; the suite's databases exist already.
"""

import pathlib
import tempfile
import time

from benchmarks.report import Row
from benchmarks.subjects import Bare, suite_in

REPEATS = 5


def measure() -> list[Row]:
    """Start both *REPEATS* times and time them to ready and to the first picture."""
    ready: dict[str, list[float]] = {"suite": [], "bare": []}
    picture: dict[str, list[float]] = {"suite": [], "bare": []}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        _suite(folder)  # makes the databases and the key
        for _ in range(REPEATS):
            for subject, once in (("bare", _bare), ("suite", _suite)):
                seconds_ready, seconds_picture = once(folder)
                ready[subject].append(seconds_ready)
                picture[subject].append(seconds_picture)
    return [
        Row("start to ready", ready["suite"], ready["bare"]),
        Row("start to first picture", picture["suite"], picture["bare"], goal=1.1),
    ]


def _bare(folder: pathlib.Path) -> tuple[float, float]:
    started = time.perf_counter()
    bare = Bare()
    try:
        bare.ready()
        ready = time.perf_counter() - started
        bare.draw(folder / "bare.png")
        return ready, time.perf_counter() - started
    finally:
        bare.close()


def _suite(folder: pathlib.Path) -> tuple[float, float]:
    started = time.perf_counter()
    with suite_in(folder / "data") as suite:
        suite.ready()
        ready = time.perf_counter() - started
        suite.draw(folder / "suite.png")
        return ready, time.perf_counter() - started
