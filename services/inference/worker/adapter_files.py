"""
Finds adapters in the model folders: ``loras/`` and ``embeddings/`` in each of them, at any depth.

An adapter is a .safetensors file and known by its stem, never by a path. Of two files of one name
the first counts: folders in the order of the setting, files in the order of their paths. What is
there is looked up again every few seconds, so a file that is copied into the folder can be used.
"""

import pathlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.inference.adapters import is_name
from services.inference.worker.checkpoints import REFUSED_SUFFIXES

LORAS = "loras"
EMBEDDINGS = "embeddings"
RESCAN_SECONDS = 5.0
SUFFIX = ".safetensors"


@dataclass(frozen=True, order=True)
class AdapterFile:
    """
    A file as it was when it was looked at; one that has been replaced is another.

    Attributes:
        path: Where it lies.
        modified_ns: When it was last written, in nanoseconds since 1970.
        size_bytes: Its length.
    """

    path: pathlib.Path
    modified_ns: int
    size_bytes: int


class AdapterFiles:
    """
    The adapters of one kind on this machine.

    Args:
        folders: The model folders.
        kind: The folder within each of them: LORAS or EMBEDDINGS.
    """

    def __init__(self, folders: Sequence[pathlib.Path], kind: str) -> None:
        self._folders = [folder / kind for folder in folders]
        self._found: dict[str, AdapterFile] = {}
        self._refused: dict[str, str] = {}
        self._scanned_at = float("-inf")

    def find(self, name: str) -> AdapterFile | None:
        """Return an adapter's file as it is now, or None."""
        known = self.all().get(name) or self._again().get(name)
        if known is None or _looked_at(known.path) == known:
            return known
        return self._again().get(name)

    def all(self) -> Mapping[str, AdapterFile]:
        """Return all adapters by name, as they were at most RESCAN_SECONDS ago."""
        if time.monotonic() - self._scanned_at < RESCAN_SECONDS:
            return self._found
        return self._again()

    def refused(self) -> Mapping[str, str]:
        """Return the files' names of adapters that are there in formats that are not read."""
        return self._refused

    def _again(self) -> Mapping[str, AdapterFile]:
        self._found, self._refused = {}, {}
        for path in (p for folder in self._folders for p in sorted(folder.rglob("*"))):
            if not is_name(path.stem) or not path.is_file():
                continue
            if path.suffix.lower() in REFUSED_SUFFIXES:
                self._refused.setdefault(path.stem, path.name)
            elif path.suffix == SUFFIX and (file := _looked_at(path)):
                self._found.setdefault(path.stem, file)
        self._scanned_at = time.monotonic()
        return self._found


def _looked_at(path: pathlib.Path) -> AdapterFile | None:
    try:
        facts = path.stat()
    except OSError:  # it is being replaced
        return None
    return AdapterFile(path, facts.st_mtime_ns, facts.st_size)
