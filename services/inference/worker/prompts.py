r"""
AUTOMATIC1111's prompt syntax, read.

    (word)  (word:1.2)  [word]      more attention, that much, less
    [from:to:0.5]  [to:3]  [from::3]   another text from a part of the steps on, or from a step on
    [a|b]                            one after the other, step by step
    BREAK                            what follows begins a new part of the encoder's input
    \(  \)  \[  \]  \\                the signs themselves

What does not close is read as if it closed at the end; nothing in a prompt is an error.
"""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

MORE = 1.1
BREAK = "BREAK"
# Brackets within more brackets than this are signs like others.
DEEPEST = 40
_TOKEN = re.compile(
    r"\\[()\[\]\\:|]|\(|\)|\[|\]|:\s*[+-]?\d*\.?\d+\s*\)|\bBREAK\b|[^\\()\[\]:B]+|.", re.DOTALL
)
_WEIGHT = re.compile(r":\s*([+-]?\d*\.?\d+)\s*\)")
_NUMBER = re.compile(r"\s*\d*\.?\d+\s*")

At = Callable[[int, int], str]


class Part(NamedTuple):
    """Words, and how much attention they are given; BREAK is a part of its own."""

    text: str
    weight: float


@dataclass(frozen=True)
class Piece:
    """A piece of a prompt that is the same text in every step, or not."""

    at: At


def is_plain(prompt: str) -> bool:
    """Whether a prompt has none of the signs."""
    return not re.search(r"[()\[\]\\]|\bBREAK\b", prompt)


def at_step(prompt: str, step: int, step_count: int) -> str:
    """
    Return the prompt of one step; attention is left in it.

    Args:
        prompt: With its signs.
        step: From 1.
        step_count: Of the whole drawing.
    """
    return _joined(_read(prompt), step, step_count) if "[" in prompt else prompt


def parts(prompt: str) -> list[Part]:
    """Take the attention out of a prompt; neighbours of equal weight are one part."""
    texts: list[str] = []
    weights: list[float] = []
    opened: list[tuple[str, int]] = []

    def weigh(start: int, factor: float) -> None:
        for place in range(start, len(weights)):
            weights[place] *= factor

    for sign in _TOKEN.findall(prompt):
        weight = _WEIGHT.fullmatch(sign)
        if sign in ("(", "["):
            opened.append((sign, len(texts)))
        elif weight and opened and opened[-1][0] == "(":
            weigh(opened.pop()[1], float(weight[1]))
        elif sign == ")" and opened and opened[-1][0] == "(":
            weigh(opened.pop()[1], MORE)
        elif sign == "]" and opened and opened[-1][0] == "[":
            weigh(opened.pop()[1], 1 / MORE)
        else:
            texts.append(_unescaped(sign))
            weights.append(1.0)
    for bracket, start in opened:
        weigh(start, MORE if bracket == "(" else 1 / MORE)
    return _merged(texts, weights)


def plain(prompt: str) -> str:
    """Return the words of a prompt as they are at its end, without the signs."""
    if is_plain(prompt):
        return prompt
    words = (" " if part.text == BREAK else part.text for part in parts(at_step(prompt, 1, 1)))
    return " ".join("".join(words).split())


def _merged(texts: list[str], weights: list[float]) -> list[Part]:
    merged: list[Part] = []
    for text, weight in zip(texts, weights, strict=True):
        if text == BREAK:
            merged.append(Part(BREAK, -1.0))
        elif merged and merged[-1].weight == weight and merged[-1].text != BREAK:
            merged[-1] = Part(merged[-1].text + text, weight)
        else:
            merged.append(Part(text, weight))
    return merged or [Part("", 1.0)]


def _unescaped(sign: str) -> str:
    return sign[1:] if len(sign) == 2 and sign[0] == "\\" else sign


@functools.lru_cache(maxsize=64)
def _read(prompt: str) -> list[Piece]:
    fields, _ = _pieces(prompt, 0, depth=0)
    return fields[0]


def _pieces(prompt: str, start: int, *, depth: int) -> tuple[list[list[Piece]], int]:
    """
    Read up to the end, or up to the bracket that closes.

    Returns:
        The pieces between the separators at this depth, each separator as a list of its own, and
        where to go on.
    """
    fields: list[list[Piece]] = [[]]
    place, round_depth = start, 0
    while place < len(prompt):
        sign = prompt[place]
        if sign == "\\" and place + 1 < len(prompt):
            fields[-1].append(_fixed(prompt[place : place + 2]))
            place += 2
            continue
        if sign == "]" and depth and round_depth == 0:
            return fields, place + 1
        if sign == "[" and depth < DEEPEST:
            inner, place = _pieces(prompt, place + 1, depth=depth + 1)
            fields[-1].append(_bracket(inner))
            continue
        round_depth += (sign == "(") - (sign == ")" and round_depth > 0)
        if sign in ":|" and depth and round_depth == 0:
            fields += [[_fixed(sign)], []]
        else:
            fields[-1].append(_fixed(sign))
        place += 1
    return fields, place


def _bracket(fields: list[list[Piece]]) -> Piece:
    """Say what ``[...]`` means: an alternation, a change at a step, or less attention."""
    signs = [_text(field) for field in fields[1::2]]
    groups = fields[0::2]
    if "|" in signs:
        return Piece(_alternating(_split(fields, "|")))
    when = _text(groups[-1])
    if len(groups) in (2, 3) and when is not None and _NUMBER.fullmatch(when):
        before = groups[0] if len(groups) == 3 else []
        after = groups[1] if len(groups) == 3 else groups[0]
        return Piece(_changing(before, after, when.strip()))
    inside = [piece for field in fields for piece in field]
    return Piece(lambda step, count: f"[{_joined(inside, step, count)}]")


def _split(fields: list[list[Piece]], separator: str) -> list[list[Piece]]:
    options: list[list[Piece]] = [[]]
    for number, field in enumerate(fields):
        if number % 2 and _text(field) == separator:
            options.append([])
        else:
            options[-1] += field
    return options


def _alternating(options: list[list[Piece]]) -> At:
    return lambda step, count: _joined(options[(step - 1) % len(options)], step, count)


def _changing(before: list[Piece], after: list[Piece], when: str) -> At:
    moment = float(when)

    def at(step: int, count: int) -> str:
        # 0.5 is half of the steps and 1.0 all of them; 1 is the first step.
        last = int(moment * count) if moment < 1 or (moment == 1 and "." in when) else int(moment)
        return _joined(before if step <= last else after, step, count)

    return at


def _joined(pieces: list[Piece], step: int, count: int) -> str:
    return "".join(piece.at(step, count) for piece in pieces)


def _fixed(text: str) -> Piece:
    return Piece(lambda _step, _count: text)


def _text(pieces: list[Piece]) -> str:
    return _joined(pieces, 1, 1)
