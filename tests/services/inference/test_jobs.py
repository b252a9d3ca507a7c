import asyncio
import contextlib
import io
import pathlib

import pytest
from PIL import Image

from pictor.catalog.v1 import model_pb2
from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import generation_pb2, inference_service_pb2, job_pb2, progress_pb2
from pictor.storage.v1 import asset_pb2, storage_service_pb2, storage_service_pb2_grpc
from pictor.worker.v1 import worker_pb2
from services.catalog import __main__ as catalog
from services.inference.store import JobStore
from services.paging import encode_token
from services.rpc.channels import open_channel
from services.rpc.errors import (
    AlreadyExists,
    Canceled,
    Exhausted,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    StateConflict,
    Unavailable,
    from_status,
    to_status,
)
from services.rpc.principals import Principal, acting_for, service_token
from services.rpc.settings import read
from tests.services.inference.scripted import (
    ALICE,
    BOB,
    ScriptedExecutor,
    inference_in,
    lost,
    neighbours,
    serve_model,
)

Job = job_pb2.Job
Note = job_pb2.ParameterNote


def running(job):
    """Return a job as a process that leases it writes it."""
    leased = Job()
    leased.CopyFrom(job)
    leased.state, leased.revision, leased.attempt_count = Job.STATE_RUNNING, job.revision + 1, 1
    return leased


async def test_a_job_runs_and_has_a_result(service):
    """
    A job that is created is queued, runs, and ends with what the device drew.
    """
    service.executor.gate.set()

    job = await service.create(seed=7)
    ended = await service.ended(job.name)

    assert ended.state == Job.STATE_SUCCEEDED
    assert ended.result.images[0].seed == 7
    assert ended.attempt_count == 1
    assert ended.revision == 3
    assert ended.create_time.ToNanoseconds() <= ended.start_time.ToNanoseconds()
    assert ended.start_time.ToNanoseconds() <= ended.finish_time.ToNanoseconds()


async def test_the_models_defaults_fill_what_was_left_out(service):
    """
    The job shows the effective values; the device is given the same.
    """
    service.executor.gate.set()

    job = await service.create(step_count=4)
    await service.ended(job.name)

    drawn = service.executor.assignments[0].generation
    assert (drawn.width_px, drawn.height_px, drawn.step_count) == (256, 256, 4)
    assert drawn.HasField("guidance_scale")
    assert drawn.HasField("seed")
    assert drawn == job.generation
    assert service.executor.assignments[0].model.name == "models/pictor/shapes"


async def test_jobs_run_in_the_order_of_their_admission(service):
    """
    The oldest queued job goes first, and each knows how many go before it.
    """
    jobs = [await service.create(prompt=f"circle {k}") for k in range(4)]
    await service.in_state(jobs[0].name, Job.STATE_RUNNING)

    positions = [(await service.get(job.name)).progress.queue_position for job in jobs[1:]]
    service.executor.gate.set()
    for job in jobs:
        await service.ended(job.name)

    assert positions == [0, 1, 2]
    assert [a.job for a in service.executor.assignments] == [job.name for job in jobs]


async def test_priority_puts_a_job_before_others_but_not_for_ever(service):
    """
    A more important job goes before those that wait, but not before one that waits for minutes.
    """
    held = await service.create()
    plain, low, high = [await service.create(priority=p) for p in (0, -1, 2)]
    await service.in_state(held.name, Job.STATE_RUNNING)

    names = {plain.name: 1, low.name: 2, high.name: 0}
    for name, position in names.items():
        assert (await service.get(name)).progress.queue_position == position
    service.executor.gate.set()
    for name in names:
        await service.ended(name)

    assert [a.job for a in service.executor.assignments[1:]] == [high.name, plain.name, low.name]
    assert [a.priority for a in service.executor.assignments] == [0, 2, 0, -1]


