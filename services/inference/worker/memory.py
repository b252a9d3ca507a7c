"""How much memory there is, how much models may take, and how much they take while they load."""

import contextlib
import pathlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

# What is left is for activations, the libraries, and everybody else.
DEVICE_SHARE = 0.8
HOST_SHARE = 0.4
CPU_SHARE = 0.6
UNITS = {"TiB": 2**40, "GiB": 2**30, "MiB": 2**20, "KiB": 2**10, "": 1}
TICK_SECONDS = 0.25
MEMINFO = pathlib.Path("/proc/meminfo")
STATM = pathlib.Path("/proc/self/statm")
CGROUP = pathlib.Path("/sys/fs/cgroup")
PAGE_BYTES = 4096


@dataclass(frozen=True)
class Budget:
    """
    How much memory models may take.

    Attributes:
        device_bytes: Of the device's memory.
        host_bytes: Of the host's, for models that have left the device; 0 where it is the same.
    """

    device_bytes: int
    host_bytes: int


def budget(device: torch.device, device_bytes: int | None, host_bytes: int | None) -> Budget:
    """Return the operator's numbers, and for those that were left out a share of what is free."""
    if device_bytes is None:
        device_bytes = int(_free_bytes(device))
    if host_bytes is None:
        host_bytes = 0 if device.type == "cpu" else int(HOST_SHARE * available_bytes())
    return Budget(device_bytes, host_bytes)


def available_bytes() -> int:
    """Return how much of the host's memory this process could still take."""
    limits = [_meminfo_available()]
    with contextlib.suppress(OSError, ValueError):
        most = int((CGROUP / "memory.max").read_text())
        limits.append(max(0, most - int((CGROUP / "memory.current").read_text())))
    return min(limits)


def shown(size_bytes: float) -> str:
    """Write a size for people: ``12.1 GiB``."""
    unit, factor = next((u, f) for u, f in UNITS.items() if size_bytes >= f or f == 1)
    return f"{size_bytes / factor:.1f} {unit}" if unit else f"{size_bytes:.0f} bytes"


class Gauge:
    """
    Measures how much memory has been taken since it was made.

    Args:
        device: Weights go there by way of the host.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = self._taken()

    @contextlib.contextmanager
    def told(self, needed: int, progress: Callable[[float], None]) -> Iterator[None]:
        """Tell how much of *needed* has been taken, 0 to 1, several times a second; at last 1."""
        done = threading.Event()
        # What goes to another device is taken twice: on its way, and there.
        whole = max(1, needed * (1 if self._device.type == "cpu" else 2))

        def tick() -> None:
            while not done.wait(TICK_SECONDS):
                progress(min(0.99, max(0.0, (self._taken() - self._before) / whole)))

        ticking = threading.Thread(target=tick, name="gauge", daemon=True)
        ticking.start()
        try:
            yield
        finally:
            done.set()
            ticking.join()
        progress(1.0)

    def _taken(self) -> int:
        there = torch.cuda.memory_allocated(self._device) if self._device.type == "cuda" else 0
        try:
            return there + int(STATM.read_text().split()[1]) * PAGE_BYTES
        except OSError:
            return there


def _free_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return DEVICE_SHARE * torch.mps.recommended_max_memory()
    return CPU_SHARE * available_bytes()


def _meminfo_available() -> int:
    try:
        for line in MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    # Where nobody tells, nothing is bounded.
    return 2**62
