"""
attention=BACKEND: another kernel for attention, by diffusers' name for it.

Each is tried on the device before the model is ready, since kernels are particular about devices,
formats, head sizes and masks. Those that diffusers would download are refused: weights are data,
and kernels are code.
"""

import inspect
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from diffusers.models.attention_dispatch import (
    AttentionBackendName,
    attention_backend,
    dispatch_attention_fn,
)

from services.inference.worker.profiles.profile import (
    Effect,
    Profile,
    Refused,
    Stage,
    Target,
)

DOWNLOADED = "_hub"
# The kernels that round queries and keys to integers.
ROUNDING = "sage"
TOKENS, HEADS = 64, 2
USUAL_HEAD = 64


def apply(target: Target, option: str) -> Effect:
    """Set the kernel, for this model alone, and try it."""
    backend = _backend(option)
    if not any(_attends(module) for module in target.denoiser.modules()):
        kind = type(target.denoiser).__name__
        raise Refused(f"the attention of {kind} is always torch's own")
    try:
        # Sets it for all models beside this one; the block puts that right.
        with attention_backend("native"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.denoiser.set_attention_backend(backend.value)
            _try(backend, target)
    except Exception as error:  # kernels fail in ways of their own
        reason = str(error).partition("\n")[0]
        raise Refused(f"{backend.value} does not work here: {reason}") from error
    return Effect(lossy=ROUNDING in backend.value)


def known() -> Iterable[str]:
    """Name the kernels that may be asked for."""
    names = (backend.value for backend in AttentionBackendName)
    return sorted(name for name in names if not name.endswith(DOWNLOADED))


def _backend(option: str) -> AttentionBackendName:
    if option not in known():
        given = f"{option!r} is unknown" if option else "it needs an option"
        raise Refused(f"{given}; there are {', '.join(known())}")
    return AttentionBackendName(option)


def _attends(module: Any) -> bool:
    return hasattr(getattr(module, "processor", None), "_attention_backend")


def _try(backend: AttentionBackendName, target: Target) -> None:
    """Run the kernel once, as the model will."""
    size = target.denoiser.config.get("attention_head_dim")
    shape = (1, TOKENS, HEADS, size if isinstance(size, int) else USUAL_HEAD)
    query = torch.ones(shape, device=target.device, dtype=target.dtype)
    masked = "encoder_hidden_states_mask" in inspect.signature(target.denoiser.forward).parameters
    mask = torch.ones(1, 1, 1, TOKENS, device=target.device, dtype=torch.bool) if masked else None
    with torch.no_grad():
        dispatch_attention_fn(query, query, query, attn_mask=mask, backend=backend)


PROFILE = Profile(
    name="attention",
    stage=Stage.KERNELS,
    devices=frozenset({"cpu", "cuda", "mps"}),
    apply=apply,
)
