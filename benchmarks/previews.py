"""
A preview over the denoising step that it is taken at: predicting, sketching, framing, JPEG.

The steps are those of the model that ships, at three sizes, and of a transformer of FLUX.1's kind.
Both are far smaller than the models that people draw with, whose steps take longer and whose
previews do not: the ratios are upper bounds. Everything runs on one thread.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from benchmarks.report import Row
from benchmarks.subjects import GUIDANCE, MODEL, PROMPT
from services.inference.worker.__main__ import go_offline

# Before anything imports torch's friends.
go_offline(os.environ)

import diffusers as untyped  # noqa: E402  # after the environment is set
import torch  # noqa: E402

from services.inference.worker.families import families  # noqa: E402
from services.inference.worker.frames import Size, frame  # noqa: E402
from services.inference.worker.previews import Predictions, file_of, framed  # noqa: E402
from services.inference.worker.sketches import Sketcher  # noqa: E402

diffusers: Any = untyped

GOAL = 0.02
REPEATS = 15
SIDES_PX = (64, 256, 1024)


@dataclass
class Subject:
    """
    A model in the midst of a drawing.

    Attributes:
        family: Its name.
        pipeline: Holds its decoder.
        size: Of the picture.
        step: Takes one step.
        predictions: Of its scheduler.
    """

    family: str
    pipeline: Any
    size: Size
    step: Callable[[], None]
    predictions: Predictions


@torch.no_grad()
def measure() -> list[Row]:
    """Take steps and previews in turn; the first preview of a model is measured by itself."""
    torch.set_num_threads(1)
    rows = []
    for side_px in SIDES_PX:
        name = f"pictor/shapes, latent {side_px // 8}"
        rows += _rows(name, _unet(Size(side_px, side_px)))
    return rows + _rows("FLUX.1's kind, latent 128", _transformer(Size(1024, 1024)))


def _rows(name: str, subject: Subject) -> list[Row]:
    sketcher, shape = Sketcher(), frame(subject.size, None, 8, from_picture=False)
    seconds: dict[str, list[float]] = {"step": [], "sketch": [], "file": []}
    first = 0.0
    for turn in range(REPEATS + 2):
        started = time.perf_counter()
        subject.step()
        stepped = time.perf_counter()
        latents = subject.predictions.latents
        assert latents is not None
        family = families()[subject.family]
        sketch = sketcher.sketch(family, subject.pipeline, latents, subject.size)
        assert sketch is not None
        sketched = time.perf_counter()
        file_of(framed(sketch.picture(), shape))
        ended = time.perf_counter()
        first = first or sketched - stepped
        if turn >= 2:  # the first turns warm everything up
            seconds["step"].append(stepped - started)
            seconds["sketch"].append(sketched - stepped)
            seconds["file"].append(ended - stepped)
    return [
        Row(f"{name}: in the device's thread", seconds["sketch"], seconds["step"], goal=GOAL),
        Row(f"{name}: with the JPEG", seconds["file"], seconds["step"], goal=GOAL),
        Row(f"{name}: the model's first", [first], seconds["step"]),
    ]


def _unet(size: Size) -> Subject:
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(MODEL, dtype=torch.float32)
    # Two rows, as guidance has it.
    texts = torch.cat(pipeline.encode_prompt(PROMPT, "cpu", 1, True)[::-1])
    latents = torch.randn(1, 4, size.height_px // 8, size.width_px // 8)
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(20)
    predictions, timestep = Predictions(scheduler), scheduler.timesteps[5]

    def step() -> None:
        given = torch.cat([latents, latents])
        without, with_text = pipeline.unet(given, timestep, texts).sample.chunk(2)
        guided = without + GUIDANCE * (with_text - without)
        scheduler.step(guided, timestep, latents, return_dict=False)

    return Subject("stable-diffusion", pipeline, size, step, predictions)


def _transformer(size: Size) -> Subject:
    model = diffusers.FluxTransformer2DModel(
        in_channels=64,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        latent_channels=16,
        scaling_factor=0.3611,
        shift_factor=0.1159,
    )
    rows, columns = size.height_px // 16, size.width_px // 16
    latents, places = torch.randn(1, rows * columns, 64), torch.zeros(rows * columns, 3)
    places[:, 1] = torch.arange(rows * columns) // columns
    places[:, 2] = torch.arange(rows * columns) % columns
    given = {
        "encoder_hidden_states": torch.randn(1, 48, 32),
        "pooled_projections": torch.randn(1, 32),
        "guidance": torch.tensor([3.5]),
        "img_ids": places,
        "txt_ids": torch.zeros(48, 3),
    }
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(20)
    predictions = Predictions(scheduler)

    def step() -> None:
        # A scheduler of flow matching counts its steps.
        scheduler.set_begin_index(5)
        scheduler._step_index = None  # noqa: SLF001 - there is no other way back
        timestep = scheduler.timesteps[5]
        level = timestep.expand(1) / 1000
        output = model(hidden_states=latents, timestep=level, return_dict=False, **given)[0]
        scheduler.step(output, timestep, latents, return_dict=False)

    return Subject("flux", SimpleNamespace(vae=vae), size, step, predictions)
