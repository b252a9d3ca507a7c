"""
The pictures that pictor/shapes learns from, their captions, and the reading of pictures.
"""

import itertools

import numpy as np
import pytest
from PIL import Image

from training.shapes.captions import (
    COLOUR_WORDS,
    PLACES,
    SHAPE_WORDS,
    SIZE_WORDS,
    caption,
    vocabulary,
)
from training.shapes.pictures import (
    ANCHORS_PX,
    COLOURS,
    RADII_PX,
    SHAPES,
    SIDE_PX,
    Figure,
    Scene,
    coverage,
    draw,
    held_out,
    random_scene,
)
from training.shapes.reading import FigureReading, read, unit_area


def words_of(figure: Figure | FigureReading) -> tuple[str, str, str, str]:
    return figure.shape, figure.size, figure.colour, figure.position


def scenes(count: int, *, two: float = 0.22, unseen: bool = False) -> list[Scene]:
    random = np.random.default_rng(7)
    return [random_scene(random, two=two, unseen=unseen) for _ in range(count)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", RADII_PX)
def test_drawn_area_is_the_outlines(shape: str, size: str) -> None:
    """
    A drawn shape covers the area that its outline encloses.
    """
    covered_px = float(coverage(shape, (128.0, 128.0), RADII_PX[size]).sum())

    assert covered_px == pytest.approx(unit_area(shape) * RADII_PX[size] ** 2, rel=0.05)


def test_picture_has_the_scenes_colours() -> None:
    """
    A picture's corner has the background's colour and its middle the figure's.
    """
    picture = draw(Scene("yellow", (Figure("circle", "small", "blue", "centre"),)))

    assert picture.shape == (SIDE_PX, SIDE_PX, 3)
    assert tuple(picture[0, 0]) == COLOURS["yellow"]
    assert tuple(picture[SIDE_PX // 2, SIDE_PX // 2]) == COLOURS["blue"]


@pytest.mark.parametrize("position", ANCHORS_PX)
def test_the_largest_figure_fits_everywhere(position: str) -> None:
    """
    No figure is cut by the picture's edge, wherever it lies.
    """
    for shape in SHAPES:
        picture = draw(Scene("white", (Figure(shape, "large", "black", position),)))
        edge = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
        assert (edge == COLOURS["white"]).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", RADII_PX)
def test_reading_tells_shapes_and_sizes_apart(shape: str, size: str) -> None:
    """
    Every shape of every size is read as itself.
    """
    figure = Figure(shape, size, "red", "bottom left", offset_px=(4.3, -5.1), scale=0.96)

    (seen,) = read(draw(Scene("cyan", (figure,)))).figures

    assert words_of(seen) == words_of(figure)
    assert seen.overlap > 0.95


@pytest.mark.parametrize("two", [0.0, 1.0])
def test_reading_a_drawn_scene_returns_that_scene(two: float) -> None:
    """
    A drawn scene, of one figure or of two, is read as the words it was drawn from.
    """
    for scene in scenes(15, two=two):
        reading = read(draw(scene))
        assert reading.background == scene.background
        assert sorted(map(words_of, reading.figures)) == sorted(map(words_of, scene.figures))


def test_every_pair_of_colours_is_told_apart() -> None:
    """
    Any colour is read rightly on any other.
    """
    pairs = list(itertools.permutations(COLOURS, 2))[::7]
    for background, colour in pairs:
        scene = Scene(background, (Figure("heart", "small", colour, "top"),))
        reading = read(draw(scene))
        assert (reading.background, reading.figures[0].colour) == (background, colour)


def test_pictures_of_another_size_are_read() -> None:
    """
    A picture of other than the native size is measured as if it had that.
    """
    scene = Scene("grey", (Figure("star", "large", "green", "right"),))
    image = Image.fromarray(draw(scene)).resize((512, 512), Image.Resampling.BICUBIC)

    (seen,) = read(image).figures

    assert words_of(seen) == ("star", "large", "green", "right")


def test_an_empty_picture_has_no_figures() -> None:
    """
    A flat picture is a background and nothing on it, and specks do not count.
    """
    picture = np.full((SIDE_PX, SIDE_PX, 3), COLOURS["pink"], dtype=np.uint8)
    picture[40:48, 60:68] = 0

    reading = read(picture)

    assert reading.background == "pink"
    assert reading.figures == ()


def test_complete_captions_say_everything() -> None:
    """
    A complete caption names the shape, size, colour, place and background.
    """
    random = np.random.default_rng(3)
    for scene in scenes(100, two=0.0):
        text = caption(scene, random, complete=True).lower()
        (figure,) = scene.figures
        for choices in (
            SHAPE_WORDS[figure.shape],
            SIZE_WORDS[figure.size],
            COLOUR_WORDS[figure.colour],
            PLACES[figure.position],
            COLOUR_WORDS[scene.background],
        ):
            assert any(choice in text for choice in choices), text


def test_captions_name_no_colour_that_is_not_there() -> None:
    """
    Whatever a caption leaves unsaid, the colours it names are the scene's.
    """
    random = np.random.default_rng(4)
    for scene in scenes(200):
        colours = {scene.background, *(figure.colour for figure in scene.figures)}
        words = set(caption(scene, random).lower().replace(".", " ").replace(",", " ").split())
        others = [w for c in COLOUR_WORDS if c not in colours for w in COLOUR_WORDS[c]]
        assert words.isdisjoint(others)


def test_one_scene_is_described_in_many_ways() -> None:
    """
    Asked again and again, the captions of one scene differ in words and in order.
    """
    random = np.random.default_rng(5)
    (scene,) = scenes(1)

    texts = {caption(scene, random) for _ in range(100)}

    assert len(texts) > 80


def test_sides_are_said_as_they_are_drawn() -> None:
    """
    "A to the left of B" is said only when A is on the left.
    """
    random = np.random.default_rng(6)
    red = Figure("circle", "small", "red", "left")
    blue = Figure("square", "small", "blue", "right")
    texts = [caption(Scene("white", (blue, red)), random, complete=True) for _ in range(300)]

    related = [text for text in texts if " left of " in text]

    assert related
    assert all(text.index("red") < text.index("blue") for text in related)


def test_held_out_combinations_are_never_trained_on() -> None:
    """
    No training scene has a held-out combination, and every unseen scene has one.
    """
    for scene in scenes(300):
        assert not any(held_out(figure, scene.background) for figure in scene.figures)
    for scene in scenes(50, unseen=True):
        assert any(held_out(figure, scene.background) for figure in scene.figures)


def test_one_combination_in_ten_is_held_out() -> None:
    """
    A tenth of all combinations of words is kept for the evaluation.
    """
    combinations = list(itertools.product(SHAPES, RADII_PX, COLOURS, ANCHORS_PX, COLOURS))[::11]
    kept = [held_out(Figure(*words), ground) for *words, ground in combinations]

    assert 0.08 < sum(kept) / len(kept) < 0.12


def test_the_vocabulary_has_the_captions_words() -> None:
    """
    Every word of a complete caption is in the vocabulary that the tokenizer is made from.
    """
    random = np.random.default_rng(8)
    known = set(vocabulary())
    for scene in scenes(200):
        text = caption(scene, random, complete=True).lower()
        words = "".join(c if c.isalpha() else " " for c in text).split()
        assert known.issuperset(words)
