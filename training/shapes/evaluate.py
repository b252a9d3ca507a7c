"""
Measure how well a model of shapes does what prompts say.

    python -m training.shapes.evaluate models/pictor/shapes

The prompts describe, in full and in mixed words, combinations that training never drew.
Exits with 1 if a figure is below its goal.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from training.shapes.captions import caption
from training.shapes.model import Pipeline
from training.shapes.pictures import Figure, Scene, random_scene
from training.shapes.reading import FigureReading, Reading, read

# The share of prompts that has to be right.
GOALS: Mapping[str, float] = {
    "background": 0.97,
    "colour": 0.97,
    "position": 0.90,
    "size": 0.90,
    "shape": 0.90,
}
# A drawn shape overlaps its own template by 0.97 and more, the nearest other by 0.84 at most.
LEAST_OVERLAP = 0.80


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn; without a scheduler's name the model's own is used."""

    steps: int = 20
    guidance: float = 3.0
    rescale: float = 0.0
    scheduler: str = ""
    together: int = 8


@dataclass(frozen=True)
class Prompt:
    """A scene, its description, and the seed of the noise it is drawn from."""

    scene: Scene
    text: str
    seed: int


def prompts(count: int, seed: int, *, two: bool = False) -> list[Prompt]:
    """Held-out scenes, of two figures each or of one, fully described."""
    random = np.random.default_rng(seed)
    scenes = [random_scene(random, two=float(two), unseen=True) for _ in range(count)]
    texts = [caption(scene, random, complete=True) for scene in scenes]
    numbered = enumerate(zip(scenes, texts, strict=True), start=seed * 10_000)
    return [Prompt(scene, text, index) for index, (scene, text) in numbered]


def load(folder: Path, sampling: Sampling) -> Pipeline:
    """The pipeline in float32 with the sampling's scheduler."""
    pipelines: Pipeline = diffusers.StableDiffusionPipeline
    pipeline = pipelines.from_pretrained(folder, torch_dtype=torch.float32)
    if sampling.scheduler:
        scheduler = getattr(diffusers, sampling.scheduler)
        pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def drawn(pipeline: Pipeline, asked: Sequence[Prompt], sampling: Sampling) -> list[Image.Image]:
    """One picture for each prompt."""
    images: list[Image.Image] = []
    for start in range(0, len(asked), sampling.together):
        batch = asked[start : start + sampling.together]
        images += pipeline(
            prompt=[prompt.text for prompt in batch],
            generator=[torch.Generator().manual_seed(prompt.seed) for prompt in batch],
            num_inference_steps=sampling.steps,
            guidance_scale=sampling.guidance,
            guidance_rescale=sampling.rescale,
        ).images
    return images


def marks(scene: Scene, reading: Reading) -> dict[str, bool]:
    """What of a scene is right in a picture of it; with two figures, right in both."""
    count = len(scene.figures)
    seen = reading.figures[:count]
    right = dict.fromkeys(GOALS, False) | {"background": reading.background == scene.background}
    right["number"] = len(reading.figures) == count
    if len(seen) < count:
        return right
    pairings = [_pairing(scene.figures, order) for order in itertools.permutations(seen)]
    return right | max(pairings, key=lambda pairing: sum(pairing.values()))


def _pairing(asked: Sequence[Figure], seen: Sequence[FigureReading]) -> dict[str, bool]:
    each = [_figure_marks(*pair) for pair in zip(asked, seen, strict=True)]
    return {name: all(mark[name] for mark in each) for name in each[0]}


def _figure_marks(asked: Figure, seen: FigureReading) -> dict[str, bool]:
    return {
        "colour": seen.colour == asked.colour,
        "position": seen.position == asked.position,
        "size": seen.size == asked.size,
        "shape": seen.shape == asked.shape and seen.overlap >= LEAST_OVERLAP,
    }


def shares(all_marks: Iterable[Mapping[str, bool]]) -> dict[str, float]:
    """The share of prompts that got each thing right, and that got everything right."""
    rows = [{**row, "everything": all(row.values())} for row in all_marks]
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def measure(
    pipeline: Pipeline, asked: Sequence[Prompt], sampling: Sampling
) -> tuple[dict[str, float], list[Image.Image]]:
    """The shares, and the pictures they were read from."""
    images = drawn(pipeline, asked, sampling)
    readings = [read(image) for image in images]
    pairs = zip(asked, readings, strict=True)
    return shares(marks(prompt.scene, reading) for prompt, reading in pairs), images


def contact_sheet(images: Sequence[Image.Image], columns: int = 8) -> Image.Image:
    """The pictures at half size, row by row."""
    halves: list[NDArray[np.uint8]] = [np.asarray(image.reduce(2)) for image in images]
    blank = [np.zeros_like(halves[0])] * (-len(halves) % columns)
    cells = np.stack([*halves, *blank])
    height, width = cells.shape[1:3]
    grid = cells.reshape(-1, columns, height, width, 3).transpose(0, 2, 1, 3, 4)
    return Image.fromarray(grid.reshape(-1, columns * width, 3))


def main() -> None:
    """Draw, read, print a table."""
    options = _options()
    sampling = Sampling(
        options.steps, options.guidance, options.rescale, options.scheduler, options.together
    )
    torch.set_num_threads(options.threads)
    pipeline = load(options.model, sampling)
    asked = prompts(options.prompts, options.seed, two=options.two)
    started = time.monotonic()
    measured, images = measure(pipeline, asked, sampling)
    seconds = (time.monotonic() - started) / len(asked)
    if options.sheet:
        contact_sheet(images).save(options.sheet)
    print(_table(measured))
    print(f"\n{len(asked)} prompts, {sampling}, {seconds:.2f} s a picture")
    sys.exit(any(measured[name] < goal for name, goal in GOALS.items()))


def _table(measured: Mapping[str, float]) -> str:
    rows = ["| right | share | goal |", "| --- | --- | --- |"]
    for name, share in measured.items():
        goal = f"{GOALS[name]:.0%}" if name in GOALS else ""
        rows.append(f"| {name} | {share:.1%} | {goal} |")
    return "\n".join(rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.shapes.evaluate")
    parser.add_argument("model", type=Path, help="folder of the model")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the prompts and their noise")
    parser.add_argument("--two", action="store_true", help="two figures in every picture")
    parser.add_argument("--steps", type=int, default=Sampling.steps)
    parser.add_argument("--guidance", type=float, default=Sampling.guidance)
    parser.add_argument("--rescale", type=float, default=Sampling.rescale)
    parser.add_argument("--scheduler", default="", help="a diffusers class; the model's own")
    parser.add_argument("--together", type=int, default=Sampling.together, help="in one batch")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--sheet", type=Path, help="write the pictures to this PNG")
    return parser.parse_args()


if __name__ == "__main__":
    main()
