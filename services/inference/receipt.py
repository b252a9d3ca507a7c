"""
What became of each parameter of a request, and why: noted at admission, and by the device later.

A parameter has one note. A departure displaces the note that it was honoured; a caller that wants
everything honoured is refused at the first departures that are found.
"""

from collections.abc import Iterable, Sequence

from google.protobuf.message import Message

from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import generation_pb2, job_pb2
from services.rpc.errors import InvalidRequest, Violation

Note = job_pb2.ParameterNote

MAX_CHARACTERS = 100
_REFUSED = {Note.TREATMENT_CLAMPED: "clamped", Note.TREATMENT_IGNORED: "ignored"}


class Receipt:
    """
    The notes of one request.

    Args:
        asked: The request, before anything was merged into it.
        noted: What the caller has done to its parameters already, in the caller's words.
        strict: Whether clamped and ignored parameters are refused.

    Raises:
        InvalidRequest: With PARAMETER_NOT_HONOURED.
    """

    def __init__(
        self, asked: generation_pb2.Generation, noted: Sequence[Note], *, strict: bool
    ) -> None:
        self._strict = strict
        self._given = {field.name: value for field, value in asked.ListFields()}
        self._noted = list(noted)
        self._own: dict[str, Note] = {}
        self._refuse((note, note.parameter) for note in noted)

    def add(self, notes: Sequence[Note]) -> None:
        """
        Add notes on fields of the Generation; the first one of a field stays.

        Raises:
            InvalidRequest: With PARAMETER_NOT_HONOURED. What the request leaves out is not refused,
                whatever becomes of it.
        """
        for note in notes:
            self._own.setdefault(note.parameter, note)
        self._refuse((n, f"generation.{n.parameter}") for n in notes if n.parameter in self._given)

    @property
    def notes(self) -> list[Note]:
        """Every note: first the departures, then what is honoured."""
        notes = [*self._noted, *self._own.values()]
        known = {note.parameter for note in notes}
        notes += [_honoured(*item) for item in self._given.items() if item[0] not in known]
        return sorted(notes, key=lambda note: note.treatment == Note.TREATMENT_HONOURED)

    def _refuse(self, notes: Iterable[tuple[Note, str]]) -> None:
        refused = [(note, field) for note, field in notes if note.treatment in _REFUSED]
        if not self._strict or not refused:
            return
        reason = reasons.ERROR_REASON_PARAMETER_NOT_HONOURED
        violations = [Violation(field, _sentence(note), reason) for note, field in refused]
        raise InvalidRequest(
            "; ".join(violation.description for violation in violations),
            reason=reason,
            metadata={"field": violations[0].field},
            violations=violations,
        )


def _sentence(note: Note) -> str:
    used = f" to {note.used}" if note.used else ""
    asked = f"{note.parameter} {note.requested}".rstrip()
    return f"{asked} would be {_REFUSED[note.treatment]}{used}: {note.reason}"


def _honoured(parameter: str, value: object) -> Note:
    # Lists and messages stand in the job itself, where they can be read.
    is_scalar = isinstance(value, str | int | float)
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    shown = text[:MAX_CHARACTERS] if is_scalar and not isinstance(value, Message) else ""
    return Note(parameter=parameter, treatment=Note.TREATMENT_HONOURED, requested=shown, used=shown)
