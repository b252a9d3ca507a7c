"""
Samplers and schedules by name: AUTOMATIC1111's names, each with the diffusers class that does it.

Data only. Nothing here imports torch or diffusers, so the inference service checks a request
against the same table from which ``schedulers`` makes the scheduler.
"""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from pictor.errors.v1 import error_reason_pb2
from services.rpc.errors import InvalidRequest, invalid

AUTOMATIC = "automatic"


@dataclasses.dataclass(frozen=True)
class Schedule:
    """
    How the noise levels are spaced.

    Attributes:
        name: As Generation.schedule has it.
        label: As AUTOMATIC1111 shows it.
        options: What it changes in a scheduler's config.
    """

    name: str
    label: str
    options: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Sampler:
    """
    How a step is taken.

    Attributes:
        name: As AUTOMATIC1111 or diffusers has it.
        scheduler: The class in diffusers.
        options: What the name means beyond the class; laid over the model's own config.
        schedules: The schedules that the class knows.
    """

    name: str
    scheduler: str
    options: Mapping[str, Any]
    schedules: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Choice:
    """
    What a request chose.

    Attributes:
        sampler: None where the model's own is kept.
        schedule: The spacing; ``automatic`` is the sampler's own.
    """

    sampler: Sampler | None
    schedule: Schedule

    @property
    def options(self) -> dict[str, Any]:
        """What is laid over the model's scheduler config."""
        return {**(self.sampler.options if self.sampler else {}), **self.schedule.options}


SCHEDULES = {
    schedule.name: schedule
    for schedule in (
        Schedule(AUTOMATIC, "Automatic", {}),
        Schedule("karras", "Karras", {"use_karras_sigmas": True}),
        Schedule("exponential", "Exponential", {"use_exponential_sigmas": True}),
        Schedule("beta", "Beta", {"use_beta_sigmas": True}),
        Schedule("sgm_uniform", "SGM Uniform", {"timestep_spacing": "trailing"}),
        Schedule("simple", "Simple", {"timestep_spacing": "trailing"}),
        Schedule("normal", "Normal", {"timestep_spacing": "linspace"}),
    )
}

_SIGMAS = (AUTOMATIC, "karras", "exponential", "beta")
_SPACINGS = (AUTOMATIC, "sgm_uniform", "simple", "normal")
_ALL = tuple(SCHEDULES)

_MULTISTEP = "DPMSolverMultistepScheduler"
_SINGLESTEP = "DPMSolverSinglestepScheduler"
# Config left over from the model's own class may say otherwise for a class it was not meant for.
_PP = {"algorithm_type": "dpmsolver++", "final_sigmas_type": "zero", "lower_order_final": True}
_SDE = {**_PP, "algorithm_type": "sde-dpmsolver++"}
_UNCLIPPED = {"clip_sample": False}

