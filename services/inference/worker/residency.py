"""
Residency: which models are in the device's memory, and which make room for others.

There is a budget in bytes. A model that is needed is read, and those that were used longest ago
leave until it fits: to the host's memory where that has a budget too, else for good. Pinned models
stay, and so does whatever a drawing uses. Parts with the same content, such as the text encoders of
two checkpoints, are in memory once.

``use`` and ``release`` may be called from any thread; all else from the loader's only.
"""

import gc
import itertools
import pathlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog
import torch

from pictor.catalog.v1 import model_pb2
from pictor.errors.v1 import error_reason_pb2
from services.inference.worker import checkpoints
from services.inference.worker.checkpoints import find, names_of, unreadable
from services.inference.worker.memory import Budget, Gauge, shown
from services.inference.worker.parts import Parts, expected_bytes
from services.inference.worker.placement import dtype_of
from services.inference.worker.reading import family_for
from services.inference.worker.weights import LoadedModel, load
from services.rpc.errors import Exhausted

log = structlog.get_logger()

Progress = Callable[[float], None]
PATIENCE_SECONDS = 0.2


def untold(_fraction: float) -> None:
    """Tell nobody."""


@dataclass
class Resident:
    """
    A model in memory.

    Attributes:
        loaded: The model.
        parts: Identifies the content of its parts.
        storages: The memory of its weights, in bytes by address; looked up once, since adapters
            change a model's layers while another thread draws with it.
        on_device: False while it is parked in the host's memory.
        uses: How many drawings use it.
        used_at: When it was last used, on the monotonic clock, in seconds.
    """

    loaded: LoadedModel
    parts: Parts
    storages: Mapping[int, int]
    on_device: bool = True
    uses: int = 0
    used_at: float = field(default_factory=time.monotonic)


