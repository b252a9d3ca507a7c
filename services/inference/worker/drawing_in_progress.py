"""
A drawing in progress: the rows of one assignment, from its request to its pictures.

Each image is a row with a seed of its own, so image k has the pixels that a job of its own with
seed + k would have.
"""

import time
from collections.abc import Sequence

from PIL import Image

from pictor.catalog.v1 import model_pb2
from pictor.catalog.v1.model_pb2 import Operation
from pictor.errors.v1 import error_reason_pb2
from pictor.inference.v1 import generation_pb2
from pictor.inference.v1.progress_pb2 import Progress
from pictor.worker.v1 import worker_pb2
from services.inference.samplers import Choice, resolve
from services.inference.worker import notes
from services.inference.worker.drawing import Drawing
from services.inference.worker.extras import Extras
from services.inference.worker.families.family import Canvas, Family
from services.inference.worker.frames import Frame, Size, frame, resized
from services.inference.worker.inputs import Inputs
from services.inference.worker.pipeline_call import PipelineCall, Texts
from services.inference.worker.reports import Reports
from services.inference.worker.rows import Row, Standing
from services.inference.worker.weights import LoadedModel
from services.rpc.errors import invalid

SEEDS = 2**32


class DrawingInProgress:
    """
    Draws what an assignment asks for, row by row.

    Args:
        loaded: The model.
        assignment: Says what to draw.
        inputs: The pictures to start from.
        reports: Is told how far it is.
        extras: What the request adds to the model.

    Attributes:
        rows: One an image.

    Raises:
        InvalidRequest: If the family lacks the operation or takes fewer references, or the name of
            a sampler is not known.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        assignment: worker_pb2.Assignment,
        inputs: Inputs,
        reports: Reports,
        extras: Extras,
    ) -> None:
        model, generation = assignment.model, assignment.generation
        operation = _operation(generation, inputs)
        loaded.require(operation)
        _require_few(inputs.references, loaded.family, operation)
        self._loaded, self._model, self._generation = loaded, model, generation
        self._inputs, self._reports, self._extras = inputs, reports, extras
        self._choice = _choice(generation, loaded.family)
        self._shape = _shape(generation, model, loaded.family, inputs)
        usable, self._clamped = notes.at_least_one_step(
            generation, from_picture=inputs.image is not None
        )
        self._canvas = _canvas(usable, operation, self._shape, inputs, loaded)
        self._started = time.monotonic()
        count = max(1, generation.image_count)
        self._seeds = [(generation.seed + k) % SEEDS for k in range(count)]
        self._steps = [0] * count
        self._calls = self._new_calls()
        self.rows = [
            Row(
                call.draw,
                Standing(
                    priority=assignment.priority,
                    deadline=reports.deadline,
                    remaining_steps=generation.step_count,
                ),
                # Where each needs the model to itself, no two rows have the same variant.
                (extras.adapters, call.seed, id(self))
                if loaded.acceleration.rows_alone
                else extras.adapters,
            )
            for call in self._calls
        ]

    @property
    def model(self) -> str:
        """The name of the model that it uses."""
        return self._loaded.name

    @property
    def is_done(self) -> bool:
        """Whether every picture is there."""
        return all(row.is_done for row in self.rows)

    def check(self) -> None:
        """
        Return if it is still wanted.

        Raises:
            Canceled: If the attempt was stopped.
            DeadlineExceeded: If its time is over.
        """
        self._reports.check()

    @property
    def bucketed(self) -> bool:
        """Whether batches of its model should have few different sizes."""
        return self._loaded.acceleration.bucketed

    def turn_to(self, row: Row) -> None:
        """Make the model what a row needs; see Extras.activate."""
        self._extras.activate(self._loaded)
        self._loaded.acceleration.turn_to(row)

    def forget(self, row: Row) -> None:
        """Drop what the model keeps of a row that has ended."""
        self._loaded.acceleration.forget(row)

    def result(self) -> Drawing:
        """Give the pictures the requested size, and say what became of the request."""
        drawn = [row.picture for row in self.rows]
        images = [self._finished(resized(picture, self._shape.canvas)) for picture in drawn]
        call = self._calls[0]
        receipt = [
            *self._clamped,
            *self._extras.notes,
            *notes.of_size(self._shape, self._model),
            *notes.of_own_size(Size(*drawn[0].size), self._shape),
            *notes.of_inputs(self._inputs, self._shape),
            *notes.of_unused(self._generation, self._loaded.family),
            *notes.of_schedule(self._choice, call.pipeline.scheduler.config),
            *notes.of_acceleration(self._loaded.acceleration),
        ]
        seconds = time.monotonic() - self._started
        return Drawing(images, self._seeds, call.sampler, receipt, inference_seconds=seconds)

    def abandon(self) -> None:
        """End every row where it stands."""
        for row in self.rows:
            row.abandon()
            self.forget(row)

    def _new_calls(self) -> list[PipelineCall]:
        texts = Texts()
        return [
            PipelineCall(
                loaded=self._loaded,
                extras=self._extras,
                canvas=self._canvas,
                choice=self._choice,
                shape=self._shape,
                index=index,
                seed=seed,
                preview_count=self._generation.preview_count,
                texts=texts,
                reports=self._reports,
                on_step=self._on_step,
            )
            for index, seed in enumerate(self._seeds)
        ]

    def _on_step(self, index: int, done: int, each: int) -> int:
        self._steps[index] = done
        step, count = sum(self._steps), len(self._steps) * each
        self._reports.step(step, count)
        if step == count:
            self._reports.phase(Progress.PHASE_DECODING)
        return step

    def _finished(self, drawn: Image.Image) -> Image.Image:
        result = self._shape.finish(drawn)
        if not (self._inputs.image and self._inputs.mask):
            return result
        # The decoder does not give back what the encoder took: what is kept is the input's.
        kept = resized(self._inputs.image, self._shape.requested)
        mask = resized(self._inputs.mask, self._shape.requested, Image.Resampling.NEAREST)
        return Image.composite(result, kept, mask)


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


def _shape(
    generation: generation_pb2.Generation, model: model_pb2.Model, family: Family, inputs: Inputs
) -> Frame:
    return frame(
        _size(generation, model, inputs),
        model.native_size if model.HasField("native_size") else None,
        family.size_multiple_px,
        from_picture=inputs.image is not None,
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
    loaded: LoadedModel,
) -> Canvas:
    image = inputs.image and shape.inputs.onto(resized(inputs.image, shape.requested))
    mask = inputs.mask and shape.inputs.onto(
        resized(inputs.mask, shape.requested, Image.Resampling.NEAREST), Image.Resampling.NEAREST
    )
    references = tuple(inputs.references)
    return Canvas(generation, operation, *shape.canvas, image, mask, references, loaded.configs)
