"""Pipelines that tell of each step: those of diffusers that do not are made to."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

OnStepEnd = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]


@functools.cache
def stepwise(cls: Any) -> Any:
    """
    Return a pipeline class that takes ``callback_on_step_end``: the class itself, if it does.

    Otherwise a subclass, which hears of the steps from the scheduler. Its callback cannot change
    the latents, but can end the call by raising; ``num_timesteps`` is known when it is called.
    """
    if "callback_on_step_end" in inspect.signature(cls.__call__).parameters:
        return cls
    return type(cls.__name__, (cls,), {"__call__": _calling(cls), "num_timesteps": 0})


def _calling(cls: Any) -> Any:
    @functools.wraps(cls.__call__)
    def call(self: Any, *given: Any, callback_on_step_end: OnStepEnd, **named: Any) -> Any:
        take = self.scheduler.step
        self.scheduler.step = _told(self, take, callback_on_step_end)
        try:
            return cls.__call__(self, *given, **named)
        finally:
            self.scheduler.step = take

    return call


def _told(pipeline: Any, take: Any, callback: OnStepEnd) -> Any:
    taken = 0

    # Pipelines look at the signature to see which arguments a step takes.
    @functools.wraps(take)
    def step(output: Any, timestep: Any, *given: Any, **named: Any) -> Any:
        nonlocal taken
        result = take(output, timestep, *given, **named)
        if not taken:
            # Image-to-image leaves out the first ones.
            timesteps = pipeline.scheduler.timesteps
            first = int((timesteps == timestep).nonzero()[0, 0])
            pipeline.num_timesteps = len(timesteps) - first
        taken += 1
        callback(pipeline, taken - 1, timestep, {"latents": result[0]})
        return result

    return step
