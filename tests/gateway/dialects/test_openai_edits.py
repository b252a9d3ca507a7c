"""Pictures drawn from others: every way in which clients send them, and what is refused."""

import base64
import io
import json

import openai
import pytest
from PIL import Image

from gateway.dialect import Call, Preferences
from gateway.dialects.openai import decode_edit, decode_variation, fit_edit, fit_variation
from gateway.images import Upload
from pictor.catalog.v1 import model_pb2
from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import generation_pb2, job_pb2
from services.rpc.errors import InvalidRequest
from tests.gateway.house import EDITS, NOT_SERVED, SERVED, png

PATH = "/v1/images/edits"
FORM = {"content-type": "multipart/form-data; boundary=x"}
SIZE = (64, 64)
PICTURE = png(SIZE)
BASE64 = base64.b64encode(PICTURE).decode()
DATA_URL = f"data:image/png;base64,{BASE64}"

# OpenAI has retired the endpoint, of which the package warns whoever calls it.
RETIRED_UPSTREAM = pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")


def mask(size=SIZE, hole=(0, 0, 32, 64), form="PNG"):
    """A picture that is fully transparent in *hole*, half so to the right of it."""
    picture = Image.new("RGBA", size, (0, 0, 0, 255))
    picture.paste((255, 255, 255, 0), hole)
    picture.paste((255, 255, 255, 128), (hole[2], 0, hole[2] + 8, 8))
    return written(picture, form)


def written(picture, form="PNG"):
    file = io.BytesIO()
    picture.save(file, form)
    return file.getvalue()


def read(body, headers=None):
    preferences = Preferences("http://pictor.test", default_model=SERVED)
    return decode_edit(Call({}, {}, headers or {}, body, preferences))


def form(**fields):
    return {"prompt": ["a red circle"], "model": [SERVED], **fields}


def uploads(count):
    return [Upload(PICTURE + bytes([k])) for k in range(count)]


@pytest.fixture
async def sdk(house):
    """The openai package, as its users set it up."""
    async with openai.AsyncOpenAI(base_url=f"{house.url}/v1", api_key=house.api_key) as client:
        yield client


@pytest.mark.parametrize(
    "names",
    [
        ["image", "image", "image"],
        ["image[]", "image[]", "image[]"],
        ["image[0]", "image[1]", "image[2]"],
        ["image", "image[]", "image[]"],
        ["images[]", "images[]", "images[]"],
    ],
)
def test_images_are_found_under_every_name_that_clients_use(names):
    """
    One name that is repeated, with brackets or without, or a number in them.
    """
    body = form()
    for name, upload in zip(names, uploads(3), strict=True):
        body.setdefault(name, []).append(upload)

    files = read(body, FORM).input_images

    assert [file.source for file in files] == [one.content for one in uploads(3)]
    assert [file.field for file in files] == ["image[0]", "image[1]", "image[2]"]


def test_numbered_images_come_in_the_order_of_their_numbers():
    """
    Ten comes after two, however the parts of the form are ordered.
    """
    body = form()
    for number in (10, 2, 1):
        body[f"image[{number}]"] = [Upload(b"\x89PNG\r\n\x1a\n%d" % number)]

    assert [file.source[-1:] for file in read(body, FORM).input_images] == [b"1", b"2", b"0"]


