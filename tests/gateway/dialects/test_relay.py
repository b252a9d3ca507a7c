import asyncio
import base64
import dataclasses
import io
import uuid
from typing import ClassVar

import httpx
import pytest
from PIL import Image

from gateway.dialect import Call, Delivery, Preferences
from gateway.dialects import relay
from gateway.dialects.relay import DIALECT, address_of, job_id_of
from pictor.catalog.v1 import model_pb2
from pictor.inference.v1 import job_pb2
from services.rpc.errors import InvalidRequest
from tests.gateway.dialect_conformance import DialectConformance, finished
from tests.gateway.house import EDITS, SERVED, open_house, png, png_base64

GOOD = {"prompt": "a red circle", "model": SERVED}
FROM_IMAGE = object()
EDIT = {**GOOD, "image": png_base64(), "size": "64x64"}


class TestConformance(DialectConformance):
    """What every dialect must do."""

    dialect = DIALECT
    good_body: ClassVar = GOOD
    good_requests: ClassVar = {
        f"POST /v2/image/{family}/edit": {"json": EDIT} for family in ("gpt-image", "qwen")
    }
    asynchronous: ClassVar = {"async": True}

    def assert_envelope(self, body, status):
        assert set(body["error"]) == {"message", "type", "code"}
        assert body["detail"] == body["error"]["message"]


# Its own copy, so that a slip in the code's table is seen.
PIXELS = """
    1:1   1024x1024  2048x2048  4096x4096
    2:3   848x1264   1696x2528  3392x5056
    3:2   1264x848   2528x1696  5056x3392
    3:4   896x1200   1792x2400  3584x4800
    4:3   1200x896   2400x1792  4800x3584
    4:5   928x1152   1856x2304  3712x4608
    5:4   1152x928   2304x1856  4608x3712
    9:16  768x1376   1536x2752  3072x5504
    16:9  1376x768   2752x1536  5504x3072
    21:9  1584x672   3168x1344  6336x2688
"""
TABLE = [
    (line.split()[0], tier, tuple(int(side) for side in size.split("x")))
    for line in PIXELS.strip().splitlines()
    for tier, size in zip(("1K", "2K", "4K"), line.split()[1:], strict=True)
]
BASE64, URL = "base64", "url"
ROUTES = [
    ("/v2/image/flux/generate", "images", BASE64, "black-forest-labs/FLUX-2-pro"),
    ("/v2/image/gemini-3/generate", "images", BASE64, "google/gemini-3-pro-T2I"),
    ("/v2/image/gpt-image/generate", "images", URL, "openai/gpt-image-1.5-T2I"),
    ("/v2/image/gpt-image/edit", "images", URL, "openai/gpt-image-1.5-I2I"),
    ("/v2/image/qwen/generate", "urls", URL, "Qwen/qwen-image"),
    ("/v2/image/qwen/edit", "urls", URL, "Qwen/qwen-image-edit"),
]


@pytest.fixture(scope="module")
async def stand_in_house(tmp_path_factory):
    """A house in which the one model that is served answers for all others."""
    folder = tmp_path_factory.mktemp("stand-in-house")
    async with open_house(folder, PICTOR_STAND_IN=SERVED) as one:
        yield one


def call(body):
    return Call({}, {}, {}, body, Preferences("http://pictor.test"))


def blamed(decode, **fields):
    """Return which fields a request is refused for."""
    with pytest.raises(InvalidRequest) as error:
        decode(call({"prompt": "a cat", **fields}))
    return [violation.field for violation in error.value.violations]


def size_of(order):
    drawn = order.generation
    return (drawn.width_px, drawn.height_px) if drawn.HasField("width_px") else None


def picture(size, form="PNG"):
    return base64.b64encode(png(size, form)).decode()


def source_of(path):
    return {"image": png_base64()} if path.endswith("/edit") else {}


def opened(content):
    return Image.open(io.BytesIO(base64.b64decode(content, validate=True)))


