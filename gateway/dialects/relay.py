"""
OpenGPU Relay: one route for each family of hosted models, below /v2/image.

Each route has its own parameters and its own key for the result: ``images`` in base64 for flux and
gemini-3, ``images`` as URLs for gpt-image, ``urls`` for qwen. What all share is ``"async": true``,
which answers 202 with a task's address, and five minutes of patience for who waits.

A route draws with the model that its page names. As an extension ``model`` names another one.
"""

import dataclasses
import functools
import re
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from gateway import efforts, masks, sizes
from gateway.dialect import (
    Answer,
    Call,
    Credential,
    Delivery,
    Dialect,
    Failure,
    Generate,
    Order,
    ShowJob,
    Shown,
)
from gateway.fields import Fields
from gateway.images import InputFile, size_of
from gateway.schemas import (
    Schema,
    answered,
    choice,
    image,
    integer,
    listed,
    number,
    optional,
    record,
    switch,
    text,
)
from gateway.sizes import Size
from pictor.catalog.v1 import model_pb2
from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import generation_pb2, job_pb2
from services.rpc.errors import reason_name

Note = job_pb2.ParameterNote

WAIT_SECONDS = 300.0
MAX_SEED = 2**32 - 1
MAX_STEPS = 1_000
MAX_GUIDANCE = 100.0
MAX_URL_CHARACTERS = 2083

FLUX_MODEL = "black-forest-labs/FLUX-2-pro"
FLUX_LEAST_SIDE_PX = 64
FLUX_MULTIPLE_PX = 32
FLUX_REFERENCES = ("input_image", "input_image_2", "input_image_3", "input_image_4")
FLUX_FORMATS = {
    "png": generation_pb2.Output.FORMAT_PNG,
    "jpeg": generation_pb2.Output.FORMAT_JPEG,
}
GEMINI_MODEL = "google/gemini-3-pro-T2I"
GEMINI_MAX_IMAGES = 10
GPT_MODEL = "openai/gpt-image-1.5-T2I"
GPT_EDIT_MODEL = "openai/gpt-image-1.5-I2I"
GPT_SIZES = (Size(1024, 1024), Size(1536, 1024), Size(1024, 1536))
GPT_QUALITIES = ["auto", "low", "medium", "high"]
GPT_MAX_IMAGES = 4
# "URL array, expire after 7 days".
QWEN_SECONDS = 7 * 24 * 3600.0
QWEN_MODEL = "Qwen/qwen-image"
QWEN_EDIT_MODEL = "Qwen/qwen-image-edit"
# What an edit is drawn at if nothing is said of its size, in the source's ratio.
MEGAPIXEL = 1024 * 1024
MULTIPLE_PX = 32

STATUSES = {
    job_pb2.Job.STATE_QUEUED: "pending",
    job_pb2.Job.STATE_RUNNING: "processing",
    job_pb2.Job.STATE_SUCCEEDED: "completed",
    job_pb2.Job.STATE_FAILED: "failed",
    job_pb2.Job.STATE_CANCELED: "canceled",
}
TYPES = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
    504: "timeout_error",
}
# A job's id, 32 digits, in the form of an address on that network, 40.
_ADDRESS = re.compile(r"0[xX]0{8}([0-9a-fA-F]{32})")


def decode_flux(call: Call) -> Order:
    """Read POST /v2/image/flux/generate; images to look at keep their order, gaps are closed."""
    fields = Fields(call.body)
    references = [file for name in FLUX_REFERENCES for file in fields.files(name, urls=True)]
    width, height = _flux_side(fields, "width"), _flux_side(fields, "height")
    notes: list[Note] = []
    fields.integer("safety_tolerance", least=0, most=6)
    fields.text("webhook_url", most=MAX_URL_CHARACTERS)
    notes += _without_effect(
        fields,
        safety_tolerance="this server moderates nothing",
        webhook_url="this API calls nobody here; poll the task",
    )
    generation = _generation(fields, FLUX_MODEL, None)
    # The page's default would distort the first of them.
    generation.shape_from_image = bool(references) and not (width or height)
    if width:
        generation.width_px = width
    if height:
        generation.height_px = height
    steps = fields.integer("steps", least=1, most=MAX_STEPS)
    if steps is not None:
        generation.step_count = steps
    guidance = fields.number("guidance", least=0, most=MAX_GUIDANCE)
    if guidance is not None:
        generation.guidance_scale = guidance
    generation.output.format = FLUX_FORMATS[
        fields.choice("output_format", list(FLUX_FORMATS)) or "png"
    ]
    order = _order(fields, generation, notes=notes, contents=True)
    return dataclasses.replace(order, input_images=references)


