"""
AUTOMATIC1111's web UI, level 1.10.1, as its clients call it.

It is mounted twice: at the root, because SillyTavern throws away what stands before ``/sdapi``, and
below ``/v2/automatic1111``, where the relay documents it; there a prompt is required.
"""

import functools
from collections.abc import Iterator
from typing import Any

from gateway.automatic1111 import drawing, extras, listings, options, progress
from gateway.automatic1111.parameters import IMG2IMG, TXT2IMG, described
from gateway.dialect import (
    Answer,
    Choose,
    Credential,
    Describe,
    Dialect,
    Failure,
    FinishJobs,
    Generate,
    Need,
    Operation,
    Reply,
    Resize,
)
from gateway.schemas import answered, listed, switch, text
from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import job_pb2
from services.rpc.errors import SuiteError, Violation

MOUNTS = ("/sdapi/v1", "/v2/automatic1111/sdapi/v1")
CHECKPOINTS = (Need.MODELS, Need.SERVING)
DRAWING = (*CHECKPOINTS, Need.SAMPLERS, Need.CHOICES)

NO_IMAGE = {404: "there is no image"}

ERROR = {
    "anyOf": [
        answered(
            {
                "detail": listed(
                    answered(
                        {
                            "loc": listed(text(), "Where it is: `body`, and the field's name."),
                            "msg": text(),
                            "type": text(),
                        }
                    )
                )
            },
            "With 422, of fields.",
        ),
        answered({name: text() for name in ("error", "detail", "body", "errors")}),
    ]
}

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


def _drawings(mount: str) -> Iterator[Operation]:
    required = ["prompt"] if mount.startswith("/v2/") else []
    yield Generate(
        method="POST",
        path=f"{mount}/txt2img",
        summary="Draw, and draw a second time, larger, where hires fix is on",
        decode=drawing.decode_txt2img,
        fit=drawing.fit,
        encode=drawing.encode,
        label="txt2img",
        needs=DRAWING,
        request=described(TXT2IMG, required),
        reply=drawing.REPLIES["txt2img"],
    )
    yield Generate(
        method="POST",
        path=f"{mount}/img2img",
        summary="Draw an image anew: whole, where a mask is white, or tile by tile",
        decode=drawing.decode_img2img,
        fit=drawing.fit,
        encode=drawing.encode,
        label="img2img",
        needs=DRAWING,
        request=described(IMG2IMG, required),
        reply=drawing.REPLIES["img2img"],
        refusals={404: "there is no init image"},
    )


def _pictures(mount: str) -> Iterator[Operation]:
    resizing = functools.partial(
        Resize, method="POST", needs=(*CHECKPOINTS, Need.CHOICES), refusals=NO_IMAGE
    )
    yield resizing(
        path=f"{mount}/extra-single-image",
        summary="Enlarge an image without drawing",
        decode=extras.decode_single,
        encode=extras.encode_single,
        request=described(extras.SINGLE, ["image"]),
        reply=extras.SINGLE_REPLY,
    )
    yield resizing(
        path=f"{mount}/extra-batch-images",
        summary="Enlarge images without drawing",
        decode=extras.decode_batch,
        encode=extras.encode_batch,
        request=described(extras.BATCH),
        reply=extras.BATCH_REPLY,
    )
    reading = functools.partial(Describe, method="POST", refusals=NO_IMAGE)
    yield reading(
        path=f"{mount}/png-info",
        summary="Say with which parameters an image was drawn",
        decode=extras.decode_png_info,
        encode=extras.encode_png_info,
        request=described(extras.PNG_INFO, ["image"]),
        reply=extras.PNG_INFO_REPLY,
    )
    yield reading(
        path=f"{mount}/interrogate",
        summary="Say with which prompt an image was drawn",
        decode=extras.decode_interrogate,
        encode=extras.encode_interrogate,
        request=described(extras.INTERROGATE, ["image"]),
        reply=extras.CAPTION_REPLY,
    )


