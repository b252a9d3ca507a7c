import asyncio
import base64
import io
import json
import pathlib
import subprocess
from typing import ClassVar

import pytest
from PIL import Image

from gateway.dialect import Call, Delivery, Preferences, Shown
from gateway.dialects.remotegpu import DIALECT, decode_image, encode_job, encode_models
from pictor.catalog.v1 import model_pb2
from pictor.inference.v1 import job_pb2
from services.rpc.errors import InvalidRequest
from tests.gateway.dialect_conformance import DialectConformance
from tests.gateway.house import EDITS, NOT_SERVED, SERVED, png, png_base64

PREFERENCES = Preferences("http://pictor.test")
IMAGE = "/v1/inference/image"


def call(body):
    return Call({}, {}, {}, body, PREFERENCES)


def body(**fields):
    return {"prompt": "a red circle", "model": SERVED, **fields}


class TestConformance(DialectConformance):
    """What every dialect must do."""

    dialect = DIALECT
    invalid_body = 422
    good_body: ClassVar = {"prompt": "a red circle", "model": SERVED}

    def assert_envelope(self, body, status):
        assert isinstance(body["detail"], list if status == 422 else str)
        assert set(body["error"]) == {"type", "message"}


def test_the_documented_fields_become_a_generation():
    """
    Width, height, steps and guidance are taken as they are named in the documentation.
    """
    order = decode_image(
        call(body(width=768, height=512, steps=28, guidance=4.0, seed=7, negative_prompt="blue"))
    )

    drawn = order.generation
    assert (drawn.width_px, drawn.height_px, drawn.step_count) == (768, 512, 28)
    assert (drawn.guidance_scale, drawn.seed, drawn.negative_prompt) == (4.0, 7, "blue")
    assert drawn.model == f"models/{SERVED}"
    assert order.delivery is Delivery.ACCEPT


@pytest.mark.parametrize("field", ["width", "height", "steps", "guidance", "seed"])
def test_null_is_the_same_as_absent(field):
    """
    A field that is null takes the model's default.
    """
    order = decode_image(call(body(**{field: None})))

    names = {f.name for f, _ in order.generation.ListFields()}
    assert names == {"model", "prompt"}


@pytest.mark.parametrize("value", [True, False, None, ""])
def test_the_retired_field_is_refused_in_any_form(value):
    """
    ``remove_bg`` is refused by being there, even with false or null.
    """
    with pytest.raises(InvalidRequest) as error:
        decode_image(call(body(remove_bg=value)))

    assert [v.field for v in error.value.violations] == ["remove_bg"]


@pytest.mark.parametrize(
    ("fields", "blamed"),
    [
        ({"prompt": None}, ["prompt"]),
        ({"prompt": "  "}, ["prompt"]),
        ({"prompt": 3}, ["prompt"]),
        ({"model": ""}, ["model"]),
        ({"width": 0}, ["width"]),
        ({"width": "512"}, ["width"]),
        ({"width": 10**400}, ["width"]),
        ({"height": True}, ["height"]),
        ({"steps": 2.5}, ["steps"]),
        ({"guidance": -1}, ["guidance"]),
        ({"seed": 2**32}, ["seed"]),
        ({"input_images_base64": "abc"}, ["input_images_base64"]),
        ({"input_images_base64": [1]}, ["input_images_base64.0"]),
        ({"width": "a", "height": "b"}, ["width", "height"]),
    ],
)
def test_every_wrong_field_is_named(fields, blamed):
    """
    One reply lists all fields that break a rule, so that a caller need not try one by one.
    """
    with pytest.raises(InvalidRequest) as error:
        decode_image(call(body(**fields)))

    assert [v.field for v in error.value.violations] == blamed


def test_unknown_fields_are_ignored():
    """
    Only remove_bg is documented as refused.
    """
    assert decode_image(call(body(webhook="x"))).generation.prompt == "a red circle"


def test_a_job_shows_the_values_that_are_used():
    """
    The status reply holds the merged request and the documented words for states.
    """
    job = job_pb2.Job(name="jobs/5f0c", state=job_pb2.Job.STATE_RUNNING)
    job.generation.width_px = 512
    shown = encode_job(Shown(job, PREFERENCES)).body

    assert shown["status"] == "running"
    assert shown["parameters"]["width"] == 512
    assert shown["result_url"] == "http://pictor.test/v1/inference/results/5f0c"


