"""
A drawing in progress: the rows of one assignment, from its request to its pictures.

Each image is a row with a seed of its own, so image k has the pixels that a job of its own with
seed + k would have.
"""

import time
from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from pictor.catalog.v1 import model_pb2
from pictor.catalog.v1.model_pb2 import Operation
from pictor.errors.v1 import error_reason_pb2
from pictor.inference.v1 import generation_pb2
from pictor.inference.v1.job_pb2 import ParameterNote
from pictor.inference.v1.progress_pb2 import Progress
from pictor.worker.v1 import worker_pb2
from services.inference.samplers import Choice, resolve
from services.inference.strength import at_least_one_step
from services.inference.worker import notes
from services.inference.worker.drawing import Drawing
from services.inference.worker.extras import Extras
from services.inference.worker.families.family import Canvas, Family
from services.inference.worker.frames import Frame, Size, frame, resized
from services.inference.worker.inputs import Inputs
from services.inference.worker.masking import CloseUp, close_up, filled
from services.inference.worker.passes import (
    FILTERS,
    Hires,
    OnePass,
    Passes,
    Tiles,
    counted,
    tile_boxes,
)
from services.inference.worker.pipeline_call import WEBUI, PipelineCall, Texts
from services.inference.worker.prompts import plain
from services.inference.worker.reports import Reports
from services.inference.worker.rows import Row, Standing
from services.inference.worker.weights import LoadedModel
from services.rpc.errors import invalid

