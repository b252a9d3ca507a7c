"""InferenceService: what a caller may ask about jobs."""

import contextlib
import hashlib
import uuid
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf import empty_pb2
from grpc.aio import ServicerContext

from pictor.catalog.v1 import catalog_service_pb2, catalog_service_pb2_grpc, model_pb2, serving_pb2
from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import generation_pb2, inference_service_pb2_grpc, sampler_pb2
from pictor.inference.v1.inference_service_pb2 import (
    CancelJobRequest,
    CreateJobRequest,
    DeleteJobRequest,
    FinishJobRequest,
    GetJobRequest,
    ListJobsRequest,
    ListJobsResponse,
    ListSamplersRequest,
    ListSamplersResponse,
    RetryJobRequest,
    WatchJobRequest,
    WatchJobResponse,
)
from pictor.inference.v1.job_pb2 import Job
from pictor.inference.v1.webhook_pb2 import (
    ListWebhookDeliveriesRequest,
    ListWebhookDeliveriesResponse,
)
from pictor.storage.v1 import storage_service_pb2, storage_service_pb2_grpc
from services.inference.adapters import check_known
from services.inference.admission import (
    admit,
    check_limits,
    check_origin,
    check_priority,
    checked_ttl,
    ignored,
    model_id,
)
from services.inference.charging import Charging
from services.inference.history import History, filter_of
from services.inference.jobs import Jobs
from services.inference.prices import price_of
from services.inference.receipt import Receipt
from services.inference.samplers import SCHEDULES, available_samplers
from services.inference.stand_in import adapt
from services.inference.store import UNBOUNDED, Bounds, Key
from services.inference.watching import Watching
from services.inference.webhooks import Webhooks, to_message
from services.paging import page_size
from services.rpc.crash import crash_point
from services.rpc.errors import Exhausted, Unavailable, invalid
from services.rpc.limits import bound
from services.rpc.principals import caller

RETRY_SECONDS = 5.0
LONGEST_FINGERPRINT = 64

Context = ServicerContext[object, object]


