"""
The text encoder's own stage: it learns to tell what a caption says before the UNet listens.

Which of two colours is the background's takes a UNet thousands of slow steps to teach; told
the answers, the encoder learns it from captions alone in two minutes.
"""

import logging

import numpy as np
import torch
from torch import Tensor, nn

from training.shapes.captions import caption
from training.shapes.model import TEXT_WIDTH, TextEncoder, Tokenizer, new_text_encoder
from training.shapes.pictures import ANCHORS_PX, COLOURS, RADII_PX, SHAPES, Figure, Scene

log = logging.getLogger(__name__)

STEPS = 500
PEAK_RATE = 2e-3
_BATCH = 96
_MOST_FIGURES = 2
_TRAITS: dict[str, tuple[str, ...]] = {
    "shape": tuple(SHAPES),
    "size": tuple(RADII_PX),
    "colour": tuple(COLOURS),
    "position": tuple(ANCHORS_PX),
}
# One answer each for the background and for every trait of two figures; the last means none.
_ANSWERS = [len(COLOURS)] + [len(words) + 1 for words in _TRAITS.values()] * _MOST_FIGURES


def train_text_encoder(tokenizer: Tokenizer, scenes: list[Scene], seed: int) -> TextEncoder:
    """Train an encoder whose states, from the caption's end on, each answer what is drawn."""
    random = np.random.default_rng(seed)
    encoder = new_text_encoder(tokenizer)
    reader = MeaningReader()
    parameters = [*encoder.parameters(), *reader.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=PEAK_RATE, betas=(0.9, 0.99), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=PEAK_RATE, total_steps=STEPS, pct_start=0.1
    )
    meanings = meanings_of(scenes)
    for step in range(STEPS):
        chosen = random.integers(len(scenes), size=_BATCH)
        texts = [caption(scenes[index], random) for index in chosen]
        tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
        with torch.autocast("cpu", torch.bfloat16):
            states = encoder(tokens.input_ids).last_hidden_state
            loss = reader.loss(states, tokens.attention_mask, meanings[torch.from_numpy(chosen)])
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 50 == 0:
            log.info("text encoder step %d loss %.3f", step, loss.item())
    return encoder.eval()


class MeaningReader(nn.Module):
    """A linear layer that must tell, from the states past a caption's end, what is drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(TEXT_WIDTH, sum(_ANSWERS))

    def loss(self, states: Tensor, attention_mask: Tensor, meanings: Tensor) -> Tensor:
        """How badly it tells the *meanings* (n, 9), a sum over these."""
        heard = self.head(_past_the_end(states, attention_mask)).float()
        parts = zip(torch.split(heard, _ANSWERS, dim=1), meanings.unbind(dim=1), strict=True)
        return torch.stack([nn.functional.cross_entropy(*part) for part in parts]).sum()


def meanings_of(scenes: list[Scene]) -> Tensor:
    """The background and the traits of both figures as indices: (len(scenes), 9)."""
    return torch.tensor([_answers(scene) for scene in scenes])


def _past_the_end(states: Tensor, attention_mask: Tensor) -> Tensor:
    """The state of each caption at a random one of its padding tokens."""
    ends = attention_mask.sum(dim=1)
    spare = (states.shape[1] - ends).clamp(min=1)
    places = ends - 1 + (torch.rand(len(states)) * (spare + 1)).long()
    return states[torch.arange(len(states)), places.clamp(max=states.shape[1] - 1)]


def _answers(scene: Scene) -> list[int]:
    """The indices of the right answers, the figures in the order in which one reads."""
    answers = [list(COLOURS).index(scene.background)]
    figures: list[Figure | None] = [*sorted(scene.figures, key=_reading_order)]
    figures += [None] * (_MOST_FIGURES - len(figures))
    for figure in figures:
        for trait, words in _TRAITS.items():
            answers.append(words.index(getattr(figure, trait)) if figure else len(words))
    return answers


def _reading_order(figure: Figure) -> tuple[float, float]:
    x, y = ANCHORS_PX[figure.position]
    return y, x
