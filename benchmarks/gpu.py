"""
GPU: FLUX.1-dev and SDXL in their real sizes with random weights, on one CUDA device.

Denoisers and decoders have the published sizes; text encoders are of the right width and one or two
layers. ``throughput`` at 512 pixels, eager and compiled, one FLUX picture at 1024 pixels, and what
share of the device's own matrix products the throughput is. A forward's time in the notes is the
host's: the device may still compute when the call returns.
"""

import asyncio
import pathlib
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import diffusers
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.checkpoints import Checkpoint, flux_parts, sdxl_parts
from benchmarks.in_process import Attempt, Bare, Job, ours, saved
from benchmarks.report import NotMeasurable, Row
from benchmarks.throughput import Case, compared

REPEATS = 3
EAGER: tuple[str, ...] = ()
COMPILED = ("compile",)
PSNR_DB = 45.0
MATRIX = 8192
DECODER = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "mid_block_add_attention": True,
}


def unet() -> Any:
    """Make SDXL's UNet: 2.6 billion weights."""
    return diffusers.UNet2DConditionModel(  # type: ignore[no-untyped-call]  # diffusers
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        transformer_layers_per_block=(1, 2, 10),
        cross_attention_dim=2048,
        attention_head_dim=(5, 10, 20),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=6 * 256 + 1280,
    )


def transformer() -> Any:
    """Make FLUX.1-dev's transformer: 12 billion weights."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)  # of float32 a disk of 64 GiB holds too little
    try:
        return diffusers.FluxTransformer2DModel(  # type: ignore[no-untyped-call]  # diffusers
            in_channels=64,
            num_layers=19,
            num_single_layers=38,
            attention_head_dim=128,
            num_attention_heads=24,
            joint_attention_dim=4096,
            pooled_projection_dim=768,
            guidance_embeds=True,
            axes_dims_rope=(16, 56, 56),
        )
    finally:
        torch.set_default_dtype(before)


SDXL = Checkpoint(
    "bench/sdxl",
    "stable-diffusion-xl",
    "StableDiffusionXLPipeline",
    lambda: sdxl_parts(unet(), (768, 1280), **DECODER),
)
FLUX = Checkpoint(
    "bench/flux", "flux", "FluxPipeline", lambda: flux_parts(transformer(), 768, 4096, **DECODER)
)
# Fewer steps than a user asks for: a step is a step.
CASES = (
    (Case("SDXL 512, guided", SDXL, 512, 5.0, 5.0, None, 10, PSNR_DB), 0.50),
    (Case("FLUX 512", FLUX, 512, 3.5, 2.0, None, 8, PSNR_DB), 0.78),
)
SINGLE, SINGLE_GOAL = Job(0, 1024, 28, 3.5), 1.9


def measure() -> list[Row]:
    """
    Measure all of it.

    Raises:
        NotMeasurable: If torch finds no CUDA device.
    """
    if not torch.cuda.is_available():
        raise NotMeasurable(f"torch {torch.__version__} finds no CUDA device")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, bfloat16\n", flush=True)
    with saved(SDXL, FLUX, device="cuda") as folder:
        return asyncio.run(measured(folder, "cuda", CASES, (FLUX, SINGLE)))


async def measured(
    folder: pathlib.Path,
    device: str,
    cases: Sequence[tuple[Case, float]],
    single: tuple[Checkpoint, Job],
) -> list[Row]:
    """Measure each case and one single picture, eager and compiled."""
    matmul = matmul_flops(device)
    rows = [Row("bfloat16 matrix products", [matmul / 1e12], unit="TFLOP/s")]
    for case, share in cases:
        bare = Bare(folder, case.checkpoint, device, torch.bfloat16)
        flops = picture_flops(bare, case.jobs[0][0])
        for profiles in (EAGER, COMPILED):
            named = replace(case, title=f"{case.title}, {_name(profiles)}")
            async with ours(folder, case.checkpoint, device, profiles) as engine:
                found = await compared(named, engine, bare, REPEATS)
            rates = next(row.ours for row in found if row.unit == "img/s")
            rows += found
            rows.append(
                Row(
                    f"{named.title}: share of the matrix products' rate",
                    [rate * flops / matmul for rate in rates],
                    goal=share,
                    unit="",
                    at_least=True,
                )
            )
    return [*rows, *await _single(folder, device, *single)]


async def _single(folder: pathlib.Path, device: str, checkpoint: Checkpoint, job: Job) -> list[Row]:
    bare = Bare(folder, checkpoint, device, torch.bfloat16)
    rows = []
    for profiles in (EAGER, COMPILED):
        rates: dict[str, list[float]] = {"bare": [], "ours": []}
        async with ours(folder, checkpoint, device, profiles) as engine:
            for repeat in range(REPEATS + 1):
                started = time.perf_counter()
                bare.draw([job])
                between = time.perf_counter()
                await engine.draw(Attempt(job))
                ended = time.perf_counter()
                if repeat:  # the first turn compiles
                    rates["bare"].append(1 / (between - started))
                    rates["ours"].append(1 / (ended - between))
        title = f"one picture, {job.side_px} pixels, {job.steps} steps, {_name(profiles)}"
        goal = SINGLE_GOAL if profiles else None
        rows.append(Row(title, rates["ours"], rates["bare"], goal, "img/s", at_least=True))
    return rows


def matmul_flops(device: str) -> float:
    """Measure how many operations a second the device does in its own matrix products."""
    one, other = (torch.randn(MATRIX, MATRIX, device=device).bfloat16() for _ in range(2))
    rates = []
    for _ in range(REPEATS + 1):
        _wait(device)
        started = time.perf_counter()
        for _ in range(10):
            one @ other
        _wait(device)
        rates.append(10 * 2 * MATRIX**3 / (time.perf_counter() - started))
    return statistics.median(rates[1:])


def picture_flops(bare: Bare, job: Job) -> float:
    """Count the operations of one picture: text encoders, every step, decoder."""
    with FlopCounterMode(display=False) as counter:
        bare.draw([job])
    return float(counter.get_total_flops())


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _name(profiles: Sequence[str]) -> str:
    return "compiled" if profiles else "eager"