class InferenceServicer(inference_service_pb2_grpc.InferenceServiceServicer):
    """
    Implements pictor.inference.v1.InferenceService.

    Args:
        jobs: The life of a job.
        history: Jobs that were.
        watching: Streams of events.
        catalog: Knows the models, and what is being served.
        storage: Knows the input images.
        charging: Takes credits for jobs.
        webhooks: Tells who wants to know that a job has ended.
        bounds: How many jobs there may be, where an account has no limits of its own.
    """

    def __init__(
        self,
        jobs: Jobs,
        history: History,
        watching: Watching,
        catalog: "catalog_service_pb2_grpc.CatalogServiceAsyncStub",
        storage: "storage_service_pb2_grpc.StorageServiceAsyncStub",
        *,
        charging: Charging,
        webhooks: Webhooks,
        bounds: Bounds = UNBOUNDED,
    ) -> None:
        self._jobs = jobs
        self._history = history
        self._watching = watching
        self._catalog = catalog
        self._storage = storage
        self._charging = charging
        self._webhooks = webhooks
        self._settings = bounds

    async def CreateJob(self, request: CreateJobRequest, context: Context) -> Job:
        key = key_of(request)
        async with self._jobs.alone(key):
            if before := await self._jobs.replayed(key):
                return before
            bounds = self._bounds()
            async with self._jobs.place(bounds):
                return await self._create(request, key, bounds)

    async def GetJob(self, request: GetJobRequest, context: Context) -> Job:
        return await self._jobs.get(request.name, preview=request.include_preview)

    async def ListJobs(self, request: ListJobsRequest, context: Context) -> ListJobsResponse:
        jobs, token = await self._history.page(
            page_size(request.page_size), request.page_token, filter_of(request)
        )
        return ListJobsResponse(jobs=jobs, next_page_token=token)

    async def DeleteJob(self, request: DeleteJobRequest, context: Context) -> empty_pb2.Empty:
        await self._history.delete(request.name)
        return empty_pb2.Empty()

    async def CancelJob(self, request: CancelJobRequest, context: Context) -> Job:
        return await self._jobs.cancel(request.name)

    async def FinishJob(self, request: FinishJobRequest, context: Context) -> Job:
        return await self._jobs.finish(request.name)

    async def RetryJob(self, request: RetryJobRequest, context: Context) -> Job:
        key = Key(request.idempotency_key, f"retry {request.name}".encode())
        async with self._jobs.alone(key):
            if again := await self._jobs.replayed(key):
                return again
            bounds = self._bounds()
            async with self._jobs.place(bounds):
                return await self._retry(request, key, bounds)

    async def ListSamplers(
        self, request: ListSamplersRequest, context: Context
    ) -> ListSamplersResponse:
        return ListSamplersResponse(
            samplers=[
                sampler_pb2.Sampler(name=s.name, scheduler=s.scheduler, schedules=s.schedules)
                for s in available_samplers()
            ],
            schedules=[
                sampler_pb2.Schedule(name=s.name, label=s.label) for s in SCHEDULES.values()
            ],
        )

    async def ListWebhookDeliveries(
        self, request: ListWebhookDeliveriesRequest, context: Context
    ) -> ListWebhookDeliveriesResponse:
        found, token = await self._jobs.deliveries(
            request.job, page_size(request.page_size), request.page_token
        )
        return ListWebhookDeliveriesResponse(
            webhook_deliveries=[to_message(one) for one in found], next_page_token=token
        )

    async def WatchJob(
        self, request: WatchJobRequest, context: Context
    ) -> AsyncIterator[WatchJobResponse]:
        watch = self._watching.watch(
            request.name, request.after_revision, previews=request.include_previews
        )
        async with contextlib.aclosing(watch) as responses:  # type: ignore[type-var]  # an async generator
            async for response in responses:
                yield response
                crash_point("inference.mid_stream")

    async def _create(self, request: CreateJobRequest, key: Key, bounds: Bounds) -> Job:
        asked = request.generation
        if not asked.model:
            raise invalid(
                "generation.model", "model is missing", reasons.ERROR_REASON_FIELD_REQUIRED
            )
        check_origin(request.dialect, request.receipt)
        check_priority(request.priority, caller())
        result_ttl = checked_ttl(request)
        await self._webhooks.check(request.webhook_url, caller().account)
        model = await self._model(asked.model)
        check_limits(asked, model)
        await self._jobs.check_free(request.job_id)
        size = None if request.validate_only else await self._input_size(asked)
        generation, notes = admit(asked, model, size)
        receipt = Receipt(asked, request.receipt, strict=request.strict)
        receipt.add(notes)
        status = await self._serving(model)
        drawn, served_by = generation, status.served_by
        if served_by != model.name:
            model = await self._model(served_by)
            drawn, departures = adapt(generation, model)
            receipt.add(departures)
        await self._check_adapters(drawn)
        receipt.add(ignored(asked, model))
        price = price_of(drawn, model)
        if request.validate_only:
            quoted = Job(
                generation=generation,
                receipt=receipt.notes,
                priority=request.priority,
                served_by="" if served_by == generation.model else served_by,
                price_microcredits=await self._charging.quote(caller().account, price),
            )
            return await self._jobs.quote(quoted)
        job_id = request.job_id or str(uuid.uuid4())
        return await self._paid(
            price,
            generation,
            dialect=request.dialect,
            served_by=status.served_by,
            receipt=receipt.notes,
            priority=request.priority,
            job_id=job_id,
            key=key,
            webhook_url=request.webhook_url,
            bounds=bounds,
            result_ttl=result_ttl,
        )

    async def _retry(self, request: RetryJobRequest, key: Key, bounds: Bounds) -> Job:
        before = await self._jobs.ended_badly(request.name)
        model = await self._model(before.generation.model)
        await self._input_size(before.generation)
        status = await self._serving(model)
        drawn = before.generation
        if status.served_by != model.name:
            model = await self._model(status.served_by)
            drawn, _ = adapt(drawn, model)
        job_id = str(uuid.uuid4())
        price = price_of(drawn, model)
        return await self._paid(
            price,
            before.generation,
            dialect=before.dialect,
            served_by=status.served_by,
            receipt=before.receipt,
            # A priority above 0 was a permission of whoever asked then.
            priority=min(before.priority, 0),
            retry_of=before.name,
            key=key,
            webhook_url=before.webhook_url,
            bounds=bounds,
            result_ttl=before.result_ttl if before.HasField("result_ttl") else None,
            job_id=job_id,
        )

    def _bounds(self) -> Bounds:
        """Return how many jobs there may be, the caller's among them."""
        limits = caller().limits
        return Bounds(
            account_unfinished=bound(limits.unfinished_jobs, self._settings.account_unfinished),
            account_queued=bound(limits.queued_jobs, self._settings.account_queued),
            queued=self._settings.queued,
        )

    async def _paid(
        self, price: int, generation: generation_pb2.Generation, *, job_id: str, **fields: Any
    ) -> Job:
        """Make a job for which its price is held, and give back what is held for none."""
        name = f"jobs/{job_id}"
        held = await self._charging.hold(name, caller().account, price)
        try:
            job = await self._jobs.create(generation, job_id=job_id, price=held, **fields)
        except Exhausted:
            # Another process has admitted the last one for which there was room.
            if held:
                await self._charging.give_back(name)
            raise
        if held and job.name != name:
            # A twin, with the same key, has made the job.
            await self._charging.give_back(name)
        return job

    async def _model(self, name: str) -> model_pb2.Model:
        name = name if name.startswith("models/") else f"models/{name}"
        return await self._catalog.GetModel(catalog_service_pb2.GetModelRequest(name=name))

    async def _serving(self, model: model_pb2.Model) -> serving_pb2.ServingStatus:
        """Return the model's status; Unavailable with MODEL_NOT_SERVING if nothing serves it."""
        answer = await self._catalog.ListServingStatuses(
            catalog_service_pb2.ListServingStatusesRequest(models=[model.name])
        )
        status = answer.serving_statuses[0]
        if not status.available:
            detail = f": {status.detail}" if status.detail else ""
            raise Unavailable(
                f"model {model_id(model)} is known but not currently serving{detail}",
                reason=reasons.ERROR_REASON_MODEL_NOT_SERVING,
                metadata={"model": model.name},
                retry_after_seconds=RETRY_SECONDS,
            )
        return status

    async def _check_adapters(self, drawn: generation_pb2.Generation) -> None:
        if drawn.loras:
            request = catalog_service_pb2.ListAdaptersRequest()
            check_known(drawn, (await self._catalog.ListAdapters(request)).adapters)

    async def _input_size(self, generation: generation_pb2.Generation) -> model_pb2.Size | None:
        """Look every input up; return the size of the first one."""
        names = [image.asset for image in generation.input_images]
        if generation.mask:
            names.append(generation.mask)
        assets = [
            await self._storage.GetAsset(storage_service_pb2.GetAssetRequest(name=name))
            for name in names
        ]
        if not generation.input_images:
            return None
        return model_pb2.Size(width_px=assets[0].width_px, height_px=assets[0].height_px)


def key_of(request: CreateJobRequest) -> Key:
    """Return a request's idempotency key; without a fingerprint its own bytes are one."""
    fingerprint = request.request_fingerprint
    if len(fingerprint) > LONGEST_FINGERPRINT:
        raise invalid(
            "request_fingerprint",
            f"request_fingerprint has {len(fingerprint)} bytes; it has at most"
            f" {LONGEST_FINGERPRINT}",
        )
    if request.idempotency_key and not fingerprint:
        asked = CreateJobRequest()
        asked.CopyFrom(request)
        asked.ClearField("validate_only")
        fingerprint = hashlib.sha256(asked.SerializeToString(deterministic=True)).digest()
    return Key(request.idempotency_key, fingerprint)
