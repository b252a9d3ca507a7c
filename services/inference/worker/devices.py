"""
Names of devices, one process each, as PICTOR_DEVICE has them; torch is not imported here.

``python -m services.inference.worker.devices`` imports it, and prints how many CUDA devices it
sees: a process that has no use for torch asks it once.
"""

import pathlib
import re

AUTO = "auto"
# Where Linux shows that a machine has a GPU at all: NVIDIA's driver, that of WSL, and AMD's.
NODES = ("nvidia[0-9]*", "dxg", "kfd")


def devices(text: str) -> tuple[str, ...]:
    """Parse names of devices, separated by commas; ``auto`` stands alone."""
    names = tuple(name.strip() for name in text.split(","))
    if names == (AUTO,):
        return names
    if not all(re.fullmatch(r"cpu|mps|cuda(:\d+)?", name) for name in names):
        raise ValueError(
            "must be auto, cpu, mps, cuda or cuda:N, or several with commas, e.g. cuda:0,cuda:1"
        )
    return names


def may_have_gpus(folder: pathlib.Path = pathlib.Path("/dev")) -> bool:
    """Whether counting CUDA devices, which takes seconds, could find any."""
    return any(True for pattern in NODES for _ in folder.glob(pattern))


def further(count: int) -> tuple[str, ...]:
    """Name the devices beside the one that ``auto`` takes, where there are *count* GPUs."""
    return tuple(f"cuda:{index}" for index in range(1, count))


def main() -> None:
    """Print the number of CUDA devices."""
    import torch  # noqa: PLC0415 - this module is imported where torch is not wanted

    print(torch.cuda.device_count())  # noqa: T201 - the parent reads it


if __name__ == "__main__":
    main()
