"""
The second stage: the UNet and the text encoder, trained together on stored latents.
"""

import copy
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from training.shapes.captions import caption
from training.shapes.layout import LayoutReader
from training.shapes.model import TextEncoder, Tokenizer, Unet, new_scheduler, new_unet
from training.shapes.pictures import Scene
from training.shapes.text import MeaningReader

log = logging.getLogger(__name__)

BATCH = 32
PEAK_RATE = 1e-3
WARMUP_STEPS = 150
EMA_DECAY = 0.998
UNCAPTIONED = 0.1
COMPLETE = 0.6
DECAY_SHARE = 0.5
LAYOUT_WEIGHT = 1.0
MEANING_WEIGHT = 0.3
_SAVE_EVERY = 250


class Denoiser(nn.Module):
    """What is trained together: tokens, noisy latents and timesteps in, velocity out."""

    def __init__(self, text_encoder: TextEncoder) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.unet: Unet = new_unet()
        # Plain matrix products: on a CPU the fused attention's backward is three times slower.
        self.unet.set_attn_processor(AttnProcessor())

    def forward(self, tokens: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """Tokens (n, 77), latents (n, 4, 32, 32) and timesteps (n,) to the latents' velocity."""
        states = self.text_encoder(tokens).last_hidden_state
        velocity: Tensor = self.unet(noisy, timesteps, states).sample
        return velocity


@dataclass(frozen=True)
class Batch:
    """BATCH captions, their scaled latents, and layout.layouts_of their scenes."""

    texts: list[str]
    latents: Tensor
    covered: Tensor
    traits: Tensor
    meanings: Tensor


@dataclass
class Examples:
    """Scenes, their scaled latents (len(scenes), 4, 32, 32), float16, and their layouts."""

    scenes: list[Scene]
    latents: Tensor
    covered: Tensor
    traits: Tensor
    meanings: Tensor

    def batch(self, random: np.random.Generator) -> Batch:
        """BATCH captions, some of them empty, and the latents of what they describe, float32."""
        chosen = random.integers(len(self.scenes), size=BATCH)
        complete = random.random(BATCH) < COMPLETE
        pairs = zip(chosen, complete, strict=True)
        texts = [caption(self.scenes[at], random, complete=bool(full)) for at, full in pairs]
        silent = random.random(BATCH) < UNCAPTIONED
        rows = torch.from_numpy(chosen)
        texts = ["" if silence else text for text, silence in zip(texts, silent, strict=True)]
        latents = self.latents[rows].float()
        return Batch(texts, latents, self.covered[rows], self.traits[rows], self.meanings[rows])


class DenoiserTraining:
    """
    A denoiser on its way: weights, their moving average, optimizer and step.

    A checkpoint holds all of these, so a run that was stopped continues from the last one.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        text_encoder: TextEncoder,
        steps: int,
        checkpoint: Path,
        seed: int,
    ) -> None:
        self.steps = steps
        self.step = 0
        self.tokenizer = tokenizer
        self.denoiser = Denoiser(text_encoder)
        self.denoiser.unet.to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.denoiser).requires_grad_(False).eval()
        self._layout = LayoutReader(self.denoiser.unet)
        self._meaning = MeaningReader()
        self._layout_losses: list[float] = []
        self._parameters: list[Tensor] = list(self.denoiser.parameters())
        self._averages: list[Tensor] = list(self.average.parameters())
        self._optimizer = torch.optim.AdamW(
            [*self._parameters, *self._layout.parameters(), *self._meaning.parameters()],
            lr=PEAK_RATE,
            betas=(0.9, 0.99),
            weight_decay=0.01,
            fused=True,
        )
        self._scheduler = new_scheduler()
        self._checkpoint = checkpoint
        self._seed = seed
        if checkpoint.exists():
            self._resume()

    def run(self, examples: Examples, pause_every: int, pause: Callable[[int], None]) -> None:
        """Train to the end; call *pause* with the step every *pause_every* steps."""
        random = np.random.default_rng((self._seed, self.step))
        started, first = time.monotonic(), self.step
        losses: list[float] = []
        while self.step < self.steps:
            losses.append(self._advance(examples.batch(random)))
            if self.step % 50 == 0:
                pace = (time.monotonic() - started) / (self.step - first)
                log.info(
                    "denoiser step %d loss %.4f layout %.4f, %.3f s a step",
                    self.step,
                    np.mean(losses),
                    np.mean(self._layout_losses),
                    pace,
                )
                losses.clear()
                self._layout_losses.clear()
            if self.step % _SAVE_EVERY == 0 or self.step == self.steps:
                self._save()
            if self.step % pause_every == 0:
                pause(self.step)

    def _advance(self, batch: Batch) -> float:
        tokens = self.tokenizer(
            batch.texts, padding="max_length", truncation=True, return_tensors="pt"
        )
        timesteps = _timesteps(BATCH, self.step / self.steps)
        noise = torch.randn_like(batch.latents)
        noisy = self._scheduler.add_noise(batch.latents, noise, timesteps)
        target = self._scheduler.get_velocity(batch.latents, noise, timesteps)
        with torch.autocast("cpu", torch.bfloat16):
            channels_last = noisy.contiguous(memory_format=torch.channels_last)
            states = self.denoiser.text_encoder(tokens.input_ids).last_hidden_state
            velocity = self.denoiser.unet(channels_last, timesteps, states).sample
            layout_loss = self._layout.loss(batch.covered, batch.traits)
            layout_loss += MEANING_WEIGHT * self._meaning.loss(
                states, tokens.attention_mask, batch.meanings
            )
        loss = nn.functional.mse_loss(velocity.float(), target)
        (loss + self._layout_weight() * layout_loss).backward()  # type: ignore[no-untyped-call]
        self._update()
        self._layout_losses.append(layout_loss.item())
        return loss.item()

    def _update(self) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate()
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.step += 1
        decay = min(EMA_DECAY, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self._averages, self._parameters, 1 - decay)

    def _rate(self) -> float:
        """Up to the peak in WARMUP_STEPS, and down to nothing in the last DECAY_SHARE."""
        left = 1 - self.step / self.steps
        return PEAK_RATE * min((self.step + 1) / WARMUP_STEPS, 1.0, left / DECAY_SHARE)

    def _layout_weight(self) -> float:
        return LAYOUT_WEIGHT * (1 - self.step / self.steps)

    def _save(self) -> None:
        state = {
            "step": self.step,
            "denoiser": self.denoiser.state_dict(),
            "average": self.average.state_dict(),
            "layout": self._layout.state_dict(),
            "meaning": self._meaning.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        partial = self._checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self._checkpoint)

    def _resume(self) -> None:
        state = torch.load(self._checkpoint, weights_only=True)
        self.step = state["step"]
        self.denoiser.load_state_dict(state["denoiser"])
        self.average.load_state_dict(state["average"])
        self._layout.load_state_dict(state["layout"])
        self._meaning.load_state_dict(state["meaning"])
        self._optimizer.load_state_dict(state["optimizer"])
        log.info("denoiser resumed at step %d of %d", self.step, self.steps)


def _timesteps(count: int, progress: float) -> Tensor:
    """
    Timesteps from 0 to 999, the noisy ones more often and 999 most.

    The words decide at the noisy end, where the sampler spends few steps; a third of each
    batch is above 900 at first and a fifth at the end, when edges are left to sharpen.
    """
    power = 3.0 - 1.5 * progress
    return (999 * (1 - torch.rand(count) ** power)).round().long()
