"""The services that a device process talks to, real ones, with the tiny model in the catalog."""

import contextlib
import pathlib
from collections.abc import AsyncIterator, Mapping

import grpc

from pictor.worker.v1 import worker_service_pb2_grpc
from services.accounts import __main__ as accounts
from services.catalog import __main__ as catalog
from services.inference.worker.__main__ import running
from services.inference.worker.settings import WorkerSettings
from services.rpc.channels import open_channel
from services.rpc.principals import service_token
from services.rpc.settings import read
from services.storage import __main__ as storage

CATALOG = """
[[models]]
name = "tiny"
display_name = "Tiny"
aliases = []
owner = "tests"
family = "stable-diffusion"
description = "Draws noise."
license = "Apache-2.0"
created = 2026-11-21
operations = ["text-to-image", "image-to-image", "inpaint"]
checkpoint = { folder = "tiny" }

[models.limits]
min_input_images = 0
max_input_images = 1
max_prompt_chars = 2048
min_side_px = 8
max_side_px = 2048
max_pixels = 4194304
size_multiple_px = 8
max_step_count = 150
max_image_count = 10
max_guidance_scale = 30.0

[models.defaults]
width_px = 64
height_px = 64
step_count = 4
guidance_scale = 4.0
strength = 0.8

[models.parameters]
required = ["prompt"]
"""


def environ_of(data_dir: pathlib.Path, models_folder: pathlib.Path) -> dict[str, str]:
    """The environment before anything runs."""
    catalog_file = data_dir / "models.toml"
    catalog_file.write_text(CATALOG)
    parts = ("ACCOUNTS", "CATALOG", "STORAGE", "WORKER")
    return {
        **{f"PICTOR_{part}_ADDRESS": "127.0.0.1:0" for part in parts},
        "PICTOR_DATA_DIR": str(data_dir),
        "PICTOR_CATALOG_FILE": str(catalog_file),
        "PICTOR_MODEL_FOLDERS": str(models_folder),
        "PICTOR_DEVICE": "cpu",
    }


@contextlib.asynccontextmanager
async def neighbours(environ: Mapping[str, str]) -> AsyncIterator[dict[str, str]]:
    """Run accounts, catalog and storage; yield the environment with their addresses."""
    bound = dict(environ)
    async with contextlib.AsyncExitStack() as stack:
        for part, service in {"ACCOUNTS": accounts, "CATALOG": catalog, "STORAGE": storage}.items():
            address = service.running(read(service.Settings, bound))
            bound[f"PICTOR_{part}_ADDRESS"] = await stack.enter_async_context(address)
        yield bound


@contextlib.asynccontextmanager
async def worker_in(environ: Mapping[str, str]) -> AsyncIterator[grpc.aio.Channel]:
    """Run a device process's inside in this one; yield a channel to it."""
    settings = read(WorkerSettings, environ)
    async with (
        running(settings, "worker-test") as address,
        open_channel(address, service_token(settings.data_dir)) as channel,
    ):
        yield channel


def worker_stub(channel: grpc.aio.Channel) -> "worker_service_pb2_grpc.WorkerServiceAsyncStub":
    return worker_service_pb2_grpc.WorkerServiceStub(channel)
