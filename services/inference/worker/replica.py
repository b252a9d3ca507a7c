"""Keeps the catalog told of this device process, and loads the models that the catalog desires."""

import asyncio
import contextlib
import pathlib
import time
from collections.abc import Sequence

import structlog

from pictor.catalog.v1 import catalog_service_pb2, catalog_service_pb2_grpc, model_pb2, serving_pb2
from pictor.catalog.v1.serving_pb2 import ServingStatus
from services.inference.worker.adapter_files import EMBEDDINGS, LORAS, AdapterFiles
from services.inference.worker.checkpoints import find, names_of
from services.inference.worker.device import Device
from services.inference.worker.reports import duration
from services.rpc.errors import SuiteError

REPORT_SECONDS = 2.0
TTL_SECONDS = 6.0
# The suite's processes start together, and the first picture waits for the first report.
FIRST_RETRY_SECONDS = 0.1
# A folder that is being copied becomes readable.
RELOAD_SECONDS = 30.0
WITHDRAWAL_SECONDS = 1.0

log = structlog.get_logger()


class Replica:
    """
    The device process as the catalog sees it.

    Args:
        catalog: Knows the models, and which of them ought to be ready.
        device: Loads them.
        replica_id: Names the process.
        folders: The model folders.
    """

    def __init__(
        self,
        catalog: "catalog_service_pb2_grpc.CatalogServiceAsyncStub",
        device: Device,
        replica_id: str,
        folders: Sequence[pathlib.Path],
    ) -> None:
        self._catalog = catalog
        self._device = device
        self._replica_id = replica_id
        self._adapters = AdapterFiles(folders, LORAS)
        self._embeddings = AdapterFiles(folders, EMBEDDINGS)
        self._folders = folders
        self._reachable: dict[str, model_pb2.Model] = {}
        self._desired: Sequence[str] | None = None
        self._was_ready: set[str] = set()
        self._stopped: frozenset[str] = frozenset()
        self._failures: dict[str, tuple[float, str]] = {}
        # What had no room, and what was loaded then: while that is so, there is none.
        self._crowded: dict[str, frozenset[str]] = {}
        self._changed = asyncio.Event()
        self._told = asyncio.Event()

    async def keep_reported(self) -> None:
        """Report and load until cancelled; then withdraw."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._report_on())
                tasks.create_task(self._load_on())
        finally:
            with contextlib.suppress(SuiteError, TimeoutError):
                async with asyncio.timeout(WITHDRAWAL_SECONDS):
                    await self._report(ttl_seconds=0)

    async def _report_on(self) -> None:
        pause = FIRST_RETRY_SECONDS
        while True:
            self._changed.clear()
            try:
                self._reachable = await self._find_models()
                self._take(await self._report(ttl_seconds=TTL_SECONDS))
                self._told.set()
                pause = REPORT_SECONDS
            except SuiteError as error:
                log.info("catalog.away", code=error.code.name)
                pause = min(2 * pause, REPORT_SECONDS)
            except Exception:
                # Without reports the catalog would take a working device for a lost one.
                log.exception("report.failed")
                pause = REPORT_SECONDS
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), pause)

    async def _load_on(self) -> None:
        while True:
            await self._told.wait()
            self._told.clear()
            for name in self._stopped & self._device.models:
                await self._device.unload(name)
            while model := self._next():
                await self._load(model)
                self._changed.set()

    async def _load(self, model: model_pb2.Model) -> None:
        try:
            if not await self._device.load(model):
                self._crowded[model.name] = self._device.models
            self._failures.pop(model.name, None)
        except SuiteError as error:
            log.warning("model.refused", model=model.name, detail=error.message)
            self._failures[model.name] = (time.monotonic(), error.message)
        except Exception:
            log.exception("model.failed", model=model.name)
            detail = "internal error; the logs of the device process say more"
            self._failures[model.name] = (time.monotonic(), detail)

    def _next(self) -> model_pb2.Model | None:
        loaded, now = self._device.models, time.monotonic()
        for name in self._desired or ():
            failed_at, _ = self._failures.get(name, (now - RELOAD_SECONDS, ""))
            waits = now - failed_at >= RELOAD_SECONDS
            waits = waits and self._crowded.get(name) != loaded
            if name in self._reachable and name not in loaded and waits:
                return self._reachable[name]
        return None

    async def _find_models(self) -> dict[str, model_pb2.Model]:
        # The suite starts its device process before its catalog.
        answer = await self._catalog.ListModels(
            catalog_service_pb2.ListModelsRequest(), wait_for_ready=True
        )
        return await asyncio.to_thread(self._on_this_machine, list(answer.models))

    def _on_this_machine(self, models: Sequence[model_pb2.Model]) -> dict[str, model_pb2.Model]:
        # Looking into the hub's cache imports a part of what the engine's thread is importing.
        hub_too = self._device.is_ready
        return {
            model.name: model
            for model in models
            if (hub_too or not model.checkpoint.HasField("hub_repository"))
            and find(model.checkpoint, self._folders, names_of(model))
        }

    def _take(self, answer: serving_pb2.ReportReplicaResponse) -> None:
        """Heed what the catalog wants."""
        self._desired = list(answer.desired_models)
        self._stopped = frozenset(answer.stopped_models)
        self._was_ready |= self._device.models
        self._device.pin(answer.pinned_models)

    async def _report(self, ttl_seconds: float) -> serving_pb2.ReportReplicaResponse:
        replica = serving_pb2.Replica(
            replica_id=self._replica_id,
            device=self._device.name,
            models=[self._state(name) for name in self._reachable],
            adapters=sorted(await asyncio.to_thread(self._adapters.all)),
            embeddings=sorted(await asyncio.to_thread(self._embeddings.all)),
        )
        request = serving_pb2.ReportReplicaRequest(replica=replica, ttl=duration(ttl_seconds))
        return await self._catalog.ReportReplica(request)

    def _state(self, name: str) -> serving_pb2.ReplicaModel:
        told = serving_pb2.ReplicaModel(model=name)
        told.loaded_fraction = self._device.loading.get(name, 0.0)
        if name in self._device.models:
            told.state = ServingStatus.STATE_READY
        elif name in self._stopped:
            told.state = ServingStatus.STATE_STOPPED
        elif name in self._failures:
            told.state, told.detail = ServingStatus.STATE_FAILED, self._failures[name][1]
        elif self._waits_for_a_job(name):
            told.state = ServingStatus.STATE_ON_DEMAND
        else:
            told.state = ServingStatus.STATE_LOADING
        return told

    def _waits_for_a_job(self, name: str) -> bool:
        """Whether a model had no room, or has made room for others, or need not be ready."""
        if self._desired is None:
            return False
        return name in self._crowded or name in self._was_ready or name not in self._desired
