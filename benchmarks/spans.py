"""Where the time goes: when the parts of models run, and with how many rows."""

import contextlib
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
import transformers

FORWARD, TEXT, DECODE = "forward", "text", "decode"
# What holds the rows, where it is given by name.
BATCHED = ("sample", "hidden_states", "input_ids", "z")
PARTS = (
    (FORWARD, diffusers.UNet2DConditionModel, "forward"),
    (FORWARD, diffusers.FluxTransformer2DModel, "forward"),
    (TEXT, transformers.CLIPTextModel, "forward"),
    (TEXT, transformers.CLIPTextModelWithProjection, "forward"),
    (TEXT, transformers.T5EncoderModel, "forward"),
    (DECODE, diffusers.AutoencoderKL, "decode"),
)


@dataclass(frozen=True)
class Span:
    """
    One call of a part.

    Attributes:
        kind: FORWARD, TEXT or DECODE.
        begin: In seconds of ``time.perf_counter``.
        end: Likewise.
        rows: The batch.
    """

    kind: str
    begin: float
    end: float
    rows: int

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.begin


@contextlib.contextmanager
def recorded() -> Iterator[list[Span]]:
    """Record every call of every part within the block, in any thread."""
    spans: list[Span] = []
    with contextlib.ExitStack() as stack:
        for kind, cls, name in PARTS:
            stack.enter_context(_wrapped(kind, cls, name, spans))
        yield spans


@contextlib.contextmanager
def _wrapped(kind: str, cls: Any, name: str, spans: list[Span]) -> Iterator[None]:
    original = getattr(cls, name)

    @functools.wraps(original)
    def call(*given: Any, **named: Any) -> Any:
        begin = time.perf_counter()
        result = original(*given, **named)
        spans.append(Span(kind, begin, time.perf_counter(), _rows(given[1:], named)))
        return result

    setattr(cls, name, call)
    try:
        yield
    finally:
        setattr(cls, name, original)


def _rows(given: Sequence[Any], named: Mapping[str, Any]) -> int:
    first = next(iter(given), None)
    for value in (first, *(named.get(name) for name in BATCHED)):
        if isinstance(value, torch.Tensor):
            return len(value)
    return 0


def seconds_of(spans: Sequence[Span], kind: str) -> float:
    """Sum one kind."""
    return sum(span.seconds for span in spans if span.kind == kind)


def shares(spans: Sequence[Span], seconds: float, steps: int) -> str:
    """
    Say what became of each of *steps* steps of an image.

    Args:
        spans: What was recorded.
        seconds: How long it took as a whole.
        steps: Of all images together.
    """
    forwards = [span for span in spans if span.kind == FORWARD]
    rows = sum(span.rows for span in forwards) / max(1, len(forwards))
    whole, forward = seconds / steps, seconds_of(spans, FORWARD) / steps
    aside = (seconds_of(spans, TEXT) + seconds_of(spans, DECODE)) / steps
    return (
        f"{1e3 * whole:.2f} ms a step = {1e3 * forward:.2f} forward ({rows:.1f} rows)"
        f" + {1e3 * aside:.2f} text and decoder + {1e3 * (whole - forward - aside):.2f} the rest"
    )
