import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.inference.worker.prompts import BREAK, at_step, parts, plain


def rounded(prompt):
    return [(part.text, round(part.weight, 4)) for part in parts(prompt)]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a red circle", [("a red circle", 1.0)]),
        ("a (red) circle", [("a ", 1.0), ("red", 1.1), (" circle", 1.0)]),
        ("a ((red)) circle", [("a ", 1.0), ("red", 1.21), (" circle", 1.0)]),
        ("a [red] circle", [("a ", 1.0), ("red", 0.9091), (" circle", 1.0)]),
        ("a (red:1.5) circle", [("a ", 1.0), ("red", 1.5), (" circle", 1.0)]),
        ("(a (red:2) circle:0.5)", [("a ", 0.5), ("red", 1.0), (" circle", 0.5)]),
        (r"a \(red\) circle", [("a (red) circle", 1.0)]),
        ("(unclosed", [("unclosed", 1.1)]),
        ("closed)", [("closed)", 1.0)]),
        ("ratio 16:9", [("ratio 16:9", 1.0)]),
        ("a BREAK b", [("a ", 1.0), (BREAK, -1.0), (" b", 1.0)]),
        ("OUTBREAK", [("OUTBREAK", 1.0)]),
        ("", [("", 1.0)]),
    ],
)
def test_attention_is_read(prompt, expected):
    """
    Round signs give more, square ones less, a number just so much.
    """
    assert rounded(prompt) == expected


@pytest.mark.parametrize(
    ("prompt", "steps"),
    [
        ("a [cat:dog:0.5]", ["a cat", "a cat", "a dog", "a dog"]),
        ("a [cat:dog:1]", ["a cat", "a dog", "a dog", "a dog"]),
        ("a [cat:dog:1.0]", ["a cat", "a cat", "a cat", "a cat"]),
        ("a[ fat:2] cat", ["a cat", "a cat", "a fat cat", "a fat cat"]),
        ("a [fat::2]cat", ["a fatcat", "a fatcat", "a cat", "a cat"]),
        ("a [cat|dog]", ["a cat", "a dog", "a cat", "a dog"]),
        ("[a|b|c]", ["a", "b", "c", "a"]),
        ("[a:[b|c]:2]", ["a", "a", "b", "c"]),
        ("a [(cat:1.2):dog:2]", ["a (cat:1.2)", "a (cat:1.2)", "a dog", "a dog"]),
        ("a [cat]", ["a [cat]"] * 4),
        ("a [b:c:d]", ["a [b:c:d]"] * 4),
        (r"a \[cat|dog\]", [r"a \[cat|dog\]"] * 4),
    ],
)
def test_a_prompt_changes_from_step_to_step(prompt, steps):
    """
    At a step, at a part of all steps, or in turn.
    """
    assert [at_step(prompt, step, 4) for step in range(1, 5)] == steps


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a (red:1.2) [big] circle", "a red big circle"),
        ("a [cat:dog:0.5]", "a dog"),
        ("a BREAK b", "a b"),
        ("as it  is", "as it  is"),
    ],
)
def test_only_the_words_are_left(prompt, words):
    """
    For encoders that know no attention; what has no signs is not touched.
    """
    assert plain(prompt) == words


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab ()[]:|\\.15BREAK", max_size=60), st.integers(1, 9))
def test_nothing_is_an_error(prompt, step):
    """
    Whatever the signs, in whatever order.
    """
    assert parts(at_step(prompt, step, 9))


def test_brackets_may_be_as_deep_as_they_like():
    """
    Also where a whole prompt consists of them.
    """
    for prompt in ("[" * 20_000, "(" * 5_000 + "a" + ")" * 5_000, "[a:" * 9_000):
        assert parts(at_step(prompt, 1, 2))
