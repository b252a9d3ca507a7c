"""Following a job to its end, through lost connections."""

import asyncio
from collections.abc import Iterator

from cli.connection import Failure
from cli.progress import JobProgress
from pictor.inference.v1 import inference_service_pb2_grpc
from pictor.inference.v1.inference_service_pb2 import WatchJobRequest
from pictor.inference.v1.job_pb2 import Job
from services.rpc.errors import Canceled, Unavailable

# A service that restarts is back within seconds; each pause is for one try without an answer.
PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0)


async def follow(
    inference: "inference_service_pb2_grpc.InferenceServiceAsyncStub",
    name: str,
    bar: JobProgress,
) -> Job:
    """
    Show a job's progress until it is terminal.

    Raises:
        Failure: If nothing was drawn, with the job's own sentence; or if the service stays away.
    """
    job, revision, pauses = Job(), 0, iter(PAUSES_SECONDS)
    while not _ended(job):
        try:
            async for told in inference.WatchJob(
                WatchJobRequest(name=name, after_revision=revision)
            ):
                revision, pauses = told.revision, iter(PAUSES_SECONDS)
                bar.show(told)
                if told.HasField("job"):
                    job = told.job
        # A server that stops ends its streams with CANCELLED.
        except (Unavailable, Canceled):
            pass
        if not _ended(job):
            await _pause(pauses, name)
    if job.HasField("error"):
        raise Failure(job.error.message)
    return job


def _ended(job: Job) -> bool:
    return job.HasField("error") or job.HasField("result")


async def _pause(pauses: Iterator[float], name: str) -> None:
    pause = next(pauses, None)
    if pause is None:
        raise Failure(
            f"the inference service is lost; 'pictor jobs watch {name.removeprefix('jobs/')}' goes"
            " on when it is back"
        )
    await asyncio.sleep(pause)
