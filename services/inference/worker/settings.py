"""
What a device process reads from the environment.

A module of its own, because who starts a device process checks them without importing the rest.
"""

import os
import pathlib
import re
from dataclasses import dataclass

from services.inference.worker.devices import AUTO, devices
from services.rpc.process import ProcessSettings
from services.rpc.settings import address, count, setting, switch

MODELS = pathlib.Path(__file__).parents[3] / "models"


def folders(text: str) -> tuple[pathlib.Path, ...]:
    """Parse folders separated as in PATH."""
    parts = [part for part in text.split(os.pathsep) if part] or [str(MODELS)]
    return tuple(pathlib.Path(part).expanduser().absolute() for part in parts)


def memory(text: str) -> int | None:
    """Parse a size in bytes: a number and KiB, MiB, GiB, TiB or nothing; None for an empty text."""
    if not text:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]iB)?", text)
    if not match:
        raise ValueError("must be a size such as 20GiB, 512MiB or 1000000000")
    exponents = {None: 0, "KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}
    return int(float(match[1]) * 2 ** exponents[match[2]])


@dataclass(frozen=True)
class WorkerSettings(ProcessSettings):
    """
    What a device process reads.

    Raises:
        SettingError: From ``settings.read``, if a value breaks its rule.
    """

    worker_address: str = setting(
        "PICTOR_WORKER_ADDRESS",
        "127.0.0.1:0",
        address,
        "Where the device process listens; port 0 for any.",
    )
    devices: tuple[str, ...] = setting(
        "PICTOR_DEVICE",
        AUTO,
        devices,
        "Devices to draw on, a process each: auto, or cpu, mps, cuda, cuda:N with commas.",
    )
    model_folders: tuple[pathlib.Path, ...] = setting(
        "PICTOR_MODEL_FOLDERS",
        "",
        folders,
        "Folders of weights, separated as in PATH; empty: models/ beside services/.",
    )
    batch_rows: int = setting(
        "PICTOR_BATCH_ROWS",
        "8",
        count,
        "How many images share a forward of the model at most.",
    )
    device_memory: int | None = setting(
        "PICTOR_DEVICE_MEMORY",
        "",
        memory,
        "Device memory that models may take, e.g. 20GiB; empty: a share of what is free.",
    )
    host_memory: int | None = setting(
        "PICTOR_HOST_MEMORY",
        "",
        memory,
        "Host memory for models that made room on a GPU; empty: a share of what is free.",
    )
    keep: bool = setting(
        "PICTOR_WORKER_KEEP",
        "false",
        switch,
        "Whether the device process goes on when its standard input ends.",
    )

    @property
    def device(self) -> str:
        """The device of one process; several are for whoever starts a process for each."""
        return self.devices[0]
