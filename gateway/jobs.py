"""
Jobs as the gateway needs them: submitted with their input images, watched to their end.

What an API documents as the order of checks is kept here: a request that has images is first
rehearsed without them, so that nothing is stored for a request that is then refused.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Sequence

import structlog
from google.protobuf import duration_pb2

from gateway import assets
from gateway.dialect import Order
from gateway.idempotency import ALONE, Once
from gateway.images import InputFile
from gateway.suite import Suite
from pictor.catalog.v1 import model_pb2
from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import generation_pb2, inference_service_pb2, job_pb2
from pictor.storage.v1 import asset_pb2, storage_service_pb2
from services.rpc.errors import Canceled, SuiteError, Unavailable

log = structlog.get_logger()

TERMINAL = frozenset(
    {job_pb2.Job.STATE_SUCCEEDED, job_pb2.Job.STATE_FAILED, job_pb2.Job.STATE_CANCELED}
)
# A restart of the inference service takes seconds; jobs and watches survive it.
RECONNECT_FOR_SECONDS = 30.0
RECONNECT_PAUSE_SECONDS = 0.5
# Stands in a rehearsal for a mask that is not stored yet.
_PLACEHOLDER = "assets/-"

CreateJobRequest = inference_service_pb2.CreateJobRequest


async def submit(
    suite: Suite,
    order: Order,
    dialect: str,
    *,
    job_id: str = "",
    strict: bool = False,
    once: Once = ALONE,
    result_seconds: float | None = None,
) -> job_pb2.Job:
    """
    Make a job, storing its images on the way.

    Args:
        suite: The services.
        order: What to draw.
        dialect: The public API through which the request came.
        job_id: The id that the caller has chosen, or nothing.
        strict: Refuse the request if a parameter of it would be clamped or ignored.
        once: What makes the request the same as an earlier one; then nothing is stored, and the
            answer is that one's job.
        result_seconds: How long the results are kept; None until they are deleted.

    Checks come in this order: model, limits, every image, whether the model is served. Only then is
    anything stored; what was stored goes away again if the job is refused after all.

    Raises:
        SuiteError: As CreateJob and CreateAsset raise it.
    """
    request = CreateJobRequest(
        generation=order.generation,
        dialect=dialect,
        receipt=list(order.notes),
        job_id=job_id,
        strict=strict,
        idempotency_key=once.key,
        request_fingerprint=once.fingerprint,
        result_ttl=duration_pb2.Duration(seconds=int(result_seconds)) if result_seconds else None,
    )
    files = [*order.input_images, *([order.mask] if order.mask else [])]
    if not files:
        return await suite.inference.CreateJob(request)
    contents = await _rehearse(suite, request, order, files)
    if isinstance(contents, job_pb2.Job):
        return contents
    stored: list[asset_pb2.Asset] = []
    try:
        for file, content in zip(files, contents, strict=True):
            stored.append(await assets.upload(suite.storage, content, file.field))
        _fill(request.generation, order, [asset.name for asset in stored])
        job = await suite.inference.CreateJob(request)
    except SuiteError:
        await _discard(suite, stored)
        raise
    if job.replayed:
        # A twin came first, while these images were being stored.
        await _discard(suite, stored)
    return job


async def watch(
    suite: Suite, name: str, *, previews: bool = False
) -> AsyncGenerator[inference_service_pb2.WatchJobResponse, None]:
    """
    Watch a job to its end, through restarts of the inference service.

    Yields:
        The messages of WatchJob, each change of state once; the last one is terminal.

    Raises:
        NotFound: If there is no such job.
        Unavailable: If the inference service stays away, or the gateway stops.
    """
    revision, give_up = 0, time.monotonic() + RECONNECT_FOR_SECONDS
    while True:
        call = suite.inference.WatchJob(
            inference_service_pb2.WatchJobRequest(
                name=name, after_revision=revision, include_previews=previews
            )
        )
        try:
            with suite.stopping.abortable(call):
                async for message in call:
                    revision, give_up = message.revision, time.monotonic() + RECONNECT_FOR_SECONDS
                    yield message
                    if message.state in TERMINAL:
                        return
        # A server that stops ends its streams with CANCELLED.
        except (Unavailable, Canceled):
            if suite.stopping.over or time.monotonic() > give_up:
                raise
        finally:
            call.cancel()
        await asyncio.sleep(RECONNECT_PAUSE_SECONDS)


async def finished(suite: Suite, name: str, wait_seconds: float) -> job_pb2.Job | None:
    """Wait for a job's end; None if it takes longer than *wait_seconds*."""
    try:
        async with (
            asyncio.timeout(wait_seconds),
            contextlib.aclosing(watch(suite, name)) as watched,
        ):
            async for message in watched:
                if message.state in TERMINAL:
                    return message.job
    except TimeoutError:
        pass
    return None


async def cancel(suite: Suite, name: str) -> None:
    """End a job whose caller has left; one that has ended by itself is fine too."""
    try:
        await suite.inference.CancelJob(inference_service_pb2.CancelJobRequest(name=name))
    except SuiteError as error:
        log.info("job.not_canceled", job=name, reason=error.reason)


async def _rehearse(
    suite: Suite, request: CreateJobRequest, order: Order, files: Sequence[InputFile]
) -> list[bytes] | job_pb2.Job:
    """
    Run all checks of a request with images and store nothing.

    Returns:
        The images' bytes, or the job that an earlier request with the same key has made.
    """
    rehearsal = CreateJobRequest()
    rehearsal.CopyFrom(request)
    rehearsal.validate_only = True
    _fill(rehearsal.generation, order, ["" for _ in order.input_images] + [_PLACEHOLDER])
    not_serving = None
    try:
        answer = await suite.inference.CreateJob(rehearsal)
        if answer.replayed:
            return answer
    except Unavailable as error:
        if error.reason != reasons.ERROR_REASON_MODEL_NOT_SERVING:
            raise
        not_serving = error
    contents: list[bytes] = []
    size = (0, 0)
    for file in files:
        content = await _content(suite, file, contents, size)
        found = await assets.upload(suite.storage, content, file.field, validate_only=True)
        size = size if contents else (found.width_px, found.height_px)
        contents.append(content)
    if not_serving:
        # The images' errors come first: trying again later would not make them good.
        raise not_serving
    return contents


async def _content(
    suite: Suite, file: InputFile, before: Sequence[bytes], size: tuple[int, int]
) -> bytes:
    """Return a file as it is to be stored; *size* is the first image's, which was found good."""
    if file.mask and file.mask.of_first_image and before:
        content = before[0]
    else:
        content = await assets.content_of(suite.storage, file)
    if file.resize:
        content = await assets.resize(suite.storage, content, file)
    return await assets.convert_mask(suite.storage, content, file, size) if file.mask else content


def _fill(generation: generation_pb2.Generation, order: Order, names: Sequence[str]) -> None:
    del generation.input_images[:]
    for file, name in zip(order.input_images, names, strict=False):
        generation.input_images.add(asset=name, role=file.role)
    if order.mask:
        generation.mask = names[len(order.input_images)]
        generation.operation = generation.operation or model_pb2.OPERATION_INPAINT


async def _discard(suite: Suite, stored: Sequence[asset_pb2.Asset]) -> None:
    for asset in stored:
        try:
            await suite.storage.DeleteAsset(storage_service_pb2.DeleteAssetRequest(name=asset.name))
        except SuiteError as error:
            log.warning("asset.not_discarded", asset=asset.name, reason=error.reason)
