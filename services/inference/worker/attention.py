"""
Prompts in AUTOMATIC1111's syntax, encoded by CLIP.

The words are encoded in parts of 75 tokens; each token's embedding is multiplied by its weight, and
the mean of the whole is restored. A prompt that changes from step to step is encoded once for each
of its texts, all in equally many parts.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from pictor.inference.v1 import generation_pb2
from services.inference.worker.prompts import BREAK, at_step, parts

LEAST_RATIO = 0.02
# Far beyond any use; more of it, and what the model makes of it is no number, least in float16.
MOST_WEIGHT = 32.0


class Chunk(NamedTuple):
    """The ids of a part of a prompt, with its beginning and its end, and each one's weight."""

    ids: list[int]
    weights: list[float]


class Encoded(NamedTuple):
    """A prompt's embeddings (1, tokens, width), and the pooled ones where the model has such."""

    embeds: torch.Tensor
    pooled: torch.Tensor | None


@dataclass(eq=False)
class Conditions:
    """
    What the prompts of a drawing are at each step.

    Attributes:
        generation: The prompts.
        made: The conditions of each pair of texts, once they were encoded.
    """

    generation: generation_pb2.Generation
    made: dict[tuple[str, str], tuple[Encoded, Encoded]] | None = None

    @property
    def changes(self) -> bool:
        """Whether some step has another text than the first."""
        return len(self._pairs()) > 1

    def encode_prompt(self, pipeline: Any) -> Any:
        """Make what stands in the place of the pipeline's own ``encode_prompt``."""

        def encode(*_given: Any, **_named: Any) -> tuple[Any, ...]:
            positive, negative = self._made(pipeline)[self._pair(1)]
            guided = pipeline.do_classifier_free_guidance
            without = negative if guided else Encoded(None, None)  # type: ignore[arg-type]  # diffusers' own None
            if positive.pooled is None:
                return positive.embeds, without.embeds
            return positive.embeds, without.embeds, positive.pooled, without.pooled

        return encode

    def after(self, pipeline: Any, step: int) -> torch.Tensor:
        """Return the pipeline's ``prompt_embeds`` for the step behind *step*."""
        count = max(1, self.generation.step_count)
        positive, negative = self._made(pipeline)[self._pair(min(step + 1, count))]
        if not pipeline.do_classifier_free_guidance:
            return positive.embeds
        return torch.cat([negative.embeds, positive.embeds])

    def _made(self, pipeline: Any) -> dict[tuple[str, str], tuple[Encoded, Encoded]]:
        if self.made is None:
            skip = max(0, self.generation.clip_skip - 1)
            pairs = self._pairs()
            texts = dict.fromkeys(text for pair in pairs for text in pair)
            encoded = _encoded(pipeline, list(texts), skip)
            self.made = {
                pair: (encoded[pair[0]], _negative(pipeline, pair[1], encoded[pair[1]]))
                for pair in pairs
            }
        return self.made

    def _pairs(self) -> list[tuple[str, str]]:
        count = max(1, self.generation.step_count)
        return list(dict.fromkeys(self._pair(step) for step in range(1, count + 1)))

    def _pair(self, step: int) -> tuple[str, str]:
        drawn, count = self.generation, max(1, self.generation.step_count)
        return at_step(drawn.prompt, step, count), at_step(drawn.negative_prompt, step, count)


def chunks(tokenizer: Any, text: str) -> list[Chunk]:
    """Cut a text into parts that the encoder takes; BREAK begins a new one."""
    room = tokenizer.model_max_length - 2
    cut: list[tuple[list[int], list[float]]] = [([], [])]
    for part in parts(text):
        if part.text == BREAK:
            cut.append(([], []))
            continue
        for token in tokenizer(part.text, add_special_tokens=False, truncation=False).input_ids:
            if len(cut[-1][0]) == room:
                cut.append(([], []))
            cut[-1][0].append(token)
            cut[-1][1].append(part.weight)
    return [_closed(tokenizer, ids, weights, room) for ids, weights in cut]


def weighted(embeds: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Multiply embeddings (1, tokens, width) by weights (tokens), and restore their mean."""
    if bool((weights == 1).all()):
        return embeds
    weights = weights.clamp(-MOST_WEIGHT, MOST_WEIGHT)
    scaled = embeds.float() * weights[None, :, None].to(embeds.device)
    ratio = embeds.float().mean() / scaled.mean()
    # Where the mean is next to nothing, the ratio of two such is noise.
    restored = scaled * ratio if LEAST_RATIO < float(ratio) < 1 / LEAST_RATIO else scaled
    # Weights that are far too large are none.
    return restored.to(embeds.dtype) if bool(torch.isfinite(restored).all()) else embeds


def _closed(tokenizer: Any, ids: list[int], weights: list[float], room: int) -> Chunk:
    missing = room - len(ids)
    padding = [tokenizer.pad_token_id] * missing
    return Chunk(
        [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id, *padding],
        [1.0, *weights, *[1.0] * (missing + 1)],
    )


def _encoded(pipeline: Any, texts: list[str], skip: int) -> dict[str, Encoded]:
    """Encode texts, all in as many parts as the longest of them needs."""
    encoders = [(pipeline.tokenizer, pipeline.text_encoder)]
    if getattr(pipeline, "tokenizer_2", None) is not None:
        second = (pipeline.tokenizer_2, pipeline.text_encoder_2)
        encoders = [second] if encoders[0][1] is None else [*encoders, second]
    is_pair = hasattr(pipeline, "tokenizer_2")
    cut = {text: [chunks(tokenizer, text) for tokenizer, _ in encoders] for text in texts}
    count = max(len(one) for of_text in cut.values() for one in of_text)
    made = {}
    for text, of_text in cut.items():
        widths = []
        pooled = None
        for (tokenizer, encoder), given in zip(encoders, of_text, strict=True):
            filled = [*given, *chunks(tokenizer, "") * (count - len(given))]
            embeds, pooled = _by_one(encoder, filled, skip, penultimate=is_pair)
            widths.append(embeds)
        made[text] = Encoded(torch.cat(widths, dim=-1), pooled if is_pair else None)
    return made


def _by_one(
    encoder: Any, given: list[Chunk], skip: int, *, penultimate: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    embeds, pooled = [], []
    for chunk in given:
        ids = torch.tensor([chunk.ids], device=encoder.device)
        out = encoder(ids, output_hidden_states=True)
        layers = out.hidden_states
        if penultimate:
            hidden = layers[-min(skip + 2, len(layers))]
        elif skip:
            hidden = _normed(encoder, layers[-min(skip + 1, len(layers))])
        else:
            hidden = out[0]
        embeds.append(weighted(hidden, torch.tensor(chunk.weights)))
        pooled.append(out[0])
    return torch.cat(embeds, dim=1), pooled[0]


def _normed(encoder: Any, hidden: torch.Tensor) -> torch.Tensor:
    # transformers 5 has the layers of CLIPTextModel where text_model was before.
    inner = getattr(encoder, "text_model", encoder)
    normed: torch.Tensor = inner.final_layer_norm(hidden)
    return normed


def _negative(pipeline: Any, text: str, encoded: Encoded) -> Encoded:
    """Return an empty negative prompt as the pipeline has it: zeros, for some weights."""
    if text or not pipeline.config.get("force_zeros_for_empty_prompt", False):
        return encoded
    pooled = None if encoded.pooled is None else torch.zeros_like(encoded.pooled)
    return Encoded(torch.zeros_like(encoded.embeds), pooled)