def _control(mount: str) -> Iterator[Operation]:
    yield Reply(
        method="GET",
        path=f"{mount}/progress",
        summary="Say how far the caller's oldest drawing is",
        query={"skip_current_image": switch("Leave the preview out.")},
        encode=progress.show,
        needs=(Need.JOBS,),
        reply=progress.REPLY,
    )
    yield FinishJobs(
        method="POST",
        path=f"{mount}/interrupt",
        summary="End the caller's drawings with what they have",
        encode=listings.done,
        reply=listings.DONE,
    )
    yield FinishJobs(
        method="POST",
        path=f"{mount}/skip",
        summary="End the drawing that runs with what it has",
        encode=listings.null,
        states=(job_pb2.Job.STATE_RUNNING,),
        reply=listings.NULL,
    )
    yield Reply(
        method="GET",
        path=f"{mount}/options",
        summary="Show the options of the caller's key",
        encode=options.show,
        needs=(*CHECKPOINTS, Need.CHOICES),
        reply=options.REPLY,
    )
    yield Choose(
        method="POST",
        path=f"{mount}/options",
        summary="Change options of the caller's key",
        decode=options.decode,
        encode=lambda _: Answer(None),
        needs=CHECKPOINTS,
        request=options.REQUEST,
        reply=listings.NULL,
    )
    for name in listings.REFRESHES:
        yield Reply(
            method="POST",
            path=f"{mount}/{name}",
            summary="Do nothing: lists are always fresh",
            encode=listings.null,
            reply=listings.NULL,
        )
    for name in ("unload-checkpoint", "reload-checkpoint"):
        yield Reply(
            method="POST",
            path=f"{mount}/{name}",
            # What is in the device's memory is everybody's, and no single caller's to unload.
            summary="Do nothing: what is in memory is everybody's",
            encode=listings.done,
            reply=listings.DONE,
        )


def _listings(mount: str) -> Iterator[Operation]:
    own = listings
    for name, summary, encode, reply, needs in (
        ("samplers", "List the samplers", own.samplers, own.SAMPLERS, (Need.SAMPLERS,)),
        ("schedulers", "List the schedules", own.schedulers, own.SCHEDULERS, (Need.SAMPLERS,)),
        ("sd-models", "List what can draw now", own.sd_models, own.CHECKPOINTS, CHECKPOINTS),
        ("upscalers", "List the upscalers", own.upscalers, own.UPSCALERS, ()),
        (
            "latent-upscale-modes",
            "List the latent upscalers",
            own.latent_upscale_modes,
            own.LATENT_MODES,
            (),
        ),
        ("scripts", "List the scripts", own.scripts, own.SCRIPTS, ()),
        ("script-info", "Describe the scripts", own.script_info, own.SCRIPT_INFO, ()),
        ("embeddings", "List the embeddings", own.embeddings, own.EMBEDDINGS, (Need.ADAPTERS,)),
        ("loras", "List the adapters", own.loras, own.LORAS, (Need.ADAPTERS,)),
        ("cmd-flags", "List what would be launch flags", own.cmd_flags, own.FLAGS, ()),
        ("memory", "Say what is known of the memory", own.memory, own.MEMORY, ()),
        *((name, f"List the {name}: none", own.nothing, own.NOTHING, ()) for name in own.EMPTY),
    ):
        yield Reply(
            method="GET",
            path=f"{mount}/{name}",
            summary=summary,
            encode=encode,
            needs=needs,
            reply=reply,
        )


def _operations(mount: str) -> Iterator[Operation]:
    yield from _drawings(mount)
    yield from _pictures(mount)
    yield from _control(mount)
    yield from _listings(mount)


DIALECT = Dialect(
    name="automatic1111",
    title="AUTOMATIC1111",
    prefixes=["/sdapi/v1", "/v2/automatic1111", "/internal"],
    credential=Credential.BASIC,
    operations=[
        *(operation for mount in MOUNTS for operation in _operations(mount)),
        # What the web UI's own page, and clients that look for a server, ask before all else.
        Reply(
            method="GET",
            path="/internal/ping",
            summary="Say that the server answers",
            public=True,
            encode=listings.done,
            reply=listings.DONE,
        ),
    ],
    encode_error=encode_error,
    error=ERROR,
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
        "loras": "prompt",
        "clip_skip": "CLIP_stop_at_last_layers",
    },
)
