"""
RemoteGPU: an explicit model, a job at once, and a URL under which its picture will be.

The documented order of checks (401, 403, 422, 400, 503, 500) is the facade's order; what is this
dialect's own is that a schema error and an unknown model are 422, with FastAPI's list of details.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from gateway.dialect import (
    Answer,
    Call,
    Credential,
    Delivery,
    Dialect,
    Failure,
    Generate,
    ListModels,
    ListServing,
    Order,
    ShowJob,
    Shown,
    ShowResult,
)
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
    refused,
    switch,
    text,
)
from pictor.catalog.v1 import model_pb2, serving_pb2
from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import generation_pb2, job_pb2
from services.rpc.errors import reason_name

MAX_SIDE_PX = 16_384
MAX_STEPS = 1_000
MAX_GUIDANCE = 100.0
MAX_SEED = 2**32 - 1
RETRY_AFTER_SECONDS = "5"

STATUSES = {
    job_pb2.Job.STATE_QUEUED: "queued",
    job_pb2.Job.STATE_RUNNING: "running",
    job_pb2.Job.STATE_SUCCEEDED: "succeeded",
    job_pb2.Job.STATE_FAILED: "failed",
    job_pb2.Job.STATE_CANCELED: "canceled",
}

# The words that FastAPI's clients look for in `detail[].type`.
HEADERS = ("idempotency-key", "x-pictor-job")
DETAIL_TYPES = {
    reasons.ERROR_REASON_FIELD_REQUIRED: "missing",
    reasons.ERROR_REASON_FIELD_RETIRED: "extra_forbidden",
    reasons.ERROR_REASON_BODY_INVALID: "json_invalid",
}

REQUEST = record(
    {
        "model": text("The model that draws; it is never chosen for you.", minLength=1),
        "prompt": text("What to draw.", minLength=1),
        "negative_prompt": optional(text("What not to draw.")),
        "width": optional(integer(1, MAX_SIDE_PX, "In pixels; omitted: the model's.")),
        "height": optional(integer(1, MAX_SIDE_PX, "In pixels; omitted: the model's.")),
        "steps": optional(integer(1, MAX_STEPS, "Omitted: the model's.")),
        "guidance": optional(number(0, MAX_GUIDANCE, "Omitted: the model's.")),
        "seed": optional(integer(0, MAX_SEED, "Omitted: a random one.")),
        "input_images_base64": optional(listed(image(), "As many as the model takes.")),
        "remove_bg": refused("Retired; refused even as false or null."),
    },
    required=["model", "prompt"],
)
ACCEPTED = answered(
    {
        "job_id": text("Opaque: store and send it exactly as it is."),
        "job_type": choice(["image"]),
        "result_url": text("Where the picture will be; it needs no key.", format="uri"),
    }
)
PARAMETERS = {
    "width": integer(),
    "height": integer(),
    "steps": integer(),
    "guidance": number(),
}
JOB = answered(
    {
        **ACCEPTED["properties"],
        "status": choice(list(STATUSES.values())),
        "error": optional(text()),
        "created_at": text(format="date-time"),
        "finished_at": optional(text(format="date-time")),
        "model": text(),
        "parameters": answered(
            {**PARAMETERS, "seed": integer(0, MAX_SEED)},
            "What the request says, and the model's defaults; a stand-in's own are in the receipt.",
        ),
    }
)
CATALOG = answered(
    {
        "image": listed(
            answered(
                {
                    "model": text(),
                    "min_input_images": integer(0),
                    "max_input_images": integer(0),
                    "max_prompt_length": integer(0),
                    "parameter_defaults": record(PARAMETERS, additionalProperties=False),
                }
            )
        )
    }
)
RUNTIME = answered(
    {
        "image": listed(
            answered(
                {
                    "model": text(),
                    "available": switch(),
                    "ready_replicas": integer(0),
                    "desired_replicas": integer(0),
                }
            )
        )
    }
)
DETAIL = answered({"loc": listed({"type": ["string", "integer"]}), "msg": text(), "type": text()})
ERROR = answered(
    {
        "detail": {"anyOf": [text(), listed(DETAIL, "With status 422.")]},
        "error": answered({"type": text(), "message": text()}),
    }
)


def decode_image(call: Call) -> Order:
    """Read POST /v1/inference/image; unknown fields are ignored, null is the same as absent."""
    fields = Fields(call.body)
    prompt = fields.prompt("prompt", required=True)
    model = fields.name("model", required=True)
    generation = generation_pb2.Generation(
        model=f"models/{model}",
        prompt=prompt or "",
        negative_prompt=fields.prompt("negative_prompt") or "",
        width_px=fields.integer("width", least=1, most=MAX_SIDE_PX),
        height_px=fields.integer("height", least=1, most=MAX_SIDE_PX),
        step_count=fields.integer("steps", least=1, most=MAX_STEPS),
        guidance_scale=fields.number("guidance", least=0, most=MAX_GUIDANCE),
        seed=fields.integer("seed", least=0, most=MAX_SEED),
    )
    images = fields.value("input_images_base64")
    if images is not None and not isinstance(images, list):
        fields.blame("input_images_base64", "input_images_base64 must be a list of texts in base64")
        images = None
    files = fields.files("input_images_base64") if images else []
    if fields.given("remove_bg"):
        fields.blame(
            "remove_bg",
            "remove_bg is retired: leave it out",
            reasons.ERROR_REASON_FIELD_RETIRED,
        )
    fields.check()
    return Order(generation, delivery=Delivery.ACCEPT, input_images=files)


def fit(order: Order, model: model_pb2.Model) -> Order:
    """Let the model's own size count where the request leaves it out, also beside input images."""
    generation = generation_pb2.Generation()
    generation.CopyFrom(order.generation)
    defaults = model.parameter_defaults
    if order.input_images and defaults.width_px and defaults.height_px:
        if not generation.HasField("width_px"):
            generation.width_px = defaults.width_px
        if not generation.HasField("height_px"):
            generation.height_px = defaults.height_px
    return dataclasses.replace(order, generation=generation)


