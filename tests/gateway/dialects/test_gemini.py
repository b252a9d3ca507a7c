import asyncio
import base64
import contextlib
import io
import urllib.parse
import warnings
from typing import ClassVar

import pytest
from PIL import Image

from gateway import events
from gateway.dialect import Call, Preferences
from gateway.dialects.gemini import DIALECT, decode_content, decode_predict
from services.rpc.errors import Exhausted, InvalidRequest
from tests.gateway.dialect_conformance import DialectConformance
from tests.gateway.house import NOT_SERVED, SERVED, png

with warnings.catch_warnings():
    # The package uses what Python and its own libraries have deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    from google import genai
    from google.genai import errors, types

TURN = {"contents": [{"parts": [{"text": "a red circle"}]}]}


class TestConformance(DialectConformance):
    """What every dialect must do."""

    dialect = DIALECT
    good_body: ClassVar = TURN
    good_requests: ClassVar = {
        f"POST /{version}/models/{{model:path}}:{method}": {
            "url": f"/{version}/models/{SERVED}:{method}",
            "json": {"instances": [{"prompt": "a"}]} if method == "predict" else TURN,
        }
        for version in ("v1", "v1beta")
        for method in ("generateContent", "streamGenerateContent", "predict")
    }

    def assert_envelope(self, body, status):
        assert set(body) == {"error"}
        assert set(body["error"]) == {"code", "message", "status"}
        assert body["error"]["code"] == status
        assert body["error"]["status"].isupper()


def call(body, model=SERVED, **query):
    return Call({"model": model}, query, {}, body, Preferences("http://pictor.test"))


def said(*parts, **config):
    return {"contents": [{"role": "user", "parts": list(parts)}], "generationConfig": config}


def blamed(decode, body):
    """Return which fields a request is refused for."""
    with pytest.raises(InvalidRequest) as error:
        decode(call(body))
    return [violation.field for violation in error.value.violations]


def size_of(order):
    drawn = order.generation
    return (drawn.width_px, drawn.height_px) if drawn.HasField("width_px") else None


def picture(size):
    return base64.b64encode(png(size)).decode()


A_TEXT = {"text": "a cat"}
AN_IMAGE = {"inlineData": {"mimeType": "image/png", "data": picture((160, 90))}}


@pytest.fixture
async def sdk(house):
    """google-genai, as its users set it up, with another base URL."""
    async with genai_of(house) as client:
        yield client


@contextlib.asynccontextmanager
async def genai_of(house, key=None, **options):
    options = types.HttpOptions(base_url=house.url, **options)
    with warnings.catch_warnings():
        # The package uses what Python and its own libraries have deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        client = genai.Client(api_key=house.api_key if key is None else key, http_options=options)
    try:
        yield client
    finally:
        client.close()
        await client.aio.aclose()


def drawn_by(answer):
    """Return the pictures of an answer as the package hands them out."""
    return [
        Image.open(io.BytesIO(part.inline_data.data))
        for candidate in answer.candidates
        for part in candidate.content.parts
        if part.inline_data
    ]


def test_names_are_read_in_both_cases():
    """
    The SDK writes inlineData with mime_type inside, Open WebUI inline_data.
    """
    camel = {
        "contents": [{"parts": [A_TEXT, {"inlineData": {"mimeType": "a/b", "data": "YQ=="}}]}],
        "generationConfig": {
            "imageConfig": {"aspectRatio": "16:9", "imageSize": "2K"},
            "candidateCount": 2,
            "seed": 7,
        },
    }
    snake = {
        "contents": [{"parts": [A_TEXT, {"inline_data": {"mime_type": "a/b", "data": "YQ=="}}]}],
        "generation_config": {
            "image_config": {"aspect_ratio": "16:9", "image_size": "2k"},
            "candidate_count": 2,
            "seed": 7,
        },
    }
    one, other = (decode_content(call(body)) for body in (camel, snake))

    assert one.generation == other.generation
    assert size_of(one) == (2752, 1536)
    assert (one.generation.image_count, one.generation.seed) == (2, 7)
    assert [file.content() for file in (*one.input_images, *other.input_images)] == [b"a"] * 2


