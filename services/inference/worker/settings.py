"""
What a device process reads from the environment.

A module of its own, because who starts a device process checks them without importing the rest.
"""

import os
import pathlib
from dataclasses import dataclass

from services.inference.worker.devices import AUTO, devices
from services.rpc.process import ProcessSettings
from services.rpc.settings import address, count, setting, switch

MODELS = pathlib.Path(__file__).parents[3] / "models"


def folders(text: str) -> tuple[pathlib.Path, ...]:
    """Parse folders separated as in PATH."""
    parts = [part for part in text.split(os.pathsep) if part] or [str(MODELS)]
    return tuple(pathlib.Path(part).expanduser().absolute() for part in parts)


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
