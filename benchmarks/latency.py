"""
Latency of one request, from the HTTP call to the file, over the bare pipeline call and save.

Both are warm; they draw alternately, and the pictures are compared.
"""

import pathlib
import tempfile
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from benchmarks.report import Row
from benchmarks.subjects import Bare, suite_in

REPEATS = 15


def measure() -> list[Row]:
    """Draw with both *REPEATS* times; RuntimeError if the pictures differ by more than 1/255."""
    bare = Bare()
    with tempfile.TemporaryDirectory() as name, suite_in(pathlib.Path(name) / "data") as suite:
        folder = pathlib.Path(name)
        try:
            bare.ready()
            suite.ready()
            seconds: dict[str, list[float]] = {"suite": [], "bare": []}
            for turn in range(REPEATS + 2):
                for subject, draw in (("bare", bare.draw), ("suite", suite.draw)):
                    took = _timed(draw, folder / f"{subject}.png")
                    if turn >= 2:  # the first turns warm both up
                        seconds[subject].append(took)
            _compare(folder)
        finally:
            bare.close()
    return [Row("one request, 256 x 256, 20 steps", seconds["suite"], seconds["bare"])]


def _timed(draw: Callable[[pathlib.Path], None], path: pathlib.Path) -> float:
    started = time.perf_counter()
    draw(path)
    return time.perf_counter() - started


def _compare(folder: pathlib.Path) -> None:
    ours, theirs = (
        np.asarray(Image.open(folder / f"{name}.png").convert("RGB"), dtype=int)
        for name in ("suite", "bare")
    )
    difference = int(np.abs(ours - theirs).max())
    print(f"greatest difference of a pixel: {difference}/255\n")
    if difference > 1:
        raise RuntimeError(f"the pictures differ by {difference}/255")
