"""Insists that a LoRA file is data and fits a model, before it is applied and could change it."""

import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import diffusers
import safetensors
import structlog
import torch
from diffusers.utils import state_dict_utils
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer

from pictor.errors.v1 import error_reason_pb2
from services.inference.adapters import FIELD
from services.rpc.errors import Internal, InvalidRequest, invalid

METADATA_KEY = "lora_adapter_metadata"
# What a file may say about its matrices; anything else could change the model or import code.
PLAIN_METADATA = frozenset(
    {"alpha_pattern", "exclude_modules", "inference_mode", "init_lora_weights", "lora_alpha"}
    | {"lora_bias", "lora_dropout", "peft_type", "peft_version", "r", "rank_pattern"}
    | {"target_modules", "task_type", "use_dora", "use_rslora"}
)
OTHER_KINDS = {"lokr_": "LoKr", "hada_": "LoHa", "dora_scale": "DoRA", ".oft_": "OFT"}

log = structlog.get_logger()


def unreadable(name: str, model: str, why: str) -> Internal:
    """Make the error of an adapter's file that cannot be read."""
    return Internal(
        f"adapter {name!r} cannot be loaded: {why}",
        reason=error_reason_pb2.ERROR_REASON_WEIGHTS_UNREADABLE,
        metadata={"model": model},
    )


def misfit(name: str, model: str, why: str) -> InvalidRequest:
    """Make the error of an adapter that was made for another kind of model."""
    return invalid(
        FIELD,
        f"adapter {name!r} does not fit {model.removeprefix('models/')}: {why}",
        error_reason_pb2.ERROR_REASON_FIELD_UNSUPPORTED,
    )


def check_file(name: str, path: pathlib.Path, model: str) -> None:
    """
    Insist that a file is data, and that it asks for nothing but LoRA matrices.

    Raises:
        Internal: With WEIGHTS_UNREADABLE, if it is damaged, or asks for more.
        InvalidRequest: If it is an adapter of another kind.
    """
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            keys, metadata = list(file.keys()), file.metadata() or {}
            said = json.loads(metadata.get(METADATA_KEY, "{}"))
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise unreadable(name, model, "it is not a .safetensors file") from error
    for mark, kind in OTHER_KINDS.items():
        if any(mark in key for key in keys):
            raise misfit(name, model, f"it holds {kind} weights; only LoRA is applied")
    defaults = LoraConfig().to_dict()  # type: ignore[no-untyped-call]  # peft's
    for key, value in said.items() if isinstance(said, dict) else ():
        field = key.rpartition(".")[2]
        if value and field not in PLAIN_METADATA and value != defaults.get(field):
            raise unreadable(name, model, f"it asks for {field[:40]!r}")


def check_layers(
    name: str,
    path: pathlib.Path,
    pipeline: Any,
    parts: Mapping[str, torch.nn.Module],
    model: str,
) -> None:
    """
    Insist that a file's matrices are of the sizes of a model's layers.

    Raises:
        InvalidRequest: If one is not, if none belongs to the model, or some are no LoRA matrices.
        Exception: Of any kind, if diffusers does not know the file's format.
    """
    state = _read(path, pipeline, parts)
    other = next((key for key in state if "lora" not in key), None)
    if other:
        raise misfit(name, model, f"it holds more than LoRA matrices: {other[:100]}")
    total, known = 0, 0
    for part, module in parts.items():
        prefix = f"{part}."
        of_part = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        for layer, why in _compared(module, _as_peft(of_part, module)):
            if why:
                raise misfit(name, model, f"{part}.{layer} {why}")
            total, known = total + 1, known + (why is not None)
    if not known:
        raise misfit(name, model, "it changes no layer that the model has")
    if known < total:
        log.warning("adapter.partial", adapter=name, unknown=total - known)


def _read(
    path: pathlib.Path, pipeline: Any, parts: Mapping[str, torch.nn.Module]
) -> Mapping[str, torch.Tensor]:
    """Read a file's matrices, named as diffusers names them, as ``load_lora_weights`` will."""
    # Only pipelines of two text encoders and a UNet ask for it, for names of other programs.
    blocks = {"unet_config": pipeline.unet.config} if {"unet", "text_encoder_2"} <= {*parts} else {}
    state = pipeline.lora_state_dict(
        str(path.parent),
        weight_name=path.name,
        use_safetensors=True,
        local_files_only=True,
        **blocks,
    )
    matrices: Mapping[str, torch.Tensor] = state[0] if isinstance(state, tuple) else state
    return matrices


def _as_peft(state: Mapping[str, torch.Tensor], module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Name a part's matrices as peft does, in the way in which diffusers will."""
    if not state:
        return {}
    renamed: Any = state_dict_utils
    if isinstance(module, diffusers.ModelMixin):
        named = "lora_A" in next(iter(state))
        return dict(state) if named else renamed.convert_unet_state_dict_to_peft(state)
    state = renamed.convert_state_dict_to_peft(renamed.convert_state_dict_to_diffusers(dict(state)))
    # Newer text encoders lack the level that older files name.
    flat = not hasattr(module, "text_model")
    return {key.removeprefix("text_model.") if flat else key: value for key, value in state.items()}


def _compared(
    module: torch.nn.Module, state: Mapping[str, torch.Tensor]
) -> Iterator[tuple[str, str | None]]:
    """Yield each matrix's layer, and what is wrong with it; None where there is no such layer."""
    layers = dict(module.named_modules())
    for key, matrix in state.items():
        layer, _, kind = key.partition(".lora_")
        if kind not in ("A.weight", "B.weight") or matrix.ndim < 2:
            continue
        target = layers.get(layer)
        if isinstance(target, BaseTunerLayer):
            target = target.get_base_layer()
        weight = getattr(target, "weight", None)
        if weight is None:
            yield layer, None
            continue
        side = 1 if kind == "A.weight" else 0
        takes, has = weight.shape[side], matrix.shape[side]
        word = ("outputs", "inputs")[side]
        yield layer, "" if takes == has else f"has {takes} {word}, the adapter's matrix {has}"
