"""
OpenAI Images, as inference.club documents it and as the openai package calls it.

Where the two differ the document wins: a URL by default, ``n`` clamped and not refused, its own
error types. Bodies that are wrong are 400 in OpenAI's envelope; the package loses the message of
anything else.

Nothing about a request is kept but its job: what a later look at the job needs of it (base64 or
URLs, say) is read from the job's receipt.
"""

import base64
import dataclasses
import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from gateway.dialect import (
    Answer,
    Body,
    Call,
    CancelJob,
    Credential,
    Delivery,
    Dialect,
    Event,
    Failure,
    Generate,
    ListJobs,
    ListModels,
    Order,
    Preferences,
    RetryJob,
    ShowAsset,
    ShowJob,
    ShowModel,
    Shown,
)
from gateway.fields import FORM_TYPES, Fields
from gateway.images import SIGNATURES, InputFile, MaskRule, Upload
from gateway.schemas import (
    answered,
    choice,
    file,
    integer,
    listed,
    number,
    optional,
    record,
    switch,
    text,
)
from pictor.catalog.v1 import model_pb2
from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import generation_pb2, inference_service_pb2, job_pb2
from pictor.storage.v1.mask_convention_pb2 import MASK_CONVENTION_TRANSPARENT as TRANSPARENT
from services.rpc.errors import InvalidRequest, SuiteError, from_status, invalid

Note = job_pb2.ParameterNote
InputImage = generation_pb2.InputImage

