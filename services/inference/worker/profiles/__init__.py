"""Acceleration profiles, one file each; one with a ``PROFILE`` is found without being named."""

import functools
import importlib
import pkgutil
from collections.abc import Mapping

from services.inference.worker.profiles.profile import Profile


@functools.cache
def profiles() -> Mapping[str, Profile]:
    """Return every profile by its name."""
    found = {}
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        profile = getattr(importlib.import_module(module.name), "PROFILE", None)
        if profile:
            found[profile.name] = profile
    return found
