"""
OpenAI Images, as inference.club documents it and as the openai package calls it.

Where the two differ the document wins: a URL by default, ``n`` clamped and not refused, its own
error types. Bodies that are wrong are 400 in OpenAI's envelope; the package loses the message of
anything else.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from gateway.dialect import (
    Answer,
    Call,
    Credential,
    Dialect,
    Failure,
    Generate,
    ListModels,
    Order,
    Preferences,
    ShowAsset,
    ShowModel,
    Shown,
)
from gateway.fields import Fields
from gateway.schemas import answered, choice, integer, listed, number, optional, record, text
from pictor.catalog.v1 import model_pb2
from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import generation_pb2, job_pb2

Note = job_pb2.ParameterNote

MAX_IMAGES = 10
MAX_PARTIAL_IMAGES = 3
MAX_SIDE_PX = 16_384
MAX_SEED = 2**32 - 1
QUALITIES = ["auto", "standard", "hd", "low", "medium", "high", "xhigh", "max"]
# What is said of the quality that was used: the two old words have new ones.
RESOLVED = {"auto": "medium", "standard": "medium", "hd": "high"}
# Times the model's own number of steps.
EFFORT = {"low": 0.5, "medium": 1.0, "high": 1.5, "xhigh": 2.0, "max": 2.0}
FORMATS = {
    "png": generation_pb2.Output.FORMAT_PNG,
    "jpeg": generation_pb2.Output.FORMAT_JPEG,
    "webp": generation_pb2.Output.FORMAT_WEBP,
}
# OpenAI answers these with base64 whatever is asked, and clients then ask for nothing.
ALWAYS_BASE64 = ("gpt-image", "openai/gpt-image", "chatgpt-image", "openai/chatgpt-image")
NO_TOKENS = {
    "total_tokens": 0,
    "input_tokens": 0,
    "output_tokens": 0,
    "input_tokens_details": {"text_tokens": 0, "image_tokens": 0},
}
_SIZE = re.compile(r"([1-9]\d{0,5})[xX]([1-9]\d{0,5})")

# inference.club's words, for the image routes.
TYPES = {
    reasons.ERROR_REASON_API_KEY_MISSING: "invalid_request_error",
    reasons.ERROR_REASON_SCOPE_MISSING: "permission_error",
    reasons.ERROR_REASON_PROMPT_TOO_LONG: "request_too_large",
    reasons.ERROR_REASON_REQUEST_TOO_LARGE: "request_too_large",
    reasons.ERROR_REASON_INPUT_IMAGE_TOO_LARGE: "file_too_large",
    reasons.ERROR_REASON_MEDIA_TYPE_UNSUPPORTED: "unsupported_media_type",
    reasons.ERROR_REASON_MODEL_NOT_SERVING: "no_provider",
}
CODES = {
    reasons.ERROR_REASON_API_KEY_MISSING: "invalid_api_key",
    reasons.ERROR_REASON_API_KEY_INVALID: "invalid_api_key",
    reasons.ERROR_REASON_API_KEY_REVOKED: "invalid_api_key",
    reasons.ERROR_REASON_API_KEY_EXPIRED: "invalid_api_key",
    reasons.ERROR_REASON_MODEL_NOT_FOUND: "model_not_found",
    reasons.ERROR_REASON_MODEL_NOT_SERVING: "model_not_found",
    reasons.ERROR_REASON_FIELD_REQUIRED: "missing_required_parameter",
    reasons.ERROR_REASON_FIELD_INVALID: "invalid_value",
    reasons.ERROR_REASON_FIELD_OUT_OF_RANGE: "invalid_value",
    reasons.ERROR_REASON_FIELD_UNSUPPORTED: "unsupported_parameter",
    reasons.ERROR_REASON_ROUTE_NOT_FOUND: "unknown_url",
    reasons.ERROR_REASON_METHOD_NOT_ALLOWED: "method_not_allowed",
}
UPSTREAM = (
    reasons.ERROR_REASON_DEVICE_LOST,
    reasons.ERROR_REASON_DEVICE_OUT_OF_MEMORY,
    reasons.ERROR_REASON_OUTPUT_NOT_FINITE,
    reasons.ERROR_REASON_WEIGHTS_UNREADABLE,
    reasons.ERROR_REASON_STORAGE_FAILED,
)


def decode_generation(call: Call) -> Order:
    """Read POST /v1/images/generations; null is the same as absent, unknown fields are ignored."""
    fields = Fields(call.body)
    notes: list[job_pb2.ParameterNote] = []
    prompt = fields.prompt("prompt", required=True)
    model = _model_id(fields, call.preferences)
    width_px, height_px = _size(fields)
    quality = fields.choice("quality", QUALITIES) or "auto"
    response_format = fields.choice("response_format", ["url", "b64_json"])
    generation = generation_pb2.Generation(
        model=f"models/{model}",
        prompt=prompt or "",
        negative_prompt=fields.prompt("negative_prompt") or "",
        width_px=width_px,
        height_px=height_px,
        step_count=fields.integer("steps", least=1, most=1_000),
        guidance_scale=fields.number("guidance_scale", least=0, most=100),
        seed=fields.integer("seed", least=0, most=MAX_SEED),
        image_count=_count(fields, notes),
        output=_output(fields, notes),
    )
    # Checked also where nothing streams: a number that is wrong then is wrong now.
    fields.integer("partial_images", least=0, most=MAX_PARTIAL_IMAGES)
    _refuse_what_is_not_there_yet(fields)
    notes.extend(_ignored(fields, "style", "moderation", "background"))
    echo = {
        "base64": _is_base64(model or "", response_format),
        "quality": quality,
        "safety_identifier": fields.text("safety_identifier"),
    }
    fields.check()
    return Order(generation, contents=echo["base64"] is True, notes=notes, echo=echo)


def fit(order: Order, model: model_pb2.Model) -> Order:
    """Bring ``n`` within the model's limit, and turn the quality into a number of steps."""
    generation = generation_pb2.Generation()
    generation.CopyFrom(order.generation)
    notes = list(order.notes)
    most = model.limits.max_image_count or 1
    if generation.image_count > most:
        # One note a parameter: what was asked for is in the first one, if n was clamped before.
        asked = next((n.requested for n in notes if n.parameter == "n"), "")
        notes = [note for note in notes if note.parameter != "n"]
        notes.append(_clamped(asked or str(generation.image_count), most))
        generation.image_count = most
    _spend_quality(generation, str(order.echo["quality"]), model, notes)
    return dataclasses.replace(order, generation=generation, notes=notes)


