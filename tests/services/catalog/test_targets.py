"""What operators want of models, and what device processes and callers are told of it."""

import asyncio

import pytest

from pictor.catalog.v1.catalog_service_pb2 import (
    ListServingStatusesRequest,
    UpdateServingRequest,
)
from pictor.catalog.v1.serving_pb2 import (
    Replica,
    ReplicaModel,
    ReportReplicaRequest,
    ServingStatus,
)
from pictor.errors.v1 import error_reason_pb2
from services.catalog.store import TargetStore
from services.catalog.targets import Target
from services.rpc.errors import InvalidRequest, NotFound

SHAPES = "models/pictor/shapes"
FLUX = "models/black-forest-labs/FLUX.1-dev"
READY = ServingStatus.STATE_READY
LOADING = ServingStatus.STATE_LOADING
ON_DEMAND = ServingStatus.STATE_ON_DEMAND
STOPPED = ServingStatus.STATE_STOPPED


async def report(catalog, replica_id="gpu-0", **states):
    names = {"shapes": SHAPES, "flux": FLUX}
    models = [ReplicaModel(model=names[name], state=state) for name, state in states.items()]
    replica = Replica(replica_id=replica_id, device="cpu", models=models)
    return await catalog.ReportReplica(ReportReplicaRequest(replica=replica))


async def status(catalog, model=SHAPES):
    request = ListServingStatusesRequest(models=[model])
    return (await catalog.ListServingStatuses(request)).serving_statuses[0]


async def update(catalog, model=SHAPES, **fields):
    return await catalog.UpdateServing(UpdateServingRequest(model=model, **fields))


async def test_a_stopped_model_is_given_up_and_refused(catalog):
    """
    Device processes are told to give it up, and callers that an operator stopped it.
    """
    await report(catalog, shapes=READY)
    await update(catalog, desired_replicas=0)
    answer = await report(catalog, shapes=STOPPED)
    told = await status(catalog)

    assert list(answer.stopped_models) == [SHAPES]
    assert list(answer.desired_models) == []
    assert (told.state, told.available, told.desired_replicas) == (STOPPED, False, 0)
    assert "pictor models serve" in told.detail


async def test_a_stand_in_does_not_answer_for_a_stopped_model(stood_in):
    """
    What an operator has stopped is not drawn by another model either.
    """
    await report(stood_in, shapes=READY)
    before = (await status(stood_in, FLUX)).available
    await update(stood_in, FLUX, desired_replicas=0)

    assert before
    assert not (await status(stood_in, FLUX)).available


async def test_without_a_number_every_process_is_wanted(catalog):
    """
    Leaving desired_replicas out brings a stopped model back.
    """
    await update(catalog, desired_replicas=0)
    await update(catalog)
    answers = [await report(catalog, name, shapes=LOADING) for name in ("gpu-0", "gpu-1")]

    assert [list(answer.desired_models) for answer in answers] == [[SHAPES], [SHAPES]]
    assert (await status(catalog)).desired_replicas == 2


async def test_one_replica_of_two_is_the_one_that_holds_it(catalog):
    """
    Who holds the model already goes on holding it, whatever the names.
    """
    await update(catalog, desired_replicas=1)
    await report(catalog, "gpu-0", shapes=ON_DEMAND)
    holder = await report(catalog, "gpu-1", shapes=READY)
    other = await report(catalog, "gpu-0", shapes=ON_DEMAND)

    assert list(holder.desired_models) == [SHAPES]
    assert list(other.desired_models) == []
    assert (await status(catalog)).desired_replicas == 1


async def test_a_model_that_loads_on_demand_is_available(catalog):
    """
    It has the weights here and no room at the moment: a job makes room.
    """
    await report(catalog, shapes=READY, flux=ON_DEMAND)
    told = await status(catalog, FLUX)

    assert (told.state, told.available, told.ready_replicas) == (ON_DEMAND, True, 0)
    assert told.served_by == FLUX


async def test_pinned_models_are_told(catalog):
    """
    Device processes learn which models stay, and so does everybody who asks.
    """
    told = await update(catalog, pinned=True)
    answer = await report(catalog, shapes=READY)

    assert told.pinned
    assert list(answer.pinned_models) == [SHAPES]


async def test_the_largest_fraction_is_told(catalog):
    """
    While weights are read, callers see how much of them has been.
    """
    models = [ReplicaModel(model=SHAPES, state=LOADING, loaded_fraction=0.5)]
    replica = Replica(replica_id="gpu-0", device="cpu", models=models)
    await catalog.ReportReplica(ReportReplicaRequest(replica=replica))

    assert (await status(catalog)).loaded_fraction == 0.5


async def test_what_an_operator_wants_outlives_the_catalog(open_catalog):
    """
    After a restart it holds as before.
    """
    async with open_catalog() as catalog:
        await update(catalog, desired_replicas=0, pinned=True)
    async with open_catalog() as catalog:
        answer = await report(catalog, shapes=READY)

    assert list(answer.stopped_models) == list(answer.pinned_models) == [SHAPES]


async def test_an_alias_names_the_model(catalog):
    """
    The answer carries the canonical name.
    """
    assert (await update(catalog, "models/shapes", pinned=True)).model == SHAPES


@pytest.mark.parametrize("count", [-1, 65])
async def test_an_impossible_number_is_refused(catalog, count):
    """
    The error names value and rule, and nothing changes.
    """
    with pytest.raises(InvalidRequest, match=f"{count} is outside 0 to 64") as told:
        await update(catalog, desired_replicas=count)

    assert told.value.reason == error_reason_pb2.ERROR_REASON_FIELD_OUT_OF_RANGE


async def test_an_unknown_model_is_not_found(catalog):
    """
    Nothing is kept for a model that does not exist.
    """
    with pytest.raises(NotFound):
        await update(catalog, "models/nobody/nothing", pinned=True)


async def test_two_who_aim_at_once_do_not_fail(database_url):
    """
    The last one counts; a model that nobody has aimed at before has one row then.
    """
    store = await TargetStore.open(database_url)
    await asyncio.gather(*(store.put("models/a", Target(count, False)) for count in range(8)))
    await store.put("models/a", Target(3, True))
    found = await store.all()
    await store.close()

    assert found == {"models/a": Target(3, True)}
