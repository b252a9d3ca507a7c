"""
Nebula Block: text to image, and filling what a mask shows.

Two of its pages name the fields, and differently; both are read. One of them asks with GET and a
body, at a path that has /api/v1 twice; so every path answers both methods, and a GET whose body was
lost on the way takes the same names from the query.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from gateway import masks
from gateway.dialect import Answer, Body, Call, Credential, Dialect, Failure, Generate, Order, Shown
from gateway.fields import Fields
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
from pictor.catalog.v1 import model_pb2
from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import generation_pb2, job_pb2
from services.rpc.errors import invalid

Note = job_pb2.ParameterNote

MAX_SIDE_PX = 16_384
MAX_STEPS = 1_000
MAX_GUIDANCE = 100.0
MAX_SEED = 2**32 - 1
PATHS = ("/api/v1/images/generation", "/api/v1/api/v1/images/generation")
# One value under several names: the page's own first, then the other page's, then common ones.
ALIASES: Mapping[str, Sequence[str]] = {
    "model": ("model", "model_name"),
    "num_steps": ("num_steps", "steps", "num_inference_steps"),
    "guidance_scale": ("guidance_scale", "guidance"),
    "image": ("image", "input_image"),
    "mask": ("mask", "mask_image"),
}
NEVER_STORED = {"cache-control": "no-store"}

WHOLE = integer(1, MAX_SIDE_PX, "In pixels; brought down to what the model can draw.")
REQUEST = record(
    {
        "prompt": text("What to draw.", minLength=1),
        **{name: text("The model that draws.") for name in ALIASES["model"]},
        "negative_prompt": optional(text("What not to draw.")),
        "width": optional(WHOLE),
        "height": optional(WHOLE),
        **{name: optional(integer(1, MAX_STEPS)) for name in ALIASES["num_steps"]},
        **{name: optional(number(0, MAX_GUIDANCE)) for name in ALIASES["guidance_scale"]},
        "seed": optional(integer(0, MAX_SEED, "Omitted: a random one.")),
        **{name: optional(image()) for name in ALIASES["image"]},
        **{name: optional(image("White is repainted.")) for name in ALIASES["mask"]},
    },
    ["prompt"],
)
IMAGES = answered(
    {
        "model": text(),
        "object": choice(["list"]),
        "data": listed(
            answered(
                {
                    "timings": answered({"inference": number(0, about="In seconds.")}),
                    "index": integer(0),
                    "b64_json": text(contentEncoding="base64"),
                    "width": integer(1),
                    "height": integer(1),
                }
            )
        ),
        "message": text(),
        "status": choice(["success"]),
    }
)
ERROR = answered(
    {
        "model": optional(text()),
        "object": choice(["list"]),
        "data": listed({}, maxItems=0),
        "message": text(),
        "status": choice(["failed"]),
    }
)


def decode(call: Call) -> Order:
    """Read a request of either page; null is the same as absent."""
    in_query = call.body is None
    fields = Fields(call.query if in_query else call.body, form=in_query)
    names = {name: _given(fields, aliases) for name, aliases in ALIASES.items()}
    generation = generation_pb2.Generation(
        model=f"models/{fields.name(names['model'], required=True)}",
        prompt=fields.prompt("prompt", required=True) or "",
        negative_prompt=fields.prompt("negative_prompt") or "",
        width_px=fields.integer("width", least=1, most=MAX_SIDE_PX),
        height_px=fields.integer("height", least=1, most=MAX_SIDE_PX),
        step_count=fields.integer(names["num_steps"], least=1, most=MAX_STEPS),
        guidance_scale=fields.number(names["guidance_scale"], least=0, most=MAX_GUIDANCE),
        seed=fields.integer("seed", least=0, most=MAX_SEED),
    )
    images = fields.files(names["image"])
    mask = masks.of(fields, names["mask"])
    if mask and not images:
        rule = f"{names['mask']} came without an image to repaint"
        fields.blame(names["image"], rule, reasons.ERROR_REASON_FIELD_REQUIRED)
    fields.check()
    return Order(generation, input_images=images, mask=mask, contents=True)


def fit(order: Order, model: model_pb2.Model) -> Order:
    """
    Bring the sides down to multiples that the model can draw.

    Raises:
        InvalidRequest: If the model only fills, and there is nothing to fill.
    """
    if list(model.operations) == [model_pb2.OPERATION_INPAINT]:
        _require("image", bool(order.input_images))
        _require("mask", order.mask is not None)
    generation, notes = generation_pb2.Generation(), list(order.notes)
    generation.CopyFrom(order.generation)
    multiple, defaults = model.limits.size_multiple_px or 1, model.parameter_defaults
    for field, side in (("width_px", "width"), ("height_px", "height")):
        if not generation.HasField(field):  # type: ignore[arg-type]  # one of two of its fields
            # Not the image's size: the page has one default, whatever is drawn.
            if defaults.HasField(field):  # type: ignore[arg-type]
                setattr(generation, field, getattr(defaults, field))
            continue
        asked = getattr(generation, field)
        used = max(asked // multiple * multiple, multiple)
        if used != asked:
            setattr(generation, field, used)
            notes.append(_clamped(side, asked, used, multiple))
    return dataclasses.replace(order, generation=generation, notes=notes)


def encode(shown: Shown) -> Answer:
    """Write a finished job; the size is told, since it may have been brought down."""
    job = shown.job
    asked = shown.order.generation if shown.order else job.generation
    seconds = job.result.timings.inference.ToNanoseconds() / 1e9
    data = [
        {
            "timings": {"inference": seconds},
            "index": index,
            "b64_json": shown.contents[index],
            "width": one.width_px,
            "height": one.height_px,
        }
        for index, one in enumerate(job.result.images)
    ]
    body = {
        "model": asked.model.removeprefix("models/"),
        "object": "list",
        "data": data,
        "message": "Image generated successfully",
        "status": "success",
    }
    return Answer(body, headers=NEVER_STORED)


def encode_error(failure: Failure) -> Answer:
    """Write an error in the form of a success that holds no images."""
    job = failure.job
    model = job.generation.model if job else failure.error.metadata.get("model", "")
    body: dict[str, Any] = {
        "model": model.removeprefix("models/") or None,
        "object": "list",
        "data": [],
        "message": failure.error.message,
        "status": "failed",
    }
    return Answer(body, failure.status, NEVER_STORED)


def _given(fields: Fields, aliases: Sequence[str]) -> str:
    """Return the name under which a value was sent; the page's own where it was not."""
    given = [name for name in aliases if fields.value(name) is not None]
    if len({repr(fields.value(name)) for name in given}) > 1:
        fields.blame(given[1], f"{' and '.join(given)} are the same parameter, and differ")
    return given[0] if given else aliases[0]


