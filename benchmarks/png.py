"""
PNG: the encoder over Pillow's default, on pictures like photographs.

Noise whose amplitude falls with its frequency, as in photographs, and a sensor's grain. The files
are compared in time and in size, and must hold the same pixels.
"""

import io
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from benchmarks.report import Row
from services.inference.worker.encode import png

REPEATS = 7
SIDES_PX = (512, 1024)
PICTURES = 3
FASTEST_SHARE, MOST_SIZE = 1 / 5, 1.10
GRAIN = 2.0


def measure() -> list[Row]:
    """Encode with both, in turn; RuntimeError if the pixels differ."""
    rows = []
    for side in SIDES_PX:
        pictures = [photograph(side, seed) for seed in range(PICTURES)]
        seconds: dict[str, list[float]] = {"ours": [], "pillow": []}
        sizes: dict[str, list[float]] = {"ours": [], "pillow": []}
        for repeat in range(REPEATS):
            picture = pictures[repeat % PICTURES]
            for name, encode in (("pillow", _pillow), ("ours", png)):
                took, content = _timed(encode, picture)
                seconds[name].append(took)
                sizes[name].append(len(content) / 1e6)
                _require_same(content, picture)
        rows += [
            Row(f"time at {side} x {side}", seconds["ours"], seconds["pillow"], FASTEST_SHARE),
            Row(f"size at {side} x {side}", sizes["ours"], sizes["pillow"], MOST_SIZE, "MB"),
        ]
    return rows


def photograph(side_px: int, seed: int) -> Image.Image:
    """Make a picture of *side_px* by *side_px*: noise of all scales, the larger the stronger."""
    random = np.random.default_rng(seed)
    frequencies = np.hypot(
        np.fft.fftfreq(side_px)[:, None, None], np.fft.rfftfreq(side_px)[None, :, None]
    )
    spectrum = np.fft.rfft2(random.normal(size=(side_px, side_px, 3)), axes=(0, 1))
    smooth = np.fft.irfft2(spectrum / np.maximum(frequencies, 1 / side_px) ** 1.5, axes=(0, 1))
    # Colours go together, as they do in photographs.
    smooth = 0.8 * smooth[..., :1] + 0.2 * smooth
    pixels = 128 + 50 * smooth / smooth.std() + random.normal(scale=GRAIN, size=smooth.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _timed(encode: Callable[[Image.Image], bytes], picture: Image.Image) -> tuple[float, bytes]:
    started = time.perf_counter()
    content = encode(picture)
    return time.perf_counter() - started, content


def _pillow(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _require_same(content: bytes, picture: Image.Image) -> None:
    if Image.open(io.BytesIO(content)).convert("RGB").tobytes() != picture.tobytes():
        raise RuntimeError("the file holds other pixels than the picture")
