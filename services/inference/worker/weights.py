"""Reads weights into a loaded model, from which each drawing makes a pipeline of its own."""

import pathlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import diffusers
import structlog
import torch

from pictor.catalog.v1 import model_pb2
from pictor.catalog.v1.model_pb2 import Operation
from pictor.errors.v1 import error_reason_pb2
from services.inference.samplers import Choice
from services.inference.worker.acceleration import Acceleration, accelerate
from services.inference.worker.checkpoints import unreadable
from services.inference.worker.families.family import Family
from services.inference.worker.placement import dtype_of
from services.inference.worker.reading import accepted, family_for, read_pipeline
from services.inference.worker.schedulers import new_scheduler
from services.inference.worker.sketches import Sketcher
from services.inference.worker.stepwise import stepwise
from services.rpc.errors import Internal, InvalidRequest

log = structlog.get_logger()


@dataclass(frozen=True)
class LoadedModel:
    """
    A model whose weights are on the device.

    Attributes:
        name: As the catalog has it: ``models/...``.
        family: Says how it is drawn with.
        components: The pipeline's parts without the scheduler, shared by all drawings.
        settings: What else the checkpoint says to the pipelines' constructors.
        scheduler_config: The config of the scheduler that came with the weights.
        device: Where the weights are, or are sent to when they are used.
        offloads: Whether they are on the host until they are used.
        acceleration: What the model's record asked for, and what follows from it.
        sketcher: Draws previews.
    """

    name: str
    family: Family
    components: Mapping[str, Any]
    settings: Mapping[str, Any]
    scheduler_config: Mapping[str, Any]
    device: torch.device
    acceleration: Acceleration = field(default_factory=Acceleration)
    offloads: bool = False
    sketcher: Sketcher = field(default_factory=Sketcher)

    @property
    def configs(self) -> dict[str, Mapping[str, Any]]:
        """The configs of the model's parts, by name."""
        parts = self.components.items()
        configs = {name: getattr(part, "config", None) for name, part in parts}
        # Those of diffusers; transformers' are objects.
        return {name: config for name, config in configs.items() if isinstance(config, Mapping)}

    def require(self, operation: Operation.ValueType) -> None:
        """
        Insist on an operation.

        Raises:
            InvalidRequest: With OPERATION_UNSUPPORTED, if the family lacks it.
        """
        if operation in self.family.pipelines:
            return
        can = ", ".join(Operation.Name(known) for known in self.family.pipelines)
        name = Operation.Name(operation)
        raise InvalidRequest(
            f"family {self.family.name} does not do {name}; it does {can}",
            reason=error_reason_pb2.ERROR_REASON_OPERATION_UNSUPPORTED,
            metadata={"operation": name},
        )

    def pipeline(self, operation: Operation.ValueType, choice: Choice) -> Any:
        """
        Make a pipeline for one drawing: the shared parts, with a scheduler of its own.

        Raises:
            InvalidRequest: With OPERATION_UNSUPPORTED, if the family lacks the operation.
        """
        self.require(operation)
        self.acceleration.forget(None)  # what a canceled drawing has left
        cls = stepwise(getattr(diffusers, self.family.pipelines[operation]))
        parts = {**self.components, **self.settings, **(self.family.options or {})}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about configs of old models; nobody here can act
            pipeline = cls(
                **accepted(cls, parts), scheduler=new_scheduler(self.scheduler_config, choice)
            )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def load(
    model: model_pb2.Model,
    place: pathlib.Path,
    device: torch.device,
    folders: Sequence[pathlib.Path] = (),
    given: Mapping[str, Any] = MappingProxyType({}),
    *,
    offloads: bool = False,
) -> LoadedModel:
    """
    Read a checkpoint's weights onto the device.

    Args:
        model: The catalog's entry.
        place: Where the weights lie.
        device: Where they go.
        folders: Lend what a single file lacks.
        given: Parts that are on the device already.
        offloads: Keep the weights on the host, and send each layer's to the device when it is used:
            slow, for models larger than the device.

    Raises:
        Internal: With WEIGHTS_UNREADABLE, if they are not data, of no known family, or damaged, or
            if the acceleration that the record asks for cannot be had.
    """
    family = family_for(model, place)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dtype = dtype_of(model, family, device)
            pipeline = read_pipeline(model.name, family, place, dtype, folders, given=given)
            if offloads:
                streams = device.type == "cuda"
                pipeline.enable_group_offload(device, offload_type="leaf_level", use_stream=streams)
            else:
                pipeline = pipeline.to(device)
    except (MemoryError, torch.OutOfMemoryError, Internal):
        raise
    except Exception as error:
        log.exception("weights.unreadable", model=model.name)
        why = f"{type(error).__name__} while reading them"
        raise unreadable(model.name, why) from error
    return LoadedModel(
        name=model.name,
        family=family,
        components={
            name: part for name, part in pipeline.components.items() if name != "scheduler"
        },
        settings=pipeline.parameters,
        scheduler_config=pipeline.scheduler.config,
        device=device,
        acceleration=accelerate(model, pipeline, device),
        offloads=offloads,
        sketcher=Sketcher(folders),
    )
