"""Makes a job's own scheduler from the model's config and the sampler that the request names."""

import inspect
from collections.abc import Mapping
from typing import Any

import diffusers
import torch

from services.inference.samplers import Choice

# What is left of the signal where the model was trained with none: a noise of 80, which others too
# take for infinite. diffusers' own 4096 is more than Heun can bear: in its first step the error of
# the model's first guess would be multiplied.
LEAST_SIGNAL = 1 / (80.0**2 + 1)


def new_scheduler(config: Mapping[str, Any], choice: Choice) -> Any:
    """
    Make a scheduler for one drawing; schedulers keep state, so none is used twice.

    The model's own config is kept under the sampler's options: how the model was trained
    (v-prediction, zero terminal signal, trailing steps) holds for every sampler.

    Args:
        config: The config of the scheduler that came with the model.
        choice: The request's sampler and schedule.
    """
    name = choice.sampler.scheduler if choice.sampler else str(config["_class_name"])
    cls = getattr(diffusers, name)
    known = inspect.signature(cls.__init__).parameters
    options = {key: value for key, value in choice.options.items() if key in known}
    if config.get("rescale_betas_zero_snr") and "rescale_betas_zero_snr" not in known:
        options["trained_betas"] = _rescaled_betas(config)
    return cls.from_config(config, **options)


def _rescaled_betas(config: Mapping[str, Any]) -> list[float]:
    """Compute the noise levels of training for a class that cannot rescale them by itself."""
    own = getattr(diffusers, str(config["_class_name"])).from_config(config)
    # Spread over all levels, so that they stay different from each other.
    signal = LEAST_SIGNAL + (1 - LEAST_SIGNAL) * own.alphas_cumprod.double()
    before = torch.cat([torch.ones(1, dtype=signal.dtype), signal[:-1]])
    return [float(beta) for beta in 1 - signal / before]
