"""
What people might write for a scene: many orders of words, much left unsaid.

The model learns from these sentences only, so a way of asking that is not here is
one that it knows by luck. Needs NumPy only.
"""

import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.shapes.pictures import ANCHORS_PX, COLOURS, SHAPES, Figure, Scene

SIZE_WORDS: dict[str, tuple[str, ...]] = {
    "small": ("small", "small", "little", "tiny"),
    "medium": ("medium", "medium", "medium-sized", "mid-sized"),
    "large": ("large", "large", "big", "big", "huge"),
}
COLOUR_WORDS: dict[str, tuple[str, ...]] = {
    **{colour: (colour,) for colour in COLOURS},
    "grey": ("grey", "gray"),
    "purple": ("purple", "purple", "purple", "violet"),
    "cyan": ("cyan", "cyan", "cyan", "turquoise"),
}
SHAPE_WORDS: dict[str, tuple[str, ...]] = {
    **{shape: (shape,) for shape in SHAPES},
    "circle": ("circle", "circle", "circle", "disc"),
    "diamond": ("diamond", "diamond", "diamond", "rhombus"),
}


def _edge_places(edge: str) -> tuple[str, ...]:
    at = f"at the {edge}"
    return (at, at, f"on the {edge}", edge, f"on the {edge} side", f"to the {edge}")


def _corner_places(vertical: str, horizontal: str) -> tuple[str, ...]:
    plain = f"{vertical} {horizontal}"
    other = f"{'upper' if vertical == 'top' else 'lower'} {horizontal}"
    return (
        plain,
        f"at the {plain}",
        f"on the {plain}",
        f"in the {plain} corner",
        f"in the {plain}",
        f"in the {other} corner",
        f"at the {other}",
        f"{vertical}-{horizontal}",
    )


def _places(position: str) -> tuple[str, ...]:
    if position == "centre":
        middles = ("centre", "center", "middle")
        return (*middles, *(f"{at} the {m}" for at in ("in", "at") for m in middles), "centered")
    return _corner_places(*position.split()) if " " in position else _edge_places(position)


PLACES: dict[str, tuple[str, ...]] = {position: _places(position) for position in ANCHORS_PX}

_OPENINGS = (
    "a picture of {}",
    "picture of {}",
    "an image of {}",
    "image of {}",
    "a photo of {}",
    "photo of {}",
    "a drawing of {}",
    "draw {}",
    "please draw {}",
    "draw me {}",
    "paint {}",
    "show {}",
    "show me {}",
    "generate {}",
    "i want {}",
    "there is {}",
    "{}, please",
)
_AFTER = (
    "{subject} on a {colour} background",
    "{subject} on a {colour} background",
    "{subject}, {colour} background",
    "{subject}, {colour} background",
    "{subject} {colour} background",
    "{subject} on {colour}",
    "{subject} against a {colour} background",
    "{subject} with a {colour} background",
    "{subject} over a {colour} background",
    "{subject} in front of a {colour} background",
    "{subject}, the background is {colour}",
    "{subject}. the background is {colour}.",
    "{subject}, background {colour}",
    "{subject}; background: {colour}",
)
_BEFORE = (
    "{colour} background, {subject}",
    "{colour} background: {subject}",
    "{colour} background with {subject}",
    "a {colour} background with {subject}",
    "a {colour} background and {subject}",
    "on a {colour} background, {subject}",
    "on a {colour} background: {subject}",
    "on {colour}: {subject}",
    "on {colour}, {subject}",
    "background {colour}, {subject}",
)
_BESIDE = ("{left} to the left of {right}", "{left} left of {right}")
_BESIDE_TURNED = ("{right} to the right of {left}", "{right} right of {left}")
_STACKED = ("{upper} above {lower}", "{upper} over {lower}", "{upper} on top of {lower}")
_STACKED_TURNED = ("{lower} below {upper}", "{lower} under {upper}", "{lower} beneath {upper}")

# Words that mean nothing to the model, so that it learns to draw cleanly in spite of them.
_UNRELATED = (  # noqa: SIM905 - a hundred words read better in lines
    "cinematic portrait of an astronaut cat dog mountain landscape sunset photograph detailed "
    "masterpiece realistic style oil painting watercolor city street woman man child house tree "
    "forest river ocean beach car train ship castle dragon robot space galaxy planet moon sun "
    "light dark beautiful best quality high resolution 4k 8k hdr sharp focus bokeh studio "
    "lighting vintage anime sketch pencil digital art trending fantasy knight horse flower "
    "garden cloud rain snow winter summer night morning food cake coffee cup table chair book "
    "lamp guitar music dance running flying sleeping happy sad old young ancient modern"
).split()

_SAID = {"shape": 0.97, "size": 0.8, "colour": 0.92, "position": 0.78, "background": 0.9}
_UNRELATED_AROUND = 0.08
_UNRELATED_ONLY = 0.03