def decode_gemini(call: Call) -> Order:
    """Read POST /v2/image/gemini-3/generate; a ratio and a tier are an exact number of pixels."""
    fields = Fields(call.body)
    ratio = fields.choice("aspect_ratio", list(sizes.GEMINI_1K))
    tier = fields.text("image_size")
    size, notes = None, []
    if tier and tier.upper() not in sizes.GEMINI_TIERS:
        fields.blame("image_size", f"image_size {tier[:40]!r} is not one of 1K, 2K, 4K")
    elif ratio or tier:
        size = sizes.gemini(ratio or "1:1", (tier or "1K").upper())
        given = {"aspect_ratio": ratio, "image_size": tier}
        notes = [
            _translated(name, value, size, "as Gemini's table of sizes has it")
            for name, value in given.items()
            if value
        ]
    generation = _generation(fields, GEMINI_MODEL, size)
    count = fields.integer("n", least=1, most=GEMINI_MAX_IMAGES)
    if count is not None:
        generation.image_count = count
    return _order(fields, generation, notes=notes, contents=True)


def decode_gpt(call: Call) -> Order:
    """Read POST /v2/image/gpt-image/generate."""
    fields = Fields(call.body)
    return _gpt_order(fields, _generation(fields, GPT_MODEL, _size(fields, auto=True)))


def decode_gpt_edit(call: Call) -> Order:
    """Read POST /v2/image/gpt-image/edit; what is white in the mask is edited."""
    fields = Fields(call.body)
    images = _sources(fields)
    size, notes = _size(fields, auto=True), []
    source = size_of(images[0]) if images else None
    if source and fields.value("size") == "auto":
        size = sizes.nearest(Size(*source), GPT_SIZES)
        notes = [_translated("size", "auto", size, "the nearest to the source's ratio")]
    order = _gpt_order(fields, _generation(fields, GPT_EDIT_MODEL, size), notes=notes)
    mask = masks.of(fields, "mask", or_transparent=True)
    fields.check()
    return dataclasses.replace(order, input_images=images, mask=mask)


def decode_qwen(call: Call) -> Order:
    """Read POST /v2/image/qwen/generate."""
    fields = Fields(call.body)
    return _order(fields, _generation(fields, QWEN_MODEL, _size(fields)))


def decode_qwen_edit(call: Call) -> Order:
    """Read POST /v2/image/qwen/edit; without a size, the source's ratio is kept."""
    fields = Fields(call.body)
    images = _sources(fields)
    size = _size(fields)
    generation = _generation(fields, QWEN_EDIT_MODEL, size)
    generation.shape_from_image = size is None
    order = _order(fields, generation)
    return dataclasses.replace(order, input_images=images)


def fit_gpt(order: Order, model: model_pb2.Model) -> Order:
    """Turn the quality into steps; an edit of no given size is not of its source's size."""
    generation = generation_pb2.Generation()
    generation.CopyFrom(order.generation)
    defaults = model.parameter_defaults
    if order.mask and not generation.HasField("width_px") and defaults.HasField("width_px"):
        generation.width_px, generation.height_px = defaults.width_px, defaults.height_px
    notes = [*order.notes, *efforts.spend(generation, str(order.echo["quality"]), model)]
    return dataclasses.replace(order, generation=generation, notes=notes)


def encode_pictures(shown: Shown) -> Answer:
    """Write images in base64, as flux and gemini-3 do."""
    return Answer({"images": list(shown.contents), **_about(shown)})


def encode_links(shown: Shown) -> Answer:
    """Write images as URLs, as gpt-image does."""
    return Answer({"images": _urls(shown), **_about(shown)})


def encode_urls(shown: Shown) -> Answer:
    """Write ``urls``, as qwen does."""
    return Answer({"urls": _urls(shown), **_about(shown)})


def encode_accepted(shown: Shown) -> Answer:
    """Write where to ask for a task that has only been queued."""
    address = address_of(shown.job)
    return Answer(
        {"task_address": address, "status": "pending", "poll_url": f"/v2/tasks/{address}"}, 202
    )