async def test_the_models_size_counts_beside_an_input_image_too(house):
    """
    "If you omit width, height, ... the model defaults are applied automatically."
    """
    wide = base64.b64encode(png((128, 64))).decode()
    async with house.client() as client:
        made = [
            await client.post(IMAGE, json=body(input_images_base64=[wide], **size))
            for size in ({}, {"width": 128})
        ]
        shown = [await client.get(f"/v1/inference/jobs/{reply.json()['job_id']}") for reply in made]
        listed = await client.get("/v1/inference/models")

    (defaults,) = [
        one["parameter_defaults"] for one in listed.json()["image"] if one["model"] == SERVED
    ]
    sizes = [[reply.json()["parameters"][side] for side in ("width", "height")] for reply in shown]
    assert sizes == [[defaults["width"], defaults["height"]], [128, defaults["height"]]]


async def test_an_unknown_field_with_a_name_of_the_suites_is_not_taken_for_ours(house):
    """
    guidance_scale is no field of this API, and guidance is honoured.
    """
    async with house.client() as client:
        reply = await client.post(IMAGE, json=body(guidance=2, guidance_scale=9))

    receipt = reply.headers["x-pictor-receipt"].split("; ")
    assert {"guidance=honoured", "body.guidance_scale=ignored"} <= set(receipt)


async def test_a_wrong_header_is_said_to_be_one(house):
    """
    As FastAPI says it.
    """
    async with house.client() as client:
        reply = await client.post(IMAGE, json=body(), headers={"x-pictor-job": "x"})

    assert reply.status_code == 422
    assert reply.json()["detail"][0]["loc"] == ["header", "x-pictor-job"]


async def test_an_unknown_adapter_is_refused_before_anything_is_queued(house):
    """
    The device processes have told which there are.
    """
    before = len(await house.jobs())
    async with house.client() as client:
        reply = await client.post(IMAGE, json=body(prompt="a <lora:nope:1> cat"))

    assert reply.status_code == 422, reply.text
    assert reply.json()["detail"][0]["loc"] == ["body", "prompt"]
    assert "'nope' is not known" in reply.text
    assert len(await house.jobs()) == before


def test_the_catalog_lists_limits_and_defaults():
    """
    A model's entry has its image and prompt limits, and only the defaults that it has.
    """
    model = model_pb2.Model(name="models/a/b")
    model.limits.max_prompt_chars = 2048
    model.parameter_defaults.step_count = 30

    assert encode_models([model]).body == {
        "image": [
            {
                "model": "a/b",
                "min_input_images": 0,
                "max_input_images": 0,
                "max_prompt_length": 2048,
                "parameter_defaults": {"steps": 30},
            }
        ]
    }


async def test_a_missing_model_is_422(house):
    """
    A request that names no model is refused, before any job is made.
    """
    before = len(await house.jobs())
    async with house.client() as client:
        reply = await client.post(IMAGE, json={"prompt": "a cat"})

    assert reply.status_code == 422
    assert reply.json()["detail"] == [
        {"loc": ["body", "model"], "msg": "model is missing", "type": "missing"}
    ]
    assert len(await house.jobs()) == before


async def test_an_unknown_model_is_422_on_the_model(house):
    """
    A model that does not exist is a wrong value, not one that may be served later.
    """
    async with house.client() as client:
        reply = await client.post(IMAGE, json=body(model="nobody/nothing"))

    assert reply.status_code == 422
    assert reply.json()["detail"][0]["loc"] == ["body", "model"]


async def test_a_known_model_that_is_not_serving_is_503(house):
    """
    A good request for a model that nothing serves may be sent again later.
    """
    before = len(await house.jobs())
    async with house.client() as client:
        reply = await client.post(IMAGE, json=body(model=NOT_SERVED))

    assert reply.status_code == 503
    assert int(reply.headers["retry-after"]) > 0
    assert isinstance(reply.json()["detail"], str)
    assert len(await house.jobs()) == before


@pytest.mark.parametrize("header", ["x-api-key", "authorization"])
async def test_both_documented_headers_carry_the_key(house, header):
    """
    The older page sends x-api-key, the newer one a bearer token.
    """
    key = house.api_key if header == "x-api-key" else f"Bearer {house.api_key}"
    async with house.client("") as client:
        reply = await client.post(IMAGE, json=body(), headers={header: key})

    assert reply.status_code == 200


