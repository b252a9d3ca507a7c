"""
AUTOMATIC1111's web UI, level 1.10.1, as its clients call it.

It is mounted twice: at the root, because SillyTavern throws away what stands before ``/sdapi``, and
below ``/v2/automatic1111``, where the relay documents it; there a prompt is required.
"""

from collections.abc import Iterator
from typing import Any

from gateway.automatic1111 import drawing, extras, listings, options, progress
from gateway.dialect import (
    Answer,
    Body,
    Choose,
    Credential,
    Dialect,
    Failure,
    FinishJobs,
    Generate,
    Need,
    Operation,
    Reply,
    Resize,
)
from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import job_pb2
from services.rpc.errors import SuiteError, Violation

MOUNTS = ("/sdapi/v1", "/v2/automatic1111/sdapi/v1")
CHECKPOINTS = (Need.MODELS, Need.SERVING)
DRAWING = (*CHECKPOINTS, Need.SAMPLERS, Need.CHOICES)

# Of the reasons that are the body's fault, in FastAPI's words.
DETAIL_TYPES = {
    reasons.ERROR_REASON_FIELD_REQUIRED: "missing",
    reasons.ERROR_REASON_BODY_INVALID: "json_invalid",
    reasons.ERROR_REASON_FIELD_OUT_OF_RANGE: "value_error.number",
}


def encode_error(failure: Failure) -> Answer:
    """Write an error; a drawing that was interrupted before it had begun is none."""
    error, job = failure.error, failure.job
    interrupted = error.reason == reasons.ERROR_REASON_JOB_CANCELED
    if job and interrupted and isinstance(failure.operation, Generate):
        return drawing.encode_interrupted(job)
    headers = {"www-authenticate": "Basic"} if failure.status == 401 else {}
    wrong_body = error.violations or error.reason == reasons.ERROR_REASON_BODY_INVALID
    if failure.status == 422 and wrong_body:
        return Answer({"detail": _details(error)}, 422, headers)
    # A client shows `detail`, or `errors` where that is empty.
    kind = "HTTPException" if failure.status < 500 else type(error).__name__
    body = {"error": kind, "detail": error.message, "body": "", "errors": error.message}
    return Answer(body, failure.status, headers)


def _details(error: SuiteError) -> list[dict[str, Any]]:
    violations = error.violations or [Violation("", error.message, error.reason)]
    return [
        {
            "loc": ["body", *(part for part in violation.field.split(".") if part)],
            "msg": violation.description,
            "type": DETAIL_TYPES.get(violation.reason, "value_error"),
        }
        for violation in violations
    ]


def _operations(mount: str) -> Iterator[Operation]:
    yield Generate(
        method="POST",
        path=f"{mount}/txt2img",
        decode=drawing.decode_txt2img,
        fit=drawing.fit,
        encode=drawing.encode,
        label="txt2img",
        needs=DRAWING,
    )
    yield Generate(
        method="POST",
        path=f"{mount}/img2img",
        decode=drawing.decode_img2img,
        fit=drawing.fit,
        encode=drawing.encode,
        label="img2img",
        needs=DRAWING,
    )
    yield Resize(
        method="POST",
        path=f"{mount}/extra-single-image",
        decode=extras.decode_single,
        encode=extras.encode_single,
    )
    yield Resize(
        method="POST",
        path=f"{mount}/extra-batch-images",
        decode=extras.decode_batch,
        encode=extras.encode_batch,
    )
    for name, encode in (("png-info", extras.png_info), ("interrogate", extras.interrogate)):
        yield Reply(
            method="POST", path=f"{mount}/{name}", body=Body.JSON, encode=encode, blocking=True
        )
    yield from _control(mount)
    yield from _listings(mount)


def _control(mount: str) -> Iterator[Operation]:
    yield Reply(method="GET", path=f"{mount}/progress", encode=progress.show, needs=(Need.JOBS,))
    yield FinishJobs(method="POST", path=f"{mount}/interrupt", encode=listings.done)
    yield FinishJobs(
        method="POST",
        path=f"{mount}/skip",
        encode=listings.null,
        states=(job_pb2.Job.STATE_RUNNING,),
    )
    needs = (*CHECKPOINTS, Need.CHOICES)
    yield Reply(method="GET", path=f"{mount}/options", encode=options.show, needs=needs)
    yield Choose(
        method="POST",
        path=f"{mount}/options",
        decode=options.decode,
        encode=lambda _: Answer(None),
        needs=CHECKPOINTS,
    )
    for name in listings.REFRESHES:
        yield Reply(method="POST", path=f"{mount}/{name}", encode=listings.null)
    for name in ("unload-checkpoint", "reload-checkpoint"):
        # What is in the device's memory is everybody's, and no single caller's to unload.
        yield Reply(method="POST", path=f"{mount}/{name}", encode=listings.done)


def _listings(mount: str) -> Iterator[Operation]:
    for name, encode, needs in (
        ("samplers", listings.samplers, (Need.SAMPLERS,)),
        ("schedulers", listings.schedulers, (Need.SAMPLERS,)),
        ("sd-models", listings.sd_models, CHECKPOINTS),
        ("upscalers", listings.upscalers, ()),
        ("latent-upscale-modes", listings.latent_upscale_modes, ()),
        ("scripts", listings.scripts, ()),
        ("script-info", listings.script_info, ()),
        ("embeddings", listings.embeddings, ()),
        ("cmd-flags", listings.cmd_flags, ()),
        ("memory", listings.memory, ()),
        *((name, listings.nothing, ()) for name in listings.EMPTY),
    ):
        yield Reply(method="GET", path=f"{mount}/{name}", encode=encode, needs=needs)


DIALECT = Dialect(
    name="automatic1111",
    title="AUTOMATIC1111",
    prefixes=["/sdapi/v1", "/v2/automatic1111", "/internal"],
    credential=Credential.BASIC,
    operations=[
        *(operation for mount in MOUNTS for operation in _operations(mount)),
        # What the web UI's own page, and clients that look for a server, ask before all else.
        Reply(method="GET", path="/internal/ping", public=True, encode=listings.done),
    ],
    encode_error=encode_error,
    statuses={
        **dict.fromkeys(
            (
                reasons.ERROR_REASON_FIELD_REQUIRED,
                reasons.ERROR_REASON_FIELD_INVALID,
                reasons.ERROR_REASON_FIELD_OUT_OF_RANGE,
                reasons.ERROR_REASON_FIELD_UNSUPPORTED,
                reasons.ERROR_REASON_BODY_INVALID,
                reasons.ERROR_REASON_PROMPT_TOO_LONG,
                reasons.ERROR_REASON_OPERATION_UNSUPPORTED,
            ),
            422,
        ),
        # Not AUTOMATIC1111's 500: the caller can mend it.
        reasons.ERROR_REASON_INPUT_IMAGE_INVALID: 400,
        reasons.ERROR_REASON_MEDIA_TYPE_UNSUPPORTED: 400,
    },
    fields={
        "width_px": "width",
        "height_px": "height",
        "step_count": "steps",
        "guidance_scale": "cfg_scale",
        "image_count": "batch_size",
        "strength": "denoising_strength",
        "sampler": "sampler_name",
        "schedule": "scheduler",
        "input_images": "init_images",
        "hires": "enable_hr",
        "hires.width_px": "hr_resize_x",
        "hires.height_px": "hr_resize_y",
        "hires.step_count": "hr_second_pass_steps",
        "tiles": "script_args",
        "clip_skip": "CLIP_stop_at_last_layers",
    },
)