def encode_images(shown: Shown) -> Answer:
    """Write a finished job as an ImagesResponse."""
    job = shown.job
    echo = shown.order.echo if shown.order else {}
    first = job.result.images[0]
    quality = str(echo.get("quality", "auto"))
    body: dict[str, Any] = {
        "created": job.create_time.seconds,
        "data": [_image(shown, index) for index in range(len(job.result.images))],
        "background": "opaque",
        "output_format": first.media_type.removeprefix("image/"),
        "size": f"{first.width_px}x{first.height_px}",
        "quality": RESOLVED.get(quality, quality),
        # Images are not made of tokens here; clients read the field, so it is there.
        "usage": NO_TOKENS,
    }
    if echo.get("safety_identifier"):
        body["safety_identifier"] = echo["safety_identifier"]
    return Answer(body)


def encode_models(models: Sequence[model_pb2.Model]) -> Answer:
    """Write the list of models."""
    return Answer({"object": "list", "data": [_model(model) for model in models]})


def encode_model(model: model_pb2.Model) -> Answer:
    """Write one model."""
    return Answer(_model(model))


def encode_error(failure: Failure) -> Answer:
    """Write an error; all four keys are always there."""
    error = failure.error
    kind, param = _type(failure), failure.field or None
    if error.reason in (
        reasons.ERROR_REASON_MODEL_NOT_FOUND,
        reasons.ERROR_REASON_MODEL_NOT_SERVING,
    ):
        param = "model"
    code = CODES.get(error.reason)
    body = {"message": error.message, "type": kind, "param": param, "code": code}
    # The package repeats every 5xx twice; once a job was made, each time would draw again.
    headers = {"x-should-retry": "false"} if failure.job else {}
    return Answer({"error": body}, failure.status, headers)


