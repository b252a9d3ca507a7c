"""
What became of a request's parameters, as far as the gateway knows: a dialect need not count them.

``Reading`` is the body as a dialect reads it. What the body has and nobody read is no parameter of
the API, which is noted as ignored; what was read is honoured, unless the dialect or a service notes
something else.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pictor.inference.v1 import generation_pb2, job_pb2

Note = job_pb2.ParameterNote

# What CreateJob takes.
MAX_NOTES = 100
MAX_CHARACTERS = 100
_FIELDS = generation_pb2.Generation.DESCRIPTOR.fields_by_name
_TREATMENTS = job_pb2.ParameterNote.Treatment


class Reading(dict[str, Any]):
    """
    A JSON object, or a form, that remembers which of its fields were read.

    Who walks through it or copies it has seen all of it, and may do with it what it likes: then no
    field counts as unread, nor as honoured unless it was read by its name.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.read: set[str] = set()
        self.walked = False

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """Read one field."""
        self.read.add(name)
        return super().get(name, default)

    def __contains__(self, name: object) -> bool:
        self.read.add(str(name))
        return super().__contains__(name)

    def __iter__(self) -> Iterator[str]:
        self.walked = True
        return super().__iter__()

    def keys(self) -> Any:
        """Walk through the names."""
        self.walked = True
        return super().keys()

    def values(self) -> Any:
        """Walk through the values."""
        self.walked = True
        return super().values()

    def items(self) -> Any:
        """Walk through both."""
        self.walked = True
        return super().items()

    def given(self) -> dict[str, str]:
        """Return what the request sets, as text; null and empty texts of a form set nothing."""
        shown = {name: _shown(value) for name, value in dict.items(self)}
        return {str(name): text for name, text in shown.items() if text is not None}


def noted(body: object, notes: Sequence[Note], names: Mapping[str, str]) -> list[Note]:
    """
    Complete the notes of a dialect on a request.

    Args:
        body: What the dialect read from: a Reading, or nothing.
        notes: What the dialect has noted.
        names: Its names for fields of Generation. What becomes of those is noted at admission.
    """
    if not isinstance(body, Reading):
        return list(notes)
    given = body.given()
    known = {note.parameter for note in notes}
    left = known | set(names.values()) | set(_FIELDS)
    unread = [] if body.walked else [name for name in given if name not in body.read | known]
    honoured = [name for name in given if name in body.read - left]
    room = MAX_NOTES - len(notes) - 1
    # Under its plain name it would be taken for a field that the API has under another one.
    own = [_ignored(f"body.{name}" if name in names else name, given[name]) for name in unread][
        :room
    ]
    if len(unread) > len(own):
        own.append(_ignored(f"({len(unread) - len(own)} more)", ""))
    own += [_honoured(name, given[name]) for name in honoured[: max(room - len(own), 0)]]
    return [*notes, *own]


def treatment_of(note: Note) -> str:
    """Return what became of a parameter in one word, e.g. ``clamped``."""
    return _TREATMENTS.Name(note.treatment).removeprefix("TREATMENT_").lower()


def _shown(value: Any) -> str | None:
    if isinstance(value, list) and len(value) == 1:
        (value,) = value
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)[:MAX_CHARACTERS] if isinstance(value, str | int | float) else ""


def _ignored(name: str, value: str) -> Note:
    return Note(
        parameter=name[:MAX_CHARACTERS],
        treatment=Note.TREATMENT_IGNORED,
        requested=value,
        reason="this API has no such parameter",
    )


def _honoured(name: str, value: str) -> Note:
    return Note(
        parameter=name[:MAX_CHARACTERS],
        treatment=Note.TREATMENT_HONOURED,
        requested=value,
        used=value,
    )