def _require(name: str, given: bool) -> None:
    if not given:
        alias = ALIASES[name][1]
        rule = f"{name} is missing (or {alias}): the model fills what a mask shows of an image"
        raise invalid(name, rule, reasons.ERROR_REASON_FIELD_REQUIRED)


def _clamped(parameter: str, asked: int, used: int, multiple: int) -> job_pb2.ParameterNote:
    return Note(
        parameter=parameter,
        treatment=Note.TREATMENT_CLAMPED,
        requested=str(asked),
        used=str(used),
        reason=f"the next lower multiple of {multiple}, which the model needs",
    )


def _generate(method: str, path: str) -> Generate:
    by_get = method == "GET"
    names = {name: one for name, one in REQUEST["properties"].items() if by_get}
    return Generate(
        method=method,
        path=path,
        summary="Draw an image, or fill what a mask shows of one",
        body=Body.OPTIONAL_JSON if by_get else Body.JSON,
        query=names,
        request=REQUEST,
        reply=IMAGES,
        decode=decode,
        fit=fit,
        encode=encode,
    )


DIALECT = Dialect(
    name="nebula",
    title="Nebula Block",
    prefixes=["/api/v1/images", "/api/v1/api/v1/images"],
    credential=Credential.BEARER,
    operations=[_generate(method, path) for path in PATHS for method in ("POST", "GET")],
    encode_error=encode_error,
    error=ERROR,
    fields={
        "width_px": "width",
        "height_px": "height",
        "step_count": "num_steps",
        "input_images": "image",
        "loras": "prompt",
    },
)
