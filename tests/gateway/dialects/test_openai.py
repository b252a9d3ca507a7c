import base64
from typing import ClassVar

import openai
import pytest

from gateway.dialect import Call, Preferences, Shown
from gateway.dialects.openai import DIALECT, decode_generation, encode_images, fit
from pictor.catalog.v1 import model_pb2
from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import generation_pb2, job_pb2
from pictor.worker.v1 import worker_pb2
from services.rpc.errors import Internal, InvalidRequest, to_status
from tests.gateway.dialect_conformance import DialectConformance
from tests.gateway.house import NOT_SERVED, SERVED, open_house, png

GENERATIONS = "/v1/images/generations"
WRONG_VALUE = ("invalid_request_error", "invalid_value")
PREFERENCES = Preferences("http://pictor.test")


def body(**fields):
    return {"prompt": "a red circle", "model": SERVED, **fields}


def decoded(preferences=PREFERENCES, **fields):
    return decode_generation(Call({}, {}, {}, body(**fields), preferences))


def fitted(**fields):
    model = model_pb2.Model(name=f"models/{SERVED}")
    model.limits.max_image_count = 4
    model.limits.max_step_count = 45
    model.parameter_defaults.step_count = 25
    return fit(decoded(**fields), model)


@pytest.fixture
async def sdk(house):
    """The openai package, as its users set it up."""
    async with openai.AsyncOpenAI(base_url=f"{house.url}/v1", api_key=house.api_key) as client:
        yield client


class TestConformance(DialectConformance):
    """What every dialect must do."""

    dialect = DIALECT
    good_body: ClassVar = {"prompt": "a red circle", "model": SERVED}
    good_requests: ClassVar = {
        "POST /v1/images/edits": {
            "data": {"prompt": "a red circle", "model": SERVED},
            "files": {"image": png((64, 64))},
        },
        "POST /v1/images/variations": {
            "data": {"model": SERVED},
            "files": {"image": png((64, 64))},
        },
    }
    asynchronous: ClassVar = {"async": True}

    def assert_envelope(self, body, status):
        assert set(body["error"]) == {"message", "type", "param", "code"}
        assert body["error"]["message"]


def test_extensions_and_size_become_a_generation():
    """
    What the package passes through ``extra_body`` is honoured beside the documented fields.
    """
    drawn = decoded(
        size="512x256", seed=7, steps=9, guidance_scale=3.5, negative_prompt="blue", n=2
    ).generation

    assert (drawn.width_px, drawn.height_px, drawn.image_count) == (512, 256, 2)
    assert (drawn.seed, drawn.step_count, drawn.guidance_scale) == (7, 9, 3.5)
    assert drawn.negative_prompt == "blue"
    assert drawn.output.format == generation_pb2.Output.FORMAT_PNG


@pytest.mark.parametrize("fields", [{}, {"size": "auto"}, {"size": None, "n": None, "seed": None}])
def test_what_is_absent_null_or_auto_is_left_to_the_model(fields):
    """
    The model's defaults are laid under the request later.
    """
    names = {f.name for f, _ in decoded(**fields).generation.ListFields()}

    assert names == {"model", "prompt", "output"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"model": None}, "model"),
        ({"size": "big"}, "size"),
        ({"size": "0x512"}, "size"),
        ({"size": "99999x512"}, "size"),
        ({"n": "2"}, "n"),
        ({"n": 1.5}, "n"),
        ({"quality": "best"}, "quality"),
        ({"response_format": "jpeg"}, "response_format"),
        ({"output_format": "gif"}, "output_format"),
        ({"output_compression": 101}, "output_compression"),
        ({"background": "transparent", "output_format": "jpeg"}, "background"),
        ({"stream": True, "async": True}, "stream"),
        ({"stream": 1}, "stream"),
        ({"partial_images": 4}, "partial_images"),
        ({"partial_images": -1}, "partial_images"),
        ({"async": "yes"}, "async"),
    ],
)
def test_a_wrong_field_is_named(fields, param):
    """
    The envelope's ``param`` will say which field it was.
    """
    with pytest.raises(InvalidRequest) as error:
        decoded(**fields)

    assert error.value.violations[0].field == param


@pytest.mark.parametrize("model", [3, 0, [], {}, False])
def test_a_model_of_the_wrong_type_is_told_so_and_nothing_else(model):
    """
    It is there, so it is not missing, and no default stands in for it.
    """
    for preferences in (PREFERENCES, Preferences("", default_model="a/b")):
        with pytest.raises(InvalidRequest) as error:
            decoded(preferences, model=model)

        assert len(error.value.violations) == 1
        assert "model must be a text" in error.value.message


def test_partial_images_has_a_range_also_without_a_stream():
    """
    The documented range is named.
    """
    with pytest.raises(InvalidRequest, match="partial_images 4 is outside 0 to 3"):
        decoded(partial_images=4)
    assert decoded(partial_images=2)


