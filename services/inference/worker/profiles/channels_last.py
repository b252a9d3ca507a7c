"""
channels-last: convolutions over memory in which the channels of a pixel lie together.

The layout that convolution kernels want: without it they reorder their input and output each time.
Changes the decoder, and a UNet; transformers have hardly any convolutions.
"""

from typing import Any

import torch

from services.inference.worker.profiles.profile import (
    Effect,
    Profile,
    Refused,
    Stage,
    Target,
    no_option,
)


def apply(target: Target, option: str) -> Effect:
    """Reorder the weights of all modules that have convolutions of pictures."""
    no_option(option)
    parts = [part for part in (target.denoiser, target.decoder) if part and _convolves(part)]
    if not parts:
        raise Refused(
            "neither its denoiser nor its decoder has convolutions of pictures; those of films"
            " know no such layout"
        )
    for part in parts:
        part.to(memory_format=torch.channels_last)
    return Effect()


def _convolves(part: Any) -> bool:
    ranks = {weight.dim() for weight in part.parameters()}
    # torch refuses the whole module for one weight of rank 5.
    return 4 in ranks and 5 not in ranks


PROFILE = Profile(
    name="channels-last",
    stage=Stage.WEIGHTS,
    devices=frozenset({"cpu", "cuda"}),
    apply=apply,
)