_NAMED = (
    Sampler("Euler", "EulerDiscreteScheduler", {}, _ALL),
    Sampler("Euler a", "EulerAncestralDiscreteScheduler", {}, _SPACINGS),
    Sampler("DPM++ 2M", _MULTISTEP, {**_PP, "solver_order": 2}, _ALL),
    Sampler("DPM++ 2M SDE", _MULTISTEP, {**_SDE, "solver_order": 2}, _ALL),
    Sampler(
        "DPM++ 2M SDE Heun",
        _MULTISTEP,
        {**_SDE, "solver_order": 2, "solver_type": "heun"},
        _ALL,
    ),
    Sampler("DPM++ 3M SDE", _MULTISTEP, {**_SDE, "solver_order": 3}, _ALL),
    Sampler("DPM++ SDE", _SINGLESTEP, {**_SDE, "solver_order": 2}, _SIGMAS),
    Sampler("DPM++ 2S a", _SINGLESTEP, {**_PP, "solver_order": 2}, _SIGMAS),
    Sampler("Heun", "HeunDiscreteScheduler", _UNCLIPPED, _ALL),
    Sampler("LMS", "LMSDiscreteScheduler", {}, _ALL),
    Sampler("DPM2", "KDPM2DiscreteScheduler", {}, _ALL),
    Sampler("DPM2 a", "KDPM2AncestralDiscreteScheduler", {}, _ALL),
    Sampler("DDIM", "DDIMScheduler", _UNCLIPPED, _SPACINGS),
    Sampler("PLMS", "PNDMScheduler", {"skip_prk_steps": True}, _SPACINGS),
    Sampler("UniPC", "UniPCMultistepScheduler", {"final_sigmas_type": "zero"}, _ALL),
    # The class takes no more steps than this, and its default of 50 is few.
    Sampler("LCM", "LCMScheduler", {**_UNCLIPPED, "original_inference_steps": 200}, _SPACINGS),
    Sampler("DDPM", "DDPMScheduler", _UNCLIPPED, _SPACINGS),
    Sampler("DEIS", "DEISMultistepScheduler", {"algorithm_type": "deis"}, _ALL),
    Sampler("TCD", "TCDScheduler", {**_UNCLIPPED, "original_inference_steps": 200}, _SPACINGS),
)
# A class stands for the first name that uses it: `DPMSolverMultistepScheduler` is DPM++ 2M.
_CLASSES = {
    sampler.scheduler: dataclasses.replace(sampler, name=sampler.scheduler)
    for sampler in reversed(_NAMED)
}
SAMPLERS = {sampler.name: sampler for sampler in (*_NAMED, *reversed(_CLASSES.values()))}


def resolve(sampler: str, schedule: str) -> Choice:
    """
    Find what a request's names mean. A sampler's name may end in a schedule: ``DPM++ 2M Karras``.

    Args:
        sampler: Generation.sampler; empty for the model's own.
        schedule: Generation.schedule; empty for ``automatic``.

    Raises:
        InvalidRequest: With FIELD_UNSUPPORTED, listing the names that there are.
    """
    name, suffix = _split(sampler)
    known = {key.lower(): value for key, value in SAMPLERS.items()}
    if name and name.lower() not in known:
        raise _unsupported("sampler", sampler, [value.name for value in known.values()])
    found = known.get(name.lower())
    wanted = _schedule(schedule or suffix or AUTOMATIC)
    if found and wanted.name not in found.schedules:
        raise invalid(
            "generation.schedule",
            f"sampler {found.name} has no schedule {wanted.name}; it has"
            f" {', '.join(found.schedules)}",
            error_reason_pb2.ERROR_REASON_FIELD_UNSUPPORTED,
        )
    return Choice(found, wanted)


def check_sampler(sampler: str, schedule: str) -> None:
    """
    Check a request's names, as ``resolve`` does.

    Raises:
        InvalidRequest: With FIELD_UNSUPPORTED, listing the names that there are.
    """
    resolve(sampler, schedule)


def available_samplers() -> list[Sampler]:
    """List the samplers by their AUTOMATIC1111 names."""
    return list(_NAMED)


def name_of(scheduler: str) -> str:
    """Return the AUTOMATIC1111 name of a diffusers class, or the class's own where it has none."""
    return next((s.name for s in _NAMED if s.scheduler == scheduler), scheduler)


def _split(sampler: str) -> tuple[str, str]:
    lower = sampler.lower()
    for schedule in SCHEDULES.values():
        for ending in (schedule.label, schedule.name):
            if lower.endswith(f" {ending.lower()}"):
                return sampler[: -len(ending) - 1].rstrip(), schedule.name
    return sampler, ""


def _schedule(name: str) -> Schedule:
    for schedule in SCHEDULES.values():
        if name.lower() in (schedule.name, schedule.label.lower()):
            return schedule
    raise _unsupported("schedule", name, SCHEDULES)


def _unsupported(field: str, value: str, names: Iterable[str]) -> InvalidRequest:
    names = list(names)
    close = difflib.get_close_matches(value, names, n=3, cutoff=0.5)
    listed = [*close, *(name for name in names if name not in close)]
    return invalid(
        f"generation.{field}",
        f"{field} {value[:60]!r} is not known; there are {', '.join(listed)}",
        error_reason_pb2.ERROR_REASON_FIELD_UNSUPPORTED,
    )
