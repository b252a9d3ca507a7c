"""
Memory of a device process that draws with more models than its budget holds.

A hundred jobs over three models in a budget for two: what the process takes beside what it took
empty, over the budget; and after the last job over after the tenth.
"""

import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks.report import Row
from pictor.catalog.v1 import model_pb2
from pictor.inference.v1 import generation_pb2
from pictor.worker.v1 import worker_pb2

if TYPE_CHECKING:
    from services.inference.worker.engine import Engine

SHAPES = pathlib.Path(__file__).parents[1] / "models" / "pictor" / "shapes"
NAMES = ("one", "two", "three")
JOBS = 100
SETTLED = 10
# What the issue permits beside the budget: activations, and what allocators keep.
MOST = 1.1
MB = 1e6


def measure() -> list[Row]:
    """Draw in a process of its own: this one has had other guests."""
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.residency"]
    ended = subprocess.run(command, env=environ, check=True, capture_output=True, text=True)
    told = json.loads(ended.stdout.splitlines()[-1])
    taken = told["taken"]
    return [
        Row("most, over the budget", [max(taken)], [told["budget"]], goal=MOST, unit="MB"),
        Row(
            f"after {JOBS} jobs, over after {SETTLED}",
            taken[-SETTLED:],
            taken[SETTLED : 2 * SETTLED],
            goal=1.05,
            unit="MB",
        ),
    ]


def main() -> None:
    """Draw, and print what was taken after each job, in MB."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        size = _save_models(folder)
        from services.inference.worker.engine import Engine  # noqa: PLC0415 - imports torch

        budget = 2 * size
        engine = Engine("cpu", [folder], device_bytes=budget)
        empty = _resident_bytes()
        chance = random.Random(0)  # noqa: S311 - no secret
        taken = []
        for number in range(JOBS):
            _draw(engine, chance.choice(NAMES), number)
            taken.append((_resident_bytes() - empty) / MB)
        print(json.dumps({"budget": budget / MB, "taken": taken}))


def _save_models(folder: pathlib.Path) -> int:
    """Write three checkpoints with nothing large in common; return the size of one in memory."""
    import diffusers  # noqa: PLC0415 - seconds
    import torch  # noqa: PLC0415

    made: Any = diffusers.UNet2DConditionModel
    config = made.load_config(SHAPES / "unet")
    for number, name in enumerate(NAMES):
        torch.manual_seed(number)
        shutil.copytree(SHAPES, folder / name, ignore=shutil.ignore_patterns("unet"))
        unet = made.from_config(
            {**config, "block_out_channels": [128, 256, 384], "norm_num_groups": 32}
        )
        unet.save_pretrained(folder / name / "unet")
    weights: int = sum(parameter.nbytes for parameter in unet.parameters())
    # The small parts are halves in their files.
    return weights + 2 * sum(
        file.stat().st_size
        for file in folder.glob("one/*/*.safetensors")
        if "unet" not in str(file)
    )


def _draw(engine: "Engine", name: str, number: int) -> None:
    from services.inference.worker.inputs import Inputs  # noqa: PLC0415
    from services.inference.worker.reports import Reports  # noqa: PLC0415

    checkpoint = model_pb2.Checkpoint(folder=name)
    model = model_pb2.Model(name=f"models/{name}", family="stable-diffusion", checkpoint=checkpoint)
    generation = generation_pb2.Generation(
        prompt="a red circle", width_px=64, height_px=64, step_count=2, seed=number, image_count=1
    )
    loaded, _ = engine.residency.lease(model)
    assignment = worker_pb2.Assignment(job="jobs/1", generation=generation, model=model)
    outcome: Future[object] = Future()
    engine.begin(loaded, assignment, Inputs(), Reports(lambda _: None), outcome)  # type: ignore[arg-type]  # nobody reads it
    while engine.is_busy:
        engine.step()
    outcome.result()


def _resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    main()
