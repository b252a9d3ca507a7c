"""
Gemini's native routes, as google-genai and Open WebUI call them.

A method stands behind a colon: ``/v1beta/models/{model}:generateContent``. Sizes are a ratio and a
tier, as on OpenGPU Relay's gemini-3 route. Names are read in camel case and in snake case: clients
mix both within one body.
"""

import dataclasses
import functools
import itertools
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from gateway import sizes
from gateway.dialect import (
    Answer,
    Call,
    Credential,
    Delivery,
    Dialect,
    Event,
    Failure,
    Generate,
    ListModels,
    Operation,
    Order,
    ShowModel,
    Shown,
)
from gateway.fields import Fields
from gateway.images import InputFile, size_of
from gateway.receipts import Reading
from gateway.schemas import (
    answered,
    choice,
    image,
    integer,
    listed,
    number,
    optional,
    record,
    text,
)
from gateway.sizes import Size
from pictor.catalog.v1 import model_pb2
from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import generation_pb2, inference_service_pb2, job_pb2
from services.rpc.errors import invalid

Note = job_pb2.ParameterNote

MAX_IMAGES = 10
MAX_SEED = 2**32 - 1
MAX_GUIDANCE = 100.0
METHODS = ["generateContent", "streamGenerateContent", "predict"]
# Clients that were given a base URL use v1, others v1beta.
VERSIONS = ("v1beta", "v1")
FORMATS = {
    "image/png": generation_pb2.Output.FORMAT_PNG,
    "image/jpeg": generation_pb2.Output.FORMAT_JPEG,
    "image/webp": generation_pb2.Output.FORMAT_WEBP,
}
# Keys that clients write in either case: these, and the same in snake case.
KEYS = (
    "aspectRatio",
    "candidateCount",
    "compressionQuality",
    "fileData",
    "fileUri",
    "generationConfig",
    "guidanceScale",
    "imageConfig",
    "imageOutputOptions",
    "imageSize",
    "inlineData",
    "mimeType",
    "negativePrompt",
    "outputOptions",
    "responseModalities",
    "sampleCount",
    "sampleImageSize",
)
SPELLINGS = {re.sub("[A-Z]", lambda one: f"_{one[0].lower()}", key): key for key in KEYS}
MAX_NOTES = 50


class Turn(NamedTuple):
    """What one side of a conversation said."""

    role: str
    texts: list[str]
    images: list[InputFile]


def decode_content(call: Call) -> Order:
    """Read :generateContent; what the user's last turn says is drawn, from what it shows."""
    body = _spelt(call.body)
    fields = Fields(body)
    turns = _turns(fields)
    config = fields.within("generationConfig", fields.value("generationConfig"))
    about = config.within("imageConfig", config.value("imageConfig"))
    images = _shown(turns)
    size, notes = _size(about, "imageSize", images)
    generation = generation_pb2.Generation(
        model=f"models/{call.path['model']}",
        prompt=_prompt(fields, turns),
        width_px=size.width_px if size else None,
        height_px=size.height_px if size else None,
        seed=config.integer("seed", least=0, most=MAX_SEED),
        image_count=config.integer("candidateCount", least=1, most=MAX_IMAGES),
        output=_output(about, "imageOutputOptions"),
    )
    modalities = config.value("responseModalities")
    if modalities is not None and not _wants_image(modalities):
        said = str(modalities)[:60]
        rule = f"responseModalities {said} must be a list that holds IMAGE: text is not answered"
        config.blame("responseModalities", rule)
    fields.check()
    notes += itertools.islice(_unread(body, ""), MAX_NOTES)
    return Order(generation, input_images=images, contents=True, notes=notes)


def decode_stream(call: Call) -> Order:
    """Read :streamGenerateContent; without ``alt=sse`` the answer is a list with one item."""
    order = decode_content(call)
    is_sse = "sse" in call.query.get("alt", ())
    return dataclasses.replace(order, delivery=Delivery.STREAM if is_sse else Delivery.WAIT)