def test_the_operators_default_model_stands_in_for_none():
    """
    The package's users may leave the model out where the operator has set one.
    """
    order = decoded(Preferences("", default_model="a/b"), model=None)

    assert order.generation.model == "models/a/b"


@pytest.mark.parametrize(
    ("asked", "used"), [(0, 1), (-3, 1), (3, 3), (7, 4), (50, 4), (1e300, 4), (10**18, 4)]
)
def test_n_is_clamped_and_the_receipt_says_so(asked, used):
    """
    inference.club clamps where OpenAI refuses; one note tells what was asked and what was used.
    """
    order = fitted(n=asked)
    notes = [(n.requested, n.used) for n in order.notes]

    assert order.generation.image_count == used
    assert notes == ([] if asked == used else [(str(asked), str(used))])


@pytest.mark.parametrize(
    ("quality", "steps"), [("low", 12), ("high", 38), ("hd", 38), ("max", 45), ("xhigh", 45)]
)
def test_quality_becomes_a_number_of_steps(quality, steps):
    """
    Effort is a multiple of the model's own steps, within its limit, and the receipt says so.
    """
    order = fitted(quality=quality)

    assert order.generation.step_count == steps
    assert order.notes[0].used == f"{steps} steps"


@pytest.mark.parametrize("quality", ["auto", "medium", "standard", None])
def test_medium_quality_leaves_the_steps_to_the_model(quality):
    """
    The middle is what the model does by itself.
    """
    assert not fitted(quality=quality).generation.HasField("step_count")


def test_steps_win_over_quality():
    """
    Who names a number gets it; that the quality had no effect is in the receipt.
    """
    order = fitted(quality="low", steps=9)

    assert order.generation.step_count == 9
    assert order.notes[0].treatment == job_pb2.ParameterNote.TREATMENT_IGNORED


@pytest.mark.parametrize(
    ("model", "response_format", "inline"),
    [
        (SERVED, None, False),
        (SERVED, "url", False),
        (SERVED, "b64_json", True),
        ("gpt-image-1", None, True),
        ("openai/gpt-image-2", None, True),
        ("gpt-image-1", "url", False),
    ],
)
def test_base64_comes_where_it_is_asked_for_or_expected(model, response_format, inline):
    """
    By default the answer has URLs, except for the models of which clients expect base64.
    """
    assert decoded(model=model, response_format=response_format).contents is inline


def test_fields_without_effect_are_in_the_receipt():
    """
    Nothing is ignored silently.
    """
    order = decoded(style="vivid", moderation="low", background="transparent", quality=None)

    assert {n.parameter for n in order.notes} == {"style", "moderation", "background"}


@pytest.mark.parametrize(("alone", "key"), [(False, "url"), (True, "asset_url")])
def test_open_webui_gets_base64_without_a_url(alone, key):
    """
    PICTOR_OPENAI_B64_ONLY moves the URL to a key that Open WebUI does not follow.
    """
    job = job_pb2.Job()
    job.result.images.add(url="http://x/1", width_px=8, height_px=4, media_type="image/png")
    shown = Shown(job, Preferences("", base64_only=alone), ["aGk="])
    answer = encode_images(shown).body

    assert answer["data"] == [{"b64_json": "aGk=", key: "http://x/1"}]
    assert answer["size"] == "8x4"


async def test_the_package_draws_a_picture(house, sdk):
    """
    ``images.generate`` answers with a URL under which anybody finds the picture.
    """
    drawn = await sdk.images.generate(model=SERVED, prompt="a red circle", size="128x64")

    async with house.client("") as anybody:
        picture = await anybody.get(drawn.data[0].url)
    assert picture.content == png((128, 64))
    assert (drawn.size, drawn.quality, drawn.output_format) == ("128x64", "medium", "png")


async def test_the_package_gets_base64_and_the_url(sdk):
    """
    With ``b64_json`` the bytes come inline, and the image is stored all the same.
    """
    drawn = await sdk.images.generate(
        model=SERVED, prompt="a", response_format="b64_json", size="64x64", n=2
    )

    assert [base64.b64decode(one.b64_json) for one in drawn.data] == [png((64, 64))] * 2
    assert all(one.url for one in drawn.data)


async def test_the_receipt_is_in_a_header(sdk):
    """
    What was clamped and translated is told in one short header, before what was honoured.
    """
    reply = await sdk.images.with_raw_response.generate(
        model=SERVED, prompt="a", n=99, quality="low"
    )

    assert reply.headers["x-pictor-receipt"].startswith("n=clamped; quality=translated; model=h")
    assert len(reply.parse().data) == 10