@pytest.mark.parametrize(
    ("fields", "sources"),
    [
        ({"images": [{"image_url": DATA_URL}]}, [DATA_URL]),
        ({"images": [{"image_url": DATA_URL}, {"image_url": BASE64}]}, [DATA_URL, BASE64]),
        ({"image": DATA_URL}, [DATA_URL]),
        ({"image": [BASE64, DATA_URL]}, [BASE64, DATA_URL]),
        ({"images": [{"image_url": "https://x.test/a.png"}]}, ["https://x.test/a.png"]),
    ],
)
def test_json_holds_images_by_url_and_inline(fields, sources):
    """
    OpenAI's list of objects, and the texts that clients send in its place.
    """
    order = read({"prompt": "a", **fields})

    assert [file.source for file in order.input_images] == sources
    assert [file.url for file in order.input_images] == [
        one if one.startswith("https") else "" for one in sources
    ]


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({}, "image", "image is missing"),
        ({"images": []}, "image", "image is missing"),
        ({"images": [{"file_id": "file-1"}]}, "image", "keeps no files; send image_url"),
        ({"images": [{"image_url": 3}]}, "image", "must be an image"),
        ({"images": [{}]}, "image", "must be an image"),
        ({"image": 7}, "image", "must be an image"),
        ({"image": [DATA_URL] * 17}, "image", "17 images; at most 16"),
        ({"image": DATA_URL, "mask": {"file_id": "file-1"}}, "mask", "keeps no files"),
        ({"image": DATA_URL, "markup": DATA_URL}, "markup", "markup is not supported"),
        ({"image": DATA_URL, "strength": 2}, "strength", "outside 0 to 1"),
        ({"image": DATA_URL, "input_fidelity": "some"}, "input_fidelity", "low, high"),
    ],
)
def test_a_wrong_image_is_named(fields, param, says):
    """
    The error says what is wrong where, before anything is decoded.
    """
    with pytest.raises(InvalidRequest, match=says) as error:
        read({"prompt": "a", **fields})

    assert error.value.violations[0].field == param


def test_a_forms_texts_are_numbers_and_switches():
    """
    All that a form says is text; an empty text is what null is in JSON.
    """
    order = read(
        form(
            image=uploads(1),
            n=["2"],
            seed=["7"],
            guidance_scale=["2.5"],
            stream=["false"],
            size=["128x64"],
            quality=[""],
            strength=["0.5"],
        ),
        FORM,
    )
    drawn = order.generation

    assert (drawn.image_count, drawn.seed, drawn.guidance_scale) == (2, 7, 2.5)
    assert (drawn.width_px, drawn.height_px, drawn.strength) == (128, 64, 0.5)


@pytest.mark.parametrize(
    ("content", "status", "code", "says"),
    [
        (written(Image.new("RGB", SIZE)), 400, "invalid_value", "mask has no alpha channel"),
        (mask((32, 32)), 400, "invalid_value", "mask is 32x32 and the first image 64x64"),
        (mask(hole=(0, 0, 0, 0)), 400, "empty_mask", "nothing is repainted"),
        (mask()[:200], 400, "invalid_value", "mask cannot be decoded"),
        (b"GIF89a" + bytes(90), 415, None, "mask is not a PNG"),
        (b"\x89PNG\r\n\x1a\n" + bytes(4 * 1024 * 1024), 413, None, "at most 4194304"),
    ],
    ids=["no alpha", "another size", "empty", "cut off", "a GIF", "too large"],
)
async def test_a_mask_that_cannot_be_used_is_refused(house, content, status, code, says):
    """
    The error blames the mask; nothing is stored and nothing is drawn.
    """
    before = len(await house.jobs()), await house.uploads()
    async with house.client() as client:
        reply = await client.post(
            PATH,
            data={"prompt": "a", "model": SERVED},
            files={"image": PICTURE, "mask": content},
        )

    error = reply.json()["error"]
    assert (reply.status_code, error["param"], error["code"]) == (status, "mask", code)
    assert says in error["message"]
    assert (len(await house.jobs()), await house.uploads()) == before


MISSING = "missing_required_parameter"
WRONG = (400, "invalid_request_error", "invalid_value")
UNSUPPORTED = (415, "unsupported_media_type", None)
BITMAP = written(Image.new("RGB", SIZE), "BMP")
TOO_LARGE = PICTURE + bytes(25 * 1024 * 1024)