MAX_IMAGES = 10
MAX_INPUT_IMAGES = 16
MAX_JOBS = 1000
MASK_BYTES = 4 * 1024 * 1024
# How much of a picture its variation draws anew.
VARIATION_STRENGTH = 0.6
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
    "output_tokens_details": {"text_tokens": 0, "image_tokens": 0},
}
FEATURES = {
    model_pb2.OPERATION_TEXT_TO_IMAGE: "text_to_image",
    model_pb2.OPERATION_IMAGE_TO_IMAGE: "image_to_image",
    model_pb2.OPERATION_INPAINT: "inpaint",
    model_pb2.OPERATION_EDIT: "edit",
}
# inference.club's words for where a job stands.
STATUSES = {
    job_pb2.Job.STATE_QUEUED: "QUEUED",
    job_pb2.Job.STATE_RUNNING: "PROCESSING",
    job_pb2.Job.STATE_SUCCEEDED: "PROCESSED",
    job_pb2.Job.STATE_FAILED: "FAILED",
    job_pb2.Job.STATE_CANCELED: "CANCELED",
}
ACTIVE = (job_pb2.Job.STATE_QUEUED, job_pb2.Job.STATE_RUNNING)
_IMAGE_NAME = re.compile(r"images?(?:\[(\d{0,9})\])?")
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
    reasons.ERROR_REASON_INSUFFICIENT_CREDITS: "insufficient_quota",
}
CODES = {
    reasons.ERROR_REASON_API_KEY_MISSING: "invalid_api_key",
    reasons.ERROR_REASON_API_KEY_INVALID: "invalid_api_key",
    reasons.ERROR_REASON_API_KEY_REVOKED: "invalid_api_key",
    reasons.ERROR_REASON_API_KEY_EXPIRED: "invalid_api_key",
    reasons.ERROR_REASON_INSUFFICIENT_CREDITS: "insufficient_quota",
    reasons.ERROR_REASON_MODEL_NOT_FOUND: "model_not_found",
    reasons.ERROR_REASON_MODEL_NOT_SERVING: "model_not_found",
    reasons.ERROR_REASON_FIELD_REQUIRED: "missing_required_parameter",
    reasons.ERROR_REASON_FIELD_INVALID: "invalid_value",
    reasons.ERROR_REASON_FIELD_OUT_OF_RANGE: "invalid_value",
    reasons.ERROR_REASON_FIELD_UNSUPPORTED: "unsupported_parameter",
    reasons.ERROR_REASON_PARAMETER_NOT_HONOURED: "unsupported_parameter",
    reasons.ERROR_REASON_OPERATION_UNSUPPORTED: "unsupported_operation",
    reasons.ERROR_REASON_INPUT_IMAGE_COUNT: "invalid_value",
    reasons.ERROR_REASON_INPUT_IMAGE_INVALID: "invalid_value",
    reasons.ERROR_REASON_INPUT_IMAGE_UNREACHABLE: "invalid_value",
    reasons.ERROR_REASON_JOB_NOT_FOUND: "job_not_found",
    reasons.ERROR_REASON_JOB_STATE_CONFLICT: "job_state_conflict",
    reasons.ERROR_REASON_JOB_EXISTS: "job_exists",
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
    prompt = fields.prompt("prompt", required=True)
    order = _order(fields, call.preferences, prompt)
    fields.check()
    return order


def decode_edit(call: Call) -> Order:
    """Read POST /v1/images/edits, a form or JSON: one image or more, and perhaps a mask."""
    fields = _fields(call)
    prompt = fields.prompt("prompt", required=True)
    images = _pictures(fields, call.body)
    mask = _mask(fields)
    order = _order(fields, call.preferences, prompt)
    fields.choice("input_fidelity", ["low", "high"])
    notes = [*order.notes, *_ignored(fields, "input_fidelity")]
    if fields.value("markup") is not None:
        fields.blame(
            "markup",
            "markup is not supported by this server; send a mask, or say it in the prompt",
            reasons.ERROR_REASON_FIELD_UNSUPPORTED,
        )
    strength = fields.number("strength", least=0, most=1)
    if strength is not None:
        order.generation.strength = strength
    # What is edited keeps its shape, unless the caller wants another one.
    order.generation.shape_from_image = not order.generation.HasField("width_px")
    fields.check()
    return dataclasses.replace(order, input_images=images, mask=mask, notes=notes)


def decode_variation(call: Call) -> Order:
    """Read POST /v1/images/variations: one image, of which another one like it is drawn."""
    fields = _fields(call)
    images = _pictures(fields, call.body)
    order = _order(fields, call.preferences, "")
    if len(images) > 1:
        fields.blame("image", f"{len(images)} images; a variation is made of one")
    strength = fields.number("strength", least=0, most=1)
    order.generation.strength = VARIATION_STRENGTH if strength is None else strength
    order.generation.operation = model_pb2.OPERATION_IMAGE_TO_IMAGE
    fields.check()
    init = [dataclasses.replace(one, role=InputImage.ROLE_INIT) for one in images]
    return dataclasses.replace(order, input_images=init)


def decode_jobs(call: Call) -> inference_service_pb2.ListJobsRequest:
    """Read the query of GET /v1/jobs."""
    fields = Fields(call.query, form=True)
    limit = fields.integer("limit", least=1, most=MAX_JOBS)
    status = fields.text("status")
    states = [state for state, word in STATUSES.items() if word == (status or "").upper()]
    if status and not states:
        known = ", ".join(STATUSES.values())
        fields.blame("status", f"status {status[:40]!r} is not one of {known}")
    if fields.switch("active"):
        if states and states[0] not in ACTIVE:
            fields.blame("active", f"active=1 and status={status} exclude each other")
        states = states or list(ACTIVE)
    fields.check()
    return inference_service_pb2.ListJobsRequest(page_size=limit or 0, states=states)


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


def fit_edit(order: Order, model: model_pb2.Model) -> Order:
    """Let the image's own transparency be the mask of a model that does nothing without one."""
    operations = set(model.operations)
    others = {model_pb2.OPERATION_EDIT, model_pb2.OPERATION_IMAGE_TO_IMAGE}
    if order.mask is None and model_pb2.OPERATION_INPAINT in operations - others == operations:
        mask = InputFile("image", b"", mask=MaskRule(TRANSPARENT, of_first_image=True))
        order = dataclasses.replace(order, mask=mask)
    return fit(order, model)


def fit_variation(order: Order, model: model_pb2.Model) -> Order:
    """
    Insist that the model starts from pictures.

    Raises:
        InvalidRequest: With OPERATION_UNSUPPORTED, before any image is looked at.
    """
    if model_pb2.OPERATION_IMAGE_TO_IMAGE not in model.operations:
        raise InvalidRequest(
            f"{_id(model.name)} draws no variations: it does not start from a picture",
            reason=reasons.ERROR_REASON_OPERATION_UNSUPPORTED,
            metadata={"field": "model"},
        )
    return fit(order, model)


def encode_images(shown: Shown) -> Answer:
    """Write a finished job as an ImagesResponse."""
    job = shown.job
    body: dict[str, Any] = {
        "created": job.create_time.seconds,
        "data": [_image(shown, index) for index in range(len(job.result.images))],
        **_look(shown, 0),
        # Images are not made of tokens here; clients read the field, so it is there.
        "usage": NO_TOKENS,
    }
    safety_identifier = _asked(shown, "safety_identifier")
    if safety_identifier:
        body["safety_identifier"] = safety_identifier
    return Answer(body)


def encode_accepted(shown: Shown) -> Answer:
    """Write a job that was queued; flat, because the package makes attributes of what it finds."""
    return Answer(_job_head(shown), 202)


def encode_job(shown: Shown) -> Answer:
    """Write where a job stands, with the answer that waiting for it would have got."""
    job = shown.job
    urls = [image.url for image in job.result.images]
    return Answer(
        {
            **_job_head(shown),
            "started_at": _moment(job, "start_time"),
            "finished_at": _moment(job, "finish_time"),
            "result_url": urls[0] if urls else None,
            "result": encode_images(shown).body if urls else None,
            "assets": urls,
            "error": _job_error(from_status(job.error)) if job.HasField("error") else None,
            "retry_of": job.retry_of.removeprefix("jobs/") or None,
        }
    )


def encode_jobs(shown: Sequence[Shown]) -> Answer:
    """Write the account's jobs, newest first."""
    return Answer({"object": "list", "data": [encode_job(one).body for one in shown]})


def stream_images(
    shown: Shown, message: inference_service_pb2.WatchJobResponse, *, kind: str
) -> Iterator[Event]:
    """Write previews as they come, and at the end each image; always in base64."""
    if message.HasField("preview"):
        yield _partial(shown, message, kind)
    for index, content in enumerate(shown.contents):
        body = {
            "type": f"{kind}.completed",
            "b64_json": content,
            "created_at": shown.job.finish_time.seconds,
            **_look(shown, index),
            "usage": NO_TOKENS,
            **_numbered(shown, index),
        }
        yield Event(body, f"{kind}.completed")


def fail_stream(failure: Failure) -> Event:
    """Write an error that ends a stream; the package raises it as an APIError."""
    return Event({"type": "error", **encode_error(failure).body}, "error")


def wants_contents(job: job_pb2.Job) -> bool:
    """Say whether whoever asked for a job here wanted base64."""
    asked = _noted(job, "response_format") or None
    return job.dialect.startswith("openai") and _is_base64(_id(job.generation.model), asked)


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
    code = error.metadata.get("problem") or CODES.get(error.reason)
    if failure.status == 429:
        kind, code = "rate_limit_error", "rate_limit_exceeded"
    if (
        failure.operation is VARIATIONS
        and kind == "invalid_request_error"
        and (error.reason == reasons.ERROR_REASON_OPERATION_UNSUPPORTED)
    ):
        code = "unsupported_endpoint"
    body = {"message": error.message, "type": kind, "param": param, "code": code}
    # The package repeats every 5xx and 409 twice. Once a job was made, each time would draw again;
    # and a job that has ended has ended for good. The twin of a request, though, gets its answer.
    final = failure.job or error.reason == reasons.ERROR_REASON_JOB_STATE_CONFLICT
    final = final and error.reason != reasons.ERROR_REASON_REQUEST_IN_PROGRESS
    headers = {"x-should-retry": "false"} if final else {}
    return Answer({"error": body}, failure.status, headers)


def _type(failure: Failure) -> str:
    reason = failure.error.reason
    if reason == reasons.ERROR_REASON_FIELD_REQUIRED and failure.field == "prompt":
        return "missing_prompt"
    if reason == reasons.ERROR_REASON_FIELD_REQUIRED and failure.field == "image":
        return "missing_file"
    if reason == reasons.ERROR_REASON_MODEL_NOT_FOUND and isinstance(failure.operation, Generate):
        return "no_provider"
    if reason in UPSTREAM:
        return "upstream_error"
    fallback = "server_error" if failure.status >= 500 else "invalid_request_error"
    return TYPES.get(reason, fallback)


def _fields(call: Call) -> Fields:
    return Fields(
        call.body, form=call.headers.get("content-type", "").lower().startswith(FORM_TYPES)
    )


def _order(fields: Fields, preferences: Preferences, prompt: str | None) -> Order:
    """Read what all three ways to draw have in common; whoever calls checks the fields."""
    notes: list[job_pb2.ParameterNote] = []
    model = _model_id(fields, preferences)
    width_px, height_px = _size(fields)
    quality = fields.choice("quality", QUALITIES) or "auto"
    response_format = fields.choice("response_format", ["url", "b64_json"])
    delivery = _delivery(fields)
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
        preview_count=_previews(fields, delivery, notes),
    )
    notes.extend(_ignored(fields, "style", "moderation", "background", "complexity", "user"))
    return Order(
        generation,
        delivery=delivery,
        contents=_is_base64(model or "", response_format),
        notes=notes,
        echo={"quality": quality, "safety_identifier": fields.text("safety_identifier")},
    )