async def test_models_are_listed_and_found_by_ids_with_slashes(sdk, house):
    """
    The package writes the slash as %2F, curl users as it is.
    """
    listed = [model.id async for model in sdk.models.list()]
    found = await sdk.models.retrieve(NOT_SERVED)
    async with house.client() as client:
        raw = await client.get(f"/v1/models/{NOT_SERVED}")

    assert {SERVED, NOT_SERVED} <= set(listed)
    assert found.id == raw.json()["id"] == NOT_SERVED
    assert found.owned_by == "black-forest-labs"


async def test_an_unknown_model_is_not_found(sdk):
    """
    Retrieving it and drawing with it are both 404 with OpenAI's code.
    """
    with pytest.raises(openai.NotFoundError) as retrieved:
        await sdk.models.retrieve("nobody/nothing")
    with pytest.raises(openai.NotFoundError) as drawn:
        await sdk.images.generate(model="nobody/nothing", prompt="a")

    assert (retrieved.value.code, retrieved.value.type) == (
        "model_not_found",
        "invalid_request_error",
    )
    assert (drawn.value.code, drawn.value.type) == ("model_not_found", "no_provider")


async def test_a_model_that_nothing_serves_is_404_no_provider(sdk):
    """
    inference.club's answer, which the package does not repeat.
    """
    with pytest.raises(openai.NotFoundError) as error:
        await sdk.images.generate(model=NOT_SERVED, prompt="a")

    assert error.value.type == "no_provider"
    assert error.value.request_id


@pytest.mark.parametrize(
    ("fields", "status", "kind", "code"),
    [
        ({"prompt": ""}, 400, "missing_prompt", "missing_required_parameter"),
        ({"model": ""}, 400, "invalid_request_error", "missing_required_parameter"),
        ({"prompt": "a" * 2049}, 413, "request_too_large", None),
        ({"prompt": "a" * 5_000_000}, 413, "request_too_large", None),
        ({"safety_identifier": "a" * 5_000_000}, 413, "request_too_large", None),
        ({"model": "a" * 20_000}, 400, "invalid_request_error", "invalid_value"),
        ({"partial_images": 4}, 400, "invalid_request_error", "invalid_value"),
        ({"size": "100x100"}, 400, "invalid_request_error", "invalid_value"),
        ({"stream": True, "async": True}, 400, "invalid_request_error", "invalid_value"),
        ({"output_format": "gif"}, 400, "invalid_request_error", "invalid_value"),
        ({"background": "transparent", "output_format": "jpeg"}, 400, *WRONG_VALUE),
        ({"n": "two"}, 400, *WRONG_VALUE),
    ],
)
async def test_errors_have_the_documented_types(house, fields, status, kind, code):
    """
    inference.club's table of types and statuses, in OpenAI's envelope.
    """
    async with house.client() as client:
        reply = await client.post(GENERATIONS, json=body(**fields))

    error = reply.json()["error"]
    assert (reply.status_code, error["type"], error["code"]) == (status, kind, code)
    assert error["param"] == next(iter(fields))


async def test_a_size_that_does_not_fit_is_blamed_on_size(house):
    """
    The sentence speaks of the caller's field and names the nearest sizes.
    """
    async with house.client() as client:
        error = (await client.post(GENERATIONS, json=body(size="100x100"))).json()["error"]

    assert error["message"].startswith("size: width 100 is not a multiple of 8")


async def test_a_failure_after_the_start_is_not_to_be_repeated(house, sdk):
    """
    502 would make the package draw twice more; a header tells it not to.
    """
    error = Internal("NaN", reason=reasons.ERROR_REASON_OUTPUT_NOT_FINITE)
    house.executor.outcomes.append(worker_pb2.Report(error=to_status(error)))
    before = len(await house.jobs())
    with pytest.raises(openai.InternalServerError) as caught:
        await sdk.images.generate(model=SERVED, prompt="a")

    assert (caught.value.status_code, caught.value.type) == (502, "upstream_error")
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert caught.value.response.headers["x-pictor-job"]
    assert len(await house.jobs()) == before + 1


async def test_settings_choose_the_default_model(tmp_path):
    """
    PICTOR_DEFAULT_MODEL is used where a request names none.
    """
    async with (
        open_house(tmp_path, PICTOR_DEFAULT_MODEL=SERVED) as house,
        house.client() as client,
    ):
        reply = await client.post(GENERATIONS, json={"prompt": "a"})

    assert reply.status_code == 200


async def test_a_stand_in_is_named_in_a_header(tmp_path):
    """
    Where another model answers, the caller is told which one drew.
    """
    async with (
        open_house(tmp_path, PICTOR_STAND_IN=SERVED) as house,
        house.client() as client,
    ):
        reply = await client.post(GENERATIONS, json=body(model=NOT_SERVED, size="64x64"))

    assert reply.status_code == 200, reply.text
    assert reply.headers["x-pictor-served-by"] == SERVED