@pytest.mark.parametrize(("ratio", "tier", "size"), TABLE)
def test_every_ratio_and_tier_of_gemini_is_its_number_of_pixels(ratio, tier, size):
    """
    The maker's table, to the pixel; tiers are taken in lower case too.
    """
    for spelt in (tier, tier.lower()):
        body = {"prompt": "a cat", "aspect_ratio": ratio, "image_size": spelt}
        assert size_of(relay.decode_gemini(call(body))) == size


@pytest.mark.parametrize(("ratio", "tier", "size"), TABLE[::7])
async def test_gemini_pictures_have_their_number_of_pixels(stand_in_house, ratio, tier, size):
    """
    The file that comes back is of exactly that size.
    """
    body = {"prompt": "a cat", "aspect_ratio": ratio, "image_size": tier}
    async with stand_in_house.client() as client:
        reply = await client.post("/v2/image/gemini-3/generate", json=body)

    assert reply.status_code == 200, reply.text
    assert opened(reply.json()["images"][0]).size == size
    assert "aspect_ratio=translated" in reply.headers["x-pictor-receipt"]


@pytest.mark.parametrize(("path", "key", "kind", "model"), ROUTES)
async def test_each_route_answers_with_its_own_key(stand_in_suite, path, key, kind, model):
    """
    ``images`` in base64, ``images`` as URLs, or ``urls``; drawn by the model of the page.
    """
    body = {"prompt": "a red circle", **source_of(path)}
    async with stand_in_suite.client() as client:
        reply = await client.post(path, json=body)
        assert reply.status_code == 200, reply.text
        answer = reply.json()
        assert set(answer) == {key, "model", "seeds", "created"}
        (image,) = answer[key]
        content = base64.b64decode(image) if kind == BASE64 else (await client.get(image)).content

    assert answer["model"] == model
    drawn = Image.open(io.BytesIO(content))
    # An edit of the house's picture keeps its ratio, 64 to 48, where no size is the page's default.
    assert drawn.size == ((1168, 880) if path.endswith("qwen/edit") else (1024, 1024))


@pytest.mark.parametrize(("path", "key", "kind", "model"), ROUTES)
async def test_a_task_ends_with_the_answer_of_its_route(stand_in_house, path, key, kind, model):
    """
    202 with an address; then pending or processing; then the synchronous body, in both places.
    """
    house = stand_in_house
    body = {"prompt": "a cat", "seed": 7, **source_of(path)}
    async with house.client() as client:
        with house.held():
            accepted = await client.post(path, json={**body, "async": True})
            task = accepted.json()
            early = (await client.get(task["poll_url"])).json()
        await finished(house, accepted.headers["x-pictor-job"])
        done = (await client.get(task["poll_url"])).json()
        waited = (await client.post(path, json=body)).json()

    assert accepted.status_code == 202
    assert set(task) == {"task_address", "status", "poll_url"}
    assert task["status"] == "pending"
    assert len(task["task_address"]) == 42
    assert task["poll_url"] == f"/v2/tasks/{task['task_address']}"
    assert early["status"] in ("pending", "processing")
    assert early["result"] is None
    assert early["completed_at"] is None
    assert (done["status"], done["progress"], done["error"]) == ("completed", 1.0, None)
    assert done["result"][key] == done[key]
    assert set(done["result"]) == set(waited)
    assert done["result"]["model"] == model
    assert done["result"]["seeds"] == waited["seeds"] == [7]
    assert (done["result"][key] == waited[key]) == (kind == BASE64)


async def test_a_task_that_is_canceled_or_fails_says_so(house):
    """
    Its status and its error; there is no result.
    """
    async with house.client() as client:
        with house.held():
            reply = await client.post("/v2/image/flux/generate", json={**GOOD, "async": True})
            job_id = reply.headers["x-pictor-job"]
            await client.post(f"/pictor/v1/jobs/{job_id}:cancel")
            task = (await client.get(reply.json()["poll_url"])).json()

    assert task["status"] == "canceled"
    assert task["result"] is None
    assert task["error"]["message"]
    assert task["completed_at"]


