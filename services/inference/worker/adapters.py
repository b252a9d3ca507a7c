"""
LoRA adapters: finds those that a generation names, and makes them act on a loaded model.

An adapter's matrices are put beside the layers that they change, by diffusers and peft, which
replace these layers by wrappers in place: in the denoiser and in the text encoders. There they
stay, so that changing which of them act is a matter of names and scales. While none acts, a wrapper
returns what its layer does, bit by bit. All but ``find`` runs in the device thread.
"""

import itertools
import pathlib
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import diffusers
import structlog
import torch
from diffusers.utils.peft_utils import delete_adapter_layers
from peft.tuners.lora import LoraLayer

from pictor.errors.v1 import error_reason_pb2
from pictor.inference.v1 import generation_pb2
from pictor.inference.v1.job_pb2 import ParameterNote
from services.inference.adapters import FIELD, unknown, weight_of
from services.inference.samplers import resolve
from services.inference.worker.adapter_checks import check_file, check_layers, misfit
from services.inference.worker.adapter_files import LORAS, AdapterFile, AdapterFiles
from services.inference.worker.weights import LoadedModel
from services.rpc.errors import InvalidRequest, SuiteError, invalid

# Kept in a model beside those that act, by number and by what they take of its device.
KEPT = 16
KEPT_BYTES = 2 * 2**30
SHOWN_CHARS = 300
WEBUI = generation_pb2.Generation.PROMPT_SYNTAX_WEBUI

log = structlog.get_logger()


@dataclass(frozen=True, order=True)
class Adapter:
    """
    An adapter with its weight; rows that have the same ones may share a forward pass.

    Attributes:
        name: As the request says.
        weight: -2 to 2, never 0.
        file: Its matrices.
    """

    name: str
    weight: float
    file: AdapterFile


@dataclass
class _Host:
    """A module whose layers have been wrapped: the wrappers, and what acts in them."""

    layers: Sequence[LoraLayer]
    active: tuple[tuple[str, float], ...] | None = None


