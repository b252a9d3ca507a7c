"""How much of a picture is drawn anew, in steps."""

from pictor.inference.v1 import generation_pb2
from pictor.inference.v1.job_pb2 import ParameterNote


def at_least_one_step(
    generation: generation_pb2.Generation,
) -> tuple[generation_pb2.Generation, list[ParameterNote]]:
    """
    Raise a strength that would leave no step to take, and say so.

    Args:
        generation: One that starts from a picture.

    Returns:
        The generation, a copy if it had to be changed, and the note for the receipt.
    """
    steps, strength = generation.step_count, generation.strength
    if not (steps and generation.HasField("strength")) or int(steps * strength) >= 1:
        return generation, []
    raised = generation_pb2.Generation()
    raised.CopyFrom(generation)
    # A little more than 1 / steps, so that the product does not fall below 1 when it is rounded.
    raised.strength = min(1.0, 1.0 / steps + 1e-6)
    note = ParameterNote(
        parameter="strength",
        treatment=ParameterNote.TREATMENT_CLAMPED,
        requested=f"{strength:g}",
        used=f"{raised.strength:.4g}",
        reason=f"{strength:g} of {steps} steps is less than one step",
    )
    return raised, [note]
