"""
Model families, one file each, found without being named anywhere.

A file with a ``FAMILY`` has one. A file with a function ``derived`` makes one for pipelines that no
``FAMILY`` names: from the name of the pipeline's class and the folder of the checkpoint.
"""

import functools
import importlib
import pathlib
import pkgutil
from collections.abc import Mapping, Sequence
from types import ModuleType

from services.inference.worker.families.family import Family


@functools.cache
def families() -> Mapping[str, Family]:
    """Return every family that is known by its name."""
    found = (getattr(module, "FAMILY", None) for module in _modules())
    return {family.name: family for family in found if family}


def family_of(pipeline: str, place: pathlib.Path | None = None) -> Family | None:
    """
    Return the family that draws with a diffusers pipeline class, or None.

    Args:
        pipeline: The name of the class.
        place: The checkpoint's folder, from which a family may be derived.
    """
    named = (f for f in families().values() if pipeline in f.pipelines.values())
    if found := next(named, None):
        return found
    makers = (getattr(module, "derived", None) for module in _modules() if place)
    made = (maker(pipeline, place) for maker in makers if maker)
    return next((family for family in made if family), None)


def _modules() -> Sequence[ModuleType]:
    names = (module.name for module in pkgutil.iter_modules(__path__, f"{__name__}."))
    return [importlib.import_module(name) for name in names]
