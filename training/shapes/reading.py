"""
What a picture shows: the background's colour and every figure's colour, place, size and shape.

The inverse of pictures.draw, for pictures that a model drew. Needs NumPy and Pillow only.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.shapes.pictures import (
    ANCHORS_PX,
    COLOURS,
    RADII_PX,
    SHAPES,
    SIDE_PX,
    Picture,
    Point,
    coverage,
)

Labels = NDArray[np.intp]
Region = NDArray[np.bool_]

_NAMES = tuple(COLOURS)
_PALETTE = np.array(list(COLOURS.values()), dtype=np.float32)
_FRAME_PX = 3
_BLOCK_PX = 4
_SMALLEST_PX = 150
# A pixel belongs to a figure from this distance to the background on, in 0..255 RGB.
_DIFFERENT = 40.0


@dataclass(frozen=True)
class FigureReading:
    """A figure as seen; *overlap* is the intersection over union with the shape's template."""

    shape: str
    size: str
    colour: str
    position: str
    overlap: float
    centre_px: Point
    area_px: int


@dataclass(frozen=True)
class Reading:
    """What a picture shows; figures in order of falling area."""

    background: str
    figures: tuple[FigureReading, ...]


def read(picture: Picture | Image.Image) -> Reading:
    """
    Read a picture of any size.

    Returns:
        The background's colour, by majority along the picture's edge, and the figures,
        measured as if the picture were SIDE_PX wide and high.
    """
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image = image.convert("RGB")
    if image.size != (SIDE_PX, SIDE_PX):
        image = image.resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.float32)
    labels = nearest_colours(pixels)
    background = _background(labels)
    readings = [_figure(pixels, labels, background, part) for part in _parts(pixels, background)]
    figures = [figure for figure in readings if figure is not None]
    figures.sort(key=lambda figure: -figure.area_px)
    return Reading(_NAMES[background], tuple(figures))


def nearest_colours(pixels: NDArray[np.float32]) -> Labels:
    """The index in COLOURS of the colour nearest to each pixel of (height, width, 3)."""
    distances = np.square(pixels[:, :, None, :] - _PALETTE).sum(axis=-1)
    labels: Labels = distances.argmin(axis=-1)
    return labels


def _background(labels: Labels) -> int:
    inner = slice(_FRAME_PX, -_FRAME_PX)
    frame = np.ones(labels.shape, dtype=bool)
    frame[inner, inner] = False
    return _commonest(labels[frame])


def _commonest(labels: Labels) -> int:
    return int(np.bincount(labels, minlength=len(_NAMES)).argmax())


def _parts(pixels: NDArray[np.float32], background: int) -> list[Region]:
    """The connected regions unlike the background, found on blocks of 4 x 4 pixels."""
    different = np.square(pixels - _PALETTE[background]).sum(axis=-1) > _DIFFERENT**2
    side = SIDE_PX // _BLOCK_PX
    blocks = different.reshape(side, _BLOCK_PX, side, _BLOCK_PX).any(axis=(1, 3))
    return [
        region.repeat(_BLOCK_PX, axis=0).repeat(_BLOCK_PX, axis=1) & different
        for region in _connected(blocks)
    ]


def _connected(blocks: Region) -> list[Region]:
    """Split a mask into its regions; blocks that share a side are of one region."""
    left = {(int(y), int(x)) for y, x in np.argwhere(blocks)}
    regions: list[Region] = []
    while left:
        region = np.zeros_like(blocks)
        reached = [left.pop()]
        while reached:
            y, x = reached.pop()
            region[y, x] = True
            beside = {(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)} & left
            left -= beside
            reached += beside
        regions.append(region)
    return regions


def _figure(
    pixels: NDArray[np.float32], labels: Labels, background: int, part: Region
) -> FigureReading | None:
    """Measure one region; None for a speck, or an edge that has no colour of its own."""
    others = labels[part & (labels != background)]
    if others.size < _SMALLEST_PX:
        return None
    colour = _commonest(others)
    region = part & _beyond_half(pixels, background, colour)
    area_px = int(region.sum())
    if area_px < _SMALLEST_PX:
        return None
    shape, overlap = _best_shape(region)
    radius_px = math.sqrt(area_px / unit_area(shape))
    centre_px = _box_centre(region, shape, radius_px)
    return FigureReading(
        shape=shape,
        size=min(RADII_PX, key=lambda size: abs(math.log(RADII_PX[size] / radius_px))),
        colour=_NAMES[colour],
        position=min(ANCHORS_PX, key=lambda name: math.dist(ANCHORS_PX[name], centre_px)),
        overlap=overlap,
        centre_px=centre_px,
        area_px=area_px,
    )


def _beyond_half(pixels: NDArray[np.float32], background: int, colour: int) -> Region:
    """Where the way from the background's colour to the figure's is more than half gone."""
    way = _PALETTE[colour] - _PALETTE[background]
    beyond: Region = (pixels - _PALETTE[background]) @ way > 0.5 * float(way @ way)
    return beyond


def _best_shape(region: Region) -> tuple[str, float]:
    overlaps = {shape: _overlap(region, shape) for shape in SHAPES}
    best = max(overlaps, key=lambda shape: overlaps[shape])
    return best, overlaps[best]


def _overlap(region: Region, shape: str) -> float:
    """Intersection over union with the template of the same area and centre of mass."""
    radius_px = math.sqrt(float(region.sum()) / unit_area(shape))
    template = coverage(shape, _box_centre(region, shape, radius_px), radius_px) > 0.5
    return float((region & template).sum() / (region | template).sum())


def _box_centre(region: Region, shape: str, radius_px: float) -> Point:
    """Where the template's bounding box is centred when the centres of mass agree."""
    ys, xs = np.nonzero(region)
    x, y = unit_centroid(shape)
    return float(xs.mean() + 0.5 - x * radius_px), float(ys.mean() + 0.5 - y * radius_px)


def unit_area(shape: str) -> float:
    """The area of a shape of radius 1."""
    return sum(_crosses(shape)) / 2


def unit_centroid(shape: str) -> Point:
    """The centre of mass of a shape of radius 1, from the centre of its bounding box."""
    points, crosses = SHAPES[shape], _crosses(shape)
    following = points[1:] + points[:1]
    pairs = list(zip(points, following, crosses, strict=True))
    x = sum((first[0] + second[0]) * cross for first, second, cross in pairs)
    y = sum((first[1] + second[1]) * cross for first, second, cross in pairs)
    return x / (3 * sum(crosses)), y / (3 * sum(crosses))


def _crosses(shape: str) -> list[float]:
    points = SHAPES[shape]
    following = points[1:] + points[:1]
    return [a[0] * b[1] - b[0] * a[1] for a, b in zip(points, following, strict=True)]
