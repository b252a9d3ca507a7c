"""
One image, drawn by one whole call of the official pipeline, whose denoiser is answered from
outside: what the call does around it stays diffusers' own.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from pictor.errors.v1 import error_reason_pb2
from pictor.inference.v1 import generation_pb2
from pictor.inference.v1.progress_pb2 import Preview, Progress
from services.inference.samplers import Choice, name_of
from services.inference.worker import previews
from services.inference.worker.attention import Conditions
from services.inference.worker.evaluations import Evaluator
from services.inference.worker.extras import Extras
from services.inference.worker.families.family import Canvas
from services.inference.worker.frames import Frame
from services.inference.worker.reports import Reports
from services.inference.worker.rows import Row
from services.inference.worker.weights import LoadedModel
from services.rpc.errors import Internal

WEBUI = generation_pb2.Generation.PROMPT_SYNTAX_WEBUI


class Texts:
    """Encoded prompts, made once for all images of a drawing: their calls ask for the same."""

    def __init__(self) -> None:
        self._made: list[Any] = []
        self._conditions: Conditions | None = None

    def conditions(self, generation: generation_pb2.Generation) -> Conditions:
        """Return what prompts with signs are at each step."""
        self._conditions = self._conditions or Conditions(generation)
        return self._conditions

    def once(self, encode: Callable[..., Any]) -> Callable[..., Any]:
        """Make a function that computes what no other image's call has computed before it."""
        numbers = itertools.count()

        @functools.wraps(encode)
        def remembered(*given: Any, **named: Any) -> Any:
            number = next(numbers)
            if number == len(self._made):
                self._made.append(encode(*given, **named))
            return self._made[number]

        return remembered