@pytest.mark.parametrize(
    ("fields", "files", "told"),
    [
        ({"prompt": "a"}, {}, (400, "missing_file", MISSING)),
        ({"prompt": "a"}, {"image": b""}, (400, "missing_file", MISSING)),
        ({}, {"image": PICTURE}, (400, "missing_prompt", MISSING)),
        ({"prompt": " "}, {"image": PICTURE}, (400, "missing_prompt", MISSING)),
        ({"prompt": "a"}, {"image": b"hello, world"}, UNSUPPORTED),
        ({"prompt": "a"}, {"image": b"GIF89a"}, UNSUPPORTED),
        ({"prompt": "a"}, {"image": BITMAP}, UNSUPPORTED),
        ({"prompt": "a"}, {"image": PICTURE[:-40]}, WRONG),
        ({"prompt": "a"}, {"image": TOO_LARGE}, (413, "file_too_large", None)),
        ({"prompt": "a" * 2049}, {"image": PICTURE}, (413, "request_too_large", None)),
        ({"prompt": "a", "model": NOT_SERVED}, {"image": PICTURE}, WRONG),
        (
            {"prompt": "a", "model": EDITS},
            {"image": PICTURE},
            (404, "no_provider", "model_not_found"),
        ),
        (
            {"prompt": "a", "model": "no/body"},
            {"image": PICTURE},
            (404, "no_provider", "model_not_found"),
        ),
    ],
)
async def test_edits_errors_have_the_documented_types(house, fields, files, told):
    """
    inference.club's table for edits, by what is in the files and not by what they are called.
    """
    async with house.client() as client:
        reply = await client.post(
            PATH,
            data={"model": SERVED, **fields},
            files={name: ("a.png", content, "image/png") for name, content in files.items()}
            or None,
        )

    error = reply.json()["error"]
    assert (reply.status_code, error["type"], error["code"]) == told, reply.text


async def test_too_many_images_for_a_model_are_blamed_on_image(house):
    """
    How many a model takes is said with the error.
    """
    async with house.client() as client:
        reply = await client.post(
            PATH, json={"prompt": "a", "model": SERVED, "image": [DATA_URL, DATA_URL]}
        )

    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, "image")
    assert "2 input images; pictor/shapes takes 0 to 1" in error["message"]


async def test_the_package_edits_one_picture_and_keeps_its_size(house, sdk):
    """
    Bytes without a name and of no type are a picture, and it is the one that is changed.
    """
    drawn = await sdk.images.edit(model=SERVED, prompt="a red circle", image=png((128, 64)))
    job = (await house.jobs())[0]

    assert drawn.size == "128x64"
    assert drawn.data[0].url
    assert job.generation.operation == model_pb2.OPERATION_IMAGE_TO_IMAGE
    assert job.dialect == "openai/edits"


async def test_the_package_edits_with_a_mask(house, sdk):
    """
    The mask is stored as the suite has masks: white where OpenAI's is transparent.
    """
    await sdk.images.edit(model=SERVED, prompt="a", image=PICTURE, mask=mask())
    job = (await house.jobs())[0]
    async with house.client() as client:
        stored = await client.get(f"/pictor/v1/{job.generation.mask}")

    assert job.generation.operation == model_pb2.OPERATION_INPAINT
    assert stored.json()["widthPx"] == 64


async def test_the_package_sends_several_pictures(house, sdk):
    """
    A list becomes ``image[]``, and the limit of the model is what is told.
    """
    with pytest.raises(openai.BadRequestError, match="2 input images"):
        await sdk.images.edit(model=SERVED, prompt="a", image=[PICTURE, PICTURE])


async def test_a_json_edit_draws(house):
    """
    The newer clients' body: images with data URLs, and a mask of the same kind.
    """
    mask_url = f"data:image/png;base64,{base64.b64encode(mask()).decode()}"
    async with house.client() as client:
        reply = await client.post(
            PATH,
            json={
                "prompt": "a",
                "model": SERVED,
                "images": [{"image_url": DATA_URL}],
                "mask": {"image_url": mask_url},
                "response_format": "b64_json",
            },
        )

    assert reply.status_code == 200, reply.text
    assert base64.b64decode(reply.json()["data"][0]["b64_json"]) == png(SIZE)


async def test_an_edit_may_wait_in_the_queue(house, sdk):
    """
    ``async`` is a field of the form too.
    """
    ticket = await sdk.images.edit(
        model=SERVED, prompt="a", image=PICTURE, extra_body={"async": True}
    )

    assert (ticket.object, ticket.data) == ("inference.job", None)


