"""
Typed values out of a body that anybody may have sent.

    fields = Fields(call.body)
    prompt = fields.text("prompt", required=True)
    steps = fields.integer("steps", least=1, most=1000)
    fields.check()

Each getter answers None for what is absent or null, and for what breaks a rule; ``check`` then
raises one InvalidRequest with every violation, in the order in which the fields were asked for.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gateway.images import InputFile, Upload
from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.errors.v1.error_reason_pb2 import ErrorReason
from services.rpc.errors import InvalidRequest, NotFound, Violation

# More than any model reads, and far less than the 4 MiB of a gRPC message. Images are no texts.
TEXT_CHARACTERS = 100_000
# More than any id has; an error that repeats an id must fit into gRPC's 8 KiB of metadata.
NAME_CHARACTERS = 500
# How the content type of a form begins.
FORM_TYPES = ("multipart/", "application/x-www-form-urlencoded")
_WORDS = {"true": True, "1": True, "false": False, "0": False}


class Fields:
    """
    The fields of a JSON object, or of a form, whose values are then texts.

    Raises:
        InvalidRequest: With BODY_INVALID, if the body is not an object.
    """

    def __init__(self, body: Any, *, form: bool = False) -> None:
        if not isinstance(body, Mapping):
            kind = _kind(body) if body is not None else "nothing"
            raise InvalidRequest(
                f"the body must be a JSON object; it is {kind}",
                reason=reasons.ERROR_REASON_BODY_INVALID,
            )
        self._body = body
        self._form = form
        self._place = ""
        self._violations: list[Violation] = []
        self._repeated: set[str] = set()

    def within(self, place: str, value: Any) -> "Fields":
        """
        Return the fields of an object that stands at *place*; none of them, if it is null.

        What they blame is blamed here: ``check`` raises it too.
        """
        if value is not None and not isinstance(value, Mapping):
            self.blame(place, f"{place} must be an object; it is {_kind(value)}")
            value = None
        inner = Fields({} if value is None else value)
        inner._place, inner._violations = f"{self._place}{place}.", self._violations
        return inner

    def given(self, name: str) -> bool:
        """Say whether the field was sent, null included."""
        return name in self._body

    def value(self, name: str) -> Any:
        """Return a field as it is; of a form, its first value, and None for an empty text."""
        value = self._body.get(name)
        if not self._form:
            return value
        if value and len(value) > 1 and name not in self._repeated:
            self._repeated.add(name)
            self.blame(name, f"{name} is given {len(value)} times; give it once")
        return (value[0] or None) if value else None

    def blame(
        self,
        name: str,
        description: str,
        reason: ErrorReason.ValueType = reasons.ERROR_REASON_FIELD_INVALID,
    ) -> None:
        """Add a violation."""
        self._violations.append(Violation(f"{self._place}{name}", description, reason))

    def check(self) -> None:
        """
        Insist that no rule was broken so far.

        Raises:
            InvalidRequest: With every violation.
        """
        if self._violations:
            # Whether a prompt is too long is asked last, of a request that is right otherwise.
            long = reasons.ERROR_REASON_PROMPT_TOO_LONG
            first = min(self._violations, key=lambda v: v.reason == long)
            raise InvalidRequest(
                "; ".join(v.description for v in self._violations),
                reason=first.reason,
                metadata={"field": first.field},
                violations=self._violations,
            )

    def prompt(self, name: str, *, required: bool = False) -> str | None:
        """Return a text that is too long, if it is, in the way in which a model says so."""
        reason = reasons.ERROR_REASON_PROMPT_TOO_LONG
        return self.text(name, required=required, too_long=reason)

    def name(self, name: str, *, required: bool = False) -> str | None:
        """Return a text that names something, such as a model."""
        reason = reasons.ERROR_REASON_FIELD_INVALID
        return self.text(name, required=required, most=NAME_CHARACTERS, too_long=reason)

    def text(
        self,
        name: str,
        *,
        required: bool = False,
        most: int = TEXT_CHARACTERS,
        too_long: ErrorReason.ValueType = reasons.ERROR_REASON_REQUEST_TOO_LARGE,
    ) -> str | None:
        """Return a text of at most *most* characters; a required one must not be blank."""
        value = self.value(name)
        if value is None and not required:
            return None
        if value is None or (required and isinstance(value, str) and not value.strip()):
            self.blame(name, f"{name} is missing", reasons.ERROR_REASON_FIELD_REQUIRED)
        elif not isinstance(value, str):
            self.blame(name, f"{name} must be a text; it is {_kind(value)}")
        elif len(value) > most:
            rule = f"{name} has {len(value)} characters; at most {most} are accepted"
            self.blame(name, rule, too_long)
        else:
            return value
        return None

    def choice(self, name: str, values: Sequence[str]) -> str | None:
        """Return one of *values*."""
        value = self.text(name)
        if value is not None and value not in values:
            self.blame(name, f"{name} {_short(value)} is not one of {', '.join(values)}")
            return None
        return value

    def integer(self, name: str, *, least: float = -math.inf, most: float = math.inf) -> int | None:
        """Return a whole number within the bounds; 3.0 counts as one, "3" only in a form."""
        number = self._number(name)
        if number is None:
            return None
        if isinstance(number, float) and not number.is_integer():
            self.blame(name, f"{name} {number:g} is not a whole number")
            return None
        return int(number) if self._within(name, number, least, most) else None

    def number(self, name: str, *, least: float, most: float) -> float | None:
        """Return a number within the bounds."""
        number = self._number(name)
        if number is None or not self._within(name, number, least, most):
            return None
        return float(number)

    def switch(self, name: str) -> bool | None:
        """Return true or false."""
        value = self.value(name)
        if self._form and isinstance(value, str):
            value = _WORDS.get(value.lower(), value)
        if value is None or isinstance(value, bool):
            return value
        self.blame(name, f"{name} must be true or false; it is {_short(value)}")
        return None

    def files(self, name: str, *, urls: bool = False) -> list[InputFile]:
        """Return images: a text, a list of texts, or uploads; with *urls*, a text may be one."""
        value = self._body.get(name)
        if value is None:
            return []
        files = []
        for index, one in enumerate(value if isinstance(value, list) else [value]):
            place = f"{name}.{index}" if isinstance(value, list) else name
            if isinstance(one, Upload):
                files.append(InputFile(place, one.content))
            elif isinstance(one, str):
                files.append(InputFile(place, one, may_be_url=urls))
            else:
                self.blame(place, f"{place} must be an image in base64; it is {_kind(one)}")
        return files

    def _number(self, name: str) -> int | float | None:
        value = self.value(name)
        if self._form and isinstance(value, str):
            value = parsed_number(value)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.blame(name, f"{name} must be a number; it is {_kind(value)}")
            return None
        if isinstance(value, float) and not math.isfinite(value):
            self.blame(name, f"{name} must be a finite number")
            return None
        return value

    def _within(self, name: str, number: float, least: float, most: float) -> bool:
        if least <= number <= most:
            return True
        self.blame(
            name,
            f"{name} {_short(number)} is outside {least} to {most}",
            reasons.ERROR_REASON_FIELD_OUT_OF_RANGE,
        )
        return False


def parsed_number(text: str) -> int | float | str:
    """Return the number that a text writes, or the text where it writes none."""
    if not text.isascii() or "_" in text:
        # Python's own spellings.
        return text
    for parse in (int, float):
        try:
            return parse(text)
        except ValueError:
            continue
    return text


def _kind(value: object) -> str:
    names = {
        str: "a text",
        bool: "true or false",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
        Upload: "a file",
        type(None): "null",
    }
    kind = "an object" if isinstance(value, Mapping) else type(value).__name__
    return names.get(type(value), kind)


def check_names(values: Iterable[str]) -> None:
    """
    Insist that what stands in a path can be the name of something.

    Raises:
        NotFound: If one is longer than NAME_CHARACTERS.
    """
    if any(len(value) > NAME_CHARACTERS for value in values):
        raise NotFound(f"nothing here has a name of more than {NAME_CHARACTERS} characters")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
