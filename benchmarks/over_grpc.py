"""The whole suite with a benchmark's checkpoint, and a client that draws with it over gRPC."""

import contextlib
import io
import pathlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
from PIL import Image

from benchmarks.checkpoints import Checkpoint
from benchmarks.in_process import THREADS, Job
from benchmarks.subjects import free_port, suite_in
from pictor.inference.v1 import inference_service_pb2_grpc, job_pb2
from pictor.inference.v1.generation_pb2 import Generation
from pictor.inference.v1.inference_service_pb2 import (
    CreateJobRequest,
    WatchJobRequest,
    WatchJobResponse,
)
from services.rpc.channels import open_channel

CATALOG = """
[[models]]
name = "{name}"
display_name = "Benchmark"
aliases = []
owner = "bench"
family = "{family}"
description = "Draws noise."
license = "Apache-2.0"
created = 2026-11-21
operations = ["text-to-image"]
checkpoint = {{ folder = "{name}" }}

[models.limits]
min_input_images = 0
max_input_images = 0
max_prompt_chars = 2048
min_side_px = 64
max_side_px = 1024
max_pixels = 1048576
size_multiple_px = 16
max_step_count = 150
max_image_count = 1
max_guidance_scale = 30.0

[models.defaults]
width_px = 64
height_px = 64
step_count = 4
guidance_scale = 1.0

[models.parameters]
required = ["prompt"]

[models.parameters.ignored]
input_images = "the benchmarks draw from prompts"
mask = "the benchmarks draw from prompts"
strength = "the benchmarks draw from prompts"
"""


@dataclass
class Client:
    """
    Draws over gRPC, with the key that the suite's first start has made.

    Args:
        inference: The service.
        checkpoint: The model.
        http: For the files.
        suite_pid: The suite's own process; the device process is its child.
    """

    inference: "inference_service_pb2_grpc.InferenceServiceAsyncStub"
    checkpoint: Checkpoint
    http: httpx.AsyncClient
    suite_pid: int

    async def create(self, job: Job) -> str:
        """Have a job admitted; return its name."""
        generation = Generation(
            model=f"models/{self.checkpoint.name}",
            prompt=job.prompt,
            width_px=job.side_px,
            height_px=job.side_px,
            step_count=job.steps,
            guidance_scale=job.guidance,
            seed=job.seed,
        )
        made = await self.inference.CreateJob(CreateJobRequest(generation=generation))
        return made.name

    async def watch(self, name: str) -> list[WatchJobResponse]:
        """Follow a job to its end; return all that was told."""
        request = WatchJobRequest(name=name)
        return [response async for response in self.inference.WatchJob(request)]

    async def finished(self, name: str) -> job_pb2.Job:
        """
        Wait for a job.

        Raises:
            RuntimeError: If it was not drawn.
        """
        job = (await self.watch(name))[-1].job
        if not job.HasField("result"):
            raise RuntimeError(f"a job was not drawn: {job.error.message}")
        return job

    async def picture(self, job: job_pb2.Job) -> Image.Image:
        """Fetch what a job has drawn."""
        answer = await self.http.get(job.result.images[0].url)
        answer.raise_for_status()
        return Image.open(io.BytesIO(answer.content)).convert("RGB")


@contextlib.asynccontextmanager
async def served(folder: pathlib.Path, checkpoint: Checkpoint) -> AsyncIterator[Client]:
    """Start a suite that serves a checkpoint from *folder* within the block, ready to draw."""
    data_dir = folder / "data"
    data_dir.mkdir()
    catalog = data_dir / "models.toml"
    catalog.write_text(CATALOG.format(name=checkpoint.name, family=checkpoint.family))
    address = f"127.0.0.1:{free_port()}"
    settings = {
        "OMP_NUM_THREADS": str(THREADS),
        "PICTOR_CATALOG_FILE": str(catalog),
        "PICTOR_DEVICE": "cpu",
        "PICTOR_INFERENCE_ADDRESS": address,
        "PICTOR_MODEL_FOLDERS": str(folder),
    }
    with suite_in(data_dir, settings) as suite:
        suite.ready()
        key = (data_dir / "api-key").read_text().strip()
        async with open_channel(address, key) as channel, httpx.AsyncClient() as http:
            stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
            yield Client(stub, checkpoint, http, suite.process.pid)
