"""The storage back ends, one module each, found by discovery and chosen by URL scheme."""

import importlib
import pkgutil
from collections.abc import Sequence
from typing import Protocol
from urllib.parse import urlsplit

from services.storage.backend import StorageBackend


class BackendModule(Protocol):
    """What each module in this folder offers."""

    SCHEMES: Sequence[str]

    def open(self, url: str) -> StorageBackend:
        """Make the back end behind a URL, or raise ValueError with the rule that it breaks."""


def open_backend(url: str) -> StorageBackend:
    """
    Open the back end that a URL's scheme names.

    Raises:
        ValueError: If no back end has this scheme, or if the URL breaks the back end's rules.
    """
    modules = _by_scheme()
    scheme = urlsplit(url).scheme
    if scheme not in modules:
        known = ", ".join(f"{name}://" for name in sorted(modules))
        raise ValueError(f"no storage back end has the scheme {scheme!r}; there are {known}")
    return modules[scheme].open(url)


def _by_scheme() -> dict[str, BackendModule]:
    found: dict[str, BackendModule] = {}
    for info in pkgutil.iter_modules(__path__, f"{__name__}."):
        module: BackendModule = importlib.import_module(info.name)
        found.update(dict.fromkeys(module.SCHEMES, module))
    return found