def _delivery(fields: Fields) -> Delivery:
    streamed, later = fields.switch("stream"), fields.switch("async")
    if streamed and later:
        fields.blame("stream", "stream and async exclude each other; send one of them")
    if streamed:
        return Delivery.STREAM
    return Delivery.ACCEPT if later else Delivery.WAIT


def _previews(fields: Fields, delivery: Delivery, notes: list[job_pb2.ParameterNote]) -> int | None:
    # Checked also where nothing streams: a number that is wrong then is wrong now.
    count = fields.integer("partial_images", least=0, most=MAX_PARTIAL_IMAGES)
    if delivery is Delivery.STREAM:
        return count
    if count:
        notes.extend(_ignored(fields, "partial_images", why="only a stream has partial images"))
    return None


def _pictures(fields: Fields, body: Any) -> list[InputFile]:
    """Read the images of a request, in whichever of the known ways they are named."""
    given: list[Any] = []
    for name in _image_names(body):
        value = body[name]
        given.extend(value if isinstance(value, list) else [value])
    given = [one for one in given if one not in (None, "")]
    if not given:
        fields.blame(
            "image",
            "image is missing: send the picture to start from",
            reasons.ERROR_REASON_FIELD_REQUIRED,
        )
    if len(given) > MAX_INPUT_IMAGES:
        fields.blame("image", f"{len(given)} images; at most {MAX_INPUT_IMAGES} are accepted")
    places = ["image"] if len(given) == 1 else [f"image[{k}]" for k in range(len(given))]
    pictures = [
        InputFile(
            place,
            _source(fields, place, one),
            may_be_url=True,
            convert=functools.partial(_taken, field=place),
        )
        for place, one in zip(places, given, strict=True)
    ]
    return pictures[:MAX_INPUT_IMAGES]


