from gateway.answers import RECEIPT_CHARACTERS, receipt_line
from gateway.fields import Fields
from gateway.receipts import MAX_NOTES, Note, Reading, noted, treatment_of
from tests.gateway.test_facade import DIALECT


def described(notes):
    return {note.parameter: treatment_of(note) for note in notes}


def test_what_nobody_reads_is_ignored_and_what_is_read_is_honoured():
    """
    A misspelt parameter is told from one that had its effect; null asks for nothing.
    """
    body = Reading({"style": "x", "prmopt": "a", "stream": False, "user": None, "prompt": "a"})
    fields = Fields(body)
    for name in ("prompt", "style", "user", "never_sent"):
        fields.text(name)
    fields.switch("stream")

    assert described(noted(body, [], {})) == {
        "prmopt": "ignored",
        "style": "honoured",
        "stream": "honoured",
    }


def test_the_values_are_noted():
    """
    The note says what was asked for, briefly.
    """
    body = Reading({"style": "x" * 500, "unknown": {"a": 1}})
    Fields(body).text("style")

    notes = {note.parameter: note for note in noted(body, [], {})}
    assert notes["style"].requested == "x" * 100
    assert notes["unknown"].reason == "this API has no such parameter"


def test_a_dialects_own_note_stands():
    """
    What the dialect has said of a parameter is not said again.
    """
    body = Reading({"n": 12, "style": "x"})
    Fields(body).integer("n")
    note = Note(parameter="n", treatment=Note.TREATMENT_CLAMPED)
    other = Note(parameter="style", treatment=Note.TREATMENT_IGNORED, reason="no styles here")

    assert noted(body, [note, other], {}) == [note, other]


def test_fields_of_the_generation_are_noted_at_admission():
    """
    What becomes of steps is known there, under the suite's name for it.
    """
    body = Reading({"steps": 3, "seed": 1})
    fields = Fields(body)
    fields.integer("steps")
    fields.integer("seed")

    assert noted(body, [], {"step_count": "steps"}) == []


def test_who_walks_through_a_body_has_seen_all_of_it():
    """
    Then only what was read by name is known to be honoured, and nothing to be ignored.
    """
    for walk in (dict, list, lambda body: {**body}, lambda body: body.items(), Reading.values):
        body = Reading({"a": 1, "b": 2})
        walk(body)
        body.get("b")
        assert set(described(noted(body, [], {}))) <= {"a", "b"}
        assert "ignored" not in described(noted(body, [], {})).values()


def test_a_form_is_read_like_an_object():
    """
    Its values are lists, and an empty text is as good as none.
    """
    body = Reading({"style": ["vivid"], "user": [""], "other": ["1", "2"]})
    Fields(body, form=True).text("style")

    assert described(noted(body, [], {})) == {"style": "honoured", "other": "ignored"}


def test_more_than_a_job_can_note_is_counted():
    """
    A body of a thousand unknown fields is drawn, not refused.
    """
    notes = noted(Reading({f"x{index}": index for index in range(1000)}), [], {})

    assert len(notes) <= MAX_NOTES
    assert notes[-1].parameter == f"({1000 - len(notes) + 1} more)"


def test_a_long_receipt_is_a_short_header():
    """
    Proxies bound the headers of a response; the header says how many it left out.
    """
    notes = [Note(parameter=f"x{index}" * 5, treatment=4) for index in range(100)]

    line = receipt_line(DIALECT, notes)

    assert len(line) < RECEIPT_CHARACTERS + 20
    shown, _, more = line.rpartition("; more=")
    assert shown.count("=") + int(more) == 100
