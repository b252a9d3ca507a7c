"""
Scenes of shapes and their pictures.

A scene is one or two figures on a flat background. Everything a caption can say of a
figure is a word of SHAPES, RADII_PX, COLOURS or ANCHORS_PX; what it cannot say (a few
pixels of place, a few percent of size) is jitter. Needs NumPy and Pillow only.
"""

import math
import zlib
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Picture: TypeAlias = NDArray[np.uint8]
Mask: TypeAlias = NDArray[np.float32]
Point: TypeAlias = tuple[float, float]

SIDE_PX = 256

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 35),
    "green": (30, 160, 60),
    "blue": (30, 70, 220),
    "yellow": (250, 215, 30),
    "orange": (250, 130, 20),
    "purple": (125, 40, 175),
    "pink": (250, 130, 190),
    "cyan": (40, 205, 225),
    "brown": (125, 75, 35),
    "black": (15, 15, 15),
    "white": (250, 250, 250),
    "grey": (130, 130, 130),
}

RADII_PX: dict[str, float] = {"small": 26.0, "medium": 42.0, "large": 58.0}

_NEAR, _MIDDLE, _FAR = 72.0, 128.0, 184.0

# Where a figure's bounding box is centred: pixels from the left, from the top.
ANCHORS_PX: dict[str, Point] = {
    "centre": (_MIDDLE, _MIDDLE),
    "left": (_NEAR, _MIDDLE),
    "right": (_FAR, _MIDDLE),
    "top": (_MIDDLE, _NEAR),
    "bottom": (_MIDDLE, _FAR),
    "top left": (_NEAR, _NEAR),
    "top right": (_FAR, _NEAR),
    "bottom left": (_NEAR, _FAR),
    "bottom right": (_FAR, _FAR),
}

JITTER_PX = 6.0
JITTER_SCALE = 0.05
GAP_PX = 9.0
HELD_OUT_ONE_IN = 10
_SUPERSAMPLING = 4


def _turn(count: int, radius: float = 1.0, start: float = 0.0) -> list[Point]:
    """*count* points of a circle, clockwise on the screen, the first one *start* turns from 12."""
    angles = [2 * math.pi * (start + index / count) for index in range(count)]
    return [(radius * math.sin(angle), -radius * math.cos(angle)) for angle in angles]


def _star() -> list[Point]:
    pairs = zip(_turn(5), _turn(5, radius=0.45, start=0.1), strict=True)
    return [point for pair in pairs for point in pair]


def _heart() -> list[Point]:
    angles = [2 * math.pi * index / 72 for index in range(72)]
    return [
        (
            16 * math.sin(a) ** 3,
            -(13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)),
        )
        for a in angles
    ]


