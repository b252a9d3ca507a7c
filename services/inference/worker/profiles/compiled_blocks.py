"""
compile: the denoiser's repeated blocks as compiled code.

One block is compiled for each shape, and all blocks of its kind use it. The first forward pass of a
new shape (size, length of the prompt, rows of the batch) takes seconds to minutes; compiled code is
kept on disk by torch. The option is one of torch.compile's modes.
"""

import functools
import warnings

import torch

from services.inference.worker.profiles.profile import (
    Effect,
    Profile,
    Refused,
    Stage,
    Target,
)

# Modes that capture CUDA graphs are left out: they overwrite what an earlier forward pass returned.
MODES = ("default", "max-autotune-no-cudagraphs")
# Shapes of a block, before torch gives compiling up and runs it as it is; 8 if nothing is said.
SHAPES = 64


def apply(target: Target, option: str) -> Effect:
    """Mark the blocks; they are compiled when they are first called."""
    mode = option or MODES[0]
    if mode not in MODES:
        raise Refused(f"mode {mode!r} is unknown; there are {', '.join(MODES)}")
    kinds = getattr(target.denoiser, "_repeated_blocks", None)
    blocks = [part for part in target.denoiser.modules() if type(part).__name__ in (kinds or ())]
    if not blocks:
        raise Refused(f"{type(target.denoiser).__name__} has no repeated blocks")
    if any(hasattr(part, "_diffusers_hook") for block in blocks for part in block.modules()):
        raise Refused(
            "another profile has hooked the layers, and each hook would end the compiled code"
        )
    if reason := missing(target.device):
        raise Refused(reason)
    limits = torch._dynamo.config  # noqa: SLF001 - where torch documents them
    limits.recompile_limit = max(limits.recompile_limit, SHAPES)
    target.denoiser.compile_repeated_blocks(mode=mode, dynamic=False)
    return Effect(bucketed=True)


@functools.cache
def missing(device: torch.device) -> str:
    """Compile a line for a device, and say why it cannot be done; empty if it can."""
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about torch's own inside
            torch.compile(_one_more, dynamic=False)(torch.zeros(2, device=device))
    except Exception as error:  # noqa: BLE001 - compilers fail in ways of their own
        reason = str(error).strip().partition("\n")[0]
        return f"torch cannot compile for {device} on this machine: {reason}"
    return ""


def _one_more(values: torch.Tensor) -> torch.Tensor:
    return values.sin() + 1


PROFILE = Profile(
    name="compile",
    stage=Stage.GRAPH,
    devices=frozenset({"cpu", "cuda"}),
    apply=apply,
)