async def test_the_dialects_own_header_wins(house):
    """
    Where two keys differ, x-api-key decides.
    """
    async with house.client() as client:
        reply = await client.post(IMAGE, json=body(), headers={"x-api-key": "pk_wrong"})

    assert reply.status_code == 401


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"model": NOT_SERVED, "prompt": "a" * 2048}, 503),
        ({"model": NOT_SERVED, "prompt": "a" * 2049}, 400),
        ({"model": NOT_SERVED, "input_images_base64": [png_base64()]}, 400),
        ({"model": EDITS, "input_images_base64": [png_base64()] * 10}, 503),
        ({"model": EDITS, "input_images_base64": [png_base64()] * 11}, 400),
        ({"model": EDITS, "input_images_base64": ["not an image"]}, 400),
        ({"model": EDITS, "input_images_base64": [base64.b64encode(b"GIF89a").decode()]}, 400),
        ({"model": NOT_SERVED, "prompt": "a" * 2049, "remove_bg": False}, 422),
        ({"model": NOT_SERVED, "remove_bg": None}, 422),
        ({"model": EDITS, "input_images_base64": [png_base64(), "bm8gaW1hZ2U="]}, 400),
        ({"model": "nobody/nothing", "input_images_base64": ["not an image"]}, 422),
        ({"model": NOT_SERVED, "prompt": "a" * 2049, "width": "wide"}, 422),
        ({"width": 4096}, 422),
    ],
)
async def test_checks_come_in_the_documented_order(house, fields, status):
    """
    422 before 400 before 503, and nothing is stored or queued by a request that is refused.
    """
    jobs, uploads = len(await house.jobs()), await house.uploads()
    async with house.client() as client:
        reply = await client.post(IMAGE, json=body(**fields))

    assert reply.status_code == status, reply.text
    assert (len(await house.jobs()), await house.uploads()) == (jobs, uploads)


async def test_a_wrong_scope_is_403_before_a_wrong_body_is_422(house):
    """
    The scope is checked before the body is looked at.
    """
    secret, _ = await house.key("accounts:admin")
    async with house.client(secret) as client:
        reply = await client.post(IMAGE, json={"remove_bg": False})

    assert reply.status_code == 403


async def test_a_job_is_accepted_at_once_and_its_url_waits_for_the_picture(house):
    """
    The reply comes while the job still runs; reading result_url then brings the image's bytes.
    """
    async with house.client() as client:
        with house.held():
            reply = await client.post(IMAGE, json=body(width=96, height=64))
            accepted = reply.json()
            running = (await client.get(f"/v1/inference/jobs/{accepted['job_id']}")).json()
        async with house.client("") as anybody:
            picture = await anybody.get(accepted["result_url"])
        done = (await client.get(f"/v1/inference/jobs/{accepted['job_id']}")).json()

    assert reply.status_code == 200
    assert set(accepted) == {"job_id", "job_type", "result_url"}
    assert running["status"] in ("queued", "running")
    assert picture.headers["content-type"] == "image/png"
    assert picture.content == png((96, 64))
    assert done["status"] == "succeeded"
    assert done["parameters"]["steps"] == 20


async def test_a_canceled_job_has_no_picture_any_more(house):
    """
    The result of a job that ended without one is gone, in the dialect's envelope.
    """
    async with house.client() as client:
        with house.held():
            job_id = (await client.post(IMAGE, json=body())).json()["job_id"]
            await client.post(f"/pictor/v1/jobs/{job_id}:cancel")
            reply = await client.get(f"/v1/inference/results/{job_id}")
        shown = (await client.get(f"/v1/inference/jobs/{job_id}")).json()

    assert reply.status_code == 410
    assert shown["status"] == "canceled"
    assert shown["error"]
    assert shown["finished_at"]


async def test_an_input_image_is_stored_for_the_job(house):
    """
    An image in base64, also as a data URL, becomes an asset that the job names.
    """
    async with house.client() as client:
        data_url = f"data:image/png;base64,{png_base64()}"
        reply = await client.post(IMAGE, json=body(input_images_base64=[data_url]))

    assert reply.status_code == 200, reply.text
    job = next(j for j in await house.jobs() if j.name.endswith(reply.json()["job_id"]))
    assert job.generation.input_images[0].asset.startswith("assets/")