SEEDS = 2**32
HIRES_STRENGTH = 0.7
MOST_TILED_PIXELS = 4096 * 4096


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
        model = assignment.model
        asked = _readable(assignment.generation, loaded.family)
        self._unread = list(notes.of_prompts(assignment.generation, asked))
        generation, inputs, self._close_up = _prepared(asked, inputs)
        operation = _operation(generation, inputs)
        loaded.require(operation)
        _require_few(inputs.references, loaded.family, operation)
        self._loaded, self._model, self._generation = loaded, model, generation
        self._inputs, self._reports, self._extras = inputs, reports, extras
        self._choice = _choice(generation, loaded.family)
        self._shape = _shape(generation, model, loaded.family, inputs)
        usable, self._clamped = generation, list[ParameterNote]()
        if inputs.image is not None:
            usable, self._clamped = at_least_one_step(generation)
        treated = filled(inputs, generation.mask_treatment.fill, generation.seed)
        self._canvas = _canvas(usable, operation, self._shape, treated, loaded)
        self._started = time.monotonic()
        count = max(1, generation.image_count)
        self._seeds = [(generation.seed + k) % SEEDS for k in range(count)]
        self._steps = [0] * count
        self._steps_in_all = 0
        self._texts = [Texts(), Texts()]
        self._passes = [self._new_passes(index) for index in range(count)]
        self.rows = [
            Row(
                passes.draw,
                Standing(
                    priority=assignment.priority,
                    deadline=reports.deadline,
                    remaining_steps=generation.step_count,
                ),
                # Where each needs the model to itself, no two rows have the same variant.
                (extras.adapters, seed, id(self))
                if loaded.acceleration.rows_alone
                else extras.adapters,
            )
            for passes, seed in zip(self._passes, self._seeds, strict=True)
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
        images = [self._finished(row.picture) for row in self.rows]
        call, drawn = self._passes[0].call, self._passes[0].drawn
        receipt = [
            *self._unread,
            *self._clamped,
            *self._extras.notes,
            *notes.of_size(self._shape, self._model),
            *notes.of_own_size(drawn, self._shape),
            *notes.of_inputs(self._inputs, self._shape),
            *notes.of_unused(self._generation, self._loaded.family),
            *notes.of_schedule(self._choice, call.pipeline.scheduler.config),
            *notes.of_interruption(sum(self._steps), self._steps_in_all),
            *notes.of_acceleration(self._loaded.acceleration),
        ]
        seconds = time.monotonic() - self._started
        return Drawing(images, self._seeds, call.sampler, receipt, inference_seconds=seconds)

    def abandon(self) -> None:
        """End every row where it stands."""
        for row in self.rows:
            row.abandon()
            self.forget(row)

    def _new_passes(self, index: int) -> Passes:
        if self._generation.HasField("tiles") and self._inputs.image:
            return self._new_tiles(index, self._inputs.image)
        planned = [self._generation.step_count, 0]
        first = OnePass(self._new_call(index, self._canvas, self._shape, planned, 0))
        if not self._generation.HasField("hires"):
            return first
        hires = self._generation.hires
        size = Size(hires.width_px, hires.height_px)
        generation = second_pass(self._generation)
        planned[1] = max(1, int(generation.step_count * generation.strength))

        def again(enlarged: Image.Image) -> OnePass:
            return self._over(enlarged, generation, index, planned, 1)

        drawn = again if generation.strength else None
        return Hires(first, size, FILTERS[hires.resampling], drawn)

    def _new_tiles(self, index: int, image: Image.Image) -> Tiles:
        tiles, generation = self._generation.tiles, self._canvas.generation
        factor = tiles.factor if tiles.HasField("factor") else 2.0
        overlap = tiles.overlap_px if tiles.HasField("overlap_px") else 64
        size = Size(*(max(1, round(side * factor)) for side in image.size))
        if size.width_px * size.height_px > MOST_TILED_PIXELS:
            raise invalid(
                "generation.tiles.factor",
                f"the enlarged image would have {size} pixels; at most {MOST_TILED_PIXELS} in all",
                error_reason_pb2.ERROR_REASON_FIELD_OUT_OF_RANGE,
            )
        boxes = tile_boxes(size, self._shape.requested, overlap)
        planned = [max(1, int(generation.step_count * generation.strength))] * len(boxes)

        def each(number: int, tile: Image.Image) -> OnePass:
            return self._over(tile, generation, index, planned, number)

        enlarged = resized(image, size, FILTERS[tiles.resampling])
        return Tiles(enlarged, boxes, overlap, each)

    def _over(
        self,
        picture: Image.Image,
        generation: generation_pb2.Generation,
        index: int,
        planned: list[int],
        number: int,
    ) -> OnePass:
        """Make a pass that draws a picture anew, in its own size."""
        usable = generation_pb2.Generation()
        usable.CopyFrom(at_least_one_step(generation)[0])
        usable.width_px, usable.height_px = picture.size
        inputs = Inputs(image=picture)
        shape = _shape(usable, self._model, self._loaded.family, inputs)
        operation = model_pb2.OPERATION_IMAGE_TO_IMAGE
        canvas = _canvas(usable, operation, shape, inputs, self._loaded)
        return OnePass(self._new_call(index, canvas, shape, planned, number))

    def _new_call(
        self, index: int, canvas: Canvas, shape: Frame, planned: list[int], number: int
    ) -> PipelineCall:
        return PipelineCall(
            loaded=self._loaded,
            extras=self._extras,
            canvas=canvas,
            choice=self._choice,
            shape=shape,
            index=index,
            seed=self._seeds[index],
            preview_count=0 if number else self._generation.preview_count,
            texts=self._texts[min(number, 1)],
            reports=self._reports,
            on_step=counted(self._on_step, planned, number),
        )

    def _on_step(self, index: int, done: int, each: int) -> int:
        self._steps[index] = done
        step, count = sum(self._steps), len(self._steps) * each
        self._steps_in_all = count
        self._reports.step(step, count)
        if step == count:
            self._reports.phase(Progress.PHASE_DECODING)
        return step

    def _finished(self, result: Image.Image) -> Image.Image:
        if self._close_up:
            return self._close_up.back(result)
        if not (self._inputs.image and self._inputs.mask):
            return result
        # The decoder does not give back what the encoder took: what is kept is the input's.
        kept = resized(self._inputs.image, self._shape.requested)
        mask = resized(self._inputs.mask, self._shape.requested, Image.Resampling.NEAREST)
        return Image.composite(result, kept, mask)


def _readable(generation: generation_pb2.Generation, family: Family) -> generation_pb2.Generation:
    """Leave the signs out of the prompts where the family's encoder does not know them."""
    if generation.prompt_syntax != WEBUI or family.reads_attention:
        return generation
    read = generation_pb2.Generation()
    read.CopyFrom(generation)
    for message in (read, read.hires) if read.HasField("hires") else (read,):
        message.prompt = plain(message.prompt)
        message.negative_prompt = plain(message.negative_prompt)
    return read


def _prepared(
    generation: generation_pb2.Generation, inputs: Inputs
) -> tuple[generation_pb2.Generation, Inputs, CloseUp | None]:
    """Turn to the part of the picture that is drawn, if it is a part."""
    treatment = generation.mask_treatment
    if not (inputs.image and inputs.mask and treatment.HasField("padding_px")):
        return generation, inputs, None
    size = Size(generation.width_px, generation.height_px)
    part = close_up(inputs, treatment.padding_px, size)
    if part:
        return generation, part.inputs(inputs), part
    # AUTOMATIC1111 draws the whole picture where the mask is empty.
    whole = generation_pb2.Generation()
    whole.CopyFrom(generation)
    whole.operation, whole.mask = model_pb2.OPERATION_IMAGE_TO_IMAGE, ""
    return whole, replace(inputs, mask=None), None


def second_pass(generation: generation_pb2.Generation) -> generation_pb2.Generation:
    """Return what the hires pass draws."""
    again, hires = generation_pb2.Generation(), generation.hires
    again.CopyFrom(generation)
    again.prompt = hires.prompt or generation.prompt
    again.negative_prompt = hires.negative_prompt or generation.negative_prompt
    again.strength = hires.strength if hires.HasField("strength") else HIRES_STRENGTH
    if hires.step_count:
        again.step_count = hires.step_count
    return again


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