def _image_names(body: dict[str, Any]) -> list[str]:
    """Find ``image``, ``images``, ``image[]`` and ``image[0]``, in this order."""
    found: list[tuple[int, bool, str]] = []
    # Not through the body's own keys: who looks at those has read them all.
    names: Iterable[str] = dict.keys(body)
    for name in names:
        match = _IMAGE_NAME.fullmatch(name)
        if match:
            found.append((int(match[1] or -1), name.endswith("]"), name))
    return [name for *_, name in sorted(found)]


def _source(fields: Fields, place: str, value: Any) -> bytes | str:
    """Read one image: an upload, base64, a URL, or JSON's ``{"image_url": ...}``."""
    if isinstance(value, Mapping):
        if value.get("file_id") is not None:
            fields.blame(
                place,
                f"{place}: this server keeps no files; send image_url instead of file_id",
                reasons.ERROR_REASON_FIELD_UNSUPPORTED,
            )
            return b""
        value = value.get("image_url")
    if isinstance(value, Upload):
        return value.content
    if isinstance(value, str) and value:
        return value
    fields.blame(place, f"{place} must be an image: a file, base64, or a URL in image_url")
    return b""


def _mask(fields: Fields) -> InputFile | None:
    value = fields.value("mask")
    if value is None:
        return None
    return InputFile(
        "mask",
        _source(fields, "mask", value),
        may_be_url=True,
        convert=_light,
        mask=MaskRule(TRANSPARENT),
    )