@pytest.mark.parametrize(
    ("parts", "config", "size"),
    [
        ([A_TEXT], {}, None),
        ([A_TEXT, AN_IMAGE], {}, (1376, 768)),
        ([A_TEXT, AN_IMAGE], {"imageConfig": {"imageSize": "2K"}}, (2752, 1536)),
        ([A_TEXT, AN_IMAGE], {"imageConfig": {"aspectRatio": "1:1"}}, (1024, 1024)),
        ([A_TEXT], {"imageConfig": {"aspectRatio": "21:9", "imageSize": "4K"}}, (6336, 2688)),
        ([A_TEXT], {"imageConfig": {"imageSize": "4K"}}, (4096, 4096)),
    ],
)
def test_a_size_is_a_ratio_and_a_tier(parts, config, size):
    """
    Where no ratio is given it is the input image's, to the nearest of the ten.
    """
    assert size_of(decode_content(call(said(*parts, **config)))) == size


def test_the_users_last_turn_is_drawn_from_the_newest_images():
    """
    In a conversation the picture that the model sent is what is edited next.
    """
    turns = [
        {"role": "user", "parts": [A_TEXT]},
        {"role": "model", "parts": [{"inlineData": {"data": "b25l"}}]},
        {"role": "user", "parts": [{"text": "make it"}, {"text": "blue"}]},
    ]
    order = decode_content(call({"contents": turns}))
    assert order.generation.prompt == "make it\nblue"
    assert [file.content() for file in order.input_images] == [b"one"]

    turns[-1]["parts"].append({"inlineData": {"data": "dHdv"}})
    turns.append({"role": "model", "parts": [{"inlineData": {"data": "dGhyZWU="}}]})
    order = decode_content(call({"contents": turns}))
    assert [file.content() for file in order.input_images] == [b"two"]


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ["contents"]),
        ({"contents": []}, ["contents"]),
        ({"contents": "a cat"}, ["contents.0"]),
        ({"contents": [{"parts": [AN_IMAGE]}]}, ["contents.text"]),
        (said({"text": 7}), ["contents.0.parts.0.text"]),
        (said(A_TEXT, seed=-1), ["generationConfig.seed"]),
        (said(A_TEXT, candidateCount=0), ["generationConfig.candidateCount"]),
        (said(A_TEXT, responseModalities=["TEXT"]), ["generationConfig.responseModalities"]),
        (said(A_TEXT, imageConfig=[]), ["generationConfig.imageConfig"]),
        (
            said(A_TEXT, imageConfig={"aspectRatio": "7:5"}),
            ["generationConfig.imageConfig.aspectRatio"],
        ),
        (said(A_TEXT, imageConfig={"imageSize": "8K"}), ["generationConfig.imageConfig.imageSize"]),
    ],
)
def test_what_breaks_a_rule_is_named_by_its_place(body, fields):
    """
    Also deep within the body.
    """
    assert blamed(decode_content, body)[:1] == fields


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ["instances"]),
        ({"instances": []}, ["instances"]),
        ({"instances": [{"prompt": "a"}, {"prompt": "b"}]}, ["instances"]),
        ({"instances": {"prompt": "a"}, "parameters": {"sampleCount": 11}}, ["parameters."]),
    ],
)
def test_a_prediction_needs_one_prompt(body, fields):
    """
    As a list or as an object.
    """
    assert blamed(decode_predict, body)[0].startswith(fields[0])


def test_what_has_no_effect_is_noted_at_any_depth():
    """
    A temperature is no parameter of a picture; the receipt says so.
    """
    body = {**said(A_TEXT, temperature=1, seed=3), "safetySettings": []}
    notes = decode_content(call(body)).notes

    assert [note.parameter for note in notes] == ["generationConfig.temperature", "safetySettings"]


async def test_the_package_draws(sdk):
    """
    With nothing changed but the base URL and the key; the picture has the ratio's pixels.
    """
    answer = await asyncio.to_thread(
        sdk.models.generate_content,
        model=SERVED,
        contents="a red circle",
        config=types.GenerateContentConfig(
            response_modalities=["IMAGE"],
            image_config=types.ImageConfig(aspect_ratio="16:9", image_size="1K"),
            seed=7,
        ),
    )

    (drawn,) = drawn_by(answer)
    assert drawn.size == (1376, 768)
    assert answer.candidates[0].finish_reason == types.FinishReason.STOP
    assert answer.model_version == SERVED
    assert answer.response_id
    assert answer.usage_metadata.total_token_count == 0


async def test_the_package_edits_an_image_without_blocking(house, sdk):
    """
    Its asynchronous half, with a picture of Pillow's among the contents.
    """
    before = await house.uploads()
    answer = await sdk.aio.models.generate_content(
        model=SERVED, contents=["make it blue", Image.new("RGB", (160, 90), "red")]
    )

    assert drawn_by(answer)[0].size == (1376, 768)
    assert await house.uploads() == before + 1