def encode_accepted(shown: Shown) -> Answer:
    """Write the job that was queued."""
    return Answer(
        {"job_id": shown.job_id, "job_type": "image", "result_url": _result_url(shown)},
    )


def encode_job(shown: Shown) -> Answer:
    """Write where a job stands, with the request's values and the model's defaults."""
    job, drawn = shown.job, shown.job.generation
    return Answer(
        {
            "job_id": shown.job_id,
            "job_type": "image",
            "status": STATUSES.get(job.state, "queued"),
            "result_url": _result_url(shown),
            "error": job.error.message if job.HasField("error") else None,
            "created_at": job.create_time.ToJsonString(),
            "finished_at": job.finish_time.ToJsonString() if job.HasField("finish_time") else None,
            "model": drawn.model.removeprefix("models/"),
            "parameters": {
                "width": drawn.width_px,
                "height": drawn.height_px,
                "steps": drawn.step_count,
                "guidance": drawn.guidance_scale,
                "seed": drawn.seed,
            },
        }
    )


def encode_no_result(shown: Shown) -> Answer:
    """
    Write that there is no picture: not yet, or never.

    Not yet is 404 and not 202: a client that saves every 2xx body as an image must not save this.
    """
    job = shown.job
    if job.HasField("error"):
        status = STATUSES.get(job.state, "failed")
        return _error(f"job {shown.job_id} has {status}: {job.error.message}", 410, "JOB_ENDED")
    answer = _error(f"job {shown.job_id} is not finished", 404, "JOB_NOT_FINISHED")
    return Answer(answer.body, 404, {"retry-after": RETRY_AFTER_SECONDS})


def encode_models(models: Sequence[model_pb2.Model]) -> Answer:
    """Write the catalog, with what a request may ask of each model."""
    return Answer({"image": [_model(model) for model in models]})


def encode_serving(serving: Sequence[serving_pb2.ServingStatus]) -> Answer:
    """Write what is being served."""
    listed = [
        {
            "model": status.model.removeprefix("models/"),
            "available": status.available,
            "ready_replicas": status.ready_replicas,
            "desired_replicas": status.desired_replicas,
        }
        for status in serving
    ]
    return Answer({"image": listed})


def encode_error(failure: Failure) -> Answer:
    """Write an error: a sentence, or for 422 the list of what is wrong where."""
    error = failure.error
    answer = _error(error.message, failure.status, reason_name(error.reason))
    if failure.status == 422:
        answer.body["detail"] = _details(failure)
    return answer


