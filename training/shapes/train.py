"""
Make `pictor/shapes` from nothing: autoencoder, latents, text encoder, then UNet and text encoder.

    python -m training.shapes.train --output models/pictor/shapes

A run that was stopped continues when started again with the same --work folder.
"""

import argparse
import copy
import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.shapes.autoencoder import encode_scenes, train_autoencoder
from training.shapes.denoiser import DenoiserTraining, Examples
from training.shapes.evaluate import Sampling, contact_sheet, load, measure, prompts
from training.shapes.layout import layouts_of
from training.shapes.model import (
    Autoencoder,
    TextEncoder,
    Tokenizer,
    new_autoencoder,
    new_text_encoder,
    new_tokenizer,
    pipeline_of,
)
from training.shapes.pictures import Scene, random_scene
from training.shapes.text import meanings_of, train_text_encoder

log = logging.getLogger(__name__)

DENOISER_STEPS = 7200
PICTURES = 12_288
TRIED_OUT = 32


def main() -> None:
    """Go through the stages, skipping those whose result is in the work folder."""
    options = _options()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    options.work.mkdir(parents=True, exist_ok=True)
    autoencoder = _autoencoder(options.work / "autoencoder.pt", options.seed)
    examples = _examples(options.work / "latents.pt", autoencoder, options)
    tokenizer = new_tokenizer()
    text_encoder = _text_encoder(
        options.work / "text_encoder.pt", tokenizer, examples.scenes, options.seed
    )
    checkpoint = options.work / "denoiser.pt"
    training = DenoiserTraining(tokenizer, text_encoder, options.steps, checkpoint, options.seed)

    def pause(step: int) -> None:
        export(autoencoder, training, options.output)
        log.info("exported step %d to %s", step, options.output)
        try_out(options.output, options.work / f"step-{step}.png")

    training.run(examples, options.export_every, pause)
    pause(training.step)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.shapes.train", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder for the model")
    parser.add_argument("--work", type=Path, default=Path("runs/shapes"), help="for checkpoints")
    parser.add_argument("--steps", type=int, default=DENOISER_STEPS, help="steps of the UNet")
    parser.add_argument("--pictures", type=int, default=PICTURES, help="pictures to draw")
    parser.add_argument("--export-every", type=int, default=500, help="steps between exports")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _autoencoder(checkpoint: Path, seed: int) -> Autoencoder:
    if not checkpoint.exists():
        torch.save(train_autoencoder(seed).state_dict(), checkpoint)
    autoencoder = new_autoencoder().to(memory_format=torch.channels_last)
    autoencoder.load_state_dict(torch.load(checkpoint, weights_only=True))
    return autoencoder.eval()


def _examples(checkpoint: Path, autoencoder: Autoencoder, options: argparse.Namespace) -> Examples:
    """The scenes and their latents; sets the scale that gives these unit variance."""
    scenes = _scenes(options.pictures, options.seed)
    if not checkpoint.exists():
        torch.save(encode_scenes(autoencoder, scenes), checkpoint)
    latents: Tensor = torch.load(checkpoint, weights_only=True)
    scale = 1 / latents.float().std().item()
    autoencoder.register_to_config(scaling_factor=scale)
    log.info("%d latents, scaling factor %.4f", len(latents), scale)
    return Examples(scenes, latents * scale, *layouts_of(scenes), meanings_of(scenes))


def _text_encoder(
    checkpoint: Path, tokenizer: Tokenizer, scenes: list[Scene], seed: int
) -> TextEncoder:
    if not checkpoint.exists():
        torch.save(train_text_encoder(tokenizer, scenes, seed).state_dict(), checkpoint)
    text_encoder = new_text_encoder(tokenizer)
    text_encoder.load_state_dict(torch.load(checkpoint, weights_only=True))
    return text_encoder


def _scenes(count: int, seed: int) -> list[Scene]:
    random = np.random.default_rng(seed)
    return [random_scene(random) for _ in range(count)]


def export(autoencoder: Autoencoder, training: DenoiserTraining, folder: Path) -> None:
    """
    Write the averaged weights as a diffusers folder: float16, and the text encoder float32.

    Loaded without a dtype, a UNet becomes float32 and a text encoder what is stored: the same.
    """
    half, unet = copy.deepcopy(autoencoder).half(), copy.deepcopy(training.average.unet).half()
    for part in (half, unet):
        part.to(memory_format=torch.contiguous_format)
    pipeline = pipeline_of(half, training.tokenizer, training.average.text_encoder, unet)
    pipeline.save_pretrained(folder, safe_serialization=True)
    training.tokenizer.backend_tokenizer.model.save(str(folder / "tokenizer"))


def try_out(folder: Path, sheet: Path) -> None:
    """Log how an export does on a few held-out prompts, and show its pictures on a sheet."""
    sampling = Sampling(steps=12)
    with torch.autocast("cpu", torch.bfloat16):
        measured, images = measure(load(folder, sampling), prompts(TRIED_OUT, 1), sampling)
    contact_sheet(images).save(sheet)
    log.info("%s", ", ".join(f"{name} {share:.0%}" for name, share in measured.items()))


if __name__ == "__main__":
    main()
