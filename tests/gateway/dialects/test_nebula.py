import asyncio
import base64
import io
import json
import shutil
import subprocess
from typing import ClassVar

import pytest
from PIL import Image

from gateway.dialect import Call, Preferences
from gateway.dialects.nebula import DIALECT, PATHS, decode, fit
from pictor.catalog.v1 import model_pb2
from services.rpc.errors import InvalidRequest
from tests.gateway.dialect_conformance import DialectConformance
from tests.gateway.house import NOT_SERVED, SERVED, png, png_base64

FILL = "black-forest-labs/FLUX.1-Fill-dev"


class TestConformance(DialectConformance):
    """What every dialect must do."""

    dialect = DIALECT
    good_body: ClassVar = {"prompt": "a red circle", "model": SERVED}

    def assert_envelope(self, body, status):
        assert (body["status"], body["object"], body["data"]) == ("failed", "list", [])
        assert body["message"]


def call(body=None, query=None):
    return Call({}, query or {}, {}, body, Preferences("http://pictor.test"))


def asked(**fields):
    return decode(call({"prompt": "a red circle", "model": SERVED, **fields}))


def base64_of(picture, form="JPEG"):
    file = io.BytesIO()
    picture.save(file, form)
    return base64.b64encode(file.getvalue()).decode()


def filled(**fields):
    """Fit a request to a model that fills."""
    model = model_pb2.Model(name="models/a/fill", operations=[model_pb2.OPERATION_INPAINT])
    model.limits.size_multiple_px = 16
    model.parameter_defaults.width_px = model.parameter_defaults.height_px = 1024
    image = {"image": png_base64(), "mask": png_base64()}
    return fit(asked(**image, **fields), model)


FIRST_PAGE = {
    "model_name": SERVED,
    "num_steps": 4,
    "guidance_scale": 9,
    "input_image": "aW1hZ2U=",
    "mask_image": "bWFzaw==",
}
OTHER_PAGE = {
    "model": SERVED,
    "num_steps": 4,
    "guidance_scale": 9,
    "image": "aW1hZ2U=",
    "mask": "bWFzaw==",
}
COMMON = {
    "model": SERVED,
    "num_inference_steps": 4,
    "guidance": 9,
    "image": "aW1hZ2U=",
    "mask_image": "bWFzaw==",
}


@pytest.mark.parametrize("names", [FIRST_PAGE, OTHER_PAGE, COMMON])
def test_both_pages_names_mean_the_same(names):
    """
    ``model_name`` and ``input_image`` of one page are ``model`` and ``image`` of the other.
    """
    order = decode(call({"prompt": "a cat", "width": 512, "height": 256, "seed": 7, **names}))

    drawn = order.generation
    assert (drawn.model, drawn.prompt) == (f"models/{SERVED}", "a cat")
    assert (drawn.step_count, drawn.guidance_scale, drawn.seed) == (4, 9.0, 7)
    assert (drawn.width_px, drawn.height_px) == (512, 256)
    assert [file.content() for file in order.input_images] == [b"image"]
    assert order.mask.source == "bWFzaw=="


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"model": "a"}, {"model_name": "b"}),
        ({"image": "aQ=="}, {"input_image": "ag=="}),
        ({"mask": "aQ=="}, {"mask_image": "ag=="}),
        ({"num_steps": 4}, {"steps": 5}),
    ],
)
def test_two_names_of_one_parameter_must_not_differ(one, other):
    """
    Which of the two was meant is not guessed.
    """
    image = {"image": "aW1hZ2U="} if "mask" in one else {}
    with pytest.raises(InvalidRequest, match="are the same parameter, and differ"):
        asked(**{**image, **one, **other})
    (name,) = other
    assert asked(**{**image, **one, name: None})


def test_a_query_stands_in_for_the_body_that_a_proxy_dropped():
    """
    GET without a body takes the same names from the query, where numbers are texts.
    """
    query = {"prompt": ["a cat"], "model_name": [SERVED], "num_steps": ["4"], "width": ["512"]}
    drawn = decode(call(None, query)).generation

    assert (drawn.model, drawn.prompt) == (f"models/{SERVED}", "a cat")
    assert (drawn.step_count, drawn.width_px) == (4, 512)


@pytest.mark.parametrize(
    ("asked_px", "used_px", "clamped"), [(1000, 992, True), (992, 992, False), (7, 16, True)]
)
def test_sides_are_brought_down_to_multiples_of_16(asked_px, used_px, clamped):
    """
    1000 becomes 992 and is not refused; the receipt says so.
    """
    order = filled(width=asked_px, height=512)

    assert (order.generation.width_px, order.generation.height_px) == (used_px, 512)
    notes = [(n.parameter, n.requested, n.used) for n in order.notes]
    assert notes == ([("width", str(asked_px), str(used_px))] if clamped else [])


def test_without_a_size_the_models_own_is_drawn_and_not_the_images():
    """
    1024 x 1024 is the default of every model on the page, that fill included.
    """
    drawn = filled().generation

    assert (drawn.width_px, drawn.height_px) == (1024, 1024)


@pytest.mark.parametrize("missing", ["image", "mask"])
async def test_filling_needs_an_image_and_a_mask(house, missing):
    """
    What is missing is named under both its names, before the model is found to be away.
    """
    body = {"prompt": "a cat", "model": FILL, "image": png_base64(), "mask": png_base64()}
    del body[missing]
    async with house.client() as client:
        reply = await client.post(PATHS[0], json=body)

    assert reply.status_code == 400
    assert missing in reply.json()["message"]