def _type(failure: Failure) -> str:
    reason = failure.error.reason
    if reason == reasons.ERROR_REASON_FIELD_REQUIRED and failure.field == "prompt":
        return "missing_prompt"
    if reason == reasons.ERROR_REASON_MODEL_NOT_FOUND and isinstance(failure.operation, Generate):
        return "no_provider"
    if reason in UPSTREAM:
        return "upstream_error"
    fallback = "server_error" if failure.status >= 500 else "invalid_request_error"
    return TYPES.get(reason, fallback)


def _model_id(fields: Fields, preferences: Preferences) -> str | None:
    given = fields.value("model") not in (None, "")
    model = fields.name("model") if given else preferences.default_model
    if not model and not given:
        fields.blame(
            "model",
            "model is missing, and this server has no default model; GET /v1/models lists them",
            reasons.ERROR_REASON_FIELD_REQUIRED,
        )
    return model


def _size(fields: Fields) -> tuple[int | None, int | None]:
    """Return width and height in pixels; None for ``auto``, which is the model's own size."""
    text = fields.text("size")
    if not text or text == "auto":
        return None, None
    match = _SIZE.fullmatch(text)
    if match is None or max(int(match[1]), int(match[2])) > MAX_SIDE_PX:
        fields.blame("size", f"size {text[:40]!r} is neither auto nor WIDTHxHEIGHT, e.g. 1024x1024")
        return None, None
    return int(match[1]), int(match[2])


def _count(fields: Fields, notes: list[job_pb2.ParameterNote]) -> int | None:
    asked = fields.integer("n")
    if asked is None:
        return None
    used = min(max(asked, 1), MAX_IMAGES)
    if used != asked:
        notes.append(_clamped(str(fields.value("n"))[:40], used))
    return used


def _clamped(requested: str, used: int) -> job_pb2.ParameterNote:
    return Note(
        parameter="n",
        treatment=Note.TREATMENT_CLAMPED,
        requested=requested,
        used=str(used),
        reason="the nearest number of images that the model draws in one request",
    )


def _output(fields: Fields, notes: list[job_pb2.ParameterNote]) -> generation_pb2.Output:
    name = fields.choice("output_format", list(FORMATS)) or "png"
    compression = fields.integer("output_compression", least=0, most=100)
    if fields.choice("background", ["auto", "opaque", "transparent"]) == "transparent" and (
        name == "jpeg"
    ):
        fields.blame("background", "background transparent needs output_format png or webp")
    output = generation_pb2.Output(format=FORMATS[name])
    if compression is None:
        return output
    if name == "png":
        notes.extend(_ignored(fields, "output_compression"))
    else:
        output.quality = max(compression, 1)
    return output


def _ignored(fields: Fields, *names: str) -> list[job_pb2.ParameterNote]:
    """Note which of the fields were given; what they ask for the models here cannot do."""
    return [
        Note(
            parameter=name,
            treatment=Note.TREATMENT_IGNORED,
            requested=str(fields.value(name))[:100],
            reason="has no effect on this server",
        )
        for name in names
        if fields.value(name) not in (None, "auto", "opaque")
    ]


def _refuse_what_is_not_there_yet(fields: Fields) -> None:
    for name in ("stream", "async"):
        if fields.switch(name):
            fields.blame(
                name,
                f"{name} is not supported by this server; leave it out and wait for the answer",
                reasons.ERROR_REASON_FIELD_UNSUPPORTED,
            )


def _is_base64(model: str, response_format: str | None) -> bool:
    if response_format is None:
        return model.startswith(ALWAYS_BASE64)
    return response_format == "b64_json"


def _spend_quality(
    generation: generation_pb2.Generation,
    quality: str,
    model: model_pb2.Model,
    notes: list[job_pb2.ParameterNote],
) -> None:
    effort = EFFORT[RESOLVED.get(quality, quality)]
    default = model.parameter_defaults.step_count
    if effort == 1.0:
        return
    note = Note(parameter="quality", requested=quality)
    if generation.HasField("step_count") or not default:
        note.treatment = Note.TREATMENT_IGNORED
        note.reason = "steps says how many" if default else "the model has no number of steps"
    else:
        steps = min(max(round(default * effort), 1), model.limits.max_step_count or default)
        generation.step_count = steps
        note.treatment = Note.TREATMENT_TRANSLATED
        note.used = f"{steps} steps"
        note.reason = f"{effort:g} times the model's {default} steps"
    notes.append(note)