@dataclass(kw_only=True)
class PipelineCall:
    """
    The call that draws one image of a drawing.

    Attributes:
        loaded: The model.
        extras: What the request adds to the model.
        canvas: What it draws on.
        choice: The sampler and the schedule.
        shape: The way from the canvas to the requested size.
        index: The image's number.
        seed: Of its noise.
        preview_count: How many previews are wanted.
        texts: The drawing's prompts.
        reports: Is told of the phases and shown the previews.
        on_step: Is told the image's number, its steps taken and its steps in all; returns the
            steps that the whole drawing has taken.
    """

    loaded: LoadedModel
    extras: Extras
    canvas: Canvas
    choice: Choice
    shape: Frame
    index: int
    seed: int
    preview_count: int
    texts: Texts
    reports: Reports
    on_step: Callable[[int, int, int], int]
    pipeline: Any = field(init=False)
    row: Row = field(init=False)
    previews_shown: int = 0
    predictions: previews.Predictions | None = None
    writer: previews.Writer | None = None
    conditions: Conditions | None = None

    @property
    def sampler(self) -> str:
        """The name of the sampler that the pipeline has."""
        if self.choice.sampler:
            return self.choice.sampler.name
        return name_of(type(self.pipeline.scheduler).__name__)

    def draw(self, row: Row) -> Image.Image:
        """
        Return the picture; some pipelines choose a size of their own.

        Raises:
            Canceled: If the attempt was stopped.
            Internal: With OUTPUT_NOT_FINITE, if the model does not draw a picture.
        """
        self.row = row
        # An image may take several calls, and what was kept of one of them is wrong for the next.
        self.loaded.acceleration.forget(row)
        self.reports.phase(Progress.PHASE_ENCODING)
        self.pipeline = pipeline = self._pipeline()
        generation = self.extras.inscribe(pipeline, self.canvas.generation)
        self._read_prompts(pipeline, generation)
        canvas = replace(self.canvas, generation=generation)
        with self._previewing(pipeline):
            drawn = pipeline(
                **self.loaded.family.arguments(canvas),
                # On the CPU: a seed must give the same image on every device.
                generator=torch.Generator("cpu").manual_seed(self.seed),
                output_type="np",
                callback_on_step_end=self._on_step_end,
                **self._changing(),
            ).images[0]
        return _picture(drawn)

    def _read_prompts(self, pipeline: Any, generation: generation_pb2.Generation) -> None:
        """Say who encodes the prompts, whose words the tokenizers know by now."""
        if generation.prompt_syntax == WEBUI and self.loaded.family.reads_attention:
            self.conditions = self.texts.conditions(generation)
            pipeline.encode_prompt = self.conditions.encode_prompt(pipeline)
        elif hasattr(pipeline, "encode_prompt"):
            pipeline.encode_prompt = self.texts.once(pipeline.encode_prompt)

    def _changing(self) -> dict[str, list[str]]:
        if self.conditions is None or not self.conditions.changes:
            return {}
        return {"callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"]}

    @contextlib.contextmanager
    def _previewing(self, pipeline: Any) -> Iterator[None]:
        """Show what was drawn so far within the block, if anybody wants to see it."""
        if not (self.preview_count and self.loaded.family.spatial):
            yield
            return
        self.predictions = previews.Predictions(pipeline.scheduler)
        self.writer = previews.Writer(self.shape)
        try:
            yield
        finally:
            self.writer.close()

    def _pipeline(self) -> Any:
        pipeline = self.loaded.pipeline(self.canvas.operation, self.choice)
        if record := self.loaded.family.denoiser:
            module = getattr(pipeline, record.part)
            asking = functools.partial(self.row.ask, module)
            # Past the pipeline's own __setattr__, which would note the class in its config.
            alone = self.loaded.acceleration.rows_alone
            pipeline.__dict__[record.part] = Evaluator(module, record, asking, foresees=not alone)
        return pipeline

    def _on_step_end(
        self, pipeline: Any, index: int, _timestep: Any, tensors: dict[str, Any]
    ) -> dict[str, Any]:
        self.reports.check()
        # Schedulers of the second order take two timesteps, but the last one, for each step.
        order = getattr(pipeline.scheduler, "order", 1)
        each = -(-pipeline.num_timesteps // order)
        done = (index + 1) * each // pipeline.num_timesteps
        self.row.standing.remaining_steps = each - done
        step = self.on_step(self.index, done, each)
        if self.reports.is_enough:
            # The pipeline decodes what it has. It takes no notice before its first step.
            pipeline._interrupt = True  # noqa: SLF001 - diffusers' documented way to end a call
        if index + 1 == pipeline.num_timesteps:
            _require_finite(bool(torch.isfinite(tensors["latents"]).all()))
            return tensors
        if self.writer:
            self._show(done, each, step, tensors["latents"])
        if "prompt_embeds" in tensors and self.conditions:
            tensors["prompt_embeds"] = self.conditions.after(pipeline, done)
        if not self.loaded.family.denoiser:
            self.row.give_way()
        return tensors

    def _show(self, done: int, each: int, step: int, latents: torch.Tensor) -> None:
        steps = previews.preview_steps(self.preview_count, each)
        if self.previews_shown >= len(steps) or done < steps[self.previews_shown]:
            return
        predicted = self.predictions.latents if self.predictions else None
        sketch = self.loaded.sketcher.sketch(
            self.loaded.family,
            self.pipeline,
            latents if predicted is None else predicted,
            self.shape.canvas,
        )
        if sketch and self.writer:
            preview = Preview(
                image_index=self.index,
                preview_index=self.previews_shown,
                step=step,
                media_type="image/jpeg",
            )
            self.writer.write(sketch, functools.partial(self._send, preview))
        self.previews_shown += 1

    def _send(self, preview: Preview, content: bytes) -> None:
        preview.content = content
        self.reports.preview(preview)


def _picture(drawn: np.ndarray[Any, np.dtype[np.float32]]) -> Image.Image:
    _require_finite(bool(np.isfinite(drawn).all()))
    return Image.fromarray((drawn * 255).round().astype(np.uint8))


def _require_finite(finite: bool) -> None:
    if not finite:
        raise Internal(
            "the model's output is not a picture: it holds values that are not finite",
            reason=error_reason_pb2.ERROR_REASON_OUTPUT_NOT_FINITE,
        )
