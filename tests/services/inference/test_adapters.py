import pytest

from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import generation_pb2, job_pb2
from services.inference.adapters import MAX_ADAPTERS, is_name, take_tags, with_tags
from services.rpc.errors import InvalidRequest

Lora = generation_pb2.Lora


def taken(prompt, *loras):
    """What is left of a prompt, the adapters by name, and the notes."""
    merged = generation_pb2.Generation(prompt=prompt, loras=loras)
    notes = take_tags(merged)
    return merged.prompt, {lora.adapter: lora.weight for lora in merged.loras}, notes


@pytest.mark.parametrize(
    ("prompt", "left", "adapters"),
    [
        ("a cat", "a cat", {}),
        ("a cat <lora:ink>", "a cat", {"ink": 1.0}),
        ("a cat <lora:ink:0.8>", "a cat", {"ink": 0.8}),
        ("<lora:ink:-1.5> a cat", "a cat", {"ink": -1.5}),
        ("a <lora:ink:.5> cat, <lora:v1.2 (b):2>old", "a cat,old", {"ink": 0.5, "v1.2 (b)": 2.0}),
        ("<lora:ink:0><lora:墨:1>", "", {"ink": 0.0, "墨": 1.0}),
        ("1 < 2, <b>, lora:ink:0.8, < lora:ink>", "1 < 2, <b>, lora:ink:0.8, < lora:ink>", {}),
        (" a  cat ", " a  cat ", {}),
    ],
)
def test_tags_become_adapters_and_leave_the_prompt(prompt, left, adapters):
    """
    A tag goes with the space before it, and all else of the prompt stays as it is.
    """
    assert taken(prompt) == (left, adapters, [])


def test_further_weights_are_noted():
    """
    The first weight counts for all parts of the model, and the receipt tells the rest.
    """
    _, adapters, (note,) = taken("a cat <lora:ink:0.5:0.9:x>")

    assert adapters == {"ink": 0.5}
    assert note.treatment == job_pb2.ParameterNote.TREATMENT_IGNORED
    assert (note.requested, note.used) == ("0.9:x of adapter ink", "0.5")


def test_the_requests_own_list_wins_over_the_prompt():
    """
    A tag of an adapter that is listed does not count, and the receipt says so once.
    """
    _, adapters, (note,) = taken("<lora:ink:0.5><lora:ink:0.6> a cat", Lora(adapter="ink"))

    assert adapters == {"ink": 1.0}
    assert (note.requested, note.used) == ("<lora:ink:0.6>", "<lora:ink:1>")
    assert "own list" in note.reason


def test_the_second_pass_has_the_adapters_of_the_first():
    """
    Tags leave its prompt too, and those that say something else are noted.
    """
    merged = generation_pb2.Generation(prompt="a <lora:ink:0.5>")
    merged.hires.prompt = "b <lora:ink:0.5> <lora:fog>"
    (note,) = take_tags(merged)

    assert (merged.prompt, merged.hires.prompt) == ("a", "b")
    assert [lora.adapter for lora in merged.loras] == ["ink"]
    assert (note.parameter, note.requested) == ("hires", "<lora:fog:1>")


def test_the_last_of_equal_tags_counts():
    """
    Naming an adapter twice does not apply it twice, and the receipt says so.
    """
    _, adapters, (note,) = taken("<lora:ink:0.5> a cat <lora:ink:0.6>")

    assert adapters == {"ink": 0.6}
    assert (note.requested, note.used) == ("<lora:ink:0.5>", "<lora:ink:0.6>")


def test_saying_the_same_twice_is_no_news():
    """
    A tag and a list that agree are not noted.
    """
    assert taken("a <lora:ink:0.5>", Lora(adapter="ink", weight=0.5)) == ("a", {"ink": 0.5}, [])


@pytest.mark.parametrize(
    ("prompt", "loras", "reason", "says"),
    [
        ("<lora:ink:3>", [], "FIELD_OUT_OF_RANGE", "weight 3 of adapter 'ink' is outside -2 to 2"),
        ("<lora:ink:nan>", [], "FIELD_OUT_OF_RANGE", "weight nan of adapter 'ink'"),
        ("", [Lora(adapter="ink", weight=-2.1)], "FIELD_OUT_OF_RANGE", "weight -2.1 of adapter"),
        ("<lora:ink:strong>", [], "FIELD_INVALID", "'strong' of adapter 'ink' is not a number"),
        ("<lora:ink:>", [], "FIELD_INVALID", "'' of adapter 'ink' is not a number"),
        ("<lora:>", [], "FIELD_INVALID", "adapter '' is not a name"),
        ("<lora:../ink:1>", [], "FIELD_INVALID", r"adapter '\.\./ink' is not a name"),
        ("", [Lora(adapter="..")], "FIELD_INVALID", r"adapter '\.\.' is not a name"),
        ("", [Lora(adapter="a/b")], "FIELD_INVALID", "adapter 'a/b' is not a name: give a file's"),
        ("", [Lora(adapter="a\\b")], "FIELD_INVALID", "is not a name"),
        ("", [Lora(adapter="x" * 129)], "FIELD_INVALID", "1 to 128 characters"),
        ("", [Lora(adapter="a"), Lora(adapter="a")], "FIELD_INVALID", "'a' is listed twice"),
        (
            "".join(f"<lora:{k}>" for k in range(MAX_ADAPTERS + 1)),
            [],
            "FIELD_OUT_OF_RANGE",
            "9 adapters; a request takes at most 8",
        ),
    ],
)
def test_what_breaks_a_rule_is_refused(prompt, loras, reason, says):
    """
    The value and the rule are named.
    """
    with pytest.raises(InvalidRequest, match=says) as refused:
        taken(prompt, *loras)

    assert refused.value.reason == getattr(reasons, f"ERROR_REASON_{reason}")
    assert refused.value.metadata == {"field": "generation.loras"}


@pytest.mark.parametrize("prompt", ["a cat", "", " a  cat ", "a\ncat,"])
def test_written_adapters_are_read_again(prompt):
    """
    The prompt of an infotext, sent again, is the same prompt with the same adapters.
    """
    adapters = {"ink": 0.8, "v1.2 (final)": 1.0, "thin": 1 / 3, "none": 1e-05}
    loras = [Lora(adapter=name, weight=weight) for name, weight in adapters.items()]

    assert taken(with_tags(prompt, loras)) == (prompt, adapters, [])


@pytest.mark.parametrize("name", [".", ".hidden", " ink", "ink ", "in<k", "in:k", "in\nk", "a\0b"])
def test_odd_names_are_none(name):
    """
    Nothing that could be a path, hide a file, or not be written as a tag.
    """
    assert not is_name(name)