@pytest.mark.parametrize(
    ("fields", "status", "model"),
    [
        ({"model": "nobody/nothing"}, 404, "nobody/nothing"),
        ({"model": NOT_SERVED}, 503, NOT_SERVED),
        ({"width": "wide"}, 400, None),
    ],
)
async def test_an_error_looks_like_an_answer_without_images(house, fields, status, model):
    """
    The real status, and the model where it is known.
    """
    async with house.client() as client:
        reply = await client.post(PATHS[0], json={"prompt": "a", "model": SERVED, **fields})

    assert reply.status_code == status
    body = reply.json()
    assert (body["status"], body["data"], body["object"]) == ("failed", [], "list")
    assert body["model"] == model
    assert body["message"]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", PATHS)
async def test_both_methods_and_both_paths_draw_and_nothing_keeps_the_answer(house, method, path):
    """
    A cache must not answer the second GET with the first one's picture.
    """
    body = {"model": SERVED, "prompt": "a cat", "width": 72, "height": 64}
    async with house.client() as client:
        reply = await client.request(method, path, json=body)

    assert reply.status_code == 200, reply.text
    (image,) = reply.json()["data"]
    assert (image["width"], image["height"], image["index"]) == (72, 64, 0)
    assert base64.b64decode(image["b64_json"]) == png((72, 64))
    assert reply.headers["cache-control"] == "no-store"


async def test_the_answer_names_the_model_as_the_request_did(house):
    """
    Also where that is an alias.
    """
    async with house.client() as client:
        reply = await client.post(PATHS[0], json={"model": "shapes", "prompt": "a cat"})

    assert reply.json()["model"] == "shapes"


async def test_a_black_mask_is_refused(house):
    """
    There would be nothing to repaint, and nothing is stored.
    """
    before = await house.uploads()
    black = base64_of(Image.new("L", (64, 48)), "PNG")
    body = {"model": SERVED, "prompt": "a cat", "image": png_base64(), "mask": black}
    async with house.client() as client:
        reply = await client.post(PATHS[0], json=body)

    assert reply.status_code == 400
    assert reply.json()["message"].startswith("mask is empty")
    assert await house.uploads() == before


def curl(*arguments):
    """Run curl as the page has it; return the status and the JSON."""
    done = subprocess.run(
        [str(shutil.which("curl")), "-sS", "-w", "\\n%{http_code}", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    body, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(body)


async def test_the_documented_text_to_image_command(stand_in_suite):
    """
    GET with a body, at the path that has /api/v1 twice.
    """
    status, answer = await asyncio.to_thread(
        curl,
        *("-X", "GET", f"{stand_in_suite.url}/api/v1/api/v1/images/generation"),
        *("-H", f"Authorization: Bearer {stand_in_suite.api_key}"),
        *("-H", "Content-Type: application/json"),
        "-d",
        """{
    "model": "stabilityai/stable-diffusion-xl-base-1.0",
    "prompt": "insert your prompt here",
    "num_steps": 25,
    "guidance_scale": 9,
    "width": 1024,
    "height": 1024,
    "negative_prompt": null
}""",
    )

    assert status == 200, answer
    (image,) = answer.pop("data")
    assert answer == {
        "model": "stabilityai/stable-diffusion-xl-base-1.0",
        "object": "list",
        "message": "Image generated successfully",
        "status": "success",
    }
    assert image["timings"]["inference"] > 0
    assert image["index"] == 0
    drawn = Image.open(io.BytesIO(base64.b64decode(image["b64_json"], validate=True)))
    assert drawn.size == (1024, 1024)


@pytest.mark.parametrize(("steps", "asked_px", "used_px"), [(40, 1024, 1024), (4, 1000, 992)])
async def test_the_documented_fill_command_and_its_rule_of_16(
    stand_in_suite, steps, asked_px, used_px
):
    """
    POST with JPEG files in plain base64; 1000 x 1000 gives 992 x 992.
    """
    picture = Image.radial_gradient("L").resize((asked_px, asked_px)).convert("RGB")
    mask = Image.new("L", (asked_px, asked_px))
    mask.paste(255, (200, 200, 700, 700))
    sent = {
        "model": "black-forest-labs/FLUX.1-Fill-dev",
        "prompt": "a red baseball cap",
        "num_steps": steps,
        "guidance_scale": 4.5,
        "width": asked_px,
        "height": asked_px,
        "image": base64_of(picture),
        "mask": base64_of(mask),
    }
    assert sent["image"].startswith("/9j/4")
    status, answer = await asyncio.to_thread(
        curl,
        *("-X", "POST", f"{stand_in_suite.url}/api/v1/images/generation"),
        *("-H", "Content-Type: application/json"),
        *("-H", f"Authorization: Bearer {stand_in_suite.api_key}"),
        *("--data-raw", json.dumps(sent)),
    )

    assert status == 200, answer
    (image,) = answer["data"]
    assert answer["model"] == "black-forest-labs/FLUX.1-Fill-dev"
    drawn = Image.open(io.BytesIO(base64.b64decode(image["b64_json"])))
    assert drawn.size == (image["width"], image["height"]) == (used_px, used_px)


@pytest.mark.parametrize("prefix", ["/api/v1/images", "/api/v1/api/v1/images"])
async def test_a_look_at_the_url_draws_nothing(house, prefix):
    """
    Whoever checks links sends HEAD, and pays for no picture.
    """
    before = len(await house.jobs())
    async with house.client() as client:
        url = f"{prefix}/generation?prompt=a&model={SERVED}"
        reply = await client.head(url)
        other = await client.put(url)

    assert (reply.status_code, other.status_code) == (405, 405)
    assert reply.headers["allow"] == other.headers["allow"] == "GET, POST"
    assert len(await house.jobs()) == before
