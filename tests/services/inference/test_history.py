import asyncio
import io
import time

import pytest
from PIL import Image

from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import generation_pb2, inference_service_pb2, job_pb2
from pictor.storage.v1 import asset_pb2, storage_service_pb2, storage_service_pb2_grpc
from pictor.worker.v1 import worker_pb2
from services.inference.store import JobStore
from services.rpc.channels import open_channel
from services.rpc.errors import InvalidRequest, NotFound, StateConflict
from services.rpc.principals import acting_for
from tests.services.inference.scripted import ALICE, BOB, ScriptedExecutor, inference_in

Job = job_pb2.Job


async def create(service, account=ALICE, dialect="", **fields):
    fields = {"model": "pictor/shapes", "prompt": "a red circle", **fields}
    request = inference_service_pb2.CreateJobRequest(
        generation=generation_pb2.Generation(**fields), dialect=dialect
    )
    with acting_for(account):
        return await service.stub.CreateJob(request)


async def listed(service, account=ALICE, **wanted):
    with acting_for(account):
        page = await service.stub.ListJobs(inference_service_pb2.ListJobsRequest(**wanted))
    return [job.name for job in page.jobs]


async def delete(service, name, account=ALICE):
    with acting_for(account):
        await service.stub.DeleteJob(inference_service_pb2.DeleteJobRequest(name=name))


