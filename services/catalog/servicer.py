"""CatalogService, as the proto describes it."""

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import grpc

from pictor.catalog.v1 import catalog_service_pb2_grpc
from pictor.catalog.v1.catalog_service_pb2 import (
    GetModelRequest,
    ListAdaptersRequest,
    ListAdaptersResponse,
    ListModelsRequest,
    ListModelsResponse,
    ListServingStatusesRequest,
    ListServingStatusesResponse,
    UpdateServingRequest,
    WatchServingStatusesRequest,
)
from pictor.catalog.v1.model_pb2 import Model
from pictor.catalog.v1.serving_pb2 import (
    Replica,
    ReportReplicaRequest,
    ReportReplicaResponse,
    ServingStatus,
)
from pictor.errors.v1 import error_reason_pb2
from services import paging
from services.catalog.catalog import Catalog
from services.catalog.serving import Serving
from services.catalog.store import TargetStore
from services.catalog.targets import target_of
from services.rpc.crash import crash_point
from services.rpc.errors import InvalidRequest, invalid

Context = grpc.aio.ServicerContext[Any, Any]
MODELS_A_PAGE = 1000
TTL_SECONDS = 6.0
SHORTEST_TTL_SECONDS = 1.0
LONGEST_TTL_SECONDS = 60.0
LONGEST_REPLICA_ID = 63
MOST_ADAPTERS = 10_000
REPORTED_STATES = (
    ServingStatus.STATE_LOADING,
    ServingStatus.STATE_READY,
    ServingStatus.STATE_FAILED,
    ServingStatus.STATE_ON_DEMAND,
    ServingStatus.STATE_STOPPED,
)


class CatalogServicer(catalog_service_pb2_grpc.CatalogServiceServicer):
    """
    Answers for the catalog and for what is being served.

    Args:
        catalog: The models.
        serving: What is being served.
        store: Keeps what operators want.
    """

    def __init__(self, catalog: Catalog, serving: Serving, store: TargetStore) -> None:
        self._catalog = catalog
        self._serving = serving
        self._store = store

    async def ListModels(self, request: ListModelsRequest, context: Context) -> ListModelsResponse:
        """List a page of models."""
        size = paging.page_size(request.page_size, MODELS_A_PAGE)
        start = self._start(paging.decode_token(request.page_token, 1))
        page = self._catalog.models[start : start + size]
        more = start + size < len(self._catalog.models)
        return ListModelsResponse(
            models=page, next_page_token=paging.encode_token(page[-1].name) if more else ""
        )

    async def GetModel(self, request: GetModelRequest, context: Context) -> Model:
        """Read one model by name or alias."""
        return self._catalog.get(request.name)

    async def ListServingStatuses(
        self, request: ListServingStatusesRequest, context: Context
    ) -> ListServingStatusesResponse:
        """Tell what is being served."""
        statuses = self._serving.statuses(self._wanted(request.models))
        return ListServingStatusesResponse(serving_statuses=statuses)

    async def WatchServingStatuses(
        self, request: WatchServingStatusesRequest, context: Context
    ) -> AsyncIterator[ListServingStatusesResponse]:
        """Send what is being served, and what changes."""
        async for statuses in self._serving.changes(self._wanted(request.models)):
            yield ListServingStatusesResponse(serving_statuses=statuses)

    async def ReportReplica(
        self, request: ReportReplicaRequest, context: Context
    ) -> ReportReplicaResponse:
        """Take a device process's report."""
        check_replica(request.replica)
        self._serving.report(request.replica, ttl_seconds(request))
        crash_point("catalog.report")
        return ReportReplicaResponse(
            desired_models=self._serving.desired_models(request.replica),
            stopped_models=self._serving.stopped_models(),
            pinned_models=self._serving.pinned_models(),
        )

    async def ListAdapters(
        self, request: ListAdaptersRequest, context: Context
    ) -> ListAdaptersResponse:
        """Tell which adapters and embeddings there are."""
        return ListAdaptersResponse(
            adapters=self._serving.adapters(), embeddings=self._serving.embeddings()
        )

    async def UpdateServing(self, request: UpdateServingRequest, context: Context) -> ServingStatus:
        """Take what an operator wants of a model."""
        model = self._catalog.get(request.model).name
        target = target_of(request)
        await self._store.put(model, target)
        self._serving.aim(model, target)
        return self._serving.status(model)

    def _start(self, last: tuple[str, ...]) -> int:
        """Return the index after the model that a page token names."""
        if not last:
            return 0
        names = [model.name for model in self._catalog.models]
        if last[0] not in names:
            raise invalid(
                "page_token",
                "page_token is of another catalog; leave it out to begin with the first page",
            )
        return names.index(last[0]) + 1

    def _wanted(self, names: Iterable[str]) -> Sequence[Model]:
        """Return the models that were asked for, each once, in the order of the catalog."""
        asked = {self._catalog.get(name).name for name in names}
        return [model for model in self._catalog.models if not asked or model.name in asked]


def check_replica(replica: Replica) -> None:
    """
    Check a report.

    Raises:
        InvalidRequest: With FIELD_REQUIRED or FIELD_OUT_OF_RANGE.
    """
    texts = {"replica.replica_id": replica.replica_id, "replica.device": replica.device}
    for number, one in enumerate(replica.models):
        texts[f"replica.models[{number}].model"] = one.model
        if one.state not in REPORTED_STATES:
            raise _out_of_range(
                f"replica.models[{number}].state",
                f"{one.model!r} is reported in state {one.state}; give LOADING, READY, FAILED,"
                " ON_DEMAND or STOPPED",
            )
    for field, text in texts.items():
        if not text:
            reason = error_reason_pb2.ERROR_REASON_FIELD_REQUIRED
            raise invalid(field, f"{field} is empty; a report must give it", reason)
    for field, names in (("adapters", replica.adapters), ("embeddings", replica.embeddings)):
        if len(names) > MOST_ADAPTERS:
            raise _out_of_range(
                f"replica.{field}", f"{len(names)} {field}; give at most {MOST_ADAPTERS}"
            )
    if len(replica.replica_id) > LONGEST_REPLICA_ID:
        raise _out_of_range(
            "replica.replica_id",
            f"replica_id has {len(replica.replica_id)} characters; give 1 to {LONGEST_REPLICA_ID}",
        )


def ttl_seconds(request: ReportReplicaRequest) -> float:
    """
    Return how long a report holds; 0 withdraws the device process.

    Raises:
        InvalidRequest: If it is neither 0 nor 1 s to 60 s.
    """
    if not request.HasField("ttl"):
        return TTL_SECONDS
    seconds = request.ttl.seconds + request.ttl.nanos / 1e9
    if seconds != 0 and not SHORTEST_TTL_SECONDS <= seconds <= LONGEST_TTL_SECONDS:
        raise _out_of_range("ttl", f"ttl {seconds:g} s is out of range; give 0, or 1 s to 60 s")
    return seconds


def _out_of_range(field: str, description: str) -> InvalidRequest:
    return invalid(field, description, error_reason_pb2.ERROR_REASON_FIELD_OUT_OF_RANGE)