async def test_the_packages_conversation_goes_on_from_its_own_picture(house, sdk):
    """
    The second message edits what the first one drew.
    """
    chat = sdk.aio.chats.create(model=SERVED)
    first = await chat.send_message("a red circle")
    second = await chat.send_message("make it blue")

    assert drawn_by(first)
    assert drawn_by(second)
    assert len(house.executor.assignments[-1].generation.input_images) == 1


@pytest.mark.parametrize("beats", [False, True])
async def test_the_package_streams(sdk, monkeypatch, beats):
    """
    One chunk with the picture; what keeps a silent stream open does not disturb the package.
    """
    if beats:
        monkeypatch.setattr(events.with_heartbeats, "__defaults__", (0.001,))
    stream = sdk.models.generate_content_stream(model=SERVED, contents="a red circle")
    chunks = await asyncio.to_thread(list, stream)

    assert [len(drawn_by(chunk)) for chunk in chunks] == [1]


async def test_a_stream_that_fails_raises_the_packages_error(house, sdk):
    """
    The error comes as the stream's last chunk.
    """
    house.executor.outcomes.append(Exhausted("the device has not enough memory"))
    stream = sdk.models.generate_content_stream(model=SERVED, contents="a red circle")
    with pytest.raises(errors.ServerError) as error:
        await asyncio.to_thread(list, stream)

    assert error.value.code == 500
    assert error.value.status == "RESOURCE_EXHAUSTED"


@pytest.mark.parametrize(
    ("model", "config", "code", "status"),
    [
        (SERVED, {"seed": -1}, 400, "INVALID_ARGUMENT"),
        ("nobody/nothing", {}, 404, "NOT_FOUND"),
        (NOT_SERVED, {}, 503, "UNAVAILABLE"),
    ],
)
async def test_errors_are_the_packages_own(sdk, model, config, code, status):
    """
    The code, the status and the message of the envelope.
    """
    kind = errors.ClientError if code < 500 else errors.ServerError
    with pytest.raises(kind) as error:
        await sdk.aio.models.generate_content(model=model, contents="a", config=config)

    assert (error.value.code, error.value.status) == (code, status)
    assert error.value.message


async def test_a_wrong_key_is_unauthenticated(house):
    """
    The package tells it from a wrong request.
    """
    async with genai_of(house, "pk_wrong") as client:
        with pytest.raises(errors.ClientError) as error:
            await client.aio.models.generate_content(model=SERVED, contents="a")

    assert (error.value.code, error.value.status) == (401, "UNAUTHENTICATED")


async def test_the_package_lists_models_of_v1beta(house):
    """
    With ids that hold slashes. Of v1, which is the package's choice, the lists are OpenAI's.
    """
    async with genai_of(house, api_version="v1beta") as client:
        names = [model.name async for model in await client.aio.models.list()]
        model = await client.aio.models.get(model=SERVED)
        alias = await client.aio.models.get(model="gemini-3-pro-image")
        answer = await client.aio.models.generate_content(model=SERVED, contents="a red circle")

    assert f"models/{SERVED}" in names
    assert model.name == f"models/{SERVED}"
    assert alias.name == "models/google/gemini-3-pro-T2I"
    assert drawn_by(answer)


@pytest.mark.parametrize("version", ["v1", "v1beta"])
async def test_a_stream_without_sse_is_a_list(house, version):
    """
    As the API answers who asks without ``alt=sse``.
    """
    path = f"/{version}/models/{SERVED}:streamGenerateContent"
    async with house.client() as client:
        plain = await client.post(path, json=TURN)
        sse = await client.post(path, params={"alt": "sse"}, json=TURN)

    assert [set(chunk) for chunk in plain.json()] == [
        {"candidates", "usageMetadata", "modelVersion", "responseId"}
    ]
    assert sse.headers["content-type"].startswith("text/event-stream")
    assert sse.text.startswith('data: {"candidates":')


async def test_open_webuis_prediction(house):
    """
    Its gemini engine sends instances as an object, and the key in Google's header.
    """
    body = {
        "instances": {"prompt": "a red circle"},
        "parameters": {"sampleCount": 2, "outputOptions": {"mimeType": "image/png"}},
    }
    headers = {"x-goog-api-key": house.api_key, "Content-Type": "application/json"}
    async with house.client("") as client:
        reply = await client.post(f"/v1beta/models/{SERVED}:predict", json=body, headers=headers)

    assert reply.status_code == 200, reply.text
    images = [one["bytesBase64Encoded"] for one in reply.json()["predictions"]]
    assert len(images) == 2
    assert all(Image.open(io.BytesIO(base64.b64decode(image))) for image in images)