async def test_waiting_outweighs_priority(tmp_path):
    """
    A minute of waiting is worth one step of priority, so the queue starves nobody.
    """
    store = await JobStore.open(f"sqlite+aiosqlite:///{tmp_path / 'inference.db'}")
    made = {"old": (0, 0), "important": (130, 2), "too-late": (115, 1)}
    for name, (seconds, priority) in made.items():
        job = Job(name=f"jobs/{name}", state=Job.STATE_QUEUED, revision=1, priority=priority)
        job.create_time.FromSeconds(1_800_000_000 + seconds)
        await store.insert(job)
    queue = [job.name for job in await store.in_state(Job.STATE_QUEUED, 9)]
    positions = [await store.queue_position(name) for name in queue]
    await store.close()

    assert queue == ["jobs/old", "jobs/important", "jobs/too-late"]
    assert positions == [0, 1, 2]


@pytest.mark.parametrize("priority", [-11, 11])
async def test_a_priority_out_of_range_is_refused(service, priority):
    """
    The error names value and rule; nothing is queued.
    """
    with pytest.raises(InvalidRequest, match=f"priority {priority} is outside -10 to 10"):
        await service.create(priority=priority)

    assert await service.jobs() == []


async def test_only_an_administrator_puts_others_back(environ):
    """
    A key without the scope may lower its own priority, and not raise it.
    """
    from services.inference.admission import check_priority

    drawer = Principal(account=ALICE, scopes=frozenset({"images:write"}))
    check_priority(-3, drawer)
    with pytest.raises(PermissionDenied, match="accounts:admin"):
        check_priority(1, drawer)


async def test_a_watcher_sees_the_job_then_every_change_then_the_end(service):
    """
    The first message has the whole job, revisions have no gap, and the last message is terminal.
    """
    service.executor.up.clear()
    job = await service.create()
    watch = service.watch(job.name)
    messages = [await anext(aiter(watch))]
    service.executor.up.set()
    await service.in_state(job.name, Job.STATE_RUNNING)
    service.executor.gate.set()
    messages += [message async for message in watch]

    revisions = list(dict.fromkeys(message.revision for message in messages))
    assert messages[0].job.name == job.name
    assert revisions == [1, 2, 3]
    assert messages[-1].state == Job.STATE_SUCCEEDED
    assert messages[-1].job.result.images
    assert sum(message.state == Job.STATE_SUCCEEDED for message in messages) == 1


async def test_a_watcher_sees_the_steps(service):
    """
    Progress names phase, step and number of steps, and the newest is what GetJob shows.
    """
    job = await service.create()
    seen = []
    async for message in service.watch(job.name):
        if message.progress.phase == progress_pb2.Progress.PHASE_DENOISING:
            seen.append(message.progress.step)
            service.executor.gate.set()

    assert seen
    assert seen == sorted(seen)
    assert message.progress.step == message.progress.step_count == service.executor.steps


async def test_a_watcher_that_lost_its_connection_misses_nothing(service):
    """
    After a revision every later change comes, once each, also when the job has ended meanwhile.
    """
    service.executor.gate.set()
    job = await service.create()
    await service.ended(job.name)

    again = [message async for message in service.watch(job.name, after_revision=1)]
    at_end = [message async for message in service.watch(job.name, after_revision=3)]

    assert [message.revision for message in again] == [2, 3]
    assert [message.state for message in again] == [Job.STATE_RUNNING, Job.STATE_SUCCEEDED]
    assert again[0].job.name == again[-1].job.name == job.name
    assert again[-1].job.result.images
    assert [message.revision for message in at_end] == [3]
    assert at_end[0].job.state == Job.STATE_SUCCEEDED


async def test_a_watcher_resumes_after_a_restart(environ):
    """
    Revisions outlive the process: another one continues the same stream.
    """
    executor = ScriptedExecutor()
    executor.gate.set()
    async with inference_in(environ, executor) as before:
        job = await before.create()
        await before.ended(job.name)
    async with inference_in(environ, ScriptedExecutor()) as after:
        again = [message async for message in after.watch(job.name, after_revision=2)]

    assert [message.revision for message in again] == [3]


