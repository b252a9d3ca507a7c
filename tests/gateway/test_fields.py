import pytest

from gateway.fields import Fields
from gateway.images import Upload
from pictor.errors.v1 import error_reason_pb2 as reasons
from services.rpc.errors import InvalidRequest, reason_name


def test_a_forms_texts_are_read_as_what_they_mean():
    """
    In a form every value is a text: numbers and switches are read from it, empty means absent.
    """
    form = {"n": ["2"], "scale": ["3.5"], "stream": ["true"], "seed": [""], "model": ["a/b"]}
    fields = Fields(form, form=True)

    assert fields.integer("n", least=1, most=10) == 2
    assert fields.number("scale", least=0, most=9) == 3.5
    assert fields.switch("stream") is True
    assert fields.integer("seed", least=0, most=9) is None
    assert fields.text("model", required=True) == "a/b"
    fields.check()


def test_files_come_from_forms_and_from_json():
    """
    Uploads, one text and a list of texts are all images.
    """
    assert Fields({"image": [Upload(b"a")]}, form=True).files("image")[0].source == b"a"
    assert [f.field for f in Fields({"image": ["a", "b"]}).files("image")] == ["image.0", "image.1"]
    assert Fields({"image": "a"}).files("image")[0].field == "image"


@pytest.mark.parametrize("body", [None, [], "a", 3])
def test_a_body_must_be_an_object(body):
    """
    Anything else is refused with what it is.
    """
    with pytest.raises(InvalidRequest, match="must be a JSON object"):
        Fields(body)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e400, True, "3", [], {}])
def test_only_finite_numbers_are_numbers(value):
    """
    JSON's numbers, and nothing that looks like one.
    """
    fields = Fields({"steps": value})

    assert fields.number("steps", least=0, most=9) is None
    with pytest.raises(InvalidRequest, match="steps"):
        fields.check()


def test_an_error_names_value_and_rule():
    """
    The sentence is enough to repair the request.
    """
    fields = Fields({"steps": 0, "quality": "best"})
    fields.integer("steps", least=1, most=150)
    fields.choice("quality", ["low", "high"])

    with pytest.raises(InvalidRequest) as error:
        fields.check()
    assert error.value.message == (
        "steps 0 is outside 1 to 150; quality 'best' is not one of low, high"
    )


def test_a_text_and_a_name_have_a_length():
    """
    What no model reads is refused here, and is not repeated.
    """
    fields = Fields({"prompt": "a" * 100_001, "style": "b" * 100_001, "model": "c" * 501})

    assert fields.prompt("prompt") is fields.text("style") is fields.name("model") is None
    with pytest.raises(InvalidRequest) as error:
        fields.check()
    assert [reason_name(v.reason) for v in error.value.violations] == [
        "PROMPT_TOO_LONG",
        "REQUEST_TOO_LARGE",
        "FIELD_INVALID",
    ]
    assert "prompt has 100001 characters; at most 100000 are accepted" in error.value.message
    assert len(error.value.message) < 300


def test_fields_within_an_object_are_blamed_by_their_place():
    """
    At any depth, and beside the others; an object that is null has no fields.
    """
    fields = Fields({"config": {"image": {"size": 5}, "seed": "a"}, "other": 3, "none": None})
    config = fields.within("config", fields.value("config"))
    image = config.within("image", config.value("image"))

    assert image.text("size") is config.integer("seed") is None
    assert fields.within("none", None).text("size") is None
    assert not fields.within("other", 3).given("size")
    with pytest.raises(InvalidRequest) as error:
        fields.check()
    assert [v.field for v in error.value.violations] == [
        "config.image.size",
        "config.seed",
        "other",
    ]
    assert "other must be an object; it is a number" in error.value.message


def test_a_field_of_a_form_is_given_once():
    """
    Which of two values would count nobody knows.
    """
    fields = Fields({"n": ["1", "2"], "prompt": ["a"]}, form=True)
    assert fields.text("prompt") == "a"
    fields.integer("n")
    fields.integer("n")

    with pytest.raises(InvalidRequest, match=r"^n is given 2 times; give it once$"):
        fields.check()


@pytest.mark.parametrize("text", ["1_000", "\uff11\uff12", "\u0663", "one"])
def test_a_number_in_a_form_is_written_as_numbers_are(text):
    """
    Not as Python alone would read it.
    """
    fields = Fields({"n": [text]}, form=True)
    assert fields.integer("n") is None

    with pytest.raises(InvalidRequest, match="n must be a number"):
        fields.check()


def test_a_prompt_that_is_too_long_is_said_after_what_is_missing():
    """
    The error is the missing field's, and both are told.
    """
    fields = Fields({"prompt": "a" * 100_001})
    fields.prompt("prompt")
    fields.name("model", required=True)

    with pytest.raises(InvalidRequest) as error:
        fields.check()
    assert error.value.reason == reasons.ERROR_REASON_FIELD_REQUIRED
    assert len(error.value.violations) == 2