async def test_open_webuis_edit(house):
    """
    Its other method: generateContent with the images as inline_data.
    """
    parts = [{"text": "make it blue"}, {"inline_data": {"mime_type": "image/png", "data": "?"}}]
    parts[1]["inline_data"]["data"] = picture((64, 64))
    path = f"/v1beta/models/{SERVED}:generateContent"
    async with house.client("") as client:
        reply = await client.post(
            path,
            json={"contents": [{"parts": parts}]},
            headers={"x-goog-api-key": house.api_key},
        )

    assert reply.status_code == 200, reply.text
    (part,) = reply.json()["candidates"][0]["content"]["parts"]
    drawn = Image.open(io.BytesIO(base64.b64decode(part["inlineData"]["data"])))
    assert drawn.size == (1024, 1024)


async def test_a_method_that_does_not_exist_is_google_404(house):
    """
    GET below /v1/models stays OpenAI's, a wrong method below it is told in Google's words.
    """
    async with house.client() as client:
        unknown = await client.post(f"/v1beta/models/{SERVED}:countTokens", json={})
        wrong = await client.get(f"/v1beta/models/{SERVED}:generateContent")
        model = await client.get(f"/v1/models/{SERVED}")

    assert unknown.status_code in (404, 405)
    assert set(unknown.json()["error"]) == {"code", "message", "status"}
    assert wrong.status_code == 404
    assert model.json()["object"] == "model"


@pytest.mark.parametrize("model", ["a\nb", "a\r\u2028b", "a/b:c"])
async def test_a_model_of_any_name_is_not_found_in_googles_words(house, model):
    """
    Line breaks and colons in a name do not make the path another API's.
    """
    async with house.client() as client:
        path = f"/v1/models/{urllib.parse.quote(model)}:generateContent"
        reply = await client.post(path, json=TURN)

    assert reply.status_code == 404
    assert reply.json()["error"]["status"] == "NOT_FOUND"


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ({"inlineData": {"mimeType": "image/png", "data": ""}}, "data is missing"),
        ({"inlineData": {"mimeType": "image/png"}}, "data is missing"),
        ({"inline_data": {"data": None}}, "data is missing"),
        ({"fileData": {}}, "fileUri is missing"),
    ],
)
async def test_an_image_without_data_is_refused(house, part, says):
    """
    The caller meant to change a picture, and would get a new one.
    """
    before = len(await house.jobs())
    async with house.client() as client:
        reply = await client.post(
            f"/v1beta/models/{SERVED}:generateContent",
            json={"contents": [{"parts": [{"text": "a"}, part]}]},
        )

    assert reply.status_code == 400
    assert says in reply.json()["error"]["message"]
    assert len(await house.jobs()) == before


@pytest.mark.parametrize(
    "config",
    [
        {"generation_config": {"candidate_count": 2}, "generationConfig": None},
        {"generationConfig": {"candidateCount": 2, "candidate_count": 1}},
    ],
)
async def test_a_key_in_two_spellings_is_refused(house, config):
    """
    Which of them counts nobody knows.
    """
    async with house.client() as client:
        body = {"contents": [{"parts": [{"text": "a"}]}], **config}
        reply = await client.post(f"/v1beta/models/{SERVED}:generateContent", json=body)

    assert reply.status_code == 400
    assert "is given in two spellings" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("modalities", "status"), [(["Text", "Image"], 200), (["TEXT"], 400), ("IMAGE", 400)]
)
async def test_modalities_are_read_as_people_write_them(house, modalities, status):
    """
    Google's own samples write Image, too.
    """
    async with house.client() as client:
        body = {
            "contents": [{"parts": [{"text": "a"}]}],
            "generationConfig": {"responseModalities": modalities},
        }
        reply = await client.post(f"/v1beta/models/{SERVED}:generateContent", json=body)

    assert reply.status_code == status, reply.text


async def test_a_size_that_was_not_named_is_not_blamed_by_its_number(house):
    """
    The ratio was: what it comes to is said with it.
    """
    config = {"imageConfig": {"aspectRatio": "16:9", "imageSize": "4K"}}
    async with house.client() as client:
        body = {"contents": [{"parts": [{"text": "a"}]}], "generationConfig": config}
        reply = await client.post(f"/v1beta/models/{SERVED}:generateContent", json=body)

    assert reply.status_code == 400
    assert reply.json()["error"]["message"].startswith("aspectRatio: width 5504 is outside")