def decode_predict(call: Call) -> Order:
    """Read :predict; Open WebUI sends ``instances`` as an object and not as a list."""
    body = _spelt(call.body)
    fields = Fields(body)
    given = fields.value("instances")
    instances = given if isinstance(given, list) else [given]
    if given is None:
        fields.blame("instances", "instances is missing", reasons.ERROR_REASON_FIELD_REQUIRED)
    elif len(instances) != 1:
        fields.blame("instances", f"instances must hold one prompt; it holds {len(instances)}")
    instance = fields.within("instances.0", instances[0] if instances else None)
    parameters = fields.within("parameters", fields.value("parameters"))
    size, notes = _size(parameters, "sampleImageSize", [])
    generation = generation_pb2.Generation(
        model=f"models/{call.path['model']}",
        prompt=instance.prompt("prompt", required=True) or "",
        negative_prompt=parameters.prompt("negativePrompt") or "",
        width_px=size.width_px if size else None,
        height_px=size.height_px if size else None,
        seed=parameters.integer("seed", least=0, most=MAX_SEED),
        guidance_scale=parameters.number("guidanceScale", least=0, most=MAX_GUIDANCE),
        image_count=parameters.integer("sampleCount", least=1, most=MAX_IMAGES),
        output=_output(parameters, "outputOptions"),
    )
    fields.check()
    notes += itertools.islice(_unread(body, ""), MAX_NOTES)
    return Order(generation, contents=True, notes=notes)


def encode_content(shown: Shown) -> Answer:
    """Write a finished job: one candidate an image."""
    return Answer(_content(shown))


def encode_contents(shown: Shown) -> Answer:
    """Write a finished job as a stream that is no stream of events: a list."""
    return Answer([_content(shown)])


def stream_content(
    shown: Shown, message: inference_service_pb2.WatchJobResponse
) -> Iterator[Event]:
    """Write the one chunk of a stream, once there is a picture."""
    if message.state == job_pb2.Job.STATE_SUCCEEDED:
        yield Event(_content(shown))


def encode_predictions(shown: Shown) -> Answer:
    """Write a finished job as Imagen's predictions."""
    pairs = zip(shown.job.result.images, shown.contents, strict=True)
    predictions = [
        {"mimeType": one.media_type, "bytesBase64Encoded": content} for one, content in pairs
    ]
    return Answer({"predictions": predictions})


def encode_models(models: Sequence[model_pb2.Model]) -> Answer:
    """Write the list of models, which has one page."""
    return Answer({"models": [_model(model) for model in models]})


def encode_model(model: model_pb2.Model) -> Answer:
    """Write one model."""
    return Answer(_model(model))


def encode_error(failure: Failure) -> Answer:
    """Write an error as all of Google's APIs do; SDKs look for ``{"error":`` at the beginning."""
    error = failure.error
    body = {"code": failure.status, "message": error.message, "status": error.code.name}
    return Answer({"error": body}, failure.status)


def _wants_image(modalities: Any) -> bool:
    # Whose documents write "Image" as well as "IMAGE".
    return isinstance(modalities, list) and "IMAGE" in [str(one).upper() for one in modalities]


def _spelt(value: Any) -> Any:
    """Return a body in which every known key is in camel case, and each object a Reading."""
    if isinstance(value, list):
        return [_spelt(one) for one in value]
    if not isinstance(value, Mapping):
        return value
    spelt: dict[str, Any] = {}
    for name, one in value.items():
        known = SPELLINGS.get(str(name), str(name))
        if known in spelt:
            raise invalid(known, f"{known} is given in two spellings; give it once")
        spelt[known] = _spelt(one)
    return Reading(spelt)


def _unread(value: Any, place: str) -> Iterator[job_pb2.ParameterNote]:
    """Note what was given and never read, at any depth."""
    if isinstance(value, list):
        for index, one in enumerate(value):
            yield from _unread(one, f"{place}{index}.")
    if not isinstance(value, Reading):
        return
    for name, one in dict.items(value):
        if name in value.read:
            yield from _unread(one, f"{place}{name}.")
        elif one is not None:
            yield Note(
                parameter=f"{place}{name}"[:100],
                treatment=Note.TREATMENT_IGNORED,
                requested=str(one)[:100] if isinstance(one, str | int | float) else "",
                reason="has no effect on this server",
            )


def _turns(fields: Fields) -> list[Turn]:
    given = fields.value("contents")
    if given in (None, []):
        fields.blame("contents", "contents is missing", reasons.ERROR_REASON_FIELD_REQUIRED)
        return []
    contents = given if isinstance(given, list) else [given]
    return [_turn(fields, f"contents.{index}", one) for index, one in enumerate(contents)]


