"""
The first stage: an autoencoder of the pictures, then the latents of a fixed set of them.
"""

import logging
import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from training.shapes.model import Autoencoder, new_autoencoder
from training.shapes.pictures import SIDE_PX, Picture, Scene, draw, random_scene

log = logging.getLogger(__name__)

CROP_STEPS = 1000
WHOLE_STEPS = 300
PEAK_RATE = 8e-4
KL_WEIGHT = 3e-4
SQUARED_WEIGHT = 2.0  # L1 alone starts three times slower: colours far off pull no harder
_CROP_PX = 64
_CROPS = 16
_WHOLES = 2
_ENCODED_TOGETHER = 16


def train_autoencoder(seed: int) -> Autoencoder:
    """
    Train the autoencoder: first on crops, then on whole pictures.

    Its group norms average over all they see, so weights learnt on crops alone
    shift the colours of whole pictures.
    """
    random = np.random.default_rng(seed)
    autoencoder = new_autoencoder().to(memory_format=torch.channels_last)
    parameters = list(autoencoder.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=PEAK_RATE, betas=(0.9, 0.99), fused=True)
    steps = CROP_STEPS + WHOLE_STEPS
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=PEAK_RATE, total_steps=steps, pct_start=0.05
    )
    started = time.monotonic()
    for step in range(steps):
        pictures = _crops(random) if step < CROP_STEPS else _wholes(random)
        loss = _loss(autoencoder, to_tensor(pictures))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 50 == 0:
            elapsed = time.monotonic() - started
            log.info("autoencoder step %d loss %.4f after %.0f s", step, loss.item(), elapsed)
    return autoencoder.eval()


def _loss(autoencoder: Autoencoder, pictures: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        posterior = autoencoder.encode(pictures).latent_dist
        decoded = autoencoder.decode(posterior.sample()).sample
    divergence = posterior.kl().mean() / posterior.mean[0].numel()
    loss: Tensor = _error(decoded, pictures) + KL_WEIGHT * divergence.float()
    return loss


def _error(decoded: Tensor, pictures: Tensor) -> Tensor:
    absolute = functional.l1_loss(decoded.float(), pictures)
    return absolute + SQUARED_WEIGHT * functional.mse_loss(decoded.float(), pictures)


def _crops(random: np.random.Generator) -> NDArray[np.uint8]:
    scenes = [random_scene(random) for _ in range(_CROPS)]
    return np.stack([_crop(draw(scene), scene, random) for scene in scenes])


def _crop(picture: Picture, scene: Scene, random: np.random.Generator) -> Picture:
    x, y = _corner(scene, random)
    return picture[y : y + _CROP_PX, x : x + _CROP_PX]


def _corner(scene: Scene, random: np.random.Generator) -> NDArray[np.intp]:
    """The top left corner of a crop whose middle is within a figure's radius: x, y."""
    figure = scene.figures[random.integers(len(scene.figures))]
    middle = np.array(figure.centre_px) + random.uniform(-1, 1, 2) * figure.radius_px
    return (middle - _CROP_PX / 2).clip(0, SIDE_PX - _CROP_PX).astype(np.intp)


def _wholes(random: np.random.Generator) -> NDArray[np.uint8]:
    return np.stack([draw(random_scene(random)) for _ in range(_WHOLES)])


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def to_tensor(pictures: NDArray[np.uint8]) -> Tensor:
    """(n, height, width, 3) in 0..255 to (n, 3, height, width) in -1..1, channels last."""
    tensor = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    return _channels_last(tensor)


@torch.inference_mode()
def encode_scenes(autoencoder: Autoencoder, scenes: list[Scene]) -> Tensor:
    """
    Draw and encode scenes.

    Returns:
        The latents' means, not yet scaled: (len(scenes), 4, 32, 32), float16, on the CPU.
    """
    batches: list[Tensor] = []
    for start in range(0, len(scenes), _ENCODED_TOGETHER):
        pictures = np.stack([draw(s) for s in scenes[start : start + _ENCODED_TOGETHER]])
        with torch.autocast("cpu", torch.bfloat16):
            posterior = autoencoder.encode(to_tensor(pictures)).latent_dist
        batches.append(posterior.mean.half().contiguous())
        if start % 2048 == 0:
            log.info("encoded %d of %d pictures", start, len(scenes))
    return torch.cat(batches)
