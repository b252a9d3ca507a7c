"""
first-block-cache: steps in which the first block says what it said before are not computed.

The option is the relative change of the first block's residual below which the other blocks' last
residual is used again; more is faster and less exact.

diffusers keeps a residual for each name of a cache context and decides once for a whole batch. The
names are ``cond`` and ``uncond``, whatever is drawn, and most pipelines give none. Here a row of
the engine has names of its own, one for each call at the same timestep, and rows run alone: a
decision for the mean of a batch would be wrong for each of its rows.
"""

import functools
import inspect
from collections.abc import Hashable, Iterator
from typing import Any

from diffusers import FirstBlockCacheConfig
from diffusers.hooks._common import _ALL_TRANSFORMER_BLOCK_IDENTIFIERS
from diffusers.hooks._helpers import TransformerBlockRegistry

from services.inference.worker.profiles.profile import (
    Effect,
    Profile,
    Refused,
    Stage,
    Target,
)

THRESHOLD = 0.05


def apply(target: Target, option: str) -> Effect:
    """Hook the blocks, and name the context of each call."""
    threshold = _threshold(option)
    _require_alike(target.denoiser)
    target.denoiser.enable_cache(FirstBlockCacheConfig(threshold=threshold))  # type: ignore[no-untyped-call]  # diffusers
    contexts = Contexts(target.denoiser)
    # Wrapped, so that the parameters which others look up stay the denoiser's.
    target.denoiser.forward = functools.update_wrapper(
        functools.partial(contexts.forward), target.denoiser.forward
    )
    return Effect(lossy=True, rows_alone=True, row_state=contexts)


class Contexts:
    """
    Gives each call of a denoiser the context of its row.

    Args:
        denoiser: With diffusers' first-block cache.
    """

    def __init__(self, denoiser: Any) -> None:
        self._denoiser = denoiser
        self._forward = denoiser.forward
        self._signature = inspect.signature(denoiser.forward)
        self._states = next(_states(denoiser))
        self._row: Hashable = None
        # Of each row: the timestep of its last call, and how many calls came before at that one.
        self._calls: dict[Hashable, tuple[float, int]] = {}

    def turn_to(self, row: Hashable) -> None:
        """Say whose the next forward passes are."""
        self._row = row

    def forget(self, row: Hashable) -> None:
        """Drop what is kept of a row that has ended. Unknown rows are no error."""
        self._calls.pop(row, None)
        for context in [context for context in self._states if context[0] == row]:
            del self._states[context]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the denoiser in the context of the row, and of the call within its step."""
        timestep = self._signature.bind(*args, **kwargs).arguments["timestep"]
        index = self._index(float(timestep.flatten()[0]))
        with self._denoiser.cache_context((self._row, index)):
            return self._forward(*args, **kwargs)

    def _index(self, timestep: float) -> int:
        last, index = self._calls.get(self._row, (timestep, -1))
        if timestep > last:
            # Noise only falls within a drawing: this is the next one, and nobody ended the last.
            self.forget(self._row)
        index = index + 1 if timestep == last else 0
        self._calls[self._row] = (timestep, index)
        return index


def _threshold(option: str) -> float:
    try:
        value = float(option) if option else THRESHOLD
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise Refused(f"its threshold {option!r} must be a number above 0 and below 1")
    return value


def _require_alike(denoiser: Any) -> None:
    """Insist on blocks that all return their states in the same places: the cache adds them up."""
    kind = type(denoiser).__name__
    blocks = [
        block
        for name, part in denoiser.named_children()
        if name in _ALL_TRANSFORMER_BLOCK_IDENTIFIERS
        for block in part
    ]
    if not hasattr(denoiser, "enable_cache") or len(blocks) < 2:
        raise Refused(f"{kind} has no blocks that it could pass over")
    layouts = set()
    for block in blocks:
        layout = TransformerBlockRegistry.get(type(block))
        layouts.add((layout.return_hidden_states_index, layout.return_encoder_hidden_states_index))
    if len(layouts) > 1:
        raise Refused(f"the blocks of {kind} differ in what they return")


def _states(denoiser: Any) -> Iterator[dict[Any, Any]]:
    """Find what the hooks keep, by context; diffusers has a way to drop all of it only."""
    for part in denoiser.modules():
        registry = getattr(part, "_diffusers_hook", None)
        for hook in registry.hooks.values() if registry else ():
            if manager := getattr(hook, "state_manager", None):
                yield manager._state_cache  # noqa: SLF001 - see above


PROFILE = Profile(
    name="first-block-cache",
    stage=Stage.STEPS,
    devices=frozenset({"cpu", "cuda", "mps"}),
    apply=apply,
)