def the_model(*operations):
    model = model_pb2.Model(name=f"models/{SERVED}", operations=operations)
    model.limits.max_image_count = 4
    return model


def test_a_model_that_only_repaints_takes_the_images_transparency_as_the_mask():
    """
    As dall-e-2 did; a model that can do more changes the whole image.
    """
    fitted = fit_edit(
        read({"prompt": "a", "image": DATA_URL}), the_model(model_pb2.OPERATION_INPAINT)
    )
    others = the_model(model_pb2.OPERATION_INPAINT, model_pb2.OPERATION_EDIT)

    assert fitted.mask.field == "image"
    assert fitted.mask.mask.of_first_image
    assert fit_edit(read({"prompt": "a", "image": DATA_URL}), others).mask is None


@RETIRED_UPSTREAM
async def test_a_variation_starts_from_the_picture(house, sdk):
    """
    ``create_variation`` draws with no prompt from the image, at a strength that keeps much of it.
    """
    drawn = await sdk.images.create_variation(
        model=SERVED, image=PICTURE, n=2, response_format="b64_json"
    )
    generation = (await house.jobs())[0].generation

    assert len(drawn.data) == 2
    assert generation.operation == model_pb2.OPERATION_IMAGE_TO_IMAGE
    assert generation.input_images[0].role == generation_pb2.InputImage.ROLE_INIT
    assert (generation.prompt, round(generation.strength, 2)) == ("", 0.6)


@RETIRED_UPSTREAM
async def test_a_model_without_variations_says_so(house, sdk):
    """
    400 with a code of its own, and not 404: the route is there.
    """
    with pytest.raises(openai.BadRequestError) as error:
        await sdk.images.create_variation(model=NOT_SERVED, image=PICTURE)

    assert (error.value.code, error.value.type) == ("unsupported_endpoint", "invalid_request_error")
    assert error.value.param == "model"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (form(), "image is missing"),
        (form(image=uploads(2)), "2 images; a variation is made of one"),
    ],
)
def test_a_variation_is_made_of_one_image(body, says):
    """
    None and two are refused.
    """
    with pytest.raises(InvalidRequest, match=says):
        decode_variation(Call({}, {}, FORM, body, Preferences("")))


def test_a_variation_needs_a_model_that_starts_from_pictures():
    """
    The reason is the suite's, so that the receipt of no job says anything.
    """
    order = decode_variation(Call({}, {}, FORM, form(image=uploads(1)), Preferences("")))
    with pytest.raises(InvalidRequest) as error:
        fit_variation(order, the_model(model_pb2.OPERATION_TEXT_TO_IMAGE))

    assert error.value.reason == reasons.ERROR_REASON_OPERATION_UNSUPPORTED


async def test_what_an_edit_ignores_is_in_the_receipt(house):
    """
    Parameters without effect are named with the reason; strict handling refuses them.
    """
    fields = {"prompt": "a", "model": SERVED, "input_fidelity": "high", "user": "u-1"}
    async with house.client() as client:
        reply = await client.post(PATH, data=fields, files={"image": PICTURE})
        strict = await client.post(
            PATH, data=fields, files={"image": PICTURE}, headers={"prefer": "handling=strict"}
        )
    notes = {note.parameter: note for note in (await house.jobs())[0].receipt}

    assert notes["input_fidelity"].treatment == job_pb2.ParameterNote.TREATMENT_IGNORED
    assert "input_fidelity=ignored" in reply.headers["x-pictor-receipt"]
    assert strict.status_code == 400
    assert json.loads(strict.text)["error"]["param"] == "user"


@pytest.mark.parametrize(
    ("size", "given", "kept"),
    [("auto", (), True), (None, (), True), ("512x256", (512, 256), False)],
)
def test_an_edit_keeps_the_shape_of_its_picture(size, given, kept):
    """
    Unless the caller names a size.
    """
    generation = read({"prompt": "a", "image": DATA_URL, "size": size}).generation

    assert generation.shape_from_image is kept
    assert (generation.width_px, generation.height_px) == (given or (0, 0))
