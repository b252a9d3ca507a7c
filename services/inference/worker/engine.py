"""
The engine: draws with the models of one device, one denoising step at a time.

Every drawing is taken apart into rows, one an image. A step answers rows that ask for the same
shape of the same denoiser with one forward, whoever they belong to and however far they are; each
goes on from there by itself, to its next step or to its picture.

Importing this module imports torch, which takes seconds: ``device`` does it in its own thread. All
methods run in that thread.
"""

import gc
import pathlib
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

import diffusers
import structlog
import torch
import transformers

from pictor.errors.v1 import error_reason_pb2
from pictor.worker.v1 import worker_pb2
from services.inference.worker.batches import Batch
from services.inference.worker.drawing import Drawing
from services.inference.worker.drawing_in_progress import DrawingInProgress
from services.inference.worker.evaluations import Answers
from services.inference.worker.extras import Shelf
from services.inference.worker.inputs import Inputs
from services.inference.worker.memory import budget
from services.inference.worker.order import Timings, choose
from services.inference.worker.reports import Reports
from services.inference.worker.residency import Residency
from services.inference.worker.rows import Row
from services.inference.worker.weights import LoadedModel
from services.rpc.errors import Exhausted, SuiteError

BATCH_ROWS = 8
# What libraries say of a full memory without an error class of its own.
FULL = ("not enough memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")

log = structlog.get_logger()


@dataclass(eq=False)
class Underway:
    """A drawing in progress, and who waits for it."""

    drawing: DrawingInProgress
    outcome: "Future[Drawing]"
    load_seconds: float