async def test_previews_come_only_when_they_were_asked_for(service):
    """
    A watcher that did not ask for previews is not sent any.
    """
    preview = worker_pb2.Report(preview=progress_pb2.Preview(step=1, content=b"png"))
    service.executor.outcomes = []
    job = await service.create()
    wants, plain = service.watch(job.name, include_previews=True), service.watch(job.name)
    await anext(aiter(wants))
    await anext(aiter(plain))
    # The scripted executor passes a preview on as its last report, and then loses the device.
    service.executor.outcomes = [preview]
    service.executor.gate.set()

    got = [message async for message in wants]
    others = [message async for message in plain]
    assert any(message.preview.content == b"png" for message in got)
    assert not any(message.HasField("preview") for message in others)


async def test_canceling_a_queued_job_ends_it_at_once(service):
    """
    A queued job that is canceled never reaches a device.
    """
    first = await service.create()
    second = await service.create()
    await service.in_state(first.name, Job.STATE_RUNNING)

    canceled = await service.cancel(second.name)
    service.executor.gate.set()
    await service.ended(first.name)

    assert canceled.state == Job.STATE_CANCELED
    assert from_status(canceled.error).reason == reasons.ERROR_REASON_JOB_CANCELED
    assert [a.job for a in service.executor.assignments] == [first.name]


async def test_canceling_a_running_job_stops_the_device(service):
    """
    A running job that is canceled ends the attempt, and the next job runs.
    """
    job, following = await service.create(), await service.create()
    await service.in_state(job.name, Job.STATE_RUNNING)

    await service.cancel(job.name)
    await service.in_state(following.name, Job.STATE_RUNNING)
    service.executor.gate.set()

    assert service.executor.stopped == [job.name]
    assert (await service.ended(job.name)).state == Job.STATE_CANCELED
    assert (await service.ended(following.name)).state == Job.STATE_SUCCEEDED


async def test_canceling_twice_is_canceling_once(service):
    """
    Canceling a canceled job answers with it; canceling one that has succeeded is a conflict.
    """
    job = await service.create()
    first, second = await service.cancel(job.name), await service.cancel(job.name)
    assert first.revision == second.revision

    service.executor.gate.set()
    done = await service.create()
    await service.ended(done.name)
    with pytest.raises(StateConflict, match="succeeded"):
        await service.cancel(done.name)


async def test_a_cancel_that_races_the_end_has_one_winner(service):
    """
    Whoever comes first, the job has one terminal state and its events say the same.
    """
    service.executor.gate.set()
    for _ in range(20):
        job = await service.create()
        with contextlib.suppress(StateConflict):
            await service.cancel(job.name)
        messages = [message async for message in service.watch(job.name, after_revision=1)]
        terminal = [m.state for m in messages if m.state > Job.STATE_RUNNING]
        assert len(terminal) == 1
        assert (await service.get(job.name)).state == terminal[0]


async def test_a_lost_device_runs_the_job_again(service):
    """
    The job that a dead device held goes back to the queue and succeeds.
    """
    service.executor.outcomes = [lost()]
    service.executor.gate.set()

    job = await service.create()
    ended = await service.ended(job.name)

    assert ended.state == Job.STATE_SUCCEEDED
    assert ended.attempt_count == 2


async def test_a_job_that_kills_every_device_fails(service):
    """
    After its last attempt such a job fails with DEVICE_LOST, and the next job runs.
    """
    service.executor.outcomes = [lost(), lost(), lost()]
    service.executor.gate.set()

    ended = await service.ended((await service.create()).name)
    following = await service.ended((await service.create()).name)

    assert ended.state == Job.STATE_FAILED
    assert from_status(ended.error).reason == reasons.ERROR_REASON_DEVICE_LOST
    assert following.state == Job.STATE_SUCCEEDED


