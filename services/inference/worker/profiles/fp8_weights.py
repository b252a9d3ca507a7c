"""
fp8-weights: weights of the denoiser kept in eight bits, widened layer by layer when they are used.

Halves the memory of bfloat16 at the cost of some time for each forward pass, and of precision:
three bits of mantissa. Norms and embeddings stay as they are.
"""

import torch

from services.inference.worker.profiles.profile import Effect, Profile, Stage, Target, no_option


def apply(target: Target, option: str) -> Effect:
    """Cast the weights, and hook each layer."""
    no_option(option)
    target.denoiser.enable_layerwise_casting(
        storage_dtype=torch.float8_e4m3fn, compute_dtype=target.dtype
    )
    # An adapter takes the dtype of the layer that it joins, in which nothing can be computed.
    return Effect(lossy=True, takes_adapters=False)


PROFILE = Profile(
    name="fp8-weights",
    stage=Stage.WEIGHTS,
    devices=frozenset({"cpu", "cuda"}),
    apply=apply,
)
