"""Applies the profiles that a model's record asks for, and keeps what the engine must heed."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
import torch

from pictor.catalog.v1 import model_pb2
from services.inference.worker.checkpoints import unreadable
from services.inference.worker.profiles import profiles
from services.inference.worker.profiles.profile import (
    Effect,
    Profile,
    Refused,
    Target,
)
from services.rpc.errors import Internal

log = structlog.get_logger()


@dataclass(frozen=True)
class Acceleration:
    """
    What has been done to a loaded model.

    Attributes:
        effects: What each profile has done, by the words of the record, e.g. ``attention=flex``.
    """

    effects: tuple[tuple[str, Effect], ...] = ()

    @property
    def lossy(self) -> list[str]:
        """Those of which pictures differ from the plain model's."""
        return [asked for asked, effect in self.effects if effect.lossy]

    @property
    def bucketed(self) -> bool:
        """Whether batches should have few different sizes, padded where need be."""
        return any(effect.bucketed for _, effect in self.effects)

    @property
    def rows_alone(self) -> bool:
        """Whether a forward pass must hold the rows of one image only, named by ``turn_to``."""
        return any(effect.rows_alone for _, effect in self.effects)

    @property
    def takes_adapters(self) -> bool:
        """Whether LoRAs may be added to the model."""
        return all(effect.takes_adapters for _, effect in self.effects)

    def turn_to(self, row: Hashable) -> None:
        """Say whose the next forward passes are; None where the engine does not tell rows apart."""
        for _, effect in self.effects:
            if effect.row_state:
                effect.row_state.turn_to(row)

    def forget(self, row: Hashable) -> None:
        """Drop what is kept of a row that has ended, or begins anew."""
        for _, effect in self.effects:
            if effect.row_state:
                effect.row_state.forget(row)


def accelerate(model: model_pb2.Model, pipeline: Any, device: torch.device) -> Acceleration:
    """
    Apply what the record asks for to a pipeline whose weights are on the device.

    Raises:
        Internal: With WEIGHTS_UNREADABLE, if this device or this model cannot do one of them: a
            model that silently lacks what its operator counts on would be worse.
    """
    if not model.acceleration:
        return Acceleration()
    asked = [(words, *_split(words)) for words in model.acceleration]
    for words, name, _ in asked:
        if name not in profiles():
            known = ", ".join(sorted(profiles()))
            raise _refused(model, words, f"there is no such profile; there are {known}")
    target, effects = _target(pipeline, device), []
    for words, name, option in sorted(asked, key=lambda one: profiles()[one[1]].stage):
        try:
            effects.append((words, _apply(profiles()[name], target, option)))
        except Refused as error:
            raise _refused(model, words, str(error)) from error
    log.info("model.accelerated", model=model.name, profiles=list(model.acceleration))
    return Acceleration(tuple(effects))


def _split(words: str) -> Sequence[str]:
    name, _, option = words.partition("=")
    return name, option


def _apply(profile: Profile, target: Target, option: str) -> Effect:
    if target.device.type not in profile.devices:
        able = ", ".join(sorted(profile.devices))
        raise Refused(f"device {target.device} cannot do it; it is for {able}")
    return profile.apply(target, option)


def _target(pipeline: Any, device: torch.device) -> Target:
    parts = pipeline.components
    denoiser = parts.get("transformer") or parts.get("unet")
    return Target(denoiser, parts.get("vae"), device, denoiser.dtype)


def _refused(model: model_pb2.Model, words: str, why: str) -> Internal:
    return unreadable(model.name, f"its record asks for acceleration {words!r}: {why}")
