"""
Passes: how often, and over which parts, the pipeline is called for one image.

Most images take one call. A hires pass enlarges what that drew and draws it again; tiles draw the
parts of an enlarged picture, one after the other. Whatever it is, it is one row of the engine.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from pictor.storage.v1 import resampling_pb2
from services.inference.worker.frames import Size, resized
from services.inference.worker.pipeline_call import PipelineCall
from services.inference.worker.rows import Row

FILTERS = {
    resampling_pb2.RESAMPLING_UNSPECIFIED: Image.Resampling.LANCZOS,
    resampling_pb2.RESAMPLING_LANCZOS: Image.Resampling.LANCZOS,
    resampling_pb2.RESAMPLING_NEAREST: Image.Resampling.NEAREST,
    resampling_pb2.RESAMPLING_BILINEAR: Image.Resampling.BILINEAR,
    resampling_pb2.RESAMPLING_BICUBIC: Image.Resampling.BICUBIC,
}
OnStep = Callable[[int, int, int], int]
Box = tuple[int, int, int, int]
Weights = npt.NDArray[np.float32]


class Passes(Protocol):
    """Draws one image."""

    @property
    def call(self) -> PipelineCall:
        """The first call."""

    @property
    def drawn(self) -> Size:
        """The size that the first call drew by itself."""

    def draw(self, row: Row) -> Image.Image:
        """Return the picture in the size that was asked for."""


@dataclass
class OnePass:
    """
    One call.

    Attributes:
        call: Draws.
        drawn: The size that the pipeline drew by itself.
    """

    call: PipelineCall
    drawn: Size = field(init=False)

    def draw(self, row: Row) -> Image.Image:
        """Return the picture in the size that was asked for."""
        picture = self.call.draw(row)
        self.drawn = Size(*picture.size)
        return self.call.shape.finish(resized(picture, self.call.shape.canvas))


@dataclass
class Hires:
    """
    Draws, enlarges and draws again.

    Attributes:
        first: The first pass.
        size: Of the result.
        resampling: How it is enlarged.
        again: Makes the second pass over the enlarged picture; None: nothing is drawn anew.
    """

    first: OnePass
    size: Size
    resampling: Image.Resampling
    again: Callable[[Image.Image], OnePass] | None

    @property
    def call(self) -> PipelineCall:
        """The call of the first pass."""
        return self.first.call

    @property
    def drawn(self) -> Size:
        """The size that the first pass drew."""
        return self.first.drawn

    def draw(self, row: Row) -> Image.Image:
        """Return the picture in its final size."""
        enlarged = resized(self.first.draw(row), self.size, self.resampling)
        if self.again is None or self.call.reports.is_enough:
            return enlarged
        return self.again(enlarged).draw(row)


@dataclass
class Tiles:
    """
    Draws an enlarged picture anew, tile by tile.

    Attributes:
        picture: The enlarged picture.
        boxes: Where the tiles lie.
        overlap_px: How far they overlap.
        each: Makes the pass over a tile, by its number.
    """

    picture: Image.Image
    boxes: Sequence[Box]
    overlap_px: int
    each: Callable[[int, Image.Image], OnePass]
    call: PipelineCall = field(init=False)
    drawn: Size = field(init=False)

    def draw(self, row: Row) -> Image.Image:
        """Return the whole picture."""
        width, height = self.picture.size
        total = np.zeros((height, width, 3), np.float32)
        weights = np.zeros((height, width, 1), np.float32)
        for number, box in enumerate(self.boxes):
            tile = self.picture.crop(box)
            if number == 0 or not self.call.reports.is_enough:
                drawing = self.each(number, tile)
                self.call = drawing.call
                tile = drawing.draw(row)
                self.drawn = drawing.drawn
            left, top, right, bottom = box
            weight = _weight(box, self.picture.size, self.overlap_px)
            total[top:bottom, left:right] += np.asarray(tile, np.float32) * weight
            weights[top:bottom, left:right] += weight
        return Image.fromarray((total / weights).round().astype(np.uint8))


def counted(on_step: OnStep, planned: list[int], number: int) -> OnStep:
    """
    Make what one of several passes calls at each step.

    Args:
        on_step: Is told the image's steps in all.
        planned: The steps of each pass, as far as they are known; shared by the passes.
        number: The pass.
    """

    def told(index: int, done: int, each: int) -> int:
        planned[number] = each
        return on_step(index, sum(planned[:number]) + done, sum(planned))

    return told


def tile_boxes(picture: Size, tile: Size, overlap_px: int) -> list[Box]:
    """Spread tiles evenly over a picture, row by row, so that they overlap at least this far."""
    columns, rows = (
        _starts(whole, min(part, whole), overlap_px)
        for whole, part in zip(picture, tile, strict=True)
    )
    width, height = (min(part, whole) for whole, part in zip(picture, tile, strict=True))
    return [(left, top, left + width, top + height) for top in rows for left in columns]


def _starts(whole: int, part: int, overlap: int) -> list[int]:
    if whole <= part:
        return [0]
    count = max(2, math.ceil((whole - overlap) / max(1, part - overlap)))
    return [round(k * (whole - part) / (count - 1)) for k in range(count)]


def _weight(box: Box, size: tuple[int, int], overlap: int) -> Weights:
    left, top, right, bottom = box
    across = _ramp(right - left, overlap, first=left == 0, last=right == size[0])
    down = _ramp(bottom - top, overlap, first=top == 0, last=bottom == size[1])
    return (down[:, None] * across[None, :])[:, :, None]


def _ramp(length: int, overlap: int, *, first: bool, last: bool) -> Weights:
    places = np.arange(length, dtype=np.float32)
    even = np.ones(length, np.float32)
    rise = np.clip((places + 1) / (overlap + 1), 0, 1)
    fall = np.clip((length - places) / (overlap + 1), 0, 1)
    ramp = (even if first or not overlap else rise) * (even if last or not overlap else fall)
    return ramp.astype(np.float32)
