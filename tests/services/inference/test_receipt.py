import pytest

from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import generation_pb2, job_pb2
from services.inference.receipt import Receipt
from services.rpc.errors import InvalidRequest

Note = job_pb2.ParameterNote
CLAMPED = Note(
    parameter="n", treatment=Note.TREATMENT_CLAMPED, requested="12", used="10", reason="the most"
)
IGNORED = Note(
    parameter="negative_prompt",
    treatment=Note.TREATMENT_IGNORED,
    requested="blur",
    reason="the model has none",
)
ASKED = generation_pb2.Generation(prompt="a circle", negative_prompt="blur", guidance_scale=3.5)


def test_each_parameter_has_one_note_and_departures_come_first():
    """
    What is set and not departed from is honoured, with the value that was used.
    """
    receipt = Receipt(ASKED, [CLAMPED], strict=False)
    receipt.add([IGNORED])

    noted = [(n.parameter, n.treatment, n.used) for n in receipt.notes]
    assert noted == [
        ("n", Note.TREATMENT_CLAMPED, "10"),
        ("negative_prompt", Note.TREATMENT_IGNORED, ""),
        ("prompt", Note.TREATMENT_HONOURED, "a circle"),
        ("guidance_scale", Note.TREATMENT_HONOURED, "3.5"),
    ]


def test_a_callers_word_for_what_it_honours_comes_last_too():
    """
    The order is the same whoever noted it.
    """
    honoured = Note(parameter="response_format", treatment=Note.TREATMENT_HONOURED)
    receipt = Receipt(ASKED, [honoured, CLAMPED], strict=False)

    assert receipt.notes[0] == CLAMPED


def test_who_is_strict_is_told_every_parameter_value_and_reason():
    """
    Both fields are named in one error, the caller's own departures as the caller named them.
    """
    other = Note(parameter="style", treatment=Note.TREATMENT_IGNORED, requested="vivid", reason="x")
    with pytest.raises(InvalidRequest) as error:
        Receipt(ASKED, [CLAMPED, other], strict=True)

    assert error.value.reason == reasons.ERROR_REASON_PARAMETER_NOT_HONOURED
    assert [v.field for v in error.value.violations] == ["n", "style"]
    assert error.value.message == (
        "n 12 would be clamped to 10: the most; style vivid would be ignored: x"
    )


def test_who_is_strict_is_refused_for_what_admission_finds():
    """
    A field of the Generation is named by its path.
    """
    receipt = Receipt(ASKED, [], strict=True)
    with pytest.raises(InvalidRequest) as error:
        receipt.add([IGNORED])

    assert [v.field for v in error.value.violations] == ["generation.negative_prompt"]


def test_a_default_that_is_clamped_is_nobodys_fault():
    """
    Only what the request sets can be refused.
    """
    receipt = Receipt(ASKED, [], strict=True)
    receipt.add([Note(parameter="step_count", treatment=Note.TREATMENT_CLAMPED, used="20")])

    assert receipt.notes[0].parameter == "step_count"