class Engine:
    """
    Draws with the models that are loaded on one device.

    Args:
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        folders: The model folders.
        batch_rows: How many images share a forward at most.
        device_bytes: Device memory that models may take; None: a share of what is free.
        host_bytes: Likewise of the host, for models that have left the device.

    Attributes:
        residency: The models.
    """

    def __init__(
        self,
        device: str,
        folders: Sequence[pathlib.Path],
        batch_rows: int = BATCH_ROWS,
        device_bytes: int | None = None,
        host_bytes: int | None = None,
    ) -> None:
        self._device = _device(device)
        self._batch_rows = batch_rows
        self._shelf = Shelf(folders)
        bounds = budget(self._device, device_bytes, host_bytes)
        self.residency = Residency(self._device, folders, bounds)
        self._rows: dict[Row, Underway] = {}
        self._batches: dict[object, Batch] = {}
        self._most_rows: dict[object, int] = {}
        self._timings = Timings()
        for library in (diffusers, transformers):
            library.logging.set_verbosity_error()
            library.logging.disable_progress_bar()
        log.info("device.ready", device=self.device)

    @property
    def device(self) -> str:
        """The device's name: ``cpu``, ``cuda:0``, ``mps``."""
        return str(self._device)

    @property
    def is_busy(self) -> bool:
        """Whether there is a step to take."""
        return bool(self._rows)

    def begin(
        self,
        loaded: LoadedModel,
        assignment: worker_pb2.Assignment,
        inputs: Inputs,
        reports: Reports,
        outcome: "Future[Drawing]",
        *,
        load_seconds: float = 0.0,
    ) -> None:
        """
        Take up a drawing.

        Args:
            loaded: The model, in use by this drawing; it is released at the drawing's end.
            assignment: Says what to draw.
            inputs: The pictures to start from.
            reports: Is told how far it is; stopping it ends the drawing at its next step.
            outcome: Gets the drawing, or the error that ended it.
            load_seconds: How long reading the model took.
        """
        try:
            extras = self._shelf.find(assignment.generation, loaded)
            drawing = DrawingInProgress(loaded, assignment, inputs, reports, extras)
        except Exception as error:  # noqa: BLE001 - it goes to who waits for the drawing
            self.residency.release(loaded.name)
            outcome.set_exception(error)
            return
        underway = Underway(drawing, outcome, load_seconds)
        self._rows |= dict.fromkeys(drawing.rows, underway)

    def step(self) -> None:
        """Begin what is new, and take one step with those rows whose turn it is."""
        with torch.no_grad():
            self._end_unwanted()
            for row in [row for row in self._rows if row.is_new]:
                self._go_on(row)
            if waiting := list(self._rows):
                self._answer(choose(waiting, self._most, self._timings))
            self._forget_batches()

    def _answer(self, rows: Sequence[Row]) -> None:
        key, started = rows[0].key, time.monotonic()
        if rows[0].module is None:
            self._go_on(rows[0])
            self._timings.note(key, 1, time.monotonic() - started)
            return
        try:
            self._rows[rows[0]].drawing.turn_to(rows[0])
            answers = self._batch(rows[0]).forward({row: row.asked for row in rows})
        except Exception as error:  # noqa: BLE001 - it goes to whose row it is
            self._bear(rows, error)
            return
        for row in rows:
            self._go_on(row, answers[row])
        self._timings.note(key, len(rows), time.monotonic() - started)

    def _bear(self, rows: Sequence[Row], error: Exception) -> None:
        """End the row that cannot be answered; where there are several, find out which it is."""
        key = rows[0].key
        self._batches.pop(key, None)
        told = self._told(error)
        if len(rows) == 1:
            self._end(self._rows[rows[0]], told)
            return
        half = len(rows) // 2
        if isinstance(told, Exhausted):
            self._most_rows[key] = half
            log.warning("batch.split", rows=len(rows), most=half)
        for part in (rows[:half], rows[half:]):
            # A drawing's other rows end with the first that fails.
            if left := [row for row in part if row in self._rows]:
                self._answer(left)

    def _go_on(self, row: Row, answers: Answers = ()) -> None:
        underway = self._rows.get(row)
        if underway is None:
            return
        try:
            if row.module is None:
                # It encodes its prompt, or calls its denoiser itself.
                underway.drawing.turn_to(row)
            row.go_on(answers)
            if row.is_done:
                del self._rows[row]
                underway.drawing.forget(row)
            if underway.drawing.is_done:
                result = underway.drawing.result()
                self.residency.release(underway.drawing.model)
                underway.outcome.set_result(replace(result, load_seconds=underway.load_seconds))
        except Exception as error:  # noqa: BLE001 - it goes to whose row it is
            self._end(underway, self._told(error))

    def fail(self, error: Exception) -> None:
        """End everything that is under way: something went wrong that is no row's own fault."""
        for underway in dict.fromkeys(self._rows.values()):
            self._end(underway, error)
        self._rows.clear()
        self._batches.clear()

    def _end(self, underway: Underway, error: Exception) -> None:
        for row in underway.drawing.rows:
            self._rows.pop(row, None)
        try:
            underway.drawing.abandon()
        except Exception:
            # What cleaning up raises must not keep the caller waiting.
            log.exception("drawing.not_abandoned")
        self.residency.release(underway.drawing.model)
        underway.outcome.set_exception(error)

    def _end_unwanted(self) -> None:
        for underway in dict.fromkeys(self._rows.values()):
            try:
                underway.drawing.check()
            except SuiteError as error:
                self._end(underway, error)

    def _batch(self, row: Row) -> Batch:
        if row.key not in self._batches:
            assert row.module is not None
            self._batches[row.key] = Batch(row.module, bucketed=self._rows[row].drawing.bucketed)
        return self._batches[row.key]

    def _forget_batches(self) -> None:
        used = {row.key for row in self._rows}
        for key in set(self._batches) - used:
            del self._batches[key]

    def _most(self, key: object) -> int:
        return self._most_rows.get(key, self._batch_rows)

    def _told(self, error: Exception) -> Exception:
        """Say it clearly if the device's memory is full, and free what can be freed."""
        told = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not told and not any(words in str(error) for words in FULL):
            return error
        error.__traceback__ = None  # its frames hold the tensors
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return Exhausted(
            f"device {self.device} has not enough memory for this job; ask for fewer pixels",
            reason=error_reason_pb2.ERROR_REASON_DEVICE_OUT_OF_MEMORY,
        )


def _device(name: str) -> torch.device:
    if name == "auto":
        mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", 0)
    return device