@pytest.mark.parametrize("address", ["0x" + "0" * 40, "0x12", "nothing", str(uuid.uuid4())])
async def test_an_unknown_task_is_404(house, address):
    """
    Whatever an address looks like.
    """
    async with house.client() as client:
        reply = await client.get(f"/v2/tasks/{address}")

    assert reply.status_code == 404
    assert reply.json()["error"]["type"] == "not_found_error"


def test_an_address_is_the_jobs_id_in_forty_digits():
    """
    Both forms lead to the job; clients of that network may write digits in either case.
    """
    job = job_pb2.Job(name=f"jobs/{uuid.uuid4()}")
    address = address_of(job)

    assert f"jobs/{job_id_of(address)}" == job.name
    assert job_id_of(f"0x{address[2:].upper()}") == job_id_of(address)
    assert job_id_of(job.name.removeprefix("jobs/")) == job.name.removeprefix("jobs/")


async def test_who_has_waited_for_the_limit_gets_504_and_the_job_goes_on(tmp_path):
    """
    The body has the task's address, under which the picture is found later.
    """
    assert DIALECT.wait_seconds == 300
    hasty = dataclasses.replace(DIALECT, wait_seconds=0.2)
    async with open_house(tmp_path, [hasty]) as house, house.client() as client:
        with house.held():
            reply = await client.post("/v2/image/flux/generate", json=GOOD)
            body = reply.json()
            running = (await client.get(body["poll_url"])).json()
        state = await finished(house, reply.headers["x-pictor-job"])
        done = (await client.get(body["poll_url"])).json()

    assert reply.status_code == 504
    assert body["error"]["type"] == "timeout_error"
    assert job_id_of(body["task_address"]) == reply.headers["x-pictor-job"]
    assert running["status"] == "processing"
    assert state == "STATE_SUCCEEDED"
    assert done["images"]


@pytest.mark.parametrize(
    ("fields", "fields_blamed"),
    [
        ({"prompt": None}, ["prompt"]),
        ({"width": 32}, ["width"]),
        ({"width": 700}, ["width"]),
        ({"height": 1000}, ["height"]),
        ({"width": 40, "height": "1024"}, ["width", "height"]),
        ({"safety_tolerance": 7}, ["safety_tolerance"]),
        ({"safety_tolerance": -1}, ["safety_tolerance"]),
        ({"output_format": "webp"}, ["output_format"]),
        ({"input_image_2": 3}, ["input_image_2"]),
        ({"seed": -1}, ["seed"]),
    ],
)
def test_flux_names_what_breaks_a_documented_rule(fields, fields_blamed):
    """
    Sides of at least 64 and multiples of 32, a tolerance of 0 to 6, png or jpeg.
    """
    assert sorted(blamed(relay.decode_flux, **fields)) == sorted(fields_blamed)


def test_flux_says_which_sides_are_near():
    """
    The value, the rule and what would be right.
    """
    with pytest.raises(InvalidRequest, match="width 700 is not a multiple of 32; nearest are 672"):
        relay.decode_flux(call({"prompt": "a", "width": 700}))


def test_flux_takes_up_to_four_images_in_the_order_of_their_numbers():
    """
    Gaps are closed, and the order in the body means nothing.
    """
    body = {"prompt": "a", "input_image_4": "ZA==", "input_image": "YQ==", "input_image_3": "Yw=="}
    order = relay.decode_flux(call(body))

    assert [file.content() for file in order.input_images] == [b"a", b"c", b"d"]


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({}, None),
        ({"width": 0, "height": None}, None),
        ({"width": 640, "height": 512}, (640, 512)),
        ({"input_image": picture((64, 48))}, FROM_IMAGE),
        ({"input_image": picture((64, 48)), "width": 0, "height": 0}, FROM_IMAGE),
        ({"input_image": picture((64, 48)), "width": 512, "height": 512}, (512, 512)),
    ],
)
def test_flux_without_a_size_has_the_models_or_the_first_images_ratio(fields, size):
    """
    0 and null leave the choice.
    """
    order = relay.decode_flux(call({"prompt": "a", **fields}))

    assert order.generation.shape_from_image == (size is FROM_IMAGE)
    assert size_of(order) == (None if size is FROM_IMAGE else size)


