"""
Sizes: how a picture of the requested size and the canvas that the model draws on map to each other.

A canvas has the model's native size, or the requested one rounded up to what the family can draw.
Nothing is distorted: a picture is scaled until it just fits, and what remains is filled by
repeating its edge pixels.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from pictor.catalog.v1 import model_pb2


class Size(NamedTuple):
    """A width and a height in pixels."""

    width_px: int
    height_px: int

    def __str__(self) -> str:
        return f"{self.width_px}x{self.height_px}"

    def reduced(self, scale: float) -> "Size":
        """Make both sides smaller, to one pixel at least."""
        return Size(*(max(1, round(side * scale)) for side in self))


@dataclass(frozen=True)
class Placement:
    """
    Where a picture of one size lies, scaled, within a larger or smaller one.

    Attributes:
        size: The picture.
        canvas: What it lies in.
        left_px: From the canvas's left edge.
        top_px: From the canvas's upper edge.
        scaled: The picture's size within the canvas.
    """

    size: Size
    canvas: Size
    left_px: int
    top_px: int
    scaled: Size

    def onto(
        self, picture: Image.Image, resampling: Image.Resampling = Image.Resampling.LANCZOS
    ) -> Image.Image:
        """Scale a picture into its place, and repeat its edge pixels up to the canvas's edges."""
        scaled = resized(picture, self.scaled, resampling)
        if self.scaled == self.canvas:
            return scaled
        right = self.canvas.width_px - self.left_px - self.scaled.width_px
        bottom = self.canvas.height_px - self.top_px - self.scaled.height_px
        pixels = np.asarray(scaled)
        margins = ((self.top_px, bottom), (self.left_px, right)) + ((0, 0),) * (pixels.ndim - 2)
        return Image.fromarray(np.pad(pixels, margins, mode="edge"))

    def off(self, canvas: Image.Image) -> Image.Image:
        """Take a picture out of its place, at its own size."""
        right, bottom = self.left_px + self.scaled.width_px, self.top_px + self.scaled.height_px
        cut = canvas.crop((self.left_px, self.top_px, right, bottom))
        return resized(cut, self.size)

    def reduced(self, scale: float) -> "Placement":
        """Make everything smaller."""
        sizes = (self.size, self.canvas, self.scaled)
        return _centred(*(size.reduced(scale) for size in sizes))


@dataclass(frozen=True)
class Frame:
    """
    The canvas of a drawing, and the way from it to the requested size.

    Attributes:
        requested: The size of the result, and of the input images.
        canvas: The size that the model draws.
        inputs: Where an input image lies on the canvas.
        enlarged: Where the canvas lies in the result; None where the result is taken off the
            canvas from where the input image lay.
    """

    requested: Size
    canvas: Size
    inputs: Placement
    enlarged: Placement | None

    def finish(self, picture: Image.Image) -> Image.Image:
        """Make the result of a picture of the canvas's size."""
        return self.enlarged.onto(picture) if self.enlarged else self.inputs.off(picture)

    def reduced(self, side_px: int) -> "Frame":
        """Make everything so much smaller that no side of the result is longer than *side_px*."""
        scale = min(1.0, side_px / max(self.requested))
        return Frame(
            self.requested.reduced(scale),
            self.canvas.reduced(scale),
            self.inputs.reduced(scale),
            self.enlarged and self.enlarged.reduced(scale),
        )


def frame(
    requested: Size, native: model_pb2.Size | None, multiple_px: int, *, from_picture: bool
) -> Frame:
    """
    Choose the canvas of a drawing.

    Args:
        requested: The size of the result.
        native: The only size that the model draws, if there is one.
        multiple_px: Divides the sides of every canvas.
        from_picture: Whether the drawing starts from an input image, which the result then covers
            point by point. A drawing from the prompt alone shows all that the model drew.
    """
    if native:
        canvas = Size(native.width_px, native.height_px)
        if canvas != requested:
            enlarged = None if from_picture else fitted(canvas, requested)
            return Frame(requested, canvas, fitted(requested, canvas), enlarged)
    canvas = Size(*(-(-side // multiple_px) * multiple_px for side in requested))
    return Frame(requested, canvas, _centred(requested, canvas, requested), None)


def fitted(size: Size, canvas: Size) -> Placement:
    """Place a picture in the middle of a canvas, as large as fits."""
    scale = min(canvas.width_px / size.width_px, canvas.height_px / size.height_px)
    return _centred(size, canvas, Size(*(max(1, round(side * scale)) for side in size)))


def resized(
    picture: Image.Image, size: Size, resampling: Image.Resampling = Image.Resampling.LANCZOS
) -> Image.Image:
    """Scale a picture; one that has the size already keeps every pixel."""
    return picture if picture.size == size else picture.resize(size, resampling)


def _centred(size: Size, canvas: Size, scaled: Size) -> Placement:
    left = (canvas.width_px - scaled.width_px) // 2
    top = (canvas.height_px - scaled.height_px) // 2
    return Placement(size, canvas, left, top, scaled)
