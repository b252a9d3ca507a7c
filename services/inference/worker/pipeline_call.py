"""
Draws a generation with a loaded model: one whole pipeline call for each image, with a callback
after every step for progress, previews and the end.

Images are drawn in turn, not as a batch: image k has, to the last bit, the pixels that a job of its
own with seed + k would have.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from pictor.catalog.v1 import model_pb2
from pictor.catalog.v1.model_pb2 import Operation
from pictor.errors.v1 import error_reason_pb2
from pictor.inference.v1 import generation_pb2
from pictor.inference.v1.progress_pb2 import Preview, Progress
from services.inference.samplers import Choice, name_of, resolve
from services.inference.worker import notes, previews
from services.inference.worker.drawing import Drawing
from services.inference.worker.families.family import Canvas, Family
from services.inference.worker.frames import Frame, Size, frame, resized
from services.inference.worker.inputs import Inputs
from services.inference.worker.reports import Reports
from services.inference.worker.sketches import Sketcher
from services.inference.worker.weights import LoadedModel
from services.rpc.errors import Internal, invalid

SEEDS = 2**32


def draw(
    loaded: LoadedModel,
    model: model_pb2.Model,
    generation: generation_pb2.Generation,
    inputs: Inputs,
    reports: Reports,
) -> Drawing:
    """
    Draw every image of a generation. Runs in the device thread.

    Raises:
        InvalidRequest: If the family lacks the operation or takes fewer references, or a name of a
            sampler is not known.
        Canceled: If the attempt was stopped.
        Internal: With OUTPUT_NOT_FINITE, if the model does not draw a picture.
    """
    operation = _operation(generation, inputs)
    loaded.require(operation)
    _require_few(inputs.references, loaded.family, operation)
    choice = _choice(generation, loaded.family)
    size = _size(generation, model, inputs)
    shape = frame(
        size,
        model.native_size if model.HasField("native_size") else None,
        loaded.family.size_multiple_px,
        from_picture=inputs.image is not None,
    )
    usable, clamped = notes.at_least_one_step(generation, from_picture=inputs.image is not None)
    canvas = replace(_canvas(usable, operation, shape, inputs), configs=loaded.configs)
    seeds = [(generation.seed + k) % SEEDS for k in range(max(1, generation.image_count))]
    images, used = [], ""
    for index, seed in enumerate(seeds):
        reports.phase(Progress.PHASE_ENCODING)
        pipeline = loaded.pipeline(operation, choice)
        used = choice.sampler.name if choice.sampler else name_of(type(pipeline.scheduler).__name__)
        call = _Call(
            family=loaded.family,
            sketcher=loaded.sketcher,
            pipeline=pipeline,
            reports=reports,
            shape=shape,
            index=index,
            count=len(seeds),
            preview_count=generation.preview_count if loaded.family.spatial else 0,
        )
        drawn = call.draw(canvas, seed)
        images.append(_finished(resized(drawn, shape.canvas), shape, inputs))
    receipt = [
        *clamped,
        *notes.of_size(shape, model),
        *notes.of_own_size(Size(*drawn.size), shape),
        *notes.of_inputs(inputs, shape),
        *notes.of_unused(generation, loaded.family),
        *notes.of_schedule(choice, pipeline.scheduler.config),
    ]
    return Drawing(images, seeds, used, receipt)


@dataclass(kw_only=True)
class _Call:
    """One pipeline call: image *index* of *count*."""

    family: Family
    sketcher: Sketcher
    pipeline: Any
    reports: Reports
    shape: Frame
    index: int
    count: int
    preview_count: int
    preview_index: int = 0
    predictions: previews.Predictions | None = None

    def draw(self, canvas: Canvas, seed: int) -> Image.Image:
        """Return the picture; some pipelines choose a size of their own."""
        if self.preview_count:
            self.predictions = previews.Predictions(self.pipeline.scheduler)
        drawn = self.pipeline(
            **self.family.arguments(canvas),
            # On the CPU: a seed must give the same image on every device.
            generator=torch.Generator("cpu").manual_seed(seed),
            output_type="np",
            callback_on_step_end=self._on_step_end,
        ).images[0]
        return _picture(drawn)

    def _on_step_end(
        self, pipeline: Any, index: int, _timestep: Any, tensors: dict[str, Any]
    ) -> dict[str, Any]:
        self.reports.check()
        # Schedulers of the second order take two timesteps, but the last one, for each step.
        order = getattr(pipeline.scheduler, "order", 1)
        each = -(-pipeline.num_timesteps // order)
        done = (index + 1) * each // pipeline.num_timesteps
        self.reports.step(self.index * each + done, self.count * each)
        if index + 1 == pipeline.num_timesteps:
            _require_finite(bool(torch.isfinite(tensors["latents"]).all()))
            if self.index + 1 == self.count:
                self.reports.phase(Progress.PHASE_DECODING)
        elif self.preview_count:
            self._show(done, each, tensors["latents"])
        return tensors

    def _show(self, done: int, each: int, latents: torch.Tensor) -> None:
        steps = previews.preview_steps(self.preview_count, each)
        if self.preview_index >= len(steps) or done < steps[self.preview_index]:
            return
        predicted = self.predictions.latents if self.predictions else None
        rough = previews.rough_picture(
            self.family,
            self.pipeline,
            latents if predicted is None else predicted,
            self.shape.canvas,
            self.sketcher,
        )
        if rough is None:
            return
        self.reports.preview(
            Preview(
                image_index=self.index,
                preview_index=self.preview_index,
                step=self.index * each + done,
                media_type="image/jpeg",
                content=previews.file_of(previews.framed(rough, self.shape)),
            )
        )
        self.preview_index += 1


def _operation(generation: generation_pb2.Generation, inputs: Inputs) -> Operation.ValueType:
    if generation.operation:
        return generation.operation
    if inputs.mask:
        return model_pb2.OPERATION_INPAINT
    return model_pb2.OPERATION_IMAGE_TO_IMAGE if inputs.image else model_pb2.OPERATION_TEXT_TO_IMAGE


def _require_few(
    references: Sequence[Image.Image], family: Family, operation: Operation.ValueType
) -> None:
    most = family.max_references.get(operation, 0)
    if len(references) > most:
        raise invalid(
            "generation.input_images",
            f"{len(references)} reference images; family {family.name} takes {most or 'none'} for"
            f" {Operation.Name(operation)}",
            error_reason_pb2.ERROR_REASON_INPUT_IMAGE_COUNT,
        )


def _choice(generation: generation_pb2.Generation, family: Family) -> Choice:
    """Find what the request chose, of what the family lets it choose."""
    return resolve(
        generation.sampler if "sampler" in family.uses else "",
        generation.schedule if "schedule" in family.uses else "",
    )


def _size(generation: generation_pb2.Generation, model: model_pb2.Model, inputs: Inputs) -> Size:
    if generation.HasField("width_px") and generation.HasField("height_px"):
        return Size(generation.width_px, generation.height_px)
    if inputs.image:
        return Size(*inputs.image.size)
    if model.HasField("native_size"):
        return Size(model.native_size.width_px, model.native_size.height_px)
    raise invalid(
        "generation.width_px",
        "width_px and height_px are required: the model has no size of its own",
        error_reason_pb2.ERROR_REASON_FIELD_REQUIRED,
    )


def _canvas(
    generation: generation_pb2.Generation,
    operation: Operation.ValueType,
    shape: Frame,
    inputs: Inputs,
) -> Canvas:
    image = inputs.image and shape.inputs.onto(resized(inputs.image, shape.requested))
    mask = inputs.mask and shape.inputs.onto(
        resized(inputs.mask, shape.requested, Image.Resampling.NEAREST), Image.Resampling.NEAREST
    )
    return Canvas(generation, operation, *shape.canvas, image, mask, tuple(inputs.references))


def _finished(drawn: Image.Image, shape: Frame, inputs: Inputs) -> Image.Image:
    result = shape.finish(drawn)
    if not (inputs.image and inputs.mask):
        return result
    # The decoder does not give back what the encoder took: what is kept is taken from the input.
    kept = resized(inputs.image, shape.requested)
    mask = resized(inputs.mask, shape.requested, Image.Resampling.NEAREST)
    return Image.composite(result, kept, mask)


def _picture(drawn: np.ndarray[Any, np.dtype[np.float32]]) -> Image.Image:
    _require_finite(bool(np.isfinite(drawn).all()))
    return Image.fromarray((drawn * 255).round().astype(np.uint8))


def _require_finite(finite: bool) -> None:
    if not finite:
        raise Internal(
            "the model's output is not a picture: it holds values that are not finite",
            reason=error_reason_pb2.ERROR_REASON_OUTPUT_NOT_FINITE,
        )
