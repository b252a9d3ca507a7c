"""How far the caller's drawing is."""

import base64
from typing import Any

from gateway.dialect import Answer, Call
from gateway.schemas import answered, integer, number, optional, switch, text
from pictor.inference.v1 import job_pb2

REPLY = answered(
    {
        "progress": number(0, 1, "0 exactly where nothing is drawn."),
        "eta_relative": number(about="Seconds that are left."),
        "state": answered(
            {
                **dict.fromkeys(("skipped", "interrupted", "stopping_generation"), switch()),
                "job": text(),
                "job_count": integer(-1, about="-1 while it waits."),
                "job_timestamp": text(),
                **dict.fromkeys(("job_no", "sampling_step", "sampling_steps"), integer(0)),
            }
        ),
        "current_image": optional(text(contentEncoding="base64")),
        "textinfo": optional(text()),
    }
)
# What AUTOMATIC1111 adds, so that a job that has begun is never at exactly 0.
BEGUN = 0.01


def show(call: Call) -> Answer:
    """Write the progress of the oldest job that runs, or of the next one; idle is exactly 0."""
    jobs = call.found.jobs
    running = [job for job in jobs if job.state == job_pb2.Job.STATE_RUNNING]
    job = running[-1] if running else jobs[-1] if jobs else None
    if job is None:
        return Answer(_idle())
    skip = call.query.get("skip_current_image", ["false"])[-1].lower() in ("true", "1")
    return Answer(_busy(job, with_image=not skip, waiting=len(jobs) - 1))


def _idle() -> dict[str, Any]:
    return {
        "progress": 0,
        "eta_relative": 0,
        "state": _state("", 0, "0", 0, 0),
        "current_image": None,
        "textinfo": None,
    }


def _busy(job: job_pb2.Job, *, with_image: bool, waiting: int) -> dict[str, Any]:
    told = job.progress
    step, count = told.step, told.step_count or job.generation.step_count
    share = min(1.0, BEGUN + (step / count if count else 0))
    elapsed = told.elapsed.ToTimedelta().total_seconds()
    left = elapsed / share - elapsed
    if told.HasField("remaining"):
        left = told.remaining.ToTimedelta().total_seconds()
    image = job.preview.content if with_image and job.HasField("preview") else b""
    name = f"scripts_{job.dialect.partition('/')[2] or 'txt2img'}"
    stamp = job.create_time.ToDatetime().strftime("%Y%m%d%H%M%S")
    # Until the device has turned to it, nobody knows how many parts there are.
    parts = 1 if job.state == job_pb2.Job.STATE_RUNNING else -1
    text = f"Waiting behind {told.queue_position} others" if parts < 0 else None
    return {
        "progress": share,
        "eta_relative": left,
        "state": _state(name, parts, stamp, step, count),
        "current_image": base64.b64encode(image).decode() if image else None,
        "textinfo": text or (f"{waiting} more waiting" if waiting else None),
    }


def _state(job: str, count: int, stamp: str, step: int, steps: int) -> dict[str, Any]:
    return {
        "skipped": False,
        "interrupted": False,
        "stopping_generation": False,
        "job": job,
        "job_count": count,
        "job_timestamp": stamp,
        "job_no": 0,
        "sampling_step": step,
        "sampling_steps": steps,
    }