async def test_a_job_that_kills_devices_does_not_take_others_with_it(service):
    """
    The last attempt of each that was lost is made alone: the guilty one fails, the others are
    drawn.
    """
    executor = service.executor
    executor.slots, executor.deadly = 3, {"deadly"}
    executor.gate.set()
    prompts = ["one", "deadly", "two"]

    jobs = [await service.create(prompt=prompt) for prompt in prompts]
    ended = [await service.ended(job.name) for job in jobs]
    following = await service.ended((await service.create()).name)

    states = {job.generation.prompt: job.state for job in ended}
    assert states == {
        "one": Job.STATE_SUCCEEDED,
        "deadly": Job.STATE_FAILED,
        "two": Job.STATE_SUCCEEDED,
    }
    assert following.attempt_count == 1


async def test_a_device_that_let_go_of_a_job_is_no_failure(service):
    """
    It does when this process was not heard of for a lease: the job runs again, and nothing counts.
    """
    let_go = Canceled("the lease ended: whoever assigned this was not heard of again")
    service.executor.outcomes = [worker_pb2.Report(error=to_status(let_go))]
    service.executor.gate.set()

    ended = await service.ended((await service.create()).name)

    assert ended.state == Job.STATE_SUCCEEDED
    assert ended.attempt_count == 1


async def test_an_error_of_the_device_is_the_jobs_error(service):
    """
    What the device reports is found in the job, with its reason.
    """
    memory = Exhausted("the device has not enough memory for 2048 x 2048")
    service.executor.outcomes = [worker_pb2.Report(error=to_status(memory))]
    service.executor.gate.set()

    ended = await service.ended((await service.create()).name)

    assert ended.state == Job.STATE_FAILED
    assert from_status(ended.error).reason == reasons.ERROR_REASON_DEVICE_OUT_OF_MEMORY
    assert "2048 x 2048" in ended.error.message


async def test_a_job_that_runs_too_long_fails(environ):
    """
    An attempt that outlasts the limit is stopped, and the job fails with DEADLINE_EXCEEDED.
    """
    short = {**environ, "PICTOR_JOB_TIME_LIMIT": "0.2"}
    async with inference_in(short, ScriptedExecutor()) as service:
        ended = await service.ended((await service.create()).name)

    assert ended.state == Job.STATE_FAILED
    assert from_status(ended.error).reason == reasons.ERROR_REASON_DEADLINE_EXCEEDED


async def test_a_restart_runs_what_was_queued_and_what_was_running(environ):
    """
    Jobs outlive the process that admitted them, and its orderly end costs them no attempt.
    """
    async with inference_in(environ, ScriptedExecutor()) as before:
        running, queued = await before.create(), await before.create()
        await before.in_state(running.name, Job.STATE_RUNNING)
    executor = ScriptedExecutor()
    executor.gate.set()
    async with inference_in(environ, executor) as after:
        ended = [await after.ended(job.name) for job in (running, queued)]

    assert [job.state for job in ended] == [Job.STATE_SUCCEEDED] * 2
    assert [job.attempt_count for job in ended] == [1, 1]


async def test_a_catalog_that_is_started_again_costs_no_job(tmp_path):
    """
    A job that was admitted before waits for it.
    """
    executor = ScriptedExecutor(slots=0)
    executor.gate.set()
    async with neighbours(tmp_path) as bound:
        settings = read(catalog.Settings, {**bound, "PICTOR_CATALOG_ADDRESS": "127.0.0.1:0"})
        async with contextlib.AsyncExitStack() as stack:
            address = await stack.enter_async_context(catalog.running(settings))
            environ = {**bound, "PICTOR_CATALOG_ADDRESS": address}
            await serve_model(address, service_token(tmp_path), "pictor/shapes")
            service = await stack.enter_async_context(inference_in(environ, executor))
            job = await service.create()
        again = read(catalog.Settings, environ)
        async with inference_in(environ, executor) as service:
            executor.slots = 1
            await asyncio.sleep(0.5)
            waiting = await service.get(job.name)
            async with catalog.running(again):
                ended = await service.ended(job.name)

    assert waiting.state == Job.STATE_RUNNING
    assert ended.state == Job.STATE_SUCCEEDED