def _taken(content: bytes, field: str) -> bytes:
    """Insist on one of the three formats, whatever name and type the client gave the file."""
    if content and not any(one.match(content) for one in SIGNATURES):
        raise invalid(
            field,
            f"{field} is not a PNG, JPEG or WebP file",
            reasons.ERROR_REASON_MEDIA_TYPE_UNSUPPORTED,
        )
    return content


def _light(content: bytes) -> bytes:
    if len(content) > MASK_BYTES:
        raise invalid(
            "mask",
            f"mask has {len(content)} bytes; at most {MASK_BYTES} are accepted",
            reasons.ERROR_REASON_INPUT_IMAGE_TOO_LARGE,
        )
    return _taken(content, "mask")


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


def _clamped(
    requested: str,
    used: int,
    parameter: str = "n",
    reason: str = "the nearest number of images that the model draws in one request",
) -> job_pb2.ParameterNote:
    return Note(
        parameter=parameter,
        treatment=Note.TREATMENT_CLAMPED,
        requested=requested,
        used=str(used),
        reason=reason,
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
        if not compression:
            why = "the least quality of a file is 1"
            notes.append(_clamped("0", 1, "output_compression", why))
    return output


def _ignored(
    fields: Fields, *names: str, why: str = "has no effect on this server"
) -> list[job_pb2.ParameterNote]:
    """Note which of the fields were given; what they ask for the models here cannot do."""
    return [
        Note(
            parameter=name,
            treatment=Note.TREATMENT_IGNORED,
            requested=str(fields.value(name))[:100],
            reason=why,
        )
        for name in names
        if fields.value(name) not in (None, "auto", "opaque")
    ]


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


def _look(shown: Shown, index: int) -> dict[str, Any]:
    """Tell how an image looks that was drawn."""
    image = shown.job.result.images[index]
    return {
        # No model here draws an alpha channel.
        "background": "opaque",
        "output_format": image.media_type.removeprefix("image/"),
        "size": f"{image.width_px}x{image.height_px}",
        "quality": _quality(shown),
    }


def _partial(shown: Shown, message: inference_service_pb2.WatchJobResponse, kind: str) -> Event:
    preview, wanted = message.preview, shown.job.generation
    body = {
        "type": f"{kind}.partial_image",
        "b64_json": base64.b64encode(preview.content).decode("ascii"),
        "created_at": message.event_time.seconds,
        # Of the image that is being drawn; the preview of it is smaller.
        "size": f"{wanted.width_px}x{wanted.height_px}",
        "quality": _quality(shown),
        "background": "opaque",
        # Of the preview itself: clients make a data URL of it.
        "output_format": preview.media_type.removeprefix("image/"),
        "partial_image_index": preview.preview_index,
        **_numbered(shown, preview.image_index),
    }
    return Event(body, f"{kind}.partial_image")


def _numbered(shown: Shown, index: int) -> dict[str, int]:
    """Number an image where there are several, which OpenAI's events do not tell apart."""
    return {"index": index} if shown.job.generation.image_count > 1 else {}


def _quality(shown: Shown) -> str:
    quality = _asked(shown, "quality") or "auto"
    return RESOLVED.get(quality, quality)


def _asked(shown: Shown, parameter: str) -> str:
    """Return what the request said for a parameter, later by the job's receipt."""
    if shown.order:
        return str(shown.order.echo.get(parameter) or "")
    return _noted(shown.job, parameter)


def _noted(job: job_pb2.Job, parameter: str) -> str:
    return next((note.requested for note in job.receipt if note.parameter == parameter), "")


def _job_head(shown: Shown) -> dict[str, Any]:
    job = shown.job
    return {
        "id": shown.job_id,
        "object": "inference.job",
        "status": STATUSES.get(job.state, "QUEUED"),
        "inference_type": "IMAGE",
        "model": _id(job.generation.model),
        "created": job.create_time.seconds,
        "queued_at": job.create_time.ToJsonString(),
    }


def _job_error(error: SuiteError) -> dict[str, str]:
    if error.reason == reasons.ERROR_REASON_JOB_CANCELED:
        return {"message": error.message, "type": "canceled"}
    kind = "invalid_request_error" if isinstance(error, InvalidRequest) else "server_error"
    kind = "upstream_error" if error.reason in UPSTREAM else kind
    return {"message": error.message, "type": TYPES.get(error.reason, kind)}


def _moment(job: job_pb2.Job, field: str) -> str | None:
    return getattr(job, field).ToJsonString() if job.HasField(field) else None  # type: ignore[arg-type]  # one of several


def _job_id(call: Call) -> str:
    return call.path["job_id"]


def _id(name: str) -> str:
    return name.removeprefix("models/")


def _model(model: model_pb2.Model) -> dict[str, Any]:
    takes_images = model.limits.max_input_images > 0
    return {
        "id": _id(model.name),
        "object": "model",
        "created": model.create_time.seconds,
        "owned_by": model.owner,
        "shutdown_date": None,
        "input_modalities": ["text", "image"] if takes_images else ["text"],
        "output_modalities": ["image"],
        "supported_features": [FEATURES[one] for one in model.operations if one in FEATURES],
        "service_type": "image",
    }


DRAWN = {
    "model": optional(text("Omitted: the server's default, where it has one.")),
    "prompt": text("What to draw.", minLength=1),
    "n": optional(integer(about=f"Images; brought to 1 to {MAX_IMAGES}.")),
    "size": optional(text("`auto`, the model's own or the image's, or WIDTHxHEIGHT in pixels.")),
    "quality": optional(choice(QUALITIES, "Becomes a number of steps.")),
    "response_format": optional(choice(["url", "b64_json"])),
    "output_format": optional(choice(list(FORMATS))),
    "output_compression": optional(integer(0, 100, "Of JPEG and WebP.")),
    "background": optional(choice(["auto", "opaque", "transparent"])),
    "stream": optional(switch("Send events instead of one answer.")),
    "partial_images": optional(integer(0, MAX_PARTIAL_IMAGES, "Previews in a stream.")),
    "safety_identifier": optional(text("Comes back in the answer.")),
    "async": optional(switch("Queue a job and answer 202; an extension.")),
    "negative_prompt": optional(text("What not to draw; an extension.")),
    "steps": optional(integer(1, 1000, "An extension.")),
    "guidance_scale": optional(number(0, 100, "An extension.")),
    "seed": optional(integer(0, MAX_SEED, "An extension.")),
}
STRENGTH = optional(number(0, 1, "How much is drawn anew; an extension."))
FIDELITY = optional(choice(["low", "high"]))
REFERENCE = record(
    {"image_url": text("A data URL or an http(s) URL.")}, ["image_url"], "One of the images."
)
GENERATION = record(DRAWN, required=["prompt"])
EDIT = record(
    {
        **DRAWN,
        "images": listed(REFERENCE, minItems=1, maxItems=MAX_INPUT_IMAGES),
        "mask": optional(record({"image_url": text()}, ["image_url"], "Transparent: repainted.")),
        "input_fidelity": FIDELITY,
        "strength": STRENGTH,
    },
    required=["prompt", "images"],
)
EDIT_FORM = record(
    {
        **DRAWN,
        "image": file(),
        "image[]": listed(file("Several images, up to 16; instead of `image`.")),
        "mask": file("PNG, of the first image's size; fully transparent is repainted."),
        "input_fidelity": FIDELITY,
        "strength": STRENGTH,
    },
    required=["prompt"],
)
VARIATION_FORM = record(
    {
        **{name: one for name, one in DRAWN.items() if name != "prompt"},
        "image": file(),
        "strength": STRENGTH,
    },
    required=["image"],
)
LOOK = {
    "background": choice(["opaque", "transparent"]),
    "output_format": choice(list(FORMATS)),
    "size": text("WIDTHxHEIGHT in pixels."),
    "quality": text(),
}
TOKENS = answered({"text_tokens": integer(0), "image_tokens": integer(0)})
USAGE = answered(
    {
        "total_tokens": integer(0),
        "input_tokens": integer(0),
        "output_tokens": integer(0),
        "input_tokens_details": TOKENS,
        "output_tokens_details": TOKENS,
    }
)
IMAGES = record(
    {
        "created": integer(0, about="In seconds."),
        "data": listed(record({"url": text(format="uri"), "b64_json": text()})),
        **LOOK,
        "usage": USAGE,
        "safety_identifier": text(),
    },
    required=["created", "data", *LOOK, "usage"],
)
TICKET = answered(
    {
        "id": text("Opaque."),
        "object": choice(["inference.job"]),
        "status": choice(list(STATUSES.values())),
        "inference_type": choice(["IMAGE"]),
        "model": text(),
        "created": integer(0),
        "queued_at": text(format="date-time"),
    }
)
JOB = answered(
    {
        **TICKET["properties"],
        "started_at": optional(text(format="date-time")),
        "finished_at": optional(text(format="date-time")),
        "result_url": optional(text("The first image.", format="uri")),
        "result": optional(IMAGES),
        "assets": listed(text(format="uri")),
        "error": optional(answered({"message": text(), "type": text()})),
        "retry_of": optional(text("The job of which this is the repetition.")),
    }
)
SIZES = {"b64_json": text(), "created_at": integer(0), **LOOK}


def _events(kind: str) -> dict[str, Any]:
    index = {"index": integer(0, about="Which image; where there are several.")}
    return {
        f"{kind}.partial_image": record(
            {
                "type": choice([f"{kind}.partial_image"]),
                **SIZES,
                "partial_image_index": integer(0, MAX_PARTIAL_IMAGES - 1),
                **index,
            },
            required=["type", *SIZES, "partial_image_index"],
        ),
        f"{kind}.completed": record(
            {"type": choice([f"{kind}.completed"]), **SIZES, "usage": USAGE, **index},
            required=["type", *SIZES, "usage"],
        ),
        "error": {"$ref": "#/components/schemas/openai.Error"},
    }


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

VARIATIONS = Generate(
    method="POST",
    path="/v1/images/variations",
    summary="Draw images that are like another one",
    body=Body.FORM,
    request=VARIATION_FORM,
    reply=IMAGES,
    replies={202: TICKET},
    events=_events("image_edit"),
    decode=decode_variation,
    fit=fit_variation,
    encode=encode_images,
    accept=encode_accepted,
    stream=functools.partial(stream_images, kind="image_edit"),
    fail=fail_stream,
    label="variations",
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
            replies={202: TICKET},
            events=_events("image_generation"),
            decode=decode_generation,
            fit=fit,
            encode=encode_images,
            accept=encode_accepted,
            stream=functools.partial(stream_images, kind="image_generation"),
            fail=fail_stream,
        ),
        Generate(
            method="POST",
            path="/v1/images/edits",
            summary="Draw images from others",
            body=Body.JSON_OR_FORM,
            request=EDIT,
            form=EDIT_FORM,
            reply=IMAGES,
            replies={202: TICKET},
            events=_events("image_edit"),
            decode=decode_edit,
            fit=fit_edit,
            encode=encode_images,
            accept=encode_accepted,
            stream=functools.partial(stream_images, kind="image_edit"),
            fail=fail_stream,
            label="edits",
        ),
        VARIATIONS,
        ShowJob(
            method="GET",
            path="/v1/jobs/{job_id}",
            summary="Say where a job stands",
            decode=_job_id,
            encode=encode_job,
            contents=wants_contents,
            reply=JOB,
        ),
        ListJobs(
            method="GET",
            path="/v1/jobs",
            summary="List the account's jobs, newest first",
            query={
                "status": text(enum=list(STATUSES.values())),
                "active": choice(["0", "1", "true", "false"], "Only those that go on."),
                "limit": integer(1, MAX_JOBS, "Omitted: 50."),
            },
            decode=decode_jobs,
            encode=encode_jobs,
            reply=answered({"object": choice(["list"]), "data": listed(JOB)}),
        ),
        CancelJob(
            method="POST",
            path="/v1/jobs/{job_id}/cancel",
            summary="End a job",
            decode=_job_id,
            encode=encode_job,
            reply=JOB,
        ),
        RetryJob(
            method="POST",
            path="/v1/jobs/{job_id}/retry",
            summary="Draw once more what failed or was canceled, as a new job",
            decode=_job_id,
            encode=encode_job,
            reply=JOB,
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
                query={
                    "width": integer(64, 1024, "Of a thumbnail: 64, 128, 256, 512 or 1024 pixels."),
                    "expires": text("Of a signed URL."),
                    "signature": text("Of a signed URL."),
                },
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
        "preview_count": "partial_images",
        "shape_from_image": "size",
        "input_images": "image",
        "loras": "prompt",
        "output.quality": "output_compression",
    },
)