def _normalised(points: list[Point], half_extent: float) -> list[Point]:
    """*points* with the bounding box centred on 0 and its longer half *half_extent*."""
    xs, ys = zip(*points, strict=True)
    scale = half_extent / (max(max(xs) - min(xs), max(ys) - min(ys)) / 2)
    middle_x, middle_y = (max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2
    return [((x - middle_x) * scale, (y - middle_y) * scale) for x, y in points]


# Outlines in radii. The half extents differ so that "small" looks equally small on all.
SHAPES: dict[str, list[Point]] = {
    "circle": _normalised(_turn(96), 1.0),
    "square": _normalised(_turn(4, start=0.125), 0.9),
    "triangle": _normalised(_turn(3), 1.05),
    "star": _normalised(_star(), 1.12),
    "heart": _normalised(_heart(), 1.0),
    "diamond": _normalised([(0, -1), (0.7, 0), (0, 1), (-0.7, 0)], 1.12),
}


@dataclass(frozen=True)
class Figure:
    """One shape: what is said of it, then the jitter that no caption says."""

    shape: str
    size: str
    colour: str
    position: str
    offset_px: Point = (0.0, 0.0)
    scale: float = 1.0

    @property
    def centre_px(self) -> Point:
        """Where its bounding box is centred: pixels from the left, from the top."""
        x, y = ANCHORS_PX[self.position]
        return x + self.offset_px[0], y + self.offset_px[1]

    @property
    def radius_px(self) -> float:
        """What its outline, given in radii, is scaled by."""
        return RADII_PX[self.size] * self.scale

    @property
    def reach_px(self) -> float:
        """How far the outline's farthest point is from the centre."""
        return self.radius_px * max(math.hypot(x, y) for x, y in SHAPES[self.shape])


@dataclass(frozen=True)
class Scene:
    """One or two figures on a background; the figures do not touch."""

    background: str
    figures: tuple[Figure, ...]

    @property
    def held_out(self) -> bool:
        """Whether training never draws one of its figures on its background."""
        return any(held_out(figure, self.background) for figure in self.figures)


def held_out(figure: Figure, background: str) -> bool:
    """Whether training never draws this combination of words; one in ten is kept from it."""
    words = (figure.shape, figure.size, figure.colour, figure.position, background)
    return zlib.crc32(",".join(words).encode()) % HELD_OUT_ONE_IN == 0


def coverage(shape: str, centre_px: Point, radius_px: float, side_px: int = SIDE_PX) -> Mask:
    """
    How much of each pixel a shape covers.

    Returns:
        An array of shape (side_px, side_px), from 0 outside to 1 inside, edges anti-aliased.
    """
    reach = int(radius_px * 1.2) + 2
    left, top = int(centre_px[0]) - reach, int(centre_px[1]) - reach
    grid = _SUPERSAMPLING
    tile = Image.new("L", (2 * reach * grid, 2 * reach * grid))
    outline = [
        ((centre_px[0] - left + x * radius_px) * grid, (centre_px[1] - top + y * radius_px) * grid)
        for x, y in SHAPES[shape]
    ]
    ImageDraw.Draw(tile).polygon(outline, fill=255)
    mask = Image.new("L", (side_px, side_px))
    mask.paste(tile.reduce(grid), (left, top))
    return np.asarray(mask, dtype=np.float32) / np.float32(255)


def draw(scene: Scene) -> Picture:
    """
    Draw a scene.

    Returns:
        An array of shape (SIDE_PX, SIDE_PX, 3), uint8, RGB.
    """
    picture = Image.new("RGB", (SIDE_PX, SIDE_PX), COLOURS[scene.background])
    for figure in scene.figures:
        mask = coverage(figure.shape, figure.centre_px, figure.radius_px)
        stencil = Image.fromarray((mask * 255).round().astype(np.uint8))
        picture.paste(COLOURS[figure.colour], mask=stencil)
    return np.asarray(picture)


def random_scene(random: np.random.Generator, *, two: float = 0.22, unseen: bool = False) -> Scene:
    """
    Choose a scene, with probability *two* one of two figures.

    Training sees no held-out combination; an *unseen* scene has at least one.
    """
    while True:
        background = str(random.choice(list(COLOURS)))
        count = 2 if random.random() < two else 1
        figures = tuple(_random_figure(random, background) for _ in range(count))
        scene = Scene(background, figures)
        if _apart(figures) and scene.held_out == unseen:
            return scene


def _random_figure(random: np.random.Generator, background: str) -> Figure:
    dx, dy = random.uniform(-JITTER_PX, JITTER_PX, 2)
    return Figure(
        shape=str(random.choice(list(SHAPES))),
        size=str(random.choice(list(RADII_PX))),
        colour=str(random.choice([colour for colour in COLOURS if colour != background])),
        position=str(random.choice(list(ANCHORS_PX))),
        offset_px=(float(dx), float(dy)),
        scale=float(random.uniform(1 - JITTER_SCALE, 1 + JITTER_SCALE)),
    )


def _apart(figures: tuple[Figure, ...]) -> bool:
    if len(figures) < 2:
        return True
    first, second = figures
    distance_px = math.dist(first.centre_px, second.centre_px)
    return distance_px > first.reach_px + second.reach_px + GAP_PX
