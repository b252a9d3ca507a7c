"""
Adapters as requests name them: a Generation's ``loras``, and ``<lora:name:0.8>`` in its prompt.

Pure functions. Which adapters there are the device processes tell the catalog; whether one fits a
model, only they know.
"""

import difflib
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import generation_pb2, job_pb2
from services.rpc.errors import InvalidRequest, invalid

MAX_ADAPTERS = 8
MAX_WEIGHT = 2.0
SHOWN_NAMES = 20
FIELD = "generation.loras"
# A tag goes with the space before it, so that a prompt ends as it would without.
_TAG = re.compile(r" ?<lora:([^<>]*)>")
# The stem of a file's name: no path, nothing hidden, nothing that a tag could not hold.
_NAME = re.compile(r"[^./\\:<>\x00-\x1f\x7f][^/\\:<>\x00-\x1f\x7f]{0,127}")

Note = job_pb2.ParameterNote


@dataclass(frozen=True)
class _Tag:
    """What one tag says: a name, a weight, and AUTOMATIC1111's further values."""

    name: str
    weight: float
    rest: str = ""


def is_name(text: str) -> bool:
    """Whether *text* can name an adapter: a file's stem of at most 128 characters, no path."""
    return bool(_NAME.fullmatch(text)) and text == text.strip()


def without_tags(prompt: str) -> str:
    """Return what the model reads of a prompt."""
    text = _TAG.sub("", prompt)
    return text.removeprefix(" ") if prompt.startswith("<lora:") and text != prompt else text


def weight_of(lora: generation_pb2.Lora) -> float:
    """Return an adapter's weight; one without says 1."""
    return lora.weight if lora.HasField("weight") else 1.0


def with_tags(prompt: str, loras: Sequence[generation_pb2.Lora]) -> str:
    """Write adapters into a prompt; ``take_tags`` finds the same prompt and adapters in it."""
    tags = " ".join(_written(lora.adapter, weight_of(lora)) for lora in loras)
    return f"{prompt} {tags}" if tags else prompt


def check_known(generation: generation_pb2.Generation, known: Sequence[str]) -> None:
    """
    Insist that the adapters which a generation names are there.

    A prompt that is read as AUTOMATIC1111 reads it is drawn without those that are not.

    Raises:
        InvalidRequest: With FIELD_UNSUPPORTED.
    """
    if generation.prompt_syntax == generation_pb2.Generation.PROMPT_SYNTAX_WEBUI:
        return
    for lora in generation.loras:
        if lora.adapter not in known:
            raise unknown(lora.adapter, known)


def unknown(name: str, known: Sequence[str]) -> InvalidRequest:
    """Make the error of an adapter that is not there, with those that are, the likeliest first."""
    near = difflib.get_close_matches(name, known, n=SHOWN_NAMES)
    shown = [*near, *(other for other in known if other not in near)][:SHOWN_NAMES]
    more = len(known) - len(shown)
    there = f"there are {', '.join(shown)}{f' and {more} more' if more else ''}"
    return invalid(
        FIELD,
        f"adapter {name!r} is not known; {there if known else 'there are none on this machine'}",
        reasons.ERROR_REASON_FIELD_UNSUPPORTED,
    )


