"""Latents as the model's decoder takes them: laid out as a picture, at the decoder's own scale."""

import functools
import importlib
from typing import Any

from services.inference.worker.families.tokens import unpacked
from services.inference.worker.frames import Size


def plain(pipeline: Any, latents: Any, _size: Size) -> Any:
    """Undo the scale of latents (n, channels, height, width) that lie as in the picture."""
    return unscaled(pipeline.vae, latents)


def packed(pipeline: Any, latents: Any, size: Size) -> Any:
    """Lay out tokens (n, tokens, 4 * channels) of two by two latents each, and undo the scale."""
    return unscaled(pipeline.vae, unpacked(latents, size))


def unscaled(vae: Any, latents: Any) -> Any:
    """Undo what the pipelines do to latents, so that they are about as large as noise is."""
    mean, deviation = (vae.config.get(name) for name in ("latents_mean", "latents_std"))
    scale = vae.config.get("scaling_factor") or 1
    if mean and deviation:
        deviation = _column(tuple(deviation), latents.device)
        return latents * deviation / scale + _column(tuple(mean), latents.device)
    return latents / scale + (vae.config.get("shift_factor") or 0)


# Copying numbers to a GPU at every preview would make the host wait for it.
@functools.lru_cache(maxsize=64)
def _column(values: tuple[float, ...], device: Any) -> Any:
    return importlib.import_module("torch").tensor(values, device=device)[:, None, None]