async def uploaded(service, environ, account=ALICE, job=""):
    """Store a picture; return its name."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "PNG")
    asset = asset_pb2.Asset(origin=asset_pb2.Asset.ORIGIN_UPLOADED)

    async def messages():
        yield storage_service_pb2.CreateAssetRequest(asset=asset)
        yield storage_service_pb2.CreateAssetRequest(chunk=file.getvalue())

    async with open_channel(environ["PICTOR_STORAGE_ADDRESS"], service.token) as channel:
        stub = storage_service_pb2_grpc.StorageServiceStub(channel)
        with acting_for(account):
            return (await stub.CreateAsset(messages())).name


async def stored(service, environ):
    """Name all assets there are."""
    async with open_channel(environ["PICTOR_STORAGE_ADDRESS"], service.token) as channel:
        stub = storage_service_pb2_grpc.StorageServiceStub(channel)
        page = await stub.ListAssets(storage_service_pb2.ListAssetsRequest())
    return {asset.name for asset in page.assets}


async def goes(service, environ, asset):
    """Say whether an asset is deleted within some seconds."""
    for _ in range(100):
        if asset not in await stored(service, environ):
            return True
        await asyncio.sleep(0.05)
    return False


def drawing(*assets):
    images = [job_pb2.GeneratedImage(asset=asset) for asset in assets]
    return worker_pb2.Report(result=worker_pb2.Result(job_result=job_pb2.JobResult(images=images)))


async def drawn(service, environ, **fields):
    """Draw a picture; return the job and its asset."""
    asset = await uploaded(service, environ)
    service.executor.outcomes.append(drawing(asset))
    service.executor.gate.set()
    job = await service.ended((await create(service, **fields)).name)
    assert job.result.images[0].asset == asset
    return job, asset


async def test_jobs_are_listed_by_model_api_and_prompt(service):
    """
    Each narrows the list; several are narrowed by together.
    """
    plain = (await create(service, prompt="50% of a Red_circle")).name
    openai = (await create(service, dialect="openai", prompt="a blue square")).name
    edits = (await create(service, dialect="openai/edits", prompt="a blue star")).name
    relay = (await create(service, dialect="openaix", prompt="a star")).name

    assert await listed(service, models=["pictor/shapes"]) == [relay, edits, openai, plain]
    assert await listed(service, models=["models/pictor/shapes", "x"], page_size=1) == [relay]
    assert await listed(service, models=["x"]) == []
    assert await listed(service, dialects=["openai"]) == [edits, openai]
    assert await listed(service, dialects=["openai/edits", "openaix"]) == [relay, edits]
    assert await listed(service, prompt_contains="BLUE") == [edits, openai]
    assert await listed(service, prompt_contains="50% of a red_") == [plain]
    assert await listed(service, prompt_contains="%") == [plain]
    assert await listed(service, dialects=["openai"], prompt_contains="star") == [edits]


async def test_jobs_are_listed_by_time(service):
    """
    From one moment, included, until before another.
    """
    jobs = [await create(service, prompt=f"{k}") for k in range(3)]
    second = jobs[1].create_time
    names = [job.name for job in jobs]

    assert await listed(service, created_after=second) == [names[2], names[1]]
    assert await listed(service, created_before=second) == [names[0]]
    assert await listed(service, created_after=second, created_before=second) == []


async def test_pages_stay_when_jobs_come_and_go(service):
    """
    What is made or deleted between two pages neither repeats a job nor hides one.
    """
    names = [(await create(service, prompt="x")).name for _ in range(6)]
    for name in names:
        await service.cancel(name)
    request = inference_service_pb2.ListJobsRequest(page_size=2, prompt_contains="x")
    with acting_for(ALICE):
        first = await service.stub.ListJobs(request)
        await create(service, prompt="x")
        await delete(service, names[5])
        await delete(service, names[3])
        request.page_token = first.next_page_token
        second = await service.stub.ListJobs(request)
        request.page_token = second.next_page_token
        third = await service.stub.ListJobs(request)

    pages = [[job.name for job in page.jobs] for page in (first, second, third)]
    assert pages == [[names[5], names[4]], [names[2], names[1]], [names[0]]]


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"models": ["a"] * 21}, "21 names; at most 20"),
        ({"prompt_contains": "a" * 201}, "201 characters; at most 200"),
        ({"prompt_contains": "\0"}, "holds a NUL character"),
        ({"created_after": {"seconds": 10**15}}, "not in the years 1 to 9999"),
    ],
)
async def test_a_filter_has_bounds(service, wanted, says):
    """
    The error names the value and the rule.
    """
    with pytest.raises(InvalidRequest, match=says):
        await listed(service, **wanted)


async def test_a_prompt_may_hold_any_character(service):
    """
    Also one that a database cannot: the job keeps it, and the search passes over it.
    """
    name = (await create(service, prompt="zero\0zero")).name

    assert (await service.get(name)).generation.prompt == "zero\0zero"
    assert await listed(service, prompt_contains="zerozero") == [name]


async def test_a_deleted_job_is_gone_with_its_pictures(service, environ):
    """
    Nobody finds it any more: not by name, not in lists, not its events, not the image.
    """
    job, asset = await drawn(service, environ)
    assert asset in await stored(service, environ)
    await delete(service, job.name)

    assert asset not in await stored(service, environ)
    assert await listed(service) == []
    for ask in (service.get, service.ended, lambda name: delete(service, name)):
        with pytest.raises(NotFound) as missing:
            await ask(job.name)
        assert missing.value.reason == reasons.ERROR_REASON_JOB_NOT_FOUND


async def test_a_job_that_goes_on_is_not_deleted(service):
    """
    Queued or running, it has to be canceled first.
    """
    running, queued = [await create(service) for _ in range(2)]
    await service.in_state(running.name, Job.STATE_RUNNING)
    for job in (running, queued):
        with pytest.raises(StateConflict, match="cancel it first"):
            await delete(service, job.name)
    await service.cancel(queued.name)
    await delete(service, queued.name)

    assert await listed(service) == [running.name]


async def test_another_accounts_job_is_not_deleted(service, environ):
    """
    It does not exist for others; its picture stays too.
    """
    job, asset = await drawn(service, environ)
    with pytest.raises(NotFound):
        await delete(service, job.name, BOB)

    assert await listed(service) == [job.name]
    assert asset in await stored(service, environ)


async def test_inputs_of_a_public_api_go_with_the_last_job_that_has_them(service, environ):
    """
    They came with the request and belong to nobody else; a retry shares them.
    """
    picture = await uploaded(service, environ)
    image = generation_pb2.InputImage(asset=picture)
    first = await create(service, dialect="openai/edits", input_images=[image], strength=0.5)
    await service.cancel(first.name)
    with acting_for(ALICE):
        retry = await service.stub.RetryJob(inference_service_pb2.RetryJobRequest(name=first.name))
    await service.cancel(retry.name)
    await delete(service, first.name)
    assert picture in await stored(service, environ)
    await delete(service, retry.name)

    assert picture not in await stored(service, environ)


async def test_inputs_that_a_caller_has_stored_itself_stay(service, environ):
    """
    Over gRPC they are the caller's own, who may draw from them again.
    """
    picture = await uploaded(service, environ)
    image = generation_pb2.InputImage(asset=picture)
    job = await create(service, input_images=[image], strength=0.5)
    await service.cancel(job.name)
    await delete(service, job.name)

    assert picture in await stored(service, environ)


async def test_pictures_are_deleted_even_if_storage_was_away(service, environ):
    """
    What is to be deleted is written down with the deletion; the next start asks again.
    """
    job, asset = await drawn(service, environ)
    store = await JobStore.open(environ["PICTOR_INFERENCE_DATABASE_URL"])
    assert await store.delete(job)
    assert not await store.delete(job)
    await store.close()
    assert asset in await stored(service, environ)
    async with inference_in(environ, ScriptedExecutor()):
        assert await goes(service, environ, asset)


async def test_old_jobs_are_deleted_by_the_setting(service, environ):
    """
    What ended longer ago than PICTOR_JOB_RETENTION_DAYS goes, with its pictures; the rest stays.
    """
    job, asset = await drawn(service, environ)
    service.executor.gate.clear()
    running = await create(service)
    await service.in_state(running.name, Job.STATE_RUNNING)
    await asyncio.sleep(0.2)
    days = str(0.1 / 86_400)
    store = await JobStore.open(environ["PICTOR_INFERENCE_DATABASE_URL"])
    async with inference_in({**environ, "PICTOR_JOB_RETENTION_DAYS": days}, ScriptedExecutor()):
        assert await goes(service, environ, asset)
        left = [await store.get(one.name) for one in (job, running)]
    await store.close()

    assert left[0] is None
    assert left[1] is not None


async def test_nothing_is_deleted_by_default(service, environ):
    """
    Jobs are kept for ever, however long ago they ended.
    """
    store = await JobStore.open(environ["PICTOR_INFERENCE_DATABASE_URL"])
    old = Job(name="jobs/old", account=ALICE, state=Job.STATE_SUCCEEDED, revision=1)
    old.create_time.FromSeconds(1)
    old.finish_time.FromSeconds(2)
    await store.insert(old)
    async with inference_in(environ, ScriptedExecutor()):
        await asyncio.sleep(0.3)
        assert await store.get("jobs/old")
        assert await store.ended_before(int(time.time() * 1e6), 10) == [old]
    await store.close()
