"""Quality, as some public APIs ask for it, in what a diffusion model can spend: steps."""

from collections.abc import Mapping

from pictor.catalog.v1 import model_pb2
from pictor.inference.v1 import generation_pb2, job_pb2

Note = job_pb2.ParameterNote

# Times the model's own number of steps.
EFFORTS: Mapping[str, float] = {
    "auto": 1.0,
    "low": 0.5,
    "medium": 1.0,
    "high": 1.5,
    "xhigh": 2.0,
    "max": 2.0,
}


def spend(
    generation: generation_pb2.Generation, quality: str, model: model_pb2.Model
) -> list[job_pb2.ParameterNote]:
    """
    Set the number of steps that a quality means for a model, unless the request sets one.

    Returns:
        What became of the quality; nothing, where it changes nothing.
    """
    effort, default = EFFORTS[quality], model.parameter_defaults.step_count
    if effort == 1.0:
        return []
    note = Note(parameter="quality", requested=quality)
    if generation.HasField("step_count") or not default:
        note.treatment = Note.TREATMENT_IGNORED
        note.reason = "steps says how many" if default else "the model has no number of steps"
        return [note]
    generation.step_count = min(max(round(default * effort), 1), model.limits.max_step_count)
    note.treatment = Note.TREATMENT_TRANSLATED
    note.used = f"{generation.step_count} steps"
    note.reason = f"{effort:g} times the model's {default} steps"
    return [note]