async def test_a_job_of_a_killed_process_runs_at_once_on_sqlite(environ):
    """
    One process has a SQLite database: one that starts need not wait for the lease of another.
    """
    url = environ["PICTOR_INFERENCE_DATABASE_URL"]
    if "sqlite" not in url:
        pytest.skip("with PostgreSQL there may be others")
    async with inference_in(environ, ScriptedExecutor(slots=0)) as before:
        job = await before.create()
    killed = await JobStore.open(url)
    await killed.join()
    assert await killed.lease(running)
    await killed.close()
    executor = ScriptedExecutor()
    executor.gate.set()
    async with inference_in({**environ, "PICTOR_LEASE_SECONDS": "60"}, executor) as after:
        ended = await after.ended(job.name)

    assert ended.state == Job.STATE_SUCCEEDED


async def test_a_job_that_runs_nowhere_is_rescued(service):
    """
    A job whose process crashed in the midst of it runs again, without anybody's hand.
    """
    service.executor.slots = 0
    job = await service.create()
    store = await JobStore.open(service.settings.inference_database_url)
    orphan = await store.get(job.name)
    orphan.state, orphan.revision, orphan.attempt_count = Job.STATE_RUNNING, 2, 1
    await store.change(orphan)
    await store.close()
    service.executor.slots = 1
    service.executor.gate.set()

    ended = await service.ended(job.name)

    assert ended.state == Job.STATE_SUCCEEDED
    assert ended.attempt_count == 2


async def test_another_accounts_job_does_not_exist(service):
    """
    Reading, watching and canceling another account's job is NOT_FOUND, as for one that never was.
    """
    job = await service.create()

    for name in (job.name, "jobs/none", "", "jobs/../x"):
        with pytest.raises(NotFound) as error:
            await service.get(name, BOB)
        assert error.value.reason == reasons.ERROR_REASON_JOB_NOT_FOUND
        with pytest.raises(NotFound):
            await service.cancel(name, BOB)
        with pytest.raises(NotFound):
            await anext(aiter(service.watch(name, BOB)))


async def test_a_list_has_the_accounts_own_jobs_newest_first(service):
    """
    Pages follow each other without gaps, and other accounts' jobs are not in them.
    """
    mine = [(await service.create()).name for _ in range(5)]
    await service.create(BOB)

    listed, token = [], ""
    while True:
        with acting_for(ALICE):
            page = await service.stub.ListJobs(
                inference_service_pb2.ListJobsRequest(page_size=2, page_token=token)
            )
        listed += [job.name for job in page.jobs]
        token = page.next_page_token
        if not token:
            break

    assert listed == mine[::-1]


async def test_a_list_may_be_narrowed_to_states(service):
    """
    Only jobs in one of the states that were asked for are listed.
    """
    canceled = (await service.create()).name
    await service.cancel(canceled)
    await service.create()

    with acting_for(ALICE):
        page = await service.stub.ListJobs(
            inference_service_pb2.ListJobsRequest(states=[Job.STATE_CANCELED])
        )

    assert [job.name for job in page.jobs] == [canceled]


@pytest.mark.parametrize("token", ["x", "WyJ4Il0", "é", encode_token("9" * 30)])
async def test_a_page_token_that_was_not_given_out_is_refused(service, token):
    """
    A forged page token is INVALID_ARGUMENT.
    """
    with acting_for(ALICE), pytest.raises(InvalidRequest, match="page_token"):
        await service.stub.ListJobs(inference_service_pb2.ListJobsRequest(page_token=token))


async def test_a_model_that_nothing_serves_is_unavailable(service):
    """
    A known model without weights is refused with MODEL_NOT_SERVING and when to ask again.
    """
    with pytest.raises(Unavailable) as error:
        await service.create(model="black-forest-labs/FLUX.1-dev")

    assert error.value.reason == reasons.ERROR_REASON_MODEL_NOT_SERVING
    assert error.value.retry_after_seconds