class Adapters:
    """
    The adapters of one device.

    Args:
        folders: The model folders.
    """

    def __init__(self, folders: Sequence[pathlib.Path]) -> None:
        self._files = AdapterFiles(folders, LORAS)
        self._names = (f"adapter_{number}" for number in itertools.count())
        # By module, not by model: models may share text encoders.
        self._hosts: WeakKeyDictionary[torch.nn.Module, _Host] = WeakKeyDictionary()
        self._loaded: WeakKeyDictionary[torch.nn.Module, OrderedDict[AdapterFile, str]] = (
            WeakKeyDictionary()
        )

    def find(
        self, generation: generation_pb2.Generation, loaded: LoadedModel
    ) -> tuple[Adapter, ...]:
        """
        Return the adapters that a generation is drawn with, in a fixed order.

        A family without adapters has none, which ``notes.of_unused`` says.

        Raises:
            InvalidRequest: With FIELD_UNSUPPORTED, if this machine does not have one of them, and
                the prompt is not read as AUTOMATIC1111 reads it, which draws without it.
        """
        if "loras" not in loaded.family.uses:
            return ()
        found = [(lora, self._files.find(lora.adapter)) for lora in generation.loras]
        for lora, file in found:
            if file is None and generation.prompt_syntax != WEBUI:
                raise self._unknown(lora.adapter)
        return tuple(
            sorted(
                Adapter(lora.adapter, weight_of(lora), file)
                for lora, file in found
                if file and weight_of(lora)
            )
        )

    def passed_over(
        self, generation: generation_pb2.Generation, loaded: LoadedModel
    ) -> list[ParameterNote]:
        """Note the adapters that a generation names and is drawn without; see ``find``."""
        if "loras" not in loaded.family.uses:
            return []
        return [
            ParameterNote(
                parameter="loras",
                treatment=ParameterNote.TREATMENT_IGNORED,
                requested=lora.adapter[:100],
                reason=self._unknown(lora.adapter).message[:300],
            )
            for lora in generation.loras
            if self._files.find(lora.adapter) is None
        ]

    def activate(self, loaded: LoadedModel, chosen: tuple[Adapter, ...]) -> None:
        """
        Make exactly these adapters act on a model's denoiser and text encoders.

        Costs next to nothing where they do already, little where they were loaded before.

        Raises:
            InvalidRequest: With FIELD_UNSUPPORTED, if one does not fit; the model is then as it was
                before, and other adapters may act.
            Internal: With WEIGHTS_UNREADABLE, if a file is not what its name says.
        """
        parts = _parts(loaded)
        if not parts:
            return
        held = self._loaded.setdefault(next(iter(parts.values())), OrderedDict())
        for adapter in chosen:
            if adapter.file not in held:
                held[adapter.file] = self._load(loaded, parts, adapter)
            held.move_to_end(adapter.file)
        self._forget(parts, held, {adapter.file for adapter in chosen})
        self._act(parts, tuple((held[adapter.file], adapter.weight) for adapter in chosen))

    def release(self, loaded: LoadedModel) -> None:
        """Take all adapters out of a model; where memory is short, its next job loads its own."""
        parts = _parts(loaded)
        held = self._loaded.get(next(iter(parts.values()))) if parts else None
        while held:
            self._remove(parts, held.popitem()[1])

    def held_bytes(self, loaded: LoadedModel) -> int:
        """Return about how much of the device's memory a model's adapters take."""
        parts = _parts(loaded)
        held = self._loaded.get(next(iter(parts.values()))) if parts else None
        return sum(file.size_bytes for file in held or ())

    def _load(
        self, loaded: LoadedModel, parts: Mapping[str, torch.nn.Module], adapter: Adapter
    ) -> str:
        name, path = next(self._names), adapter.file.path
        pipeline = loaded.pipeline(next(iter(loaded.family.pipelines)), resolve("", ""))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                check_file(adapter.name, path, loaded.name)
                check_layers(adapter.name, path, pipeline, parts, loaded.name)
                pipeline.load_lora_weights(
                    str(path.parent),
                    weight_name=path.name,
                    adapter_name=name,
                    use_safetensors=True,
                    local_files_only=True,
                )
        except Exception as error:
            self._remove(parts, name)
            # The CPU's allocator has no error class of its own.
            memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
            if memory or "not enough memory" in str(error) or isinstance(error, SuiteError):
                raise
            log.warning("adapter.refused", adapter=adapter.name, error=repr(error)[:SHOWN_CHARS])
            raise misfit(adapter.name, loaded.name, "it cannot be applied") from error
        self._look_again(parts)
        return name

    def _forget(
        self,
        parts: Mapping[str, torch.nn.Module],
        held: OrderedDict[AdapterFile, str],
        needed: set[AdapterFile],
    ) -> None:
        for file in [file for file in held if file not in needed]:
            if len(held) <= KEPT and sum(kept.size_bytes for kept in held) <= KEPT_BYTES:
                return
            self._remove(parts, held.pop(file))

    def _remove(self, parts: Mapping[str, torch.nn.Module], name: str) -> None:
        # An adapter that acts leaves its place to another one, with a warning: none acts then.
        self._look_again(parts)
        self._act(parts, ())
        for module in parts.values():
            delete_adapter_layers(module, name)  # type: ignore[no-untyped-call]  # diffusers'
            # A load that failed early may have left its config without the mark of a loaded one.
            getattr(module, "peft_config", {}).pop(name, None)

    def _look_again(self, parts: Mapping[str, torch.nn.Module]) -> None:
        for module in parts.values():
            layers = [layer for layer in module.modules() if isinstance(layer, LoraLayer)]
            if layers:
                self._hosts[module] = _Host(layers)

    def _act(
        self, parts: Mapping[str, torch.nn.Module], active: tuple[tuple[str, float], ...]
    ) -> None:
        names = [name for name, _ in active]
        for module in parts.values():
            host = self._hosts.get(module)
            if host is None or host.active == active:
                continue
            for layer in host.layers:
                # set_adapter would also visit every parameter, to let its gradient be computed.
                layer._active_adapter = names  # noqa: SLF001
                for name, weight in active:
                    layer.set_scale(name, weight)
            host.active = active

    def _unknown(self, name: str) -> InvalidRequest:
        refused = self._files.refused().get(name)
        if not refused:
            return unknown(name, sorted(self._files.all()))
        why = f"is there as {refused}, which is not data; convert it to .safetensors"
        return invalid(
            FIELD, f"adapter {name!r} {why}", error_reason_pb2.ERROR_REASON_FIELD_UNSUPPORTED
        )


def _parts(loaded: LoadedModel) -> dict[str, torch.nn.Module]:
    """Return the parts of a model that adapters can act on, the denoiser first."""
    cls = getattr(diffusers, next(iter(loaded.family.pipelines.values())))
    names = getattr(cls, "_lora_loadable_modules", ())
    parts = {name: loaded.components.get(name) for name in names}
    return {name: part for name, part in parts.items() if part is not None}
