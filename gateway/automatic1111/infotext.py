"""Reads the parameters that AUTOMATIC1111 writes into its pictures."""

import json
import re
from collections.abc import Iterator

from pictor.storage.v1 import image_description_pb2

PARAMETERS = "parameters"
NEGATIVE = "Negative prompt:"
# A last line with fewer pairs than this belongs to the prompt.
LEAST_PAIRS = 3
# Nobody's parameters are longer. Files may hold megabytes of text, and the time that the pattern
# takes for some of them grows with the square of their length.
LONGEST_LINE = 16_384
_PAIR = re.compile(r'(\w[\w \-/]{1,80}):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
_SIZE = re.compile(r"(\d+)x(\d+)")


def carried_by(description: image_description_pb2.DescribeImageResponse) -> str:
    """Return the infotext of an image: PNG has a text of that name, other files a comment."""
    for one in description.texts:
        if one.name == PARAMETERS:
            return one.text
    return description.user_comment


def parse(text: str) -> dict[str, str]:
    """
    Take an infotext apart.

    Returns:
        ``Prompt``, ``Negative prompt``, and each ``Key: value`` of the last line; a size comes as
        ``Key-1`` and ``Key-2``. Empty for an empty text.
    """
    if not text.strip():
        return {}
    *lines, last = text.strip().split("\n")
    pairs = _PAIR.findall(last) if len(last) <= LONGEST_LINE else []
    if len(pairs) < LEAST_PAIRS:
        lines, pairs = [*lines, last], []
    positive: list[str] = []
    negative: list[str] = []
    found = positive
    for line in (one.strip() for one in lines):
        if line.startswith(NEGATIVE):
            found = negative
            line = line.removeprefix(NEGATIVE).strip()  # noqa: PLW2901 - what is left of the line
        found.append(line)
    values = {"Prompt": "\n".join(positive), "Negative prompt": "\n".join(negative)}
    for key, value in pairs:
        values.update(_values(key.strip(), _unquoted(value)))
    return values


def _values(key: str, value: str) -> Iterator[tuple[str, str]]:
    if size := _SIZE.fullmatch(value):
        yield f"{key}-1", size[1]
        yield f"{key}-2", size[2]
    else:
        yield key, value


def _unquoted(value: str) -> str:
    value = value.strip()
    if value.startswith('"') and value.endswith('"'):
        try:
            return str(json.loads(value))
        except ValueError:
            return value
    return value