async def test_what_the_caller_can_fix_comes_before_what_only_time_fixes(service):
    """
    A prompt that is too long is the error, also when nothing serves the model.
    """
    with pytest.raises(InvalidRequest) as error:
        await service.create(model="black-forest-labs/FLUX.1-dev", prompt="x" * 2049)

    assert error.value.reason == reasons.ERROR_REASON_PROMPT_TOO_LONG


async def test_an_input_image_gives_the_size(service):
    """
    Without a width and height, image-to-image draws in the size of its input.
    """
    asset = await upload(service, ALICE, (320, 240))
    image = generation_pb2.InputImage(asset=asset)

    job = await service.create(input_images=[image])

    assert (job.generation.width_px, job.generation.height_px) == (320, 240)
    assert job.generation.operation == model_pb2.OPERATION_IMAGE_TO_IMAGE


async def test_another_accounts_image_cannot_be_used(service):
    """
    An input asset that belongs to somebody else does not exist, and nothing is queued.
    """
    asset = await upload(service, BOB, (256, 256))

    with pytest.raises(NotFound) as error:
        await service.create(input_images=[generation_pb2.InputImage(asset=asset)])

    assert error.value.reason == reasons.ERROR_REASON_ASSET_NOT_FOUND
    with acting_for(ALICE):
        page = await service.stub.ListJobs(inference_service_pb2.ListJobsRequest())
    assert not page.jobs


async def test_a_page_fits_into_one_message(service):
    """
    A page of jobs with very long prompts is cut short, and the next one goes on behind it.
    """
    service.executor.up.clear()
    store = await JobStore.open(service.settings.inference_database_url)
    for number in range(100):
        job = Job(name=f"jobs/{number}", account=ALICE, state=Job.STATE_CANCELED, revision=1)
        job.generation.prompt = "x" * 60_000
        await store.insert(job)
    await store.close()

    with acting_for(ALICE):
        request = inference_service_pb2.ListJobsRequest(page_size=1000)
        first = await service.stub.ListJobs(request)
        request.page_token = first.next_page_token
        second = await service.stub.ListJobs(request)

    assert [len(page.jobs) for page in (first, second)] == [52, 48]
    assert not second.next_page_token


@pytest.mark.parametrize(
    "fields",
    [
        {"dialect": "x" * 64},
        {"dialect": "a prompt in a log"},
        {"receipt": [job_pb2.ParameterNote(requested="x" * 5000)]},
        {"receipt": [job_pb2.ParameterNote(parameter="n")] * 101},
    ],
)
async def test_what_a_caller_says_of_itself_is_bounded(service, fields):
    """
    Neither the job nor the logs take an origin or a receipt of any length.
    """
    generation = generation_pb2.Generation(model="pictor/shapes", prompt="x")
    request = inference_service_pb2.CreateJobRequest(generation=generation, **fields)

    with acting_for(ALICE), pytest.raises(InvalidRequest):
        await service.stub.CreateJob(request)


async def test_validating_queues_nothing(service):
    """
    With validate_only the effective generation comes back, and there is no job.
    """
    request = inference_service_pb2.CreateJobRequest(
        generation=generation_pb2.Generation(model="pictor/shapes", prompt="a circle"),
        validate_only=True,
    )
    with acting_for(ALICE):
        job = await service.stub.CreateJob(request)
        page = await service.stub.ListJobs(inference_service_pb2.ListJobsRequest())

    assert not job.name
    assert job.generation.width_px == 256
    assert not page.jobs


OWN_ID = "c3b1e0e7-2f7c-4c66-bd13-97b6c2b87f1d"


def asking(**fields):
    generation = generation_pb2.Generation(model="pictor/shapes", prompt="a circle")
    return inference_service_pb2.CreateJobRequest(generation=generation, **fields)


async def test_a_caller_may_choose_the_id(service):
    """
    The job has the id that its caller chose, and can be asked for by it.
    """
    with acting_for(ALICE):
        job = await service.stub.CreateJob(asking(job_id=OWN_ID))

    assert job.name == f"jobs/{OWN_ID}"
    assert (await service.get(job.name)).name == job.name


