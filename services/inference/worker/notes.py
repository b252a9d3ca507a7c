"""Notes for a job's receipt: what the device process translated, clamped or ignored, and why."""

from collections.abc import Iterator, Mapping
from typing import Any

from pictor.catalog.v1 import model_pb2
from pictor.inference.v1 import generation_pb2
from pictor.inference.v1.job_pb2 import ParameterNote
from services.inference.samplers import Choice
from services.inference.worker.acceleration import Acceleration
from services.inference.worker.families.family import Family
from services.inference.worker.frames import Frame, Size
from services.inference.worker.inputs import Inputs

VALUE_CHARS = 100
# Optional fields that a family may lack. Sizes, seeds and images every family has.
OPTIONAL = ("negative_prompt", "guidance_scale", "loras", "sampler", "schedule", "clip_skip")


def of_size(shape: Frame, model: model_pb2.Model) -> Iterator[ParameterNote]:
    """Say that the model drew another size than was asked for."""
    if shape.canvas == shape.requested or not model.HasField("native_size"):
        return
    if shape.enlarged:
        reason = f"the model draws {shape.canvas}; {_enlargement(shape)}"
    else:
        reason = (
            f"the model draws {shape.canvas}; the input image was scaled to"
            f" {shape.inputs.scaled} and the result back with Lanczos resampling"
        )
    yield _note(
        ParameterNote.TREATMENT_TRANSLATED, "size", str(shape.requested), str(shape.canvas), reason
    )


def of_own_size(drawn: Size, shape: Frame) -> Iterator[ParameterNote]:
    """Say that the pipeline drew another size than it was given."""
    if drawn == shape.canvas:
        return
    reason = (
        f"the model chose {drawn}; the result was scaled to {shape.canvas} with Lanczos resampling"
    )
    treatment = ParameterNote.TREATMENT_TRANSLATED
    yield _note(treatment, "size", str(shape.requested), str(drawn), reason)


def of_inputs(inputs: Inputs, shape: Frame) -> Iterator[ParameterNote]:
    """Say that an input image had another size than the result."""
    if not inputs.image or inputs.image.size == shape.requested:
        return
    given = str(Size(*inputs.image.size))
    reason = "the input image was scaled to the size of the result with Lanczos resampling"
    treatment = ParameterNote.TREATMENT_TRANSLATED
    yield _note(treatment, "input_images", given, str(shape.requested), reason)


def of_unused(generation: generation_pb2.Generation, family: Family) -> Iterator[ParameterNote]:
    """List what was asked for and has no effect in this family."""
    for field in OPTIONAL:
        value = getattr(generation, field)
        if value and field not in family.uses:
            shown = ", ".join(lora.adapter for lora in value) if field == "loras" else str(value)
            reason = f"models of the family {family.name} are drawn without it"
            yield _note(ParameterNote.TREATMENT_IGNORED, field, shown, "", reason)


def of_interruption(taken: int, count: int) -> Iterator[ParameterNote]:
    """Say that the drawing was ended before its last step."""
    if taken < count:
        reason = "the job was interrupted; the picture is unfinished"
        clamped = ParameterNote.TREATMENT_CLAMPED
        yield _note(clamped, "step_count", str(count), str(taken), reason)


def of_prompts(
    asked: generation_pb2.Generation, drawn: generation_pb2.Generation
) -> Iterator[ParameterNote]:
    """Say that the signs of a prompt were dropped."""
    for field in ("prompt", "negative_prompt"):
        if getattr(asked, field) != getattr(drawn, field):
            reason = "the model's encoder knows no attention; the words are kept, the signs dropped"
            translated = ParameterNote.TREATMENT_TRANSLATED
            yield _note(translated, field, "weighted words", "plain words", reason)


def of_schedule(choice: Choice, config: Mapping[str, Any]) -> Iterator[ParameterNote]:
    """Say that the model's own sampler does not know the schedule."""
    if all(config.get(key) == value for key, value in choice.schedule.options.items()):
        return
    reason = "the model's own sampler has no such schedule; name a sampler that has"
    yield _note(ParameterNote.TREATMENT_IGNORED, "schedule", choice.schedule.name, "", reason)


def of_acceleration(acceleration: Acceleration) -> Iterator[ParameterNote]:
    """Say which lossy profiles the operator has turned on: the picture is not the plain model's."""
    for words in acceleration.lossy:
        reason = f"the model is served with {words}, which is lossy"
        yield _note(ParameterNote.TREATMENT_TRANSLATED, "model", "", words, reason)


def _enlargement(shape: Frame) -> str:
    placement = shape.enlarged or shape.inputs
    larger = placement.scaled > placement.size
    text = f"{'enlarged' if larger else 'reduced'} to {placement.scaled} with Lanczos resampling"
    if placement.scaled != shape.requested:
        text += f", and its edges extended to {shape.requested}"
    return text


def _note(
    treatment: ParameterNote.Treatment.ValueType,
    parameter: str,
    requested: str,
    used: str,
    reason: str,
) -> ParameterNote:
    return ParameterNote(
        parameter=parameter,
        treatment=treatment,
        requested=requested[:VALUE_CHARS],
        used=used[:VALUE_CHARS],
        reason=reason,
    )