@pytest.mark.parametrize("form", ["png", "jpeg"])
async def test_flux_writes_the_format_that_is_asked_for(stand_in_suite, form):
    """
    PNG or JPEG, in plain base64; the tolerance is noted as having no effect.
    """
    body = {"prompt": "a", "output_format": form, "safety_tolerance": 2, "steps": 2, "width": 64}
    async with stand_in_suite.client() as client:
        reply = await client.post("/v2/image/flux/generate", json=body)

    assert reply.status_code == 200, reply.text
    assert opened(reply.json()["images"][0]).format == form.upper()
    assert "safety_tolerance=ignored" in reply.headers["x-pictor-receipt"]
    assert "width=honoured" in reply.headers["x-pictor-receipt"]


@pytest.mark.parametrize(
    ("decode", "fields", "fields_blamed"),
    [
        (relay.decode_gemini, {"aspect_ratio": "7:5"}, ["aspect_ratio"]),
        (relay.decode_gemini, {"image_size": "8K"}, ["image_size"]),
        (relay.decode_gpt, {"n": 0}, ["n"]),
        (relay.decode_gpt, {"n": 5}, ["n"]),
        (relay.decode_gpt, {"quality": "hd"}, ["quality"]),
        (relay.decode_gpt, {"size": "large"}, ["size"]),
        (relay.decode_gpt_edit, {}, ["image"]),
        (relay.decode_gpt_edit, {"image": "YQ==", "mask": ["YQ==", "YQ=="]}, ["mask"]),
        (relay.decode_qwen, {"size": "auto"}, ["size"]),
        (relay.decode_qwen, {"async": "yes"}, ["async"]),
        (relay.decode_qwen_edit, {"image": []}, ["image"]),
        (relay.decode_qwen_edit, {"image": 7}, ["image"]),
    ],
)
def test_the_other_routes_name_what_breaks_a_rule(decode, fields, fields_blamed):
    """
    One to four images, four qualities, ten ratios, three tiers, and what is required.
    """
    assert blamed(decode, **fields) == fields_blamed


@pytest.mark.parametrize("separator", ["x", "X", "*", "\u00d7"])
def test_qwens_sizes_are_read_with_every_sign_in_use(separator):
    """
    The page writes x, DashScope an asterisk.
    """
    body = {"prompt": "a", "size": f"1328{separator}1328"}

    assert size_of(relay.decode_qwen(call(body))) == (1328, 1328)


@pytest.mark.parametrize("source", [(640, 480), (480, 640), (1100, 256), (200, 1000)])
@pytest.mark.parametrize(
    ("path", "field"),
    [("/v2/image/qwen/edit", "image"), ("/v2/image/flux/generate", "input_image")],
)
async def test_an_edit_without_a_size_has_its_sources_shape(stand_in_house, path, field, source):
    """
    The page's default would distort it; also where the model draws no such side at that area.
    """
    body = {"prompt": "a", "model": EDITS, field: picture(source, "JPEG")}
    async with stand_in_house.client() as client:
        reply = await client.post(path, json=body)
    assert reply.status_code == 200, reply.text
    (job,) = [
        one
        for one in await stand_in_house.jobs()
        if one.name.endswith(reply.headers["x-pictor-job"])
    ]

    drawn = job.generation
    assert drawn.width_px / drawn.height_px == pytest.approx(source[0] / source[1], rel=0.1)


