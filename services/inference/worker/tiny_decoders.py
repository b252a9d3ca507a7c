"""Tiny decoders in the model folders: TAESD and its kin, as diffusers' AutoencoderTiny."""

import pathlib
from collections.abc import Sequence
from typing import Any

import diffusers
import structlog

from services.inference.worker.checkpoints import check_files
from services.rpc.errors import Internal

CONFIG = "config.json"

log = structlog.get_logger()


def find(name: str, folders: Sequence[pathlib.Path]) -> pathlib.Path | None:
    """
    Return the folder of a tiny decoder, or None where there is none.

    Args:
        name: Of its format: ``taesd``.
        folders: The model folders. It lies in one of them, or with its publisher's name before its
            own: ``taesd``, ``madebyollin/taesd``.
    """
    if not name:
        return None
    places = (place for folder in folders for place in (folder / name, *folder.glob(f"*/{name}")))
    return next((place for place in places if (place / CONFIG).is_file()), None)


def read(place: pathlib.Path) -> Any:
    """Read a tiny decoder; None where it cannot be read, which is logged: previews do without."""
    try:
        check_files(place, place.name)
        cls: Any = diffusers.AutoencoderTiny
        return cls.from_pretrained(place, use_safetensors=True, local_files_only=True)
    except Internal as refused:
        log.warning("tiny_decoder.refused", decoder=place.name, why=refused.message)
    except Exception:  # whatever a damaged file makes a library raise
        log.exception("tiny_decoder.unreadable", decoder=place.name)
    return None