async def test_another_accounts_job_does_not_exist(house):
    """
    A job is shown to its own account only.
    """
    secret, _ = await house.key("inference", new_account=True)
    async with house.client() as client, house.client(secret) as other:
        job_id = (await client.post(IMAGE, json=body())).json()["job_id"]
        reply = await other.get(f"/v1/inference/jobs/{job_id}")

    assert reply.status_code == 404


async def test_results_of_other_dialects_are_not_opened_by_their_ids(house):
    """
    Only a job that came through RemoteGPU has a public result URL.
    """
    async with house.client() as client:
        made = await client.post("/pictor/v1/jobs", json={"generation": body()})
        job_id = made.json()["name"].removeprefix("jobs/")
        reply = await client.get(f"/v1/inference/results/{job_id}")

    assert reply.status_code == 404


@pytest.mark.parametrize("key", ["", "pk_wrong"])
async def test_the_catalog_is_public_and_ignores_a_bad_key(house, key):
    """
    Both read-only endpoints answer everybody, and list models that nothing serves too.
    """
    async with house.client(key) as client:
        catalog = (await client.get("/v1/inference/models")).json()["image"]
        runtime = (await client.get("/v1/inference/runtime/models")).json()["image"]

    dev = next(one for one in catalog if one["model"] == NOT_SERVED)
    assert dev["max_prompt_length"] == 2048
    assert dev["parameter_defaults"] == {"width": 512, "height": 512, "steps": 30, "guidance": 3.5}
    states = {one["model"]: one["available"] for one in runtime}
    assert states[SERVED]
    assert not states[NOT_SERVED]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"prompt": "a" * 5_000_000}, 400),
        ({"negative_prompt": "a" * 100_001}, 400),
        ({"model": "a" * 20_000}, 422),
    ],
)
async def test_what_no_rpc_can_carry_is_refused_before_any(house, fields, status):
    """
    A text that is too long for every model is the caller's mistake, and is not repeated.
    """
    before = len(await house.jobs())
    async with house.client() as client:
        reply = await client.post(
            "/v1/inference/image", json={"prompt": "a", "model": SERVED, **fields}
        )

    assert reply.status_code == status, reply.text
    assert len(reply.text) < 1000
    assert len(await house.jobs()) == before


async def test_an_expired_key_is_401(house):
    """
    A key that was good a moment ago opens nothing after its time.
    """
    secret, _ = await house.key("inference", seconds=1.0)
    async with house.client("", headers={"x-api-key": secret}) as client:
        before = await client.post(IMAGE, json=body())
        await asyncio.sleep(1.1)
        after = await client.post(IMAGE, json=body())

    assert before.status_code == 200
    assert after.status_code == 401
    assert after.json()["error"]["type"] == "api_key_expired"


async def test_a_storage_that_fails_after_validation_is_500(house):
    """
    A good image that cannot be stored is the server's fault; no job is made of it.
    """
    folder = pathlib.Path(house.environ["PICTOR_DATA_DIR"]) / "assets" / "incoming"
    aside = folder.with_name("aside")
    before = len(await house.jobs())
    folder.rename(aside)
    try:
        async with house.client() as client:
            broken = await client.post(IMAGE, json=body(input_images_base64=["not an image"]))
            reply = await client.post(IMAGE, json=body(input_images_base64=[png_base64()]))
    finally:
        aside.rename(folder)

    assert broken.status_code == 400
    assert reply.status_code == 500
    assert reply.json()["error"]["type"] == "storage_failed"
    assert str(folder) not in reply.text
    assert len(await house.jobs()) == before


async def test_strict_handling_is_400_and_not_422(house):
    """
    The request is well formed; what is refused is that it would not be honoured, before any 503.
    """
    async with house.client(headers={"prefer": "handling=strict"}) as client:
        reply = await client.post(IMAGE, json=body(model=NOT_SERVED, webhook="x"))

    assert reply.status_code == 400
    assert reply.json()["detail"].startswith("webhook x would be ignored: ")