@pytest.mark.parametrize(
    ("source", "size"),
    [((640, 480), (1536, 1024)), ((480, 640), (1024, 1536)), ((500, 480), (1024, 1024))],
)
def test_auto_is_the_size_that_is_nearest_to_the_source(source, size):
    """
    One of the three that the page lists.
    """
    body = {"prompt": "a", "image": picture(source), "size": "auto"}

    assert size_of(relay.decode_gpt_edit(call(body))) == size


@pytest.mark.parametrize(
    ("quality", "steps"), [("low", 14), ("medium", None), ("auto", None), ("high", 42)]
)
def test_quality_becomes_steps(quality, steps):
    """
    Half, once, or one and a half times the model's own number.
    """
    model = model_pb2.Model(name="models/a")
    model.parameter_defaults.step_count, model.limits.max_step_count = 28, 100
    order = relay.fit_gpt(relay.decode_gpt(call({"prompt": "a", "quality": quality})), model)

    drawn = order.generation
    assert (drawn.step_count if drawn.HasField("step_count") else None) == steps


async def test_gpt_image_draws_as_many_as_are_asked_for(stand_in_house):
    """
    One URL for each.
    """
    async with stand_in_house.client() as client:
        body = {"prompt": "a", "n": 4, "quality": "low", "size": "1536x1024"}
        reply = await client.post("/v2/image/gpt-image/generate", json=body)
        sizes = [
            Image.open(io.BytesIO((await client.get(url)).content)).size
            for url in reply.json()["images"]
        ]

    assert sizes == [(1536, 1024)] * 4
    assert "quality=translated" in reply.headers["x-pictor-receipt"]


def test_a_masked_edit_without_a_size_is_drawn_at_the_default():
    """
    The page says 1024x1024, also where the picture is smaller.
    """
    body = {"prompt": "a", "image": png_base64(), "mask": png_base64()}
    model = model_pb2.Model(name="models/a")
    model.parameter_defaults.width_px = model.parameter_defaults.height_px = 1024

    assert size_of(relay.fit_gpt(relay.decode_gpt_edit(call(body)), model)) == (1024, 1024)


@pytest.mark.parametrize(
    ("path", "fields", "name"),
    [
        ("/v2/image/flux/generate", {"width": 4096, "height": 64}, "width"),
        ("/v2/image/qwen/generate", {"size": "4096x64"}, "size: width"),
        ("/v2/image/gpt-image/generate", {"size": "4096x64"}, "size: width"),
    ],
)
async def test_errors_of_the_services_speak_the_routes_words(house, path, fields, name):
    """
    What is out of the model's range is a width on one route and a size on another.
    """
    async with house.client() as client:
        reply = await client.post(path, json={**GOOD, **fields})

    assert reply.status_code == 400
    assert reply.json()["detail"].startswith(f"{name} 4096 is outside")


async def test_nobody_waits_for_a_task(house):
    """
    The connection is free at once, and leaving it does not end the job.
    """
    order = relay.decode_flux(call({**GOOD, "async": True}))
    assert order.delivery is Delivery.ACCEPT
    with house.held():
        async with httpx.AsyncClient(base_url=house.url, timeout=5) as client:
            client.headers["X-API-Key"] = house.api_key
            reply = await client.post("/v2/image/flux/generate", json={**GOOD, "async": True})
        await asyncio.sleep(0.1)
        job = await house.job(reply.headers["x-pictor-job"])
        assert job.state in (job_pb2.Job.STATE_QUEUED, job_pb2.Job.STATE_RUNNING)
    assert await finished(house, reply.headers["x-pictor-job"]) == "STATE_SUCCEEDED"


async def test_the_image_of_an_edit_may_be_a_url(house):
    """
    Storage is who goes there, and it refuses what is not public: the URL is not taken for base64.
    """
    body = {**GOOD, "image": "http://127.0.0.1:9/source.png"}
    async with house.client() as client:
        reply = await client.post("/v2/image/qwen/edit", json=body)

    assert reply.status_code == 400
    assert reply.json()["detail"].startswith("image: ")
    assert "base64" not in reply.json()["detail"]