def _image(shown: Shown, index: int) -> dict[str, Any]:
    image = shown.job.result.images[index]
    if not shown.contents:
        return {"url": image.url}
    url = "asset_url" if shown.preferences.base64_only else "url"
    return {"b64_json": shown.contents[index], url: image.url}


def _model(model: model_pb2.Model) -> dict[str, Any]:
    takes_images = model.limits.max_input_images > 0
    return {
        "id": model.name.removeprefix("models/"),
        "object": "model",
        "created": model.create_time.seconds,
        "owned_by": model.owner,
        "shutdown_date": None,
        "input_modalities": ["text", "image"] if takes_images else ["text"],
        "output_modalities": ["image"],
        "service_type": "image",
    }


GENERATION = record(
    {
        "model": optional(text("Omitted: the server's default, where it has one.")),
        "prompt": text("What to draw.", minLength=1),
        "n": optional(integer(about=f"Images; brought to 1 to {MAX_IMAGES}.")),
        "size": optional(text("`auto`, the model's own, or WIDTHxHEIGHT in pixels.")),
        "quality": optional(choice(QUALITIES, "Becomes a number of steps.")),
        "response_format": optional(choice(["url", "b64_json"])),
        "output_format": optional(choice(list(FORMATS))),
        "output_compression": optional(integer(0, 100, "Of JPEG and WebP.")),
        "background": optional(choice(["auto", "opaque", "transparent"])),
        "negative_prompt": optional(text("What not to draw; an extension.")),
        "steps": optional(integer(1, 1000, "An extension.")),
        "guidance_scale": optional(number(0, 100, "An extension.")),
        "seed": optional(integer(0, MAX_SEED, "An extension.")),
    },
    required=["prompt"],
)
IMAGES = record(
    {
        "created": integer(0, about="In seconds."),
        "data": listed(record({"url": text(format="uri"), "b64_json": text()})),
        "background": text(),
        "output_format": choice(list(FORMATS)),
        "size": text(),
        "quality": choice(QUALITIES),
        "usage": record({"total_tokens": integer(0)}),
    },
    required=["created", "data"],
)
MODEL = record(
    {
        "id": text(),
        "object": choice(["model"]),
        "created": integer(0),
        "owned_by": text(),
        "shutdown_date": {"type": "null"},
    },
    required=["id", "object", "created", "owned_by"],
)
ERROR = answered(
    {
        "error": answered(
            {
                "message": text(),
                "type": text(),
                "param": optional(text()),
                "code": optional(text()),
            }
        )
    }
)

DIALECT = Dialect(
    name="openai",
    title="OpenAI Images",
    prefixes=["/v1", "/api/inference/assets"],
    credential=Credential.BEARER,
    operations=[
        Generate(
            method="POST",
            path="/v1/images/generations",
            summary="Draw images",
            request=GENERATION,
            reply=IMAGES,
            decode=decode_generation,
            fit=fit,
            encode=encode_images,
        ),
        ListModels(
            method="GET",
            path="/v1/models",
            summary="List the models",
            encode=encode_models,
            reply=answered({"object": choice(["list"]), "data": listed(MODEL)}),
        ),
        ShowModel(
            method="GET",
            path="/v1/models/{model:path}",
            summary="Show one model",
            reply=MODEL,
            decode=lambda call: call.path["model"],
            encode=encode_model,
        ),
        *(
            ShowAsset(
                method="GET",
                path=f"/api/inference/assets/{{asset_id}}{slash}",
                summary="Send an image; its URL cannot be guessed",
                decode=lambda call: call.path["asset_id"],
            )
            for slash in ("/", "")
        ),
    ],
    encode_error=encode_error,
    error=ERROR,
    statuses={
        reasons.ERROR_REASON_PROMPT_TOO_LONG: 413,
        # 404 is not repeated by the package, 503 is; nothing changes within its patience.
        reasons.ERROR_REASON_MODEL_NOT_SERVING: 404,
        **dict.fromkeys(UPSTREAM, 502),
    },
    fields={
        "width_px": "size",
        "height_px": "size",
        "step_count": "steps",
        "image_count": "n",
        "output.quality": "output_compression",
    },
)
