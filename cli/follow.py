"""Following a job to its end."""

from cli.connection import Failure
from cli.progress import JobProgress
from pictor.inference.v1 import inference_service_pb2_grpc
from pictor.inference.v1.inference_service_pb2 import WatchJobRequest
from pictor.inference.v1.job_pb2 import Job


async def follow(
    inference: "inference_service_pb2_grpc.InferenceServiceAsyncStub",
    name: str,
    bar: JobProgress,
) -> Job:
    """
    Show a job's progress until it is terminal.

    Raises:
        Failure: If nothing was drawn; with the job's own sentence.
    """
    job = Job()
    async for told in inference.WatchJob(WatchJobRequest(name=name)):
        bar.show(told)
        if told.HasField("job"):
            job = told.job
    if job.HasField("error"):
        raise Failure(job.error.message)
    if not job.HasField("result"):
        raise Failure(f"the watch of {name} ended early; 'pictor jobs watch {name}' goes on")
    return job
