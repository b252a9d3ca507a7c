"""
What an acceleration profile is: one record in a file of its own, found by discovery.

A profile changes a model when it has been loaded, for all drawings, and says what the engine must
heed from then on. It refuses what it cannot do on this device or to this model, instead of
leaving it as it was.
"""

import enum
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol

import torch


class Refused(Exception):
    """The profile cannot be applied here; says why."""


class Stage(enum.IntEnum):
    """When a profile is applied: what is compiled must have been changed before."""

    WEIGHTS = 1
    KERNELS = 2
    GRAPH = 3
    STEPS = 4


class RowState(Protocol):
    """What a profile keeps of a row from one step to the next."""

    def turn_to(self, row: Hashable) -> None:
        """Say whose the next forward passes are."""

    def forget(self, row: Hashable) -> None:
        """Drop what is kept of a row that has ended. Unknown rows are no error."""


@dataclass(frozen=True)
class Target:
    """
    A model to be accelerated.

    Attributes:
        denoiser: What is called at each step: a UNet or a transformer of diffusers.
        decoder: Makes pictures of latents; None where the pipeline has none.
        device: Where both are.
        dtype: In which the denoiser computes.
    """

    denoiser: Any
    decoder: Any | None
    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True, kw_only=True)
class Effect:
    """
    What a profile has done to a model.

    Attributes:
        lossy: Pictures differ visibly from those without it.
        bucketed: Batches should have few different sizes: each new one costs seconds.
        rows_alone: A forward pass must hold the rows of one image only.
        takes_adapters: LoRAs may still be added.
        row_state: What it keeps of each row; None for nothing.
    """

    lossy: bool = False
    bucketed: bool = False
    rows_alone: bool = False
    takes_adapters: bool = True
    row_state: RowState | None = None


@dataclass(frozen=True)
class Profile:
    """
    A way to make a model faster or smaller, off unless the model's record asks for it.

    Attributes:
        name: As the record has it, before the ``=`` of its option.
        stage: When it is applied among others.
        devices: Types of the devices that can do it: ``cpu``, ``cuda``, ``mps``.
        apply: Changes a model in place. Takes the option, empty where none was given.
            Raises Refused, in whose message neither model nor profile need be named.
    """

    name: str
    stage: Stage
    devices: frozenset[str]
    apply: Callable[[Target, str], Effect]


def no_option(option: str) -> None:
    """
    Insist that a profile without options got none.

    Raises:
        Refused: If it got one.
    """
    if option:
        raise Refused(f"it takes no option, and got {option!r}")