@pytest.mark.parametrize("account", [ALICE, BOB])
@pytest.mark.parametrize("validate_only", [False, True])
async def test_an_id_makes_one_job_whoever_chooses_it(service, account, validate_only):
    """
    The second request draws nothing, and does not learn whose the first job is.
    """
    with acting_for(ALICE):
        await service.stub.CreateJob(asking(job_id=OWN_ID))
    with acting_for(account), pytest.raises(AlreadyExists) as error:
        await service.stub.CreateJob(asking(job_id=OWN_ID, validate_only=validate_only))

    assert error.value.reason == reasons.ERROR_REASON_JOB_EXISTS
    assert ALICE not in str(error.value.message) + str(error.value.metadata)
    assert len(await service.jobs(ALICE)) == 1
    assert not await service.jobs(BOB)


async def test_of_many_requests_with_one_id_one_makes_a_job(service):
    """
    Also when they come at the same moment.
    """
    with acting_for(ALICE):
        calls = [service.stub.CreateJob(asking(job_id=OWN_ID)) for _ in range(8)]
        answers = await asyncio.gather(*calls, return_exceptions=True)

    assert sum(isinstance(answer, Job) for answer in answers) == 1
    assert sum(isinstance(answer, AlreadyExists) for answer in answers) == 7
    assert len(await service.jobs()) == 1


@pytest.mark.parametrize("job_id", ["1", OWN_ID.upper(), f"{OWN_ID}\n", OWN_ID.replace("4c", "1c")])
async def test_an_id_that_others_could_guess_is_refused(service, job_id):
    """
    An id is a UUID of version 4, as the service's own are.
    """
    with acting_for(ALICE), pytest.raises(InvalidRequest) as error:
        await service.stub.CreateJob(asking(job_id=job_id))

    assert error.value.violations[0].field == "job_id"


async def test_a_strict_request_that_is_not_wholly_honoured_is_no_job(service):
    """
    What the caller has noted as clamped refuses the request; without strict it is only noted.
    """
    note = Note(parameter="n", treatment=Note.TREATMENT_CLAMPED, requested="12", used="10")
    with acting_for(ALICE), pytest.raises(InvalidRequest) as error:
        await service.stub.CreateJob(asking(receipt=[note], strict=True))
    assert error.value.reason == reasons.ERROR_REASON_PARAMETER_NOT_HONOURED
    assert not await service.jobs()

    with acting_for(ALICE):
        job = await service.stub.CreateJob(asking(receipt=[note]))
    assert [(n.parameter, n.treatment) for n in job.receipt] == [
        ("n", Note.TREATMENT_CLAMPED),
        ("model", Note.TREATMENT_HONOURED),
        ("prompt", Note.TREATMENT_HONOURED),
    ]


async def test_the_device_has_the_last_word_on_what_was_honoured(service):
    """
    A parameter that the device could not use has one note in the end: that it was ignored.
    """
    drawn = job_pb2.JobResult(images=[job_pb2.GeneratedImage(asset="assets/0")])
    note = Note(parameter="sampler", treatment=Note.TREATMENT_IGNORED, reason="has its own")
    outcome = worker_pb2.Report(result=worker_pb2.Result(job_result=drawn, receipt=[note]))
    service.executor.outcomes.append(outcome)
    service.executor.gate.set()
    job = await service.create(sampler="euler")

    ended = await service.ended(job.name)

    noted = [(n.parameter, n.treatment) for n in ended.receipt if n.parameter == "sampler"]
    assert noted == [("sampler", Note.TREATMENT_IGNORED)]


async def upload(service, account, size):
    """Store a picture of one colour and return its asset's name."""
    content = io.BytesIO()
    Image.new("RGB", size, "red").save(content, "PNG")

    async def messages():
        uploaded = asset_pb2.Asset(origin=asset_pb2.Asset.ORIGIN_UPLOADED)
        yield storage_service_pb2.CreateAssetRequest(asset=uploaded)
        yield storage_service_pb2.CreateAssetRequest(chunk=content.getvalue())

    async with open_channel(service.settings.storage_address, service.token) as channel:
        stub = storage_service_pb2_grpc.StorageServiceStub(channel)
        with acting_for(account):
            return (await stub.CreateAsset(messages())).name