async def test_everybody_who_waits_for_a_result_gets_it(house):
    """
    The URL may be read by many, before the picture is there and after.
    """
    async with house.client() as client:
        with house.held():
            accepted = (await client.post(IMAGE, json=body())).json()
            waiting = [asyncio.create_task(client.get(accepted["result_url"])) for _ in range(3)]
            await asyncio.sleep(0.2)
            assert not any(one.done() for one in waiting)
        replies = [*await asyncio.gather(*waiting), await client.get(accepted["result_url"])]

    assert [one.status_code for one in replies] == [200] * 4
    assert len({one.content for one in replies}) == 1


# As they stand in the documentation.
TEXT_TO_IMAGE = """
curl -X POST "https://api.remotegpu.ai/v1/inference/image" \\
  -H "Content-Type: application/json" \\
  -H "x-api-key: YOUR_API_KEY" \\
  -d '{
    "prompt": "a cinematic portrait of an astronaut cat",
    "model": "black-forest-labs/FLUX.2-dev",
    "width": 768,
    "height": 768,
    "steps": 28,
    "guidance": 4.0
  }'
"""
DEFAULTS = """
curl -X POST "https://api.remotegpu.ai/v1/inference/image" \\
  -H "Content-Type: application/json" \\
  -H "x-api-key: YOUR_API_KEY" \\
  -d '{
    "model": "black-forest-labs/FLUX.1-dev",
    "prompt": "a cinematic portrait of an astronaut cat",
    "width": 768,
    "height": 768
  }'
"""
IMAGE_TO_IMAGE = """
curl -X POST "https://api.remotegpu.ai/v1/inference/image" \\
  -H "Content-Type: application/json" \\
  -H "x-api-key: YOUR_API_KEY" \\
  -d '{
    "model": "black-forest-labs/FLUX.2-dev",
    "prompt": "turn this product photo into a soft studio render",
    "input_images_base64": [
      "BASE64_ENCODED_IMAGE"
    ]
  }'
"""
RUNTIME = """
curl "https://api.remotegpu.ai/v1/inference/runtime/models"
"""


def replayed(suite, command):
    """Run a documented command against a suite and return the JSON of its answer."""
    for documented, real in (
        ("https://api.remotegpu.ai", suite.url),
        ("YOUR_API_KEY", suite.api_key),
        ("BASE64_ENCODED_IMAGE", png_base64()),
    ):
        command = command.replace(documented, real)
    quiet = command.replace("curl ", "curl -sS ", 1)
    done = subprocess.run(["bash", "-c", quiet], capture_output=True, check=True, timeout=120)
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("command", "used"),
    [
        (TEXT_TO_IMAGE, {"width": 768, "height": 768, "steps": 28, "guidance": 4.0}),
        (DEFAULTS, {"width": 768, "height": 768, "steps": 30, "guidance": 3.5}),
        (IMAGE_TO_IMAGE, {"width": 512, "height": 512, "steps": 30, "guidance": 4.0}),
    ],
)
async def test_the_documented_requests_are_accepted(stand_in_suite, command, used):
    """
    Each answers with a job, a type and a URL; what a request leaves out is the model's default.
    """
    accepted = replayed(stand_in_suite, command)
    async with stand_in_suite.client() as client:
        job = (await client.get(f"/v1/inference/jobs/{accepted['job_id']}")).json()
        await client.post(f"/pictor/v1/jobs/{accepted['job_id']}:cancel")

    assert set(accepted) == {"job_id", "job_type", "result_url"}
    assert accepted["job_type"] == "image"
    assert {name: job["parameters"][name] for name in used} == used


async def test_the_documented_result_is_the_picture(stand_in_suite):
    """
    Reading the URL waits for the image, which has the size that was asked for.
    """
    command = DEFAULTS.replace("768", "256").replace('"model"', '"steps": 2, "model"')
    accepted = replayed(stand_in_suite, command)
    async with stand_in_suite.client("") as anybody:
        reply = await anybody.get(accepted["result_url"])

    assert reply.status_code == 200
    assert Image.open(io.BytesIO(reply.content)).size == (256, 256)


def test_the_documented_runtime_status_needs_no_key(stand_in_suite):
    """
    Both documented models are there, with the four documented fields.
    """
    states = {one["model"]: one for one in replayed(stand_in_suite, RUNTIME)["image"]}

    for name in (NOT_SERVED, EDITS):
        assert states[name]["available"]
        assert states[name]["ready_replicas"] >= 1
        assert set(states[name]) == {"model", "available", "ready_replicas", "desired_replicas"}
