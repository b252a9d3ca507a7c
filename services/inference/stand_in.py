"""
What a model is given to draw when it stands in for another one, whose weights are not here.

The request was admitted by the limits and defaults of the model that it names. Where the stand-in
can do less, the nearest thing that it can do is drawn, and the receipt says so.
"""

from pictor.catalog.v1 import model_pb2
from pictor.inference.v1 import generation_pb2, job_pb2
from services.inference.admission import OPERATION_NAMES

Note = job_pb2.ParameterNote


def adapt(
    generation: generation_pb2.Generation, model: model_pb2.Model
) -> tuple[generation_pb2.Generation, list[job_pb2.ParameterNote]]:
    """
    Bring an admitted generation within what *model* can do.

    Returns:
        The adapted copy, and notes for the receipt.
    """
    adapted = generation_pb2.Generation()
    adapted.CopyFrom(generation)
    notes = [
        *_operation(adapted, model),
        *_images(adapted, model),
        *_adapters(adapted),
        *_numbers(adapted, model),
    ]
    return adapted, notes


def _operation(adapted: generation_pb2.Generation, model: model_pb2.Model) -> list[Note]:
    if adapted.operation in model.operations:
        return []
    has_image = bool(adapted.input_images)
    possible = (
        model_pb2.OPERATION_IMAGE_TO_IMAGE if has_image else model_pb2.OPERATION_TEXT_TO_IMAGE
    )
    if possible not in model.operations:
        return []
    requested, adapted.operation = adapted.operation, possible
    adapted.mask = ""
    adapted.ClearField("mask_treatment")
    note = _translated("operation", OPERATION_NAMES[requested], OPERATION_NAMES[possible])
    return [note]


def _images(adapted: generation_pb2.Generation, model: model_pb2.Model) -> list[Note]:
    given, most = len(adapted.input_images), model.limits.max_input_images
    if given <= most:
        return []
    del adapted.input_images[most:]
    return [
        Note(
            parameter="input_images",
            treatment=Note.TREATMENT_IGNORED,
            requested=f"{given} images",
            used=f"the first {most}",
            reason=f"the stand-in takes at most {most}",
        )
    ]


def _adapters(adapted: generation_pb2.Generation) -> list[Note]:
    requested = ", ".join(lora.adapter for lora in adapted.loras)
    if not requested:
        return []
    del adapted.loras[:]
    reason = "a stand-in draws, and adapters belong to the model that they were made for"
    note = Note(
        parameter="loras",
        treatment=Note.TREATMENT_IGNORED,
        requested=requested[:100],
        reason=reason,
    )
    return [note]


def _numbers(adapted: generation_pb2.Generation, model: model_pb2.Model) -> list[Note]:
    notes = []
    defaults = model.parameter_defaults
    if defaults.HasField("guidance_scale") and adapted.guidance_scale != defaults.guidance_scale:
        # One model's guidance of 30 is another one's 3: the scale belongs to the weights.
        requested, used = adapted.guidance_scale, defaults.guidance_scale
        adapted.guidance_scale = used
        notes.append(_translated("guidance_scale", f"{requested:g}", f"{used:g}"))
    if adapted.input_images and not adapted.HasField("strength"):
        adapted.strength = defaults.strength
    steps, most = adapted.step_count, model.limits.max_step_count
    if steps > most:
        adapted.step_count = most
        notes.append(
            Note(
                parameter="step_count",
                treatment=Note.TREATMENT_CLAMPED,
                requested=str(steps),
                used=str(most),
                reason="the stand-in's most",
            )
        )
    return notes


def _translated(parameter: str, requested: str, used: str) -> Note:
    return Note(
        parameter=parameter,
        treatment=Note.TREATMENT_TRANSLATED,
        requested=requested,
        used=used,
        reason="a stand-in draws, which has its own",
    )
