"""Latents as the tokens of a transformer, and back as pictures."""

import functools
import math
from typing import Any

from services.inference.worker.frames import Size


@functools.lru_cache(maxsize=64)
def grid(count: int, size: Size) -> tuple[int, int]:
    """
    Say how tokens lie in a picture.

    Args:
        count: Of all tokens.
        size: The canvas's. A pipeline may draw at a multiple of it: only its ratio counts.

    Returns:
        Rows and columns.
    """
    ideal = math.sqrt(count * size.height_px / size.width_px)
    possible = (rows for rows in range(1, count + 1) if count % rows == 0)
    rows = min(possible, key=lambda rows: abs(math.log(rows / ideal)))
    return rows, count // rows


def unpacked(latents: Any, size: Size) -> Any:
    """
    Lay out tokens that hold two by two latents each.

    Args:
        latents: Of shape (n, tokens, 4 * channels).
        size: The canvas's.

    Returns:
        A tensor of shape (n, channels, 2 * rows, 2 * columns).
    """
    rows, columns = grid(latents.shape[1], size)
    split = latents.reshape(len(latents), rows, columns, -1, 2, 2)
    return split.permute(0, 3, 1, 4, 2, 5).reshape(len(latents), -1, 2 * rows, 2 * columns)