def _details(failure: Failure) -> list[dict[str, Any]]:
    error = failure.error
    if error.violations:
        return [_detail(v.field, v.description, v.reason) for v in error.violations]
    is_model = error.reason == reasons.ERROR_REASON_MODEL_NOT_FOUND
    return [_detail("model" if is_model else "", error.message, error.reason)]


def _detail(field: str, message: str, reason: reasons.ErrorReason.ValueType) -> dict[str, Any]:
    path = [int(part) if part.isdigit() else part for part in field.split(".") if part]
    kind = DETAIL_TYPES.get(reason, "value_error")
    where = "header" if field.lower() in HEADERS else "body"
    return {"loc": [where, *path], "msg": message, "type": kind}


def _error(message: str, status: int, reason: str) -> Answer:
    body = {"detail": message, "error": {"type": reason.lower(), "message": message}}
    return Answer(body, status)


def _result_url(shown: Shown) -> str:
    return f"{shown.preferences.base_url}/v1/inference/results/{shown.job_id}"


def _model(model: model_pb2.Model) -> dict[str, Any]:
    limits, defaults = model.limits, model.parameter_defaults
    known = {
        "width": ("width_px", defaults.width_px),
        "height": ("height_px", defaults.height_px),
        "steps": ("step_count", defaults.step_count),
        "guidance": ("guidance_scale", defaults.guidance_scale),
    }
    given = {field.name for field, _ in defaults.ListFields()}
    return {
        "model": model.name.removeprefix("models/"),
        "min_input_images": limits.min_input_images,
        "max_input_images": limits.max_input_images,
        "max_prompt_length": limits.max_prompt_chars,
        "parameter_defaults": {
            name: value for name, (field, value) in known.items() if field in given
        },
    }


def _job_id(call: Call) -> str:
    return call.path["job_id"]


DIALECT = Dialect(
    name="remotegpu",
    title="RemoteGPU",
    prefixes=["/v1/inference"],
    credential=Credential.X_API_KEY,
    operations=[
        Generate(
            method="POST",
            path="/v1/inference/image",
            summary="Queue a picture; the answer says where it will be",
            decode=decode_image,
            fit=fit,
            encode=encode_accepted,
            request=REQUEST,
            reply=ACCEPTED,
        ),
        ShowJob(
            method="GET",
            path="/v1/inference/jobs/{job_id}",
            summary="Say where a job stands",
            decode=_job_id,
            encode=encode_job,
            reply=JOB,
        ),
        ShowResult(
            method="GET",
            path="/v1/inference/results/{job_id}",
            summary="Wait for a picture, half a minute at most, and send it",
            decode=_job_id,
            encode=encode_no_result,
            refusals={404: "the picture is not there yet", 410: "there will never be one"},
        ),
        ListModels(
            method="GET",
            path="/v1/inference/models",
            summary="List the models, with their limits and defaults",
            public=True,
            encode=encode_models,
            reply=CATALOG,
        ),
        ListServing(
            method="GET",
            path="/v1/inference/runtime/models",
            summary="List what is being served",
            public=True,
            encode=encode_serving,
            reply=RUNTIME,
        ),
    ],
    encode_error=encode_error,
    error=ERROR,
    statuses={
        reasons.ERROR_REASON_FIELD_REQUIRED: 422,
        reasons.ERROR_REASON_FIELD_INVALID: 422,
        reasons.ERROR_REASON_FIELD_OUT_OF_RANGE: 422,
        reasons.ERROR_REASON_FIELD_UNSUPPORTED: 422,
        reasons.ERROR_REASON_FIELD_RETIRED: 422,
        reasons.ERROR_REASON_BODY_INVALID: 422,
        # A model that does not exist is a wrong value; only one that exists can be "not serving".
        reasons.ERROR_REASON_MODEL_NOT_FOUND: 422,
        reasons.ERROR_REASON_MEDIA_TYPE_UNSUPPORTED: 400,
        reasons.ERROR_REASON_INPUT_IMAGE_TOO_LARGE: 400,
        reasons.ERROR_REASON_MODEL_NOT_SERVING: 503,
    },
    fields={
        "width_px": "width",
        "height_px": "height",
        "step_count": "steps",
        "guidance_scale": "guidance",
        "input_images": "input_images_base64",
        "loras": "prompt",
    },
)