def _turn(fields: Fields, place: str, content: Any) -> Turn:
    turn = fields.within(place, content)
    given = turn.value("parts")
    parts = given if isinstance(given, list) else [given]
    texts, images = list[str](), list[InputFile]()
    for index, one in enumerate(parts):
        part = turn.within(f"parts.{index}", one)
        said = part.prompt("text")
        if said:
            texts.append(said)
        for kind, key in (("inlineData", "data"), ("fileData", "fileUri")):
            if part.value(kind) is None:
                continue
            data = part.within(kind, part.value(kind))
            data.value("mimeType")
            source = data.text(key, most=sys.maxsize, required=True)
            if source:
                images.append(
                    InputFile(
                        f"{place}.parts.{index}.{kind}.{key}", source, may_be_url=kind == "fileData"
                    )
                )
    return Turn(turn.text("role") or "user", texts, images)


def _prompt(fields: Fields, turns: Sequence[Turn]) -> str:
    said = [turn.texts for turn in turns if turn.role != "model" and turn.texts]
    prompt = "\n".join(said[-1]) if said else None
    if not turns:
        return ""
    inner = fields.within("contents", {"text": prompt})
    return inner.prompt("text", required=True) or ""


def _shown(turns: Sequence[Turn]) -> list[InputFile]:
    """Return the images of the user's last turn; else the newest ones, whoever sent them."""
    own = [turn.images for turn in turns if turn.role != "model"][-1:]
    newest = [turn.images for turn in turns if turn.images][-1:]
    return next((images for images in (*own, *newest) if images), [])


def _size(
    about: Fields, tier_name: str, images: Sequence[InputFile]
) -> tuple[Size | None, list[job_pb2.ParameterNote]]:
    ratio = about.choice("aspectRatio", list(sizes.GEMINI_1K))
    tier = about.text(tier_name)
    if tier and tier.upper() not in sizes.GEMINI_TIERS:
        about.blame(tier_name, f"{tier_name} {tier[:40]!r} is not one of 1K, 2K, 4K")
        return None, []
    given = {name: value for name, value in (("aspectRatio", ratio), (tier_name, tier)) if value}
    source = size_of(images[0]) if images else None
    if ratio is None and source:
        ratio = sizes.gemini_ratio(Size(*source))
    if not (ratio or tier):
        return None, []
    size = sizes.gemini(ratio or "1:1", (tier or "1K").upper())
    notes = [
        Note(
            parameter=name,
            treatment=Note.TREATMENT_TRANSLATED,
            requested=value,
            used=str(size),
            reason="as Gemini's table of sizes has it",
        )
        for name, value in given.items()
    ]
    return size, notes


def _output(fields: Fields, name: str) -> generation_pb2.Output:
    options = fields.within(name, fields.value(name))
    media_type = options.choice("mimeType", list(FORMATS)) or "image/png"
    quality = options.integer("compressionQuality", least=0, most=100)
    output = generation_pb2.Output(format=FORMATS[media_type])
    if quality is not None and media_type != "image/png":
        output.quality = max(quality, 1)
    return output


def _content(shown: Shown) -> dict[str, Any]:
    job = shown.job
    pairs = zip(job.result.images, shown.contents, strict=True)
    candidates = [
        {
            "content": {
                "role": "model",
                "parts": [{"inlineData": {"mimeType": one.media_type, "data": content}}],
            },
            "finishReason": "STOP",
            "index": index,
        }
        for index, (one, content) in enumerate(pairs)
    ]
    return {
        "candidates": candidates,
        # Images are not made of tokens here; clients read the field, so it is there.
        "usageMetadata": dict.fromkeys(TOKENS, 0),
        "modelVersion": job.generation.model.removeprefix("models/"),
        "responseId": shown.job_id,
    }


def _model(model: model_pb2.Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "displayName": model.display_name,
        "description": model.description,
        "supportedGenerationMethods": METHODS,
    }


