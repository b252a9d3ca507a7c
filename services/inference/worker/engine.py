"""
The device: which models are loaded on it, and drawing with them.

Importing this module imports torch, which takes seconds: ``device`` does it in its own thread. All
methods run in that thread.
"""

import gc
import pathlib
import time
from collections.abc import Sequence
from dataclasses import replace

import diffusers
import structlog
import torch
import transformers

from pictor.catalog.v1 import model_pb2
from pictor.errors.v1 import error_reason_pb2
from pictor.inference.v1.progress_pb2 import Progress
from pictor.worker.v1 import worker_pb2
from services.inference.worker.checkpoints import find, unreadable
from services.inference.worker.drawing import Drawing
from services.inference.worker.inputs import Inputs
from services.inference.worker.pipeline_call import draw
from services.inference.worker.reports import Reports
from services.inference.worker.weights import LoadedModel, load
from services.rpc.errors import Exhausted

log = structlog.get_logger()


class Engine:
    """
    Draws with the models that are loaded on one device.

    Args:
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        folders: The model folders.
    """

    def __init__(self, device: str, folders: Sequence[pathlib.Path]) -> None:
        self._device = _device(device)
        self._folders = folders
        self._models: dict[str, LoadedModel] = {}
        for library in (diffusers, transformers):
            library.logging.set_verbosity_error()
            library.logging.disable_progress_bar()
        log.info("device.ready", device=self.device)

    @property
    def device(self) -> str:
        """The device's name: ``cpu``, ``cuda:0``, ``mps``."""
        return str(self._device)

    @property
    def models(self) -> frozenset[str]:
        """The names of the models that are loaded. May be read from any thread."""
        return frozenset(self._models)

    def load(self, model: model_pb2.Model) -> float:
        """
        Load a model, unless it is loaded.

        Returns:
            How long it took, in seconds; 0 where it was loaded before.

        Raises:
            Internal: With WEIGHTS_UNREADABLE.
            Exhausted: With DEVICE_OUT_OF_MEMORY.
        """
        if model.name in self._models:
            return 0.0
        started = time.monotonic()
        place = find(model.checkpoint, self._folders)
        if place is None:
            raise unreadable(model.name, "they are not on this machine")
        try:
            self._models[model.name] = load(model, place, self._device)
        except (MemoryError, RuntimeError) as error:
            self._raise_if_out_of_memory(error)
            raise
        seconds = time.monotonic() - started
        log.info("model.loaded", model=model.name, seconds=round(seconds, 2))
        return seconds

    def draw(self, assignment: worker_pb2.Assignment, inputs: Inputs, reports: Reports) -> Drawing:
        """
        Draw what an assignment asks for, loading its model first if need be.

        Raises:
            SuiteError: As ``load`` and ``pipeline_call.draw`` do.
        """
        reports.start()
        model, load_seconds = assignment.model, 0.0
        if model.name not in self._models:
            reports.phase(Progress.PHASE_LOADING)
            load_seconds = self.load(model)
        started = time.monotonic()
        try:
            drawing = draw(self._models[model.name], model, assignment.generation, inputs, reports)
        except (MemoryError, RuntimeError) as error:
            self._raise_if_out_of_memory(error)
            raise
        seconds = time.monotonic() - started
        return replace(drawing, load_seconds=load_seconds, inference_seconds=seconds)

    def _raise_if_out_of_memory(self, error: Exception) -> None:
        # The CPU's allocator has no error class of its own.
        told = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not told and "not enough memory" not in str(error):
            return
        error.__traceback__ = None  # its frames hold the tensors
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        raise Exhausted(
            f"device {self.device} has not enough memory for this job; ask for fewer pixels",
            reason=error_reason_pb2.ERROR_REASON_DEVICE_OUT_OF_MEMORY,
        ) from None


def _device(name: str) -> torch.device:
    if name == "auto":
        mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", 0)
    return device