async def test_a_stand_in_draws_the_nearest_thing_that_it_can(environ):
    """
    A model without weights is answered for, within what the stand-in can do, and the job says so.
    """
    async with neighbours(environ["PICTOR_DATA_DIR"], PICTOR_STAND_IN="pictor/shapes") as standing:
        token = service_token(pathlib.Path(environ["PICTOR_DATA_DIR"]))
        await serve_model(standing["PICTOR_CATALOG_ADDRESS"], token, "pictor/shapes")
        executor = ScriptedExecutor()
        executor.gate.set()
        async with inference_in(standing, executor) as service:
            images = [
                generation_pb2.InputImage(asset=await upload(service, ALICE, (256, 256)))
                for _ in range(2)
            ]
            job = await service.create(model="black-forest-labs/FLUX.2-dev", input_images=images)
            await service.ended(job.name)

    drawn = executor.assignments[0]
    assert job.served_by == drawn.model.name == "models/pictor/shapes"
    assert job.generation.model == "models/black-forest-labs/FLUX.2-dev"
    assert (drawn.generation.width_px, drawn.generation.step_count) == (512, 30)
    assert drawn.generation.operation == model_pb2.OPERATION_IMAGE_TO_IMAGE
    assert len(drawn.generation.input_images) == 1
    notes = {note.parameter: note.used for note in job.receipt}
    assert notes["operation"] == "image-to-image"
    assert notes["input_images"] == "the first 1"


async def test_a_hundred_watchers_of_one_job_all_see_its_end(service):
    """
    Watchers do not take news from each other.
    """
    job = await service.create()
    watching = [asyncio.create_task(service.ended(job.name)) for _ in range(100)]
    await service.in_state(job.name, Job.STATE_RUNNING)
    service.executor.gate.set()

    assert {ended.state for ended in await asyncio.gather(*watching)} == {Job.STATE_SUCCEEDED}


def retry(service, name, account=ALICE):
    with acting_for(account):
        return service.stub.RetryJob(inference_service_pb2.RetryJobRequest(name=name))


async def test_a_canceled_job_is_retried_as_a_new_one(service):
    """
    Everything of it is as before but the id; the old job stays as it ended.
    """
    job = await service.create(seed=7)
    await service.cancel(job.name)

    again = await retry(service, job.name)
    service.executor.gate.set()
    ended = await service.ended(again.name)

    assert (again.retry_of, again.name != job.name) == (job.name, True)
    assert again.generation == job.generation
    assert again.receipt == job.receipt
    assert ended.state == Job.STATE_SUCCEEDED
    assert (await service.get(job.name)).state == Job.STATE_CANCELED


async def test_only_what_ended_badly_is_retried(service):
    """
    A job that goes on or has succeeded has no need of it.
    """
    job = await service.create()
    with pytest.raises(StateConflict, match=r"the job is (queued|running); only one"):
        await retry(service, job.name)
    service.executor.gate.set()
    await service.ended(job.name)
    with pytest.raises(StateConflict, match="the job is succeeded"):
        await retry(service, job.name)


async def test_another_accounts_job_is_not_retried(service):
    """
    To others it does not exist.
    """
    job = await service.create()
    await service.cancel(job.name)

    with pytest.raises(NotFound):
        await retry(service, job.name, BOB)


@pytest.mark.parametrize(("before", "after"), [(5, 0), (-3, -3)])
async def test_a_retry_does_not_inherit_the_right_to_go_first(service, before, after):
    """
    A priority above 0 was permitted to whoever asked then; one below stays.
    """
    job = await service.create(priority=before)
    await service.cancel(job.name)

    assert (await retry(service, job.name)).priority == after