TOKENS = ("promptTokenCount", "candidatesTokenCount", "totalTokenCount")
TIER = optional(choice([*sizes.GEMINI_TIERS, *(tier.lower() for tier in sizes.GEMINI_TIERS)]))
RATIO = optional(choice(list(sizes.GEMINI_1K)))
OPTIONS = optional(
    record(
        {
            "mimeType": optional(choice(list(FORMATS))),
            "compressionQuality": optional(integer(0, 100, "Of JPEG and WebP.")),
        }
    )
)
PART = record(
    {
        "text": optional(text("What to draw, or what to change.")),
        "inlineData": optional(record({"mimeType": optional(text()), "data": optional(image())})),
    }
)
CONTENT = record({"role": optional(text()), "parts": {"anyOf": [listed(PART), PART]}})
REQUEST = record(
    {
        "contents": {"anyOf": [listed(CONTENT, minItems=1), CONTENT]},
        "generationConfig": optional(
            record(
                {
                    "responseModalities": optional(listed(text(), "IMAGE must be among them.")),
                    "candidateCount": optional(integer(1, MAX_IMAGES)),
                    "seed": optional(integer(0, MAX_SEED, "Omitted: a random one.")),
                    "imageConfig": optional(
                        record(
                            {"aspectRatio": RATIO, "imageSize": TIER, "imageOutputOptions": OPTIONS}
                        )
                    ),
                }
            )
        ),
    },
    ["contents"],
)
INSTANCE = record({"prompt": text("What to draw.", minLength=1)}, ["prompt"])
PREDICT = record(
    {
        "instances": {"anyOf": [listed(INSTANCE, minItems=1, maxItems=1), INSTANCE]},
        "parameters": optional(
            record(
                {
                    "sampleCount": optional(integer(1, MAX_IMAGES)),
                    "aspectRatio": RATIO,
                    "sampleImageSize": TIER,
                    "negativePrompt": optional(text()),
                    "guidanceScale": optional(number(0, MAX_GUIDANCE)),
                    "seed": optional(integer(0, MAX_SEED)),
                    "outputOptions": OPTIONS,
                }
            )
        ),
    },
    ["instances"],
)
_BASE64 = text(contentEncoding="base64")
_BLOB = answered({"mimeType": choice(list(FORMATS)), "data": _BASE64})
CANDIDATE = answered(
    {
        "content": answered(
            {"role": choice(["model"]), "parts": listed(answered({"inlineData": _BLOB}))}
        ),
        "finishReason": choice(["STOP"]),
        "index": integer(0),
    }
)
ANSWER = answered(
    {
        "candidates": listed(CANDIDATE),
        "usageMetadata": answered({name: integer(0) for name in TOKENS}),
        "modelVersion": text(),
        "responseId": text("The job's id."),
    }
)
PREDICTIONS = answered(
    {
        "predictions": listed(
            answered({"mimeType": choice(list(FORMATS)), "bytesBase64Encoded": _BASE64})
        )
    }
)
MODEL = answered(
    {
        "name": text(),
        "displayName": text(),
        "description": text(),
        "supportedGenerationMethods": listed(choice(METHODS)),
    }
)
ERROR = answered(
    {"error": answered({"code": integer(400, 599), "message": text(), "status": text()})}
)


def _generating(version: str) -> list[Operation]:
    """Return the routes of one version that draw."""
    draw = functools.partial(Generate, method="POST")
    base = f"/{version}/models/{{model:path}}"
    return [
        draw(
            path=f"{base}:generateContent",
            summary="Draw, or edit the images of the last turn",
            request=REQUEST,
            reply=ANSWER,
            decode=decode_content,
            encode=encode_content,
        ),
        draw(
            path=f"{base}:streamGenerateContent",
            summary="Draw, and answer with one event",
            query={"alt": choice(["sse"], "Omitted: the answer is a list.")},
            request=REQUEST,
            reply=listed(ANSWER),
            events={"message": ANSWER},
            decode=decode_stream,
            encode=encode_contents,
            stream=stream_content,
            # An event's name, or a comment, would be a line that google-genai reads as JSON.
            fail=lambda failure: Event(encode_error(failure).body),
            silent=True,
        ),
        draw(
            path=f"{base}:predict",
            summary="Draw, as Imagen is asked to",
            request=PREDICT,
            reply=PREDICTIONS,
            decode=decode_predict,
            encode=encode_predictions,
            fields={
                "height_px": "sampleImageSize",
                "image_count": "sampleCount",
                "guidance_scale": "guidanceScale",
                "negative_prompt": "negativePrompt",
            },
        ),
    ]


DIALECT = Dialect(
    name="gemini",
    title="Gemini",
    prefixes=["/v1beta"],
    credential=Credential.X_GOOG_API_KEY,
    operations=[
        *(operation for version in VERSIONS for operation in _generating(version)),
        # Below /v1 these two are OpenAI's.
        ListModels(
            method="GET",
            path="/v1beta/models",
            summary="List the models",
            reply=answered({"models": listed(MODEL)}),
            encode=encode_models,
        ),
        ShowModel(
            method="GET",
            path="/v1beta/models/{model:path}",
            summary="Show one model",
            reply=MODEL,
            decode=lambda call: call.path["model"],
            encode=encode_model,
        ),
    ],
    encode_error=encode_error,
    error=ERROR,
    fields={
        "prompt": "contents",
        "width_px": "aspectRatio",
        "height_px": "imageSize",
        "image_count": "candidateCount",
        "input_images": "contents",
    },
)