class Residency:
    """
    Holds the models of one device.

    Args:
        device: Where they draw.
        folders: The model folders.
        budget: How much memory they may take.
    """

    def __init__(
        self,
        device: torch.device,
        folders: Sequence[pathlib.Path],
        budget: Budget,
    ) -> None:
        self._device = device
        self._folders = folders
        self._budget = budget
        self._residents: dict[str, Resident] = {}
        self._pinned: frozenset[str] = frozenset()
        # Those that leave as soon as no drawing uses them: nobody may begin to.
        self._leaving: set[str] = set()
        self._changed = threading.Condition()

    @property
    def models(self) -> frozenset[str]:
        """The names of the models that are ready to draw. May be read from any thread."""
        with self._changed:
            return frozenset(n for n, resident in self._residents.items() if resident.on_device)

    @property
    def held_bytes(self) -> int:
        """How much of the device's memory models take; what they share counts once."""
        return _bytes_of(self._residing(on_device=True))

    def use(self, name: str) -> LoadedModel | None:
        """Begin to use a model; None if it is not ready, or is about to leave."""
        with self._changed:
            resident = self._residents.get(name)
            if resident is None or not resident.on_device or name in self._leaving:
                return None
            resident.uses += 1
            resident.used_at = time.monotonic()
            return resident.loaded

    def release(self, name: str) -> None:
        """Stop using a model."""
        with self._changed:
            self._residents[name].uses -= 1
            self._residents[name].used_at = time.monotonic()
            self._changed.notify_all()

    def pin(self, names: Iterable[str]) -> None:
        """Keep these models, and no others, whatever else needs room."""
        with self._changed:
            self._pinned = frozenset(names)

    def lease(
        self,
        model: model_pb2.Model,
        progress: Progress = untold,
        check: Callable[[], None] = lambda: None,
    ) -> tuple[LoadedModel, float]:
        """
        Load a model if need be, making room for it, and begin to use it.

        Waits while what it needs is used by drawings.

        Args:
            model: The catalog's entry.
            progress: Is told how much has been read, 0 to 1; in whatever thread.
            check: Raises if the model is not wanted any more while others are waited for.

        Returns:
            The model, and how long loading took, in seconds.

        Raises:
            Internal: With WEIGHTS_UNREADABLE.
            Exhausted: With DEVICE_OUT_OF_MEMORY, if the budget cannot hold it.
        """
        seconds = self._load(model, progress, check)
        loaded = self.use(model.name)
        assert loaded is not None, "only this thread lets models leave"
        return loaded, seconds

    def load(self, model: model_pb2.Model, progress: Progress = untold) -> bool:
        """
        Load a model if there is room for it beside all others.

        Returns:
            Whether it is ready.

        Raises:
            Internal: With WEIGHTS_UNREADABLE.
            Exhausted: With DEVICE_OUT_OF_MEMORY, if the budget cannot ever hold it.
        """
        self._load(model, progress, None)
        return model.name in self.models

    def unload(self, name: str) -> None:
        """Give a model up, unless a drawing uses it."""
        with self._changed:
            resident = self._residents.get(name)
            if resident and not resident.uses:
                self._drop(name)

    def _load(
        self, model: model_pb2.Model, progress: Progress, check: Callable[[], None] | None
    ) -> float:
        """Load a model; without *check*, only where nobody has to leave for it."""
        if model.name in self.models:
            return 0.0
        if check:
            check()
        started = time.monotonic()
        parked = self._residents.get(model.name)
        try:
            if parked:
                needed = _bytes_of([parked])
                if self._has_room(model.name, needed, check):
                    _move(parked.loaded, self._device)
                    parked.storages = _storages(parked.loaded)
                    parked.on_device = True
            else:
                self._read(model, progress, check)
        finally:
            self._leaving.clear()
        seconds = time.monotonic() - started
        if model.name in self.models:
            log.info("model.loaded", model=model.name, seconds=round(seconds, 2))
        return seconds

    def _read(
        self, model: model_pb2.Model, progress: Progress, check: Callable[[], None] | None
    ) -> None:
        place = find(model.checkpoint, self._folders, names_of(model))
        if place is None:
            raise unreadable(model.name, "they are not on this machine")
        family = family_for(model, place)
        checkpoints.check(place, model.name, family.left_out)
        dtype = dtype_of(model, family, self._device)
        parts = Parts(place, family, str(dtype), tuple(model.acceleration))
        shared = self._shared(parts)
        needed = expected_bytes(place, family, dtype, left_out=shared)
        offloads = self._must_offload(model.name, needed)
        if not offloads and not self._has_room(model.name, needed, check):
            return
        with Gauge(self._device).told(needed, progress):
            loaded = load(model, place, self._device, self._folders, shared, offloads=offloads)
        with self._changed:
            self._residents[model.name] = Resident(loaded, parts, _storages(loaded))

    def _shared(self, parts: Parts) -> dict[str, torch.nn.Module]:
        """Find the parts of models on the device that have the same content."""
        found = {}
        for resident in self._residents.values():
            if resident.on_device:
                for name in resident.parts.same(parts):
                    found[name] = resident.loaded.components[name]
        return found

    def _must_offload(self, name: str, needed: int) -> bool:
        """Say whether a model is larger than the device, and draws from the host's memory."""
        if needed <= self._budget.device_bytes:
            return False
        if needed > self._budget.host_bytes:
            raise self._too_large(name, needed)
        return True

    def _has_room(self, name: str, needed: int, check: Callable[[], None] | None) -> bool:
        """Say whether there is room for so many bytes more, after others have left if they may."""
        while self.held_bytes + needed > self._budget.device_bytes:
            if check is None:
                return False
            self._let_one_leave(name, needed, check)
        return True

    def _let_one_leave(self, name: str, needed: int, check: Callable[[], None]) -> None:
        """Let the model leave that was used longest ago, waiting for its drawings to end."""
        with self._changed:
            able = [
                (bool(resident.uses), resident.used_at, other)
                for other, resident in self._residents.items()
                if resident.on_device and other not in self._pinned
            ]
            if not able:
                raise self._too_large(name, needed)
            leaving = min(able)[2]
            self._leaving.add(leaving)
            while self._residents[leaving].uses:
                check()
                self._changed.wait(PATIENCE_SECONDS)
        # Nobody begins to use what is leaving, and moving it may take seconds.
        self._park_or_drop(leaving)

    def _park_or_drop(self, name: str) -> None:
        resident = self._residents[name]
        staying = [r.loaded for n, r in self._residents.items() if r.on_device and n != name]
        parked = _bytes_of([resident, *self._residing(on_device=False)])
        if resident.loaded.offloads or parked > self._budget.host_bytes:
            self._drop(name)
            return
        _move(resident.loaded, torch.device("cpu"), besides=staying)
        resident.storages = _storages(resident.loaded)
        resident.on_device = False
        log.info("model.parked", model=name)
        self._empty_cache()

    def _drop(self, name: str) -> None:
        with self._changed:
            del self._residents[name]
        self._empty_cache()
        log.info("model.unloaded", model=name)

    def _empty_cache(self) -> None:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _residing(self, *, on_device: bool) -> list[Resident]:
        with self._changed:
            return [r for r in self._residents.values() if r.on_device == on_device]

    def _too_large(self, name: str, needed: int) -> Exhausted:
        pinned = f", and {', '.join(sorted(self._pinned))} stay" if self._pinned else ""
        return Exhausted(
            f"{name.removeprefix('models/')} needs {shown(needed)} of device {self._device};"
            f" PICTOR_DEVICE_MEMORY leaves models {shown(self._budget.device_bytes)}{pinned}",
            reason=error_reason_pb2.ERROR_REASON_DEVICE_OUT_OF_MEMORY,
        )


def _modules(loaded: LoadedModel) -> list[torch.nn.Module]:
    return [part for part in loaded.components.values() if isinstance(part, torch.nn.Module)]


def _storages(loaded: LoadedModel) -> dict[int, int]:
    if loaded.offloads:
        return {}
    tensors = (
        tensor.untyped_storage()
        for module in _modules(loaded)
        for tensor in itertools.chain(module.parameters(), module.buffers())
    )
    return {storage.data_ptr(): storage.nbytes() for storage in tensors}


def _bytes_of(residents: Iterable[Resident]) -> int:
    """Return how much memory the weights of models take; what they share counts once."""
    return sum({k: v for resident in residents for k, v in resident.storages.items()}.values())


def _move(loaded: LoadedModel, device: torch.device, besides: Iterable[LoadedModel] = ()) -> None:
    """Move a model's weights, but not those that it shares with others."""
    shared = {id(module) for other in besides for module in _modules(other)}
    for module in _modules(loaded):
        if id(module) not in shared:
            module.to(device)
