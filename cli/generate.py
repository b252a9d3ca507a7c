"""`pictor generate`: draw, and write what was drawn to files."""

import asyncio
import contextlib
import pathlib
from dataclasses import dataclass

import click

from cli.connection import CliSettings, Failure, connected, run
from cli.files import download, numbered, output_format, upload
from cli.follow import follow
from cli.progress import JobProgress
from pictor.inference.v1 import inference_service_pb2, inference_service_pb2_grpc
from pictor.inference.v1.generation_pb2 import Generation, InputImage, Output
from pictor.inference.v1.job_pb2 import Job, ParameterNote
from pictor.storage.v1 import storage_service_pb2_grpc
from services.rpc.errors import SuiteError

FILE = click.Path(dir_okay=False, path_type=pathlib.Path)
# What no model exceeds; what the chosen one takes is the suite's to say.
SIDES_PX = click.IntRange(1, 16_384)
STEPS = click.IntRange(1, 1_000)
IMAGES = click.IntRange(1, 100)
GUIDANCE = click.FloatRange(0, 100)
STRENGTH = click.FloatRange(0, 1)
SEEDS = click.IntRange(0, 2**32 - 1)


@dataclass(frozen=True)
class Inputs:
    """The caller's own images."""

    images: tuple[pathlib.Path, ...] = ()
    mask: pathlib.Path | None = None


@click.command()
@click.argument("prompt")
@click.option("-o", "--output", type=FILE, required=True, help="The file; .png, .jpg or .webp.")
@click.option("--model", default="pictor/shapes", show_default=True, help="Id or alias.")
@click.option("--negative-prompt", default="", help="What should not be there.")
@click.option("--width", "width_px", type=SIDES_PX, help="In pixels.")
@click.option("--height", "height_px", type=SIDES_PX, help="In pixels.")
@click.option("--steps", "step_count", type=STEPS, help="Denoising steps.")
@click.option(
    "--guidance", "guidance_scale", type=GUIDANCE, help="How closely to follow the prompt."
)
@click.option("--seed", type=SEEDS, help="Draws the same picture again.")
@click.option("-n", "image_count", type=IMAGES, help="How many images: FILE-1.png, FILE-2.png, ...")
@click.option("--sampler", help="E.g. 'Euler a'.")
@click.option(
    "--input-image", "images", type=FILE, multiple=True, help="Start from this; may repeat."
)
@click.option("--mask", type=FILE, help="Repaint where it is white; needs --input-image.")
@click.option("--strength", type=STRENGTH, help="How much of the input image is redrawn, 0 to 1.")
@click.pass_obj
def generate(
    settings: CliSettings,
    /,
    output: pathlib.Path,
    model: str,
    images: tuple[pathlib.Path, ...],
    mask: pathlib.Path | None,
    **parameters: str | float | None,
) -> None:
    """
    Draw PROMPT and write it to a file.

    What is left out takes the model's default; `pictor models` shows the models. Ctrl-C and
    SIGTERM cancel.
    """
    if mask and not images:
        raise Failure("--mask needs an --input-image to repaint")
    given = {key: value for key, value in parameters.items() if value is not None}
    try:
        generation = Generation(
            model=f"models/{model.removeprefix('models/')}",
            output=Output(format=output_format(output)),
            **given,  # type: ignore[arg-type]  # click has checked each option's type
        )
    except ValueError as error:
        raise Failure(str(error)) from None
    job, files = run(draw(settings, generation, Inputs(images, mask), output))
    report(job, files)


async def draw(
    settings: CliSettings, generation: Generation, inputs: Inputs, output: pathlib.Path
) -> tuple[Job, list[pathlib.Path]]:
    """
    Draw with a progress bar, and write the images.

    Returns:
        The finished job, and the file of each of its images.

    Raises:
        Failure: If nothing was drawn, or a file cannot be read or written.
        SuiteError: If the suite refuses.
    """
    async with (
        connected(settings, "inference") as inference_channel,
        connected(settings, "storage") as storage_channel,
    ):
        inference = inference_service_pb2_grpc.InferenceServiceStub(inference_channel)
        storage = storage_service_pb2_grpc.StorageServiceStub(storage_channel)
        for path in inputs.images:
            asset = await upload(storage, path)
            generation.input_images.append(InputImage(asset=asset))
        if inputs.mask:
            generation.mask = await upload(storage, inputs.mask)
        job = await finished(inference, generation)
        files = numbered(output, len(job.result.images))
        for image, path in zip(job.result.images, files, strict=True):
            await download(storage, image.asset, path)
        return job, files


async def finished(
    inference: "inference_service_pb2_grpc.InferenceServiceAsyncStub", generation: Generation
) -> Job:
    """Make a job and follow it to its end; cancel it when this task is canceled."""
    request = inference_service_pb2.CreateJobRequest(generation=generation)
    # Shielded: who interrupts while the answer is on its way still leaves a job to cancel.
    creating = asyncio.ensure_future(_created(inference, request))
    try:
        job = await asyncio.shield(creating)
        with JobProgress() as bar:
            return await follow(inference, job.name, bar)
    except asyncio.CancelledError:
        job = await creating
        with contextlib.suppress(SuiteError):
            await inference.CancelJob(inference_service_pb2.CancelJobRequest(name=job.name))
            click.echo(f"canceled {job.name}", err=True)
        raise


async def _created(
    inference: "inference_service_pb2_grpc.InferenceServiceAsyncStub",
    request: inference_service_pb2.CreateJobRequest,
) -> Job:
    return await inference.CreateJob(request)


def report(job: Job, files: list[pathlib.Path]) -> None:
    """Print a line for each file, and what was not simply done as it was asked."""
    drawn_by = f"  drawn by {job.served_by}, a stand-in" if job.served_by else ""
    for image, path in zip(job.result.images, files, strict=True):
        click.echo(f"{path}  {image.width_px}x{image.height_px}  seed {image.seed}{drawn_by}")
    for note in job.receipt:
        if note.treatment != ParameterNote.TREATMENT_HONOURED:
            click.echo(f"note: {sentence(note)}", err=True)


def sentence(note: ParameterNote) -> str:
    """Say what became of a parameter, e.g. ``steps 200 became 150: the model's most``."""
    if note.treatment == ParameterNote.TREATMENT_IGNORED:
        text = f"{note.parameter} was ignored"
    else:
        text = f"{note.parameter} {note.requested} became {note.used}"
    return f"{text}: {note.reason}" if note.reason else text