def encode_task(shown: Shown) -> Answer:
    """Write how far a task is; of one that is done also its route's answer, in both places."""
    job = shown.job
    label = job.dialect.partition("/")[2]
    # The routes of other APIs, AUTOMATIC1111's among them, answer with base64.
    result = RESULTS.get(label, encode_pictures)(shown).body if job.result.images else {}
    error = None
    if job.HasField("error"):
        kind = "canceled" if job.state == job_pb2.Job.STATE_CANCELED else "task_error"
        error = {"message": job.error.message, "type": kind, "code": None}
    return Answer(
        {
            **result,
            "task_address": address_of(job),
            "job_id": shown.job_id,
            "status": STATUSES.get(job.state, "pending"),
            "progress": _progress(job),
            "result": result or None,
            "error": error,
            "created_at": job.create_time.ToJsonString(),
            "completed_at": job.finish_time.ToJsonString() if job.HasField("finish_time") else None,
        }
    )


def encode_error(failure: Failure) -> Answer:
    """Write an error; if its job goes on or is at least known, with the task's address."""
    fallback = "server_error" if failure.status >= 500 else "invalid_request_error"
    error = {
        "message": failure.error.message,
        "type": TYPES.get(failure.status, fallback),
        "code": reason_name(failure.error.reason).lower(),
    }
    body: dict[str, Any] = {"error": error, "detail": failure.error.message}
    if failure.job and failure.job.name:
        address = address_of(failure.job)
        body |= {"task_address": address, "poll_url": f"/v2/tasks/{address}"}
    return Answer(body, failure.status)


def address_of(job: job_pb2.Job) -> str:
    """Return a job's id as a task's address: clients of that network know 40 digits."""
    return f"0x{0:08x}{uuid.UUID(job.name.removeprefix('jobs/')).hex}"


def job_id_of(address: str) -> str:
    """Return the job's id that an address means; an id means itself."""
    match = _ADDRESS.fullmatch(address)
    return str(uuid.UUID(match[1])) if match else address


def _generation(fields: Fields, model: str, size: Size | None) -> generation_pb2.Generation:
    return generation_pb2.Generation(
        model=f"models/{fields.name('model') or model}",
        prompt=fields.prompt("prompt", required=True) or "",
        negative_prompt=fields.prompt("negative_prompt") or "",
        width_px=size.width_px if size else None,
        height_px=size.height_px if size else None,
        seed=fields.integer("seed", least=0, most=MAX_SEED),
    )


def _order(
    fields: Fields,
    generation: generation_pb2.Generation,
    *,
    notes: Sequence[Note] = (),
    contents: bool = False,
) -> Order:
    delivery = Delivery.ACCEPT if fields.switch("async") else Delivery.WAIT
    fields.check()
    return Order(generation, delivery=delivery, contents=contents, notes=notes)


def _gpt_order(
    fields: Fields, generation: generation_pb2.Generation, notes: Sequence[Note] = ()
) -> Order:
    count = fields.integer("n", least=1, most=GPT_MAX_IMAGES)
    if count is not None:
        generation.image_count = count
    quality = fields.choice("quality", GPT_QUALITIES) or "auto"
    order = _order(fields, generation, notes=notes)
    return dataclasses.replace(order, echo={"quality": quality})


def _sources(fields: Fields) -> list[InputFile]:
    images = fields.files("image", urls=True)
    if not images and fields.value("image") in (None, []):
        fields.blame("image", "image is missing", reasons.ERROR_REASON_FIELD_REQUIRED)
    return images


def _size(fields: Fields, *, auto: bool = False) -> Size | None:
    """Return the size that is asked for; None where the choice is left."""
    given = fields.text("size")
    if not given or (auto and given == "auto"):
        return None
    size = sizes.parse(given)
    if size is None:
        words = "neither auto nor" if auto else "not"
        fields.blame("size", f"size {given[:40]!r} is {words} WIDTHxHEIGHT, e.g. 1024x1024")
    return size


