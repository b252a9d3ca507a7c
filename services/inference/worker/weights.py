"""Reads weights into a loaded model, from which each drawing makes a pipeline of its own."""

import inspect
import pathlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import diffusers
import structlog
import torch

from pictor.catalog.v1 import model_pb2
from pictor.catalog.v1.model_pb2 import Operation
from pictor.errors.v1 import error_reason_pb2
from services.inference.samplers import Choice
from services.inference.worker.checkpoints import check, pipeline_class, unreadable
from services.inference.worker.families import families, family_of
from services.inference.worker.families.family import Family
from services.inference.worker.schedulers import new_scheduler
from services.inference.worker.sketches import Sketcher
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
        device: Where the weights are.
        sketcher: Draws previews.
    """

    name: str
    family: Family
    components: Mapping[str, Any]
    settings: Mapping[str, Any]
    scheduler_config: Mapping[str, Any]
    device: torch.device
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
        cls = getattr(diffusers, self.family.pipelines[operation])
        parts = {**self.components, **self.settings, **(self.family.options or {})}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about configs of old models; nobody here can act
            pipeline = cls(
                **_accepted(cls, parts), scheduler=new_scheduler(self.scheduler_config, choice)
            )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def load(model: model_pb2.Model, place: pathlib.Path, device: torch.device) -> LoadedModel:
    """
    Read a checkpoint's weights onto the device.

    Raises:
        Internal: With WEIGHTS_UNREADABLE, if they are not data, of no known family, or damaged.
    """
    family = _family(model, place)
    check(place, model.name, family.left_out)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pipeline = _read(family, place, device).to(device)
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
    )


def _family(model: model_pb2.Model, place: pathlib.Path) -> Family:
    known = families()
    found = known.get(model.family) or family_of(pipeline_class(place, model.name))
    if not found:
        stated = model.family or pipeline_class(place, model.name) or "a file without a family"
        raise unreadable(model.name, f"no family draws with {stated}; there are {', '.join(known)}")
    return found


def _read(family: Family, place: pathlib.Path, device: torch.device) -> Any:
    default = family.pipelines.get(model_pb2.OPERATION_TEXT_TO_IMAGE) or next(
        iter(family.pipelines.values())
    )
    stated = pipeline_class(place, "")
    cls = getattr(diffusers, stated if stated in family.pipelines.values() else default)
    options = {
        "dtype": torch.float32 if device.type == "cpu" else getattr(torch, family.dtype),
        "local_files_only": True,
        **_accepted(cls, {**dict.fromkeys(family.left_out), **(family.options or {})}),
    }
    if place.is_file():
        return cls.from_single_file(str(place), **options)
    options |= dict.fromkeys(family.readers)
    pipeline = cls.from_pretrained(
        place, use_safetensors=True, trust_remote_code=False, variant=_variant(place), **options
    )
    pipeline.register_modules(**{name: read(place / name) for name, read in family.readers.items()})
    return pipeline


def _variant(place: pathlib.Path) -> str | None:
    files = [path.name for path in place.rglob("*.safetensors")]
    return "fp16" if files and all(".fp16." in name for name in files) else None


def _accepted(cls: type, parts: Mapping[str, Any]) -> dict[str, Any]:
    known = inspect.signature(cls.__init__).parameters  # type: ignore[misc]  # a class from diffusers
    return {name: part for name, part in parts.items() if name in known}