@dataclass(frozen=True)
class _Writer:
    """Writes one caption; *complete* leaves nothing unsaid and adds nothing unrelated."""

    random: np.random.Generator
    complete: bool

    def says(self, what: str) -> bool:
        return self.complete or self.random.random() < _SAID[what]

    def maybe(self, probability: float) -> bool:
        return self.random.random() < probability

    def one_of(self, choices: Sequence[str]) -> str:
        return choices[int(self.random.integers(len(choices)))]

    def scene(self, scene: Scene) -> str:
        one = len(scene.figures) == 1
        subject = self._placed(scene.figures[0]) if one else self._pair(*scene.figures)
        opening = self.one_of(_OPENINGS) if self.maybe(0.25) else "{}"
        if not self.says("background"):
            return opening.format(subject)
        colour = self.one_of(COLOUR_WORDS[scene.background])
        if self.maybe(0.3):
            text = self.one_of(_BEFORE).format(colour=colour, subject=subject)
            return opening.format(text)
        return self.one_of(_AFTER).format(colour=colour, subject=opening.format(subject))

    def _placed(self, figure: Figure) -> str:
        """One figure and its place: "a red star at the left", "left: a star, red"."""
        noun = self._article(self._apposed(figure) if self.maybe(0.2) else self._noun(figure))
        if not self.says("position"):
            return noun
        place = self.one_of(PLACES[figure.position])
        if self.maybe(0.15):
            return self.one_of(("{}: {}", "{}, {}", "{} {}")).format(place, noun)
        return self.one_of(("{} {}", "{} {}", "{}, {}")).format(noun, place)

    def _pair(self, first: Figure, second: Figure) -> str:
        if self.maybe(0.45) and (related := self._related(first, second)):
            return related
        nouns = [self._article(self._noun(figure)) for figure in (first, second)]
        if self.says("position"):
            places = [self.one_of(PLACES[figure.position]) for figure in (first, second)]
            nouns = [f"{noun} {place}" for noun, place in zip(nouns, places, strict=True)]
        return self.one_of(("{} and {}", "{} and {}", "{}, {}", "{} with {}")).format(*nouns)

    def _related(self, first: Figure, second: Figure) -> str:
        """Where the figures are to each other, or nothing if they are oblique."""
        dx = second.centre_px[0] - first.centre_px[0]
        dy = second.centre_px[1] - first.centre_px[1]
        nouns = [self._article(self._noun(figure)) for figure in (first, second)]
        if abs(dx) > 2 * abs(dy):
            left, right = nouns if dx > 0 else reversed(nouns)
            return self.one_of(_BESIDE + _BESIDE_TURNED).format(left=left, right=right)
        if abs(dy) > 2 * abs(dx):
            upper, lower = nouns if dy > 0 else reversed(nouns)
            return self.one_of(_STACKED + _STACKED_TURNED).format(upper=upper, lower=lower)
        return ""

    def _words(self, figure: Figure) -> tuple[str, str, str]:
        """The words for size, colour and shape, empty where left unsaid."""
        size = self.one_of(SIZE_WORDS[figure.size]) if self.says("size") else ""
        colour = self.one_of(COLOUR_WORDS[figure.colour]) if self.says("colour") else ""
        shape = self.one_of(SHAPE_WORDS[figure.shape]) if self.says("shape") else "shape"
        return size, colour, shape

    def _noun(self, figure: Figure) -> str:
        size, colour, shape = self._words(figure)
        words = (colour, size, shape) if self.maybe(0.12) else (size, colour, shape)
        return " ".join(word for word in words if word)

    def _apposed(self, figure: Figure) -> str:
        """A noun with adjectives behind it: "star, red, small", "star that is small and red"."""
        size, colour, shape = self._words(figure)
        adjectives = [word for word in (size, colour) if word]
        if self.maybe(0.5):
            adjectives.reverse()
        if adjectives and self.maybe(0.3):
            return f"{shape} that is {' and '.join(adjectives)}"
        return ", ".join([shape, *adjectives])

    def _article(self, noun: str) -> str:
        if self.maybe(0.35):
            return noun
        article = "an" if noun[0] in "aeiou" else "a"
        return f"{self.one_of((article,) * 12 + ('one', 'the'))} {noun}"

    def unrelated(self) -> str:
        words = []
        for _ in range(int(self.random.integers(1, 9))):
            letters = self.random.choice(list(string.ascii_lowercase), self.random.integers(2, 9))
            words.append("".join(letters) if self.maybe(0.25) else self.one_of(_UNRELATED))
        return " ".join(words)


def caption(scene: Scene, random: np.random.Generator, *, complete: bool = False) -> str:
    """
    Describe a scene in one of many ways.

    A caption that is not *complete* leaves attributes unsaid, and some are mixed with,
    or are nothing but, words that have nothing to do with the picture.
    """
    writer = _Writer(random, complete)
    text = writer.scene(scene)
    if writer.maybe(0.7):
        text = text.replace(" a orange", " an orange")
    if not complete and writer.maybe(_UNRELATED_ONLY):
        text = writer.unrelated()
    elif not complete and writer.maybe(_UNRELATED_AROUND):
        joined = writer.one_of(("{0}, {1}", "{1}, {0}", "{0} {1}", "{1} {0}"))
        text = joined.format(text, writer.unrelated())
    return text[0].upper() + text[1:] if writer.maybe(0.2) else text


def vocabulary() -> list[str]:
    """Every word that has a meaning here, sorted; the tokeniser makes each one token."""
    texts = [*_AFTER, *_BEFORE, *_OPENINGS, "shape", "a an one the that is and with"]
    for turn in (_BESIDE, _BESIDE_TURNED, _STACKED, _STACKED_TURNED):
        texts += turn
    for words in (SIZE_WORDS, COLOUR_WORDS, SHAPE_WORDS, PLACES):
        texts += [text for choices in words.values() for text in choices]
    fields = ("subject", "colour", "left", "right", "upper", "lower")
    plain = " ".join(texts)
    for field in fields:
        plain = plain.replace("{" + field + "}", " ")
    letters = "".join(c if c.isalpha() else " " for c in plain)
    return sorted(set(letters.split()))