def _flux_side(fields: Fields, name: str) -> int | None:
    """Return a side; None for 0, which leaves the choice."""
    side = fields.integer(name, least=0, most=sizes.MAX_SIDE_PX)
    if not side:
        return None
    reason = reasons.ERROR_REASON_FIELD_OUT_OF_RANGE
    if side < FLUX_LEAST_SIDE_PX:
        fields.blame(name, f"{name} {side} is less than {FLUX_LEAST_SIDE_PX}", reason)
    elif side % FLUX_MULTIPLE_PX:
        below = side // FLUX_MULTIPLE_PX * FLUX_MULTIPLE_PX
        rule = (
            f"{name} {side} is not a multiple of {FLUX_MULTIPLE_PX};"
            f" nearest are {below} and {below + FLUX_MULTIPLE_PX}"
        )
        fields.blame(name, rule, reason)
    return side


def _without_effect(fields: Fields, **reasons_: str) -> list[Note]:
    return [
        Note(
            parameter=name,
            treatment=Note.TREATMENT_IGNORED,
            requested=str(fields.value(name))[:100],
            reason=reason,
        )
        for name, reason in reasons_.items()
        if fields.value(name) is not None
    ]


def _translated(parameter: str, requested: str, used: Size, reason: str) -> Note:
    treatment = Note.TREATMENT_TRANSLATED
    return Note(
        parameter=parameter,
        treatment=treatment,
        requested=requested,
        used=str(used),
        reason=reason,
    )


def _urls(shown: Shown) -> list[str]:
    return [one.url for one in shown.job.result.images]


def _about(shown: Shown) -> dict[str, Any]:
    job = shown.job
    return {
        "model": job.generation.model.removeprefix("models/"),
        "seeds": [one.seed for one in job.result.images],
        "created": job.create_time.seconds,
    }


def _progress(job: job_pb2.Job) -> float:
    if job.state == job_pb2.Job.STATE_SUCCEEDED:
        return 1.0
    steps = job.progress.step_count
    return round(min(job.progress.step / steps, 1.0), 3) if steps else 0.0


# By the route's label in the job.
RESULTS: dict[str, Callable[[Shown], Answer]] = {
    "flux": encode_pictures,
    "gemini-3": encode_pictures,
    "gpt-image": encode_links,
    "qwen": encode_urls,
}

SHARED = {
    "prompt": text("What to draw, or what to change.", minLength=1),
    "async": optional(switch("Answer 202 with a task's address, and do not wait.")),
    "seed": optional(integer(0, MAX_SEED, "Omitted: a random one.")),
    "model": optional(text("Omitted: the route's own; an extension.")),
    "negative_prompt": optional(text("What not to draw; an extension.")),
}
SIDE = optional(integer(0, sizes.MAX_SIDE_PX, "A multiple of 32, 64 at least; 0: automatic."))
FLUX = record(
    {
        **SHARED,
        "width": SIDE,
        "height": SIDE,
        "safety_tolerance": optional(integer(0, 6, "Of no effect here.")),
        "output_format": optional(choice(list(FLUX_FORMATS))),
        **{name: optional(image()) for name in FLUX_REFERENCES},
        "steps": optional(integer(1, MAX_STEPS, "An extension.")),
        "guidance": optional(number(0, MAX_GUIDANCE, "An extension.")),
        "webhook_url": optional(text("Of no effect here.", maxLength=MAX_URL_CHARACTERS)),
    },
    ["prompt"],
)
GEMINI = record(
    {
        **SHARED,
        "aspect_ratio": optional(choice(list(sizes.GEMINI_1K))),
        "image_size": optional(choice([*sizes.GEMINI_TIERS, "1k", "2k", "4k"])),
        "n": optional(integer(1, GEMINI_MAX_IMAGES, "An extension.")),
    },
    ["prompt"],
)
_SIZE_TEXT = optional(text("WIDTHxHEIGHT in pixels.", examples=["1024x1024", "1536x1024"]))
GPT = record(
    {
        **SHARED,
        "size": optional(text("`auto`, or WIDTHxHEIGHT in pixels.", examples=["1024x1024"])),
        "quality": optional(choice(GPT_QUALITIES, "Becomes a number of steps.")),
        "n": optional(integer(1, GPT_MAX_IMAGES)),
    },
    ["prompt"],
)
SOURCE = {"anyOf": [image(), listed(image(), minItems=1)]}
GPT_EDIT = record(
    {**GPT["properties"], "image": SOURCE, "mask": optional(image("White is edited."))},
    ["prompt", "image"],
)
QWEN = record({**SHARED, "size": _SIZE_TEXT}, ["prompt"])
QWEN_EDIT = record({**QWEN["properties"], "image": SOURCE}, ["prompt", "image"])

