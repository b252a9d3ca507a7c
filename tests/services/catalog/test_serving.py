"""What is being served, as device processes report it and callers see it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from pictor.catalog.v1.catalog_service_pb2 import (
    ListAdaptersRequest,
    ListServingStatusesRequest,
    ListServingStatusesResponse,
    WatchServingStatusesRequest,
)
from pictor.catalog.v1.catalog_service_pb2_grpc import CatalogServiceStub
from pictor.catalog.v1.serving_pb2 import (
    Replica,
    ReplicaModel,
    ReportReplicaRequest,
    ReportReplicaResponse,
    ServingStatus,
)
from pictor.errors.v1 import error_reason_pb2
from services.catalog.__main__ import Settings, running
from services.rpc.channels import open_channel
from services.rpc.errors import InvalidRequest, NotFound, PermissionDenied, SuiteError, Unavailable

SHAPES = "models/pictor/shapes"
FLUX = "models/black-forest-labs/FLUX.1-dev"
READY = ServingStatus.STATE_READY
LOADING = ServingStatus.STATE_LOADING
FAILED = ServingStatus.STATE_FAILED
NO_WEIGHTS = ServingStatus.STATE_NO_WEIGHTS


async def test_without_device_processes_nothing_is_served(catalog: CatalogServiceStub):
    """
    A catalog that has heard of no device lists every model as without weights.
    """
    statuses = await listed(catalog)

    assert {status.state for status in statuses.values()} == {NO_WEIGHTS}
    assert not any(status.available or status.desired_replicas for status in statuses.values())
    assert next(iter(statuses)) == SHAPES


async def test_a_report_moves_a_model_from_loading_to_ready(catalog: CatalogServiceStub):
    """
    Each report replaces the one before, and a ready model is served by itself.
    """
    await report(catalog, {SHAPES: LOADING})
    loading = (await listed(catalog))[SHAPES]
    await report(catalog, {SHAPES: READY})
    ready = (await listed(catalog))[SHAPES]

    assert (loading.state, loading.available, loading.desired_replicas) == (LOADING, False, 1)
    assert (ready.state, ready.available, ready.ready_replicas) == (READY, True, 1)
    assert (ready.served_by, ready.detail) == (SHAPES, "")


async def test_one_ready_replica_outweighs_a_failed_one(catalog: CatalogServiceStub):
    """
    Replicas are counted; the model is as good as its best one, and a failure gives its reason.
    """
    await report(catalog, {SHAPES: FAILED, FLUX: FAILED}, replica_id="a", detail="disk gone")
    await report(catalog, {SHAPES: READY}, replica_id="b")
    await report(catalog, {SHAPES: READY}, replica_id="c")
    statuses = await listed(catalog)

    assert (statuses[SHAPES].state, statuses[SHAPES].ready_replicas) == (READY, 2)
    assert (statuses[FLUX].state, statuses[FLUX].detail) == (FAILED, "disk gone")


async def test_a_report_runs_out(catalog: CatalogServiceStub):
    """
    A device process that falls silent is forgotten after its ttl.
    """
    await report(catalog, {SHAPES: READY}, ttl_seconds=1.0)
    before = (await listed(catalog))[SHAPES]
    await asyncio.sleep(1.05)

    assert before.available
    assert (await listed(catalog))[SHAPES].state == NO_WEIGHTS


async def test_zero_ttl_withdraws_a_replica(catalog: CatalogServiceStub):
    """
    A device process that leaves takes its models with it at once.
    """
    await report(catalog, {SHAPES: READY})
    await report(catalog, {SHAPES: READY}, ttl_seconds=0)

    assert not (await listed(catalog))[SHAPES].available


async def test_a_stand_in_answers_for_models_without_weights(stood_in: CatalogServiceStub):
    """
    What has no weights is available and says who really draws.
    """
    await report(stood_in, {SHAPES: READY})
    status = (await listed(stood_in))[FLUX]

    assert (status.state, status.available) == (NO_WEIGHTS, True)
    assert (status.ready_replicas, status.desired_replicas) == (1, 1)
    assert status.served_by == SHAPES
    assert status.detail == (
        "drawn by models/pictor/shapes, a stand-in: this machine has no weights of the model"
    )


async def test_a_stand_in_that_is_not_ready_serves_nothing(stood_in: CatalogServiceStub):
    """
    While the stand-in loads, what it answers for is wanted but not available.
    """
    await report(stood_in, {SHAPES: LOADING})
    status = (await listed(stood_in))[FLUX]

    assert (status.available, status.ready_replicas, status.desired_replicas) == (False, 0, 1)
    assert status.served_by == ""
    assert "is not ready" in status.detail


async def test_own_weights_are_preferred_to_the_stand_in(stood_in: CatalogServiceStub):
    """
    A model whose weights are there draws for itself, or says why it cannot.
    """
    await report(stood_in, {SHAPES: READY, FLUX: FAILED}, detail="a tensor is missing")
    failed = (await listed(stood_in))[FLUX]
    await report(stood_in, {SHAPES: READY, FLUX: READY})
    ready = (await listed(stood_in))[FLUX]

    assert (failed.available, failed.served_by, failed.detail) == (False, "", "a tensor is missing")
    assert ready.served_by == FLUX


async def test_a_replica_is_told_what_to_hold_ready(open_catalog: Callable[..., Any]):
    """
    It holds what it has weights for, the stand-in first; names that nobody knows are left out.
    """
    models = {"models/un/known": READY, FLUX: LOADING, SHAPES: LOADING}
    schnell = "models/black-forest-labs/FLUX.1-schnell"
    async with open_catalog(stand_in="black-forest-labs/FLUX.1-schnell") as catalog:
        answer = await report(catalog, {**models, schnell: LOADING})

    assert list(answer.desired_models) == [schnell, SHAPES, FLUX]


async def test_statuses_can_be_narrowed_by_alias(catalog: CatalogServiceStub):
    """
    Asking for some models answers with those, each once, in the order of the catalog.
    """
    asked = ["models/gpt-image-1", SHAPES, "models/openai/gpt-image-1.5-T2I"]
    answer = await catalog.ListServingStatuses(ListServingStatusesRequest(models=asked))

    names = [status.model for status in answer.serving_statuses]
    assert names == [SHAPES, "models/openai/gpt-image-1.5-T2I"]


async def test_statuses_of_an_unknown_model_are_not_found(catalog: CatalogServiceStub):
    """
    Asking for a model that does not exist is MODEL_NOT_FOUND, for the list and for the watch.
    """
    with pytest.raises(NotFound):
        await catalog.ListServingStatuses(ListServingStatusesRequest(models=["models/x"]))
    with pytest.raises(NotFound):
        async with watching(catalog, "models/x") as messages:
            await anext(messages)


@pytest.mark.parametrize(
    ("replica", "ttl_seconds", "field", "reason"),
    [
        (Replica(device="cpu"), 6, "replica.replica_id", "FIELD_REQUIRED"),
        (Replica(replica_id="a"), 6, "replica.device", "FIELD_REQUIRED"),
        (Replica(replica_id="a" * 64, device="cpu"), 6, "replica.replica_id", "FIELD_OUT_OF_RANGE"),
        (Replica(replica_id="a", device="cpu"), 0.5, "ttl", "FIELD_OUT_OF_RANGE"),
        (Replica(replica_id="a", device="cpu"), 61, "ttl", "FIELD_OUT_OF_RANGE"),
        (Replica(replica_id="a", device="cpu"), -1, "ttl", "FIELD_OUT_OF_RANGE"),
        (
            Replica(replica_id="a", device="cpu", models=[ReplicaModel(state=READY)]),
            6,
            "replica.models[0].model",
            "FIELD_REQUIRED",
        ),
        (
            Replica(replica_id="a", device="cpu", models=[ReplicaModel(model=SHAPES, state=1)]),
            6,
            "replica.models[0].state",
            "FIELD_OUT_OF_RANGE",
        ),
    ],
)
async def test_a_bad_report_is_refused(
    catalog: CatalogServiceStub, replica: Replica, ttl_seconds: float, field: str, reason: str
):
    """
    A report that breaks a rule names the field, and changes nothing.
    """
    request = ReportReplicaRequest(replica=replica, ttl=duration(ttl_seconds))
    with pytest.raises(InvalidRequest) as caught:
        await catalog.ReportReplica(request)

    assert caught.value.violations[0].field == field
    assert caught.value.reason == error_reason_pb2.ErrorReason.Value(f"ERROR_REASON_{reason}")


async def test_a_report_without_ttl_holds_for_seconds(catalog: CatalogServiceStub):
    """
    A report that names no ttl is still true when the next one is due.
    """
    replica = Replica(
        replica_id="a", device="cpu", models=[ReplicaModel(model=SHAPES, state=READY)]
    )
    await catalog.ReportReplica(ReportReplicaRequest(replica=replica))
    await asyncio.sleep(2.1)

    assert (await listed(catalog))[SHAPES].available


async def test_only_the_suite_reports_replicas(tmp_path: Path):
    """
    A caller without the suite's token cannot pretend to be a device.
    """
    settings = Settings(data_dir=tmp_path, catalog_address="127.0.0.1:0")
    async with running(settings) as address, open_channel(address, "pk_stranger") as channel:
        with pytest.raises(SuiteError) as caught:
            await report(CatalogServiceStub(channel), {SHAPES: READY})

    # The accounts service, which would judge the key, does not run here.
    assert isinstance(caught.value, Unavailable | PermissionDenied)


async def test_a_watcher_sees_everything_and_then_changes(catalog: CatalogServiceStub):
    """
    The first message holds all models; later ones only what changed.
    """
    async with watching(catalog) as messages:
        first = await anext(messages)
        await report(catalog, {SHAPES: LOADING})
        second = await asyncio.wait_for(anext(messages), 5)
        await report(catalog, {SHAPES: LOADING})
        await report(catalog, {SHAPES: READY})
        third = await asyncio.wait_for(anext(messages), 5)

    assert len(first.serving_statuses) == 15
    assert [(status.model, status.state) for status in second.serving_statuses] == [
        (SHAPES, LOADING)
    ]
    assert [(status.model, status.state) for status in third.serving_statuses] == [(SHAPES, READY)]


async def test_a_watcher_learns_that_a_report_ran_out(catalog: CatalogServiceStub):
    """
    Silence is news too: the watcher is told when the ttl is over, also after a renewal.
    """
    await report(catalog, {SHAPES: READY}, ttl_seconds=1.0)
    async with watching(catalog, SHAPES) as messages:
        await anext(messages)
        await asyncio.sleep(0.6)
        await report(catalog, {SHAPES: READY}, ttl_seconds=1.0)
        started = asyncio.get_running_loop().time()
        gone = await asyncio.wait_for(anext(messages), 5)
        waited = asyncio.get_running_loop().time() - started

    assert [status.state for status in gone.serving_statuses] == [NO_WEIGHTS]
    assert waited > 0.9


async def test_watchers_do_not_delay_the_end(tmp_path: Path):
    """
    A stopping catalog tells its watchers to come back, instead of waiting for them.
    """
    settings = Settings(data_dir=tmp_path, catalog_address="127.0.0.1:0")
    async with contextlib.AsyncExitStack() as stack:
        async with running(settings) as address:
            channel = await stack.enter_async_context(open_channel(address, "anybody"))
            messages = await stack.enter_async_context(watching(CatalogServiceStub(channel)))
            await anext(messages)
            started = asyncio.get_running_loop().time()
        with pytest.raises(Unavailable, match="stopping"):
            await anext(messages)

    assert asyncio.get_running_loop().time() - started < 3


async def test_adapters_are_those_of_all_device_processes(catalog: CatalogServiceStub):
    """
    Each once, in the order of their names; those of a process that has gone are not there.
    """
    for replica_id, adapters in (("one", ["ink", "wash"]), ("other", ["anna", "ink"])):
        replica = Replica(
            replica_id=replica_id, device="cpu", adapters=adapters, embeddings=[replica_id]
        )
        await catalog.ReportReplica(ReportReplicaRequest(replica=replica, ttl=duration(30.0)))
    both = await catalog.ListAdapters(ListAdaptersRequest())
    await report(catalog, {}, replica_id="other", ttl_seconds=0.0)
    left = await catalog.ListAdapters(ListAdaptersRequest())

    assert list(both.adapters) == ["anna", "ink", "wash"]
    assert list(both.embeddings) == ["one", "other"]
    assert (list(left.adapters), list(left.embeddings)) == (["ink", "wash"], ["one"])


async def report(
    catalog: CatalogServiceStub,
    models: dict[str, ServingStatus.State.ValueType],
    *,
    replica_id: str = "one",
    ttl_seconds: float = 30.0,
    detail: str = "",
) -> ReportReplicaResponse:
    told = [ReplicaModel(model=name, state=state, detail=detail) for name, state in models.items()]
    replica = Replica(replica_id=replica_id, device="cpu", models=told)
    return await catalog.ReportReplica(
        ReportReplicaRequest(replica=replica, ttl=duration(ttl_seconds))
    )


async def listed(catalog: CatalogServiceStub) -> dict[str, ServingStatus]:
    answer = await catalog.ListServingStatuses(ListServingStatusesRequest())
    return {status.model: status for status in answer.serving_statuses}


@contextlib.asynccontextmanager
async def watching(
    catalog: CatalogServiceStub, *models: str
) -> AsyncIterator[AsyncIterator[ListServingStatusesResponse]]:
    call = catalog.WatchServingStatuses(WatchServingStatusesRequest(models=models))
    messages = aiter(call)
    try:
        yield messages
    finally:
        await messages.aclose()


def duration(seconds: float) -> Duration:
    message = Duration()
    message.FromNanoseconds(int(seconds * 1e9))
    return message
