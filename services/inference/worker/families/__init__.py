"""Model families, one file each; a file with a ``FAMILY`` is found without being named anywhere."""

import functools
import importlib
import pkgutil
from collections.abc import Mapping

from services.inference.worker.families.family import Family


@functools.cache
def families() -> Mapping[str, Family]:
    """Return every family by its name."""
    found = {}
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        family = getattr(importlib.import_module(module.name), "FAMILY", None)
        if family:
            found[family.name] = family
    return found


def family_of(pipeline: str) -> Family | None:
    """Return the family that draws with a diffusers pipeline class, or None."""
    return next((f for f in families().values() if pipeline in f.pipelines.values()), None)