_ABOUT = {"model": text(), "seeds": listed(integer(0, MAX_SEED)), "created": integer(0)}
_LINK = text(format="uri")
PICTURES = answered({"images": listed(text(contentEncoding="base64")), **_ABOUT})
LINKS = answered({"images": listed(_LINK), **_ABOUT})
URLS = answered({"urls": listed(_LINK), **_ABOUT})
ADDRESS = text("Opaque.", pattern="^0x[0-9a-f]{40}$")
ACCEPTED = answered(
    {"task_address": ADDRESS, "status": choice(["pending"]), "poll_url": text("Below this host.")}
)
_TASK = {
    "task_address": ADDRESS,
    "job_id": text("The same in every API."),
    "status": choice(list(STATUSES.values())),
    "progress": number(0, 1),
    "result": optional({"anyOf": [PICTURES, LINKS, URLS]}),
    "error": optional(answered({"message": text(), "type": text(), "code": optional(text())})),
    "created_at": text(format="date-time"),
    "completed_at": optional(text(format="date-time")),
}
TASK = record(
    {**_TASK, **_ABOUT, "images": listed(text()), "urls": listed(_LINK)},
    list(_TASK),
    "Once it is completed, with the keys of `result` beside the others.",
)
ERROR = record(
    {
        "error": answered({"message": text(), "type": text(), "code": text()}),
        "detail": text(),
        "task_address": ADDRESS,
        "poll_url": text("Below this host."),
    },
    ["error", "detail"],
)

_NAMES = {"input_images": "image", "image_count": "n"}
_BY_SIZE = {**_NAMES, "width_px": "size", "height_px": "size"}
_route = functools.partial(Generate, method="POST", accept=encode_accepted, replies={202: ACCEPTED})


def _family(
    label: str, path: str, summary: str, request: Schema, reply: Schema, **rest: Any
) -> Generate:
    """Return a route: its label says which key its result has."""
    return _route(
        path=f"/v2/image/{label}/{path}",
        label=label,
        summary=summary,
        request=request,
        reply=reply,
        encode=RESULTS[label],
        result_seconds=QWEN_SECONDS if label == "qwen" else None,
        **rest,
    )


DIALECT = Dialect(
    name="relay",
    title="OpenGPU Relay",
    prefixes=["/v2/image", "/v2/tasks"],
    credential=Credential.X_API_KEY,
    wait_seconds=WAIT_SECONDS,
    operations=[
        _family(
            "flux",
            "generate",
            "Draw, or edit up to four images by instruction",
            FLUX,
            PICTURES,
            decode=decode_flux,
            fields={
                "input_images": "input_image",
                "width_px": "width",
                "height_px": "height",
                "step_count": "steps",
                "guidance_scale": "guidance",
            },
        ),
        _family(
            "gemini-3",
            "generate",
            "Draw in one of ten ratios at 1K, 2K or 4K",
            GEMINI,
            PICTURES,
            decode=decode_gemini,
            fields={**_NAMES, "width_px": "aspect_ratio", "height_px": "image_size"},
        ),
        _family(
            "gpt-image",
            "generate",
            "Draw one to four images",
            GPT,
            LINKS,
            decode=decode_gpt,
            fit=fit_gpt,
            fields={**_BY_SIZE, "step_count": "quality"},
        ),
        _family(
            "gpt-image",
            "edit",
            "Edit an image by instruction, whole or where a mask is white",
            GPT_EDIT,
            LINKS,
            decode=decode_gpt_edit,
            fit=fit_gpt,
            fields={**_BY_SIZE, "step_count": "quality"},
        ),
        _family(
            "qwen", "generate", "Draw an image", QWEN, URLS, decode=decode_qwen, fields=_BY_SIZE
        ),
        _family(
            "qwen",
            "edit",
            "Edit an image by instruction",
            QWEN_EDIT,
            URLS,
            decode=decode_qwen_edit,
            fields=_BY_SIZE,
        ),
        ShowJob(
            method="GET",
            path="/v2/tasks/{task_address}",
            summary="Say how far a task is, and show its result",
            decode=lambda call: job_id_of(call.path["task_address"]),
            encode=encode_task,
            contents=lambda job: job.dialect.partition("/")[2] not in ("gpt-image", "qwen"),
            reply=TASK,
        ),
    ],
    encode_error=encode_error,
    error=ERROR,
    fields={"step_count": "steps"},
)