def take_tags(merged: generation_pb2.Generation) -> list[job_pb2.ParameterNote]:
    """
    Move the tags of a generation's prompt to its loras, and check all of them.

    Args:
        merged: Is changed: its prompt has no tags then, and each adapter is named once, with its
            weight. What the request's own loras name, a tag does not change.

    Returns:
        Notes for the receipt, on what was said and does not count.

    Raises:
        InvalidRequest: If a name, a weight or the number of adapters breaks its rule.
    """
    own = [_checked(lora) for lora in merged.loras]
    twice = [name for name, count in Counter(tag.name for tag in own).items() if count > 1]
    if twice:
        raise invalid(FIELD, f"adapter {twice[0]!r} is listed twice; list each adapter once")
    tags = [_parsed(match[1]) for match in _TAG.finditer(merged.prompt)]
    # Of several tags of one name the last one counts.
    chosen = {tag.name: tag for tag in [*tags, *own]}
    if len(chosen) > MAX_ADAPTERS:
        raise invalid(
            FIELD,
            f"{len(chosen)} adapters; a request takes at most {MAX_ADAPTERS}",
            reasons.ERROR_REASON_FIELD_OUT_OF_RANGE,
        )
    merged.prompt = without_tags(merged.prompt)
    further = _taken_from_second_pass(merged, chosen)
    del merged.loras[:]
    merged.loras.extend(
        generation_pb2.Lora(adapter=tag.name, weight=tag.weight) for tag in chosen.values()
    )
    return [*_overruled(tags, own, chosen), *_one_weight(chosen), *further]


def _taken_from_second_pass(
    merged: generation_pb2.Generation, chosen: Mapping[str, _Tag]
) -> list[Note]:
    """Take the tags out of the hires pass's prompt: it is drawn with the first one's adapters."""
    if not merged.HasField("hires"):
        return []
    tags = [_parsed(match[1]) for match in _TAG.finditer(merged.hires.prompt)]
    merged.hires.prompt = without_tags(merged.hires.prompt)
    return [
        Note(
            parameter="hires",
            treatment=Note.TREATMENT_IGNORED,
            requested=_written(tag.name, tag.weight),
            reason="the second pass is drawn with the adapters of the first, and no others",
        )
        for tag in tags
        if tag.name not in chosen or tag.weight != chosen[tag.name].weight
    ]


def _parsed(text: str) -> _Tag:
    name, *values = text.split(":")
    weight, rest = (values[0] if values else "1"), ":".join(values[1:])
    try:
        number = float(weight)
    except ValueError:
        raise invalid(
            FIELD,
            f"weight {weight[:40]!r} of adapter {name[:128]!r} is not a number;"
            " write <lora:name:0.8>",
        ) from None
    return _named(name, number, rest)


def _checked(lora: generation_pb2.Lora) -> _Tag:
    return _named(lora.adapter, weight_of(lora))


def _named(name: str, weight: float, rest: str = "") -> _Tag:
    if not is_name(name):
        raise invalid(
            FIELD,
            f"adapter {name[:128]!r} is not a name: give a file's name without folder and"
            " extension, 1 to 128 characters, none of them / \\ : < >, the first not a dot",
        )
    if not (math.isfinite(weight) and abs(weight) <= MAX_WEIGHT):
        raise invalid(
            FIELD,
            f"weight {weight:g} of adapter {name!r} is outside {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}",
            reasons.ERROR_REASON_FIELD_OUT_OF_RANGE,
        )
    return _Tag(name, weight, rest)


def _overruled(tags: Sequence[_Tag], own: Sequence[_Tag], chosen: dict[str, _Tag]) -> list[Note]:
    listed = {tag.name for tag in own}
    others = {tag.name: tag for tag in tags if tag != chosen[tag.name]}
    return [
        Note(
            parameter="loras",
            treatment=Note.TREATMENT_IGNORED,
            requested=_written(name, tag.weight),
            used=_written(name, chosen[name].weight),
            reason="the request's own list of adapters counts before its prompt"
            if name in listed
            else "the prompt names the adapter again; the last weight counts",
        )
        for name, tag in others.items()
    ]


def _one_weight(chosen: dict[str, _Tag]) -> list[Note]:
    return [
        Note(
            parameter="loras",
            treatment=Note.TREATMENT_IGNORED,
            requested=f"{tag.rest[:40]} of adapter {name}",
            used=f"{tag.weight:g}",
            reason="the first weight of a tag applies to the text encoder and to all else",
        )
        for name, tag in chosen.items()
        if tag.rest
    ]


def _written(name: str, weight: float) -> str:
    return f"<lora:{name}:{str(weight).removesuffix('.0')}>"
