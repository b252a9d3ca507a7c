"""`pictor jobs`: list, show, cancel, delete and watch jobs."""

from datetime import UTC, datetime
from typing import Any

import click
from google.protobuf.json_format import MessageToJson
from google.protobuf.timestamp_pb2 import Timestamp

from cli import table
from cli.connection import CliSettings, connected, run
from cli.follow import follow
from cli.keys import UNITS, Span
from cli.progress import JobProgress
from pictor.inference.v1 import inference_service_pb2, inference_service_pb2_grpc
from pictor.inference.v1.job_pb2 import Job

HEADING = ("JOB", "STATE", "MODEL", "MADE", "SECONDS")
STATES = ("queued", "running", "succeeded", "failed", "canceled")
PAGE = 1000


class Moment(click.ParamType[datetime]):
    """A day or a time in UTC, or how long ago."""

    name = "time"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """Parse it."""
        if value[-1:] in UNITS and value[:-1].isdecimal():
            return datetime.now(UTC) - Span().convert(value, param, ctx)
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} must be like 2026-11-21, 2026-11-21T08:30, or 7d", param, ctx)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@click.group(invoke_without_command=True)
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--state", "states", type=click.Choice(STATES), multiple=True, help="May repeat.")
@click.option("--model", "models", multiple=True, help="May repeat.")
@click.option("--api", "dialects", multiple=True, help="E.g. openai; may repeat.")
@click.option("--since", type=Moment(), help="Made then or later: 2026-11-21, or 7d ago.")
@click.option("--until", type=Moment(), help="Made before that.")
@click.option("--prompt", default="", help="Whose prompt contains this.")
@click.pass_context
def jobs(context: click.Context, /, limit: int, states: tuple[str, ...], **wanted: Any) -> None:
    """List the newest jobs, or do something with one."""
    if context.invoked_subcommand:
        return
    request = inference_service_pb2.ListJobsRequest(
        states=[Job.State.Value(f"STATE_{state.upper()}") for state in states],
        models=wanted["models"],
        dialects=wanted["dialects"],
        created_after=wanted["since"],
        created_before=wanted["until"],
        prompt_contains=wanted["prompt"],
    )
    rows = [row(job) for job in run(listed(context.obj, limit, request))]
    for line in table.lines([HEADING, *rows]):
        click.echo(line)


@jobs.command()
@click.argument("job")
@click.pass_obj
def show(settings: CliSettings, job: str) -> None:
    """Print all that is known of a job, as JSON."""
    click.echo(MessageToJson(run(read(settings, name_of(job)))))


@jobs.command()
@click.argument("job")
@click.pass_obj
def cancel(settings: CliSettings, job: str) -> None:
    """End a job."""
    canceled = run(end(settings, name_of(job)))
    click.echo(f"{canceled.name}  {state_of(canceled)}")


@jobs.command()
@click.argument("job")
@click.pass_obj
def delete(settings: CliSettings, job: str) -> None:
    """Delete a job that has ended, with its pictures."""
    run(deleted(settings, name_of(job)))
    click.echo(f"{name_of(job)}  deleted")


@jobs.command()
@click.argument("job")
@click.pass_obj
def watch(settings: CliSettings, job: str) -> None:
    """Show a job's progress until it is done; Ctrl-C leaves it running."""
    finished = run(watched(settings, name_of(job)))
    for image in finished.result.images:
        click.echo(f"{image.url}  {image.width_px}x{image.height_px}  seed {image.seed}")


async def listed(
    settings: CliSettings, limit: int, request: inference_service_pb2.ListJobsRequest
) -> list[Job]:
    """Ask for the newest *limit* jobs of those that a request wants."""
    found: list[Job] = []
    async with connected(settings, "inference") as channel:
        inference = inference_service_pb2_grpc.InferenceServiceStub(channel)
        while len(found) < limit:
            request.page_size = min(PAGE, limit - len(found))
            page = await inference.ListJobs(request)
            found += page.jobs
            request.page_token = page.next_page_token
            if not page.next_page_token:
                break
    return found


async def read(settings: CliSettings, name: str) -> Job:
    """Ask for one job."""
    async with connected(settings, "inference") as channel:
        inference = inference_service_pb2_grpc.InferenceServiceStub(channel)
        return await inference.GetJob(inference_service_pb2.GetJobRequest(name=name))


async def end(settings: CliSettings, name: str) -> Job:
    """Cancel one job."""
    async with connected(settings, "inference") as channel:
        inference = inference_service_pb2_grpc.InferenceServiceStub(channel)
        return await inference.CancelJob(inference_service_pb2.CancelJobRequest(name=name))


async def deleted(settings: CliSettings, name: str) -> None:
    """Delete one job."""
    async with connected(settings, "inference") as channel:
        inference = inference_service_pb2_grpc.InferenceServiceStub(channel)
        await inference.DeleteJob(inference_service_pb2.DeleteJobRequest(name=name))


async def watched(settings: CliSettings, name: str) -> Job:
    """Follow one job."""
    async with connected(settings, "inference") as channel:
        inference = inference_service_pb2_grpc.InferenceServiceStub(channel)
        with JobProgress() as bar:
            return await follow(inference, name, bar)


def name_of(job: str) -> str:
    """Return a job's name, whether it or the bare id was given."""
    return f"jobs/{job.removeprefix('jobs/')}"


def state_of(job: Job) -> str:
    """Return a job's state as a word."""
    return Job.State.Name(job.state).removeprefix("STATE_").lower()


def row(job: Job) -> tuple[str, str, str, str, str]:
    """Return a job's line of the table."""
    model = job.generation.model.removeprefix("models/")
    made = moment(job.create_time)
    return job.name.removeprefix("jobs/"), state_of(job), model, made, seconds(job)


def moment(timestamp: Timestamp) -> str:
    """Write a time in UTC, to the second."""
    return timestamp.ToDatetime().strftime("%Y-%m-%d %H:%M:%SZ")


def seconds(job: Job) -> str:
    """Say how long a finished job was on the device; nothing for others."""
    if not (job.HasField("start_time") and job.HasField("finish_time")):
        return ""
    spent = job.finish_time.ToDatetime() - job.start_time.ToDatetime()
    return f"{spent.total_seconds():.1f}"
