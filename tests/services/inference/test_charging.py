"""Jobs that are paid for: held, captured, released, and what a crash leaves behind."""

import asyncio
import contextlib
import uuid

import pytest

from pictor.accounts.v1 import (
    account_pb2,
    accounts_service_pb2,
    accounts_service_pb2_grpc,
    ledger_pb2,
)
from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import generation_pb2, inference_service_pb2, job_pb2
from services.inference.charging import Charging
from services.inference.outbox import Outbox, Topic, pause_seconds
from services.inference.store import CAPTURE, RELEASE, JobStore
from services.rpc.channels import open_channel
from services.rpc.errors import AlreadyExists, Internal, StateConflict, Unavailable
from services.rpc.principals import acting_for, service_token
from tests.services.inference.scripted import (
    ScriptedExecutor,
    inference_in,
    neighbours,
    serve_model,
)

Job = job_pb2.Job
# Of 256 x 256 pixels and 20 steps, at one credit for a megapixel and a step.
PRICE = 1_310_720
TOPICS = (CAPTURE, RELEASE)


class Till:
    """The accounts service, as an operator and as the suite see it."""

    def __init__(self, stub) -> None:
        self.stub = stub

    async def account(self, microcredits: int, *, prepaid: bool = True) -> str:
        billing = account_pb2.Account.BILLING_PREPAID if prepaid else 0
        wanted = account_pb2.Account(display_name="somebody", billing=billing)
        request = accounts_service_pb2.CreateAccountRequest(account=wanted)
        name = (await self.stub.CreateAccount(request)).name
        if microcredits:
            await self.stub.GrantCredits(
                ledger_pb2.GrantCreditsRequest(
                    name=name, amount_microcredits=microcredits, request_id="first"
                )
            )
        return name

    async def balance(self, name: str) -> tuple[int, int]:
        request = ledger_pb2.GetBalanceRequest(name=f"{name}/balance")
        found = await self.stub.GetBalance(request)
        return found.balance_microcredits, found.held_microcredits

    async def settled(self, name: str, balance: int) -> None:
        """Wait until nothing is held, and insist on the balance."""
        async with asyncio.timeout(5):
            while (await self.balance(name))[1]:  # noqa: ASYNC110 - another process has it
                await asyncio.sleep(0.01)
        assert (await self.balance(name))[0] == balance
        audit = await self.stub.AuditLedgers(ledger_pb2.AuditLedgersRequest())
        assert list(audit.accounts) == []

    async def kinds(self, name: str) -> list[str]:
        request = ledger_pb2.ListLedgerEntriesRequest(parent=name)
        listed = await self.stub.ListLedgerEntries(request)
        return [ledger_pb2.LedgerEntry.Kind.Name(e.kind)[5:] for e in listed.ledger_entries]

    async def hold(self, name: str, job: str) -> None:
        await self.stub.HoldCredits(
            ledger_pb2.HoldCreditsRequest(account=name, job=job, amount_microcredits=PRICE)
        )


@pytest.fixture
async def environ(tmp_path):
    """The environment of an inference service in which drawing has a price."""
    async with neighbours(tmp_path, PICTOR_DEFAULT_PRICE="1000000") as bound:
        token = service_token(tmp_path)
        await serve_model(bound["PICTOR_CATALOG_ADDRESS"], token, "pictor/shapes")
        yield bound


@pytest.fixture
async def till(environ, tmp_path):
    address = environ["PICTOR_ACCOUNTS_ADDRESS"]
    async with open_channel(address, service_token(tmp_path)) as channel:
        yield Till(accounts_service_pb2_grpc.AccountsServiceStub(channel))


@contextlib.asynccontextmanager
async def store_of(folder):
    store = await JobStore.open(f"sqlite+aiosqlite:///{folder / 'inference.db'}")
    yield store
    await store.close()


def queued(name: str, account: str, price: int = PRICE) -> Job:
    job = Job(name=name, account=account, state=Job.STATE_QUEUED, revision=1)
    job.price_microcredits = price
    job.create_time.GetCurrentTime()
    return job


def succeeded(job: Job) -> Job:
    done = Job()
    done.CopyFrom(job)
    done.state, done.revision = Job.STATE_SUCCEEDED, job.revision + 1
    done.result.SetInParent()
    return done


async def test_a_job_costs_its_price_when_it_succeeds(service, till):
    """
    The price is held while the job goes on and spent once; job and ledger agree.
    """
    account = await till.account(2 * PRICE)
    job = await service.create(account)
    held = await till.balance(account)
    service.executor.gate.set()
    ended = await service.ended(job.name, account)

    assert held == (PRICE, PRICE)
    assert (job.price_microcredits, job.cost_microcredits) == (PRICE, 0)
    assert (ended.price_microcredits, ended.cost_microcredits) == (PRICE, PRICE)
    await till.settled(account, PRICE)
    assert await till.kinds(account) == ["CAPTURE", "HOLD", "GRANT"]


@pytest.mark.parametrize("end", ["fails", "is canceled"])
async def test_a_job_that_does_not_succeed_costs_nothing(service, till, end):
    """
    What was held comes back.
    """
    account = await till.account(PRICE)
    service.executor.outcomes = [Internal("the device is broken")]
    job = await service.create(account)
    if end == "fails":
        service.executor.gate.set()
        ended = await service.ended(job.name, account)
    else:
        ended = await service.cancel(job.name, account)

    assert ended.cost_microcredits == 0
    await till.settled(account, PRICE)
    assert await till.kinds(account) == ["RELEASE", "HOLD", "GRANT"]


async def test_who_cannot_pay_gets_no_job(service, till):
    """
    The refusal names price and balance, and nothing is queued or held.
    """
    account = await till.account(PRICE - 1)

    with pytest.raises(StateConflict, match=r"costs 1\.31072 credits") as error:
        await service.create(account)

    assert error.value.reason == reasons.ERROR_REASON_INSUFFICIENT_CREDITS
    assert await service.jobs(account) == []
    assert await till.balance(account) == (PRICE - 1, 0)


async def test_the_last_credits_are_spent_once(service, till):
    """
    Of many requests at once only as many become jobs as the balance covers.
    """
    account = await till.account(3 * PRICE)
    asked = [service.create(account) for _ in range(10)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    service.executor.gate.set()
    jobs = [one for one in answers if isinstance(one, Job)]
    for job in jobs:
        await service.ended(job.name, account)

    assert len(jobs) == 3
    await till.settled(account, 0)


async def test_an_unlimited_account_sees_nothing_of_credits(service, till):
    """
    Without billing there is no price in the job, and no line in the ledger.
    """
    account = await till.account(0, prepaid=False)
    service.executor.gate.set()
    job = await service.create(account)
    ended = await service.ended(job.name, account)

    assert (ended.price_microcredits, ended.cost_microcredits) == (0, 0)
    assert await till.kinds(account) == []


async def test_a_quote_costs_nothing_and_tells_everything(service, till):
    """
    Price, place in the queue and, once a job of the model has ended, the expected time.
    """
    account = await till.account(10 * PRICE)
    request = inference_service_pb2.CreateJobRequest(
        generation=generation_pb2.Generation(model="pictor/shapes", prompt="a red circle"),
        validate_only=True,
    )
    with acting_for(account):
        first = await service.stub.CreateJob(request)
    service.executor.gate.set()
    await service.ended((await service.create(account)).name, account)
    service.executor.gate.clear()
    running = await service.create(account)
    async for message in service.watch(running.name, account):
        if message.state == Job.STATE_RUNNING:
            break
    waiting = await service.create(account)
    with acting_for(account):
        second = await service.stub.CreateJob(request)

    assert first.name == second.name == ""
    assert first.price_microcredits == second.price_microcredits == PRICE
    assert not first.HasField("expected_duration")
    assert (first.progress.queue_position, second.progress.queue_position) == (0, 1)
    assert second.expected_duration.ToNanoseconds() > 0
    shown = await service.get(waiting.name, account)
    assert shown.expected_duration.ToNanoseconds() > 0
    assert len(await service.jobs(account)) == 3
    assert (await till.balance(account))[1] == 2 * PRICE


async def test_a_repetition_is_paid_for_again(service, till):
    """
    Drawing once more what failed is a job of its own, with a hold of its own.
    """
    account = await till.account(PRICE)
    service.executor.outcomes = [Internal("the device is broken")]
    service.executor.gate.set()
    failed = await service.create(account)
    await service.ended(failed.name, account)
    await till.settled(account, PRICE)
    with acting_for(account):
        request = inference_service_pb2.RetryJobRequest(name=failed.name)
        again = await service.stub.RetryJob(request)
    await service.ended(again.name, account)

    await till.settled(account, 0)
    with acting_for(account), pytest.raises(StateConflict, match="ask the operator"):
        await service.stub.RetryJob(request)


async def test_a_chosen_id_that_is_taken_holds_nothing_more(service, till):
    """
    A refused job leaves no hold behind, and takes none away from the job that is there.
    """
    account, other = await till.account(PRICE), await till.account(PRICE)
    job_id = str(uuid.uuid4())
    request = inference_service_pb2.CreateJobRequest(
        generation=generation_pb2.Generation(model="pictor/shapes", prompt="a red circle"),
        job_id=job_id,
    )

    async def create(whose: str) -> Job:
        with acting_for(whose):
            return await service.stub.CreateJob(request)

    wishes = [create(account) for _ in range(4)] + [create(other) for _ in range(4)]
    answers = await asyncio.gather(*wishes, return_exceptions=True)
    [job] = [one for one in answers if isinstance(one, Job)]
    service.executor.gate.set()
    await service.ended(job.name, job.account)

    assert sum(isinstance(one, AlreadyExists) for one in answers) == 7
    await till.settled(job.account, 0)
    await till.settled(other if job.account == account else account, PRICE)


async def test_twins_hold_the_price_once(service, till):
    """
    Of many requests with one key one makes a job; what was held for the others is back at once.
    """
    account = await till.account(20 * PRICE)
    request = inference_service_pb2.CreateJobRequest(
        generation=generation_pb2.Generation(model="pictor/shapes", prompt="a red circle"),
        idempotency_key="twins",
    )
    with acting_for(account):
        made = await asyncio.gather(*(service.stub.CreateJob(request) for _ in range(10)))

    assert len({job.name for job in made}) == 1
    assert await till.balance(account) == (19 * PRICE, PRICE)


@pytest.mark.parametrize("end", ["captured", "released"])
async def test_what_a_crash_left_in_the_outbox_is_delivered_after_the_start(
    environ, tmp_path, till, end
):
    """
    The process that ended the job died before it told accounts; the next one tells it.
    """
    account = await till.account(PRICE)
    await till.hold(account, "jobs/1")
    async with store_of(tmp_path) as store:
        job = queued("jobs/1", account)
        await store.insert(job)
        done = succeeded(job)
        if end == "released":
            done.state = Job.STATE_FAILED
            done.error.code = 13
        assert await store.change(done)
    async with inference_in(environ, ScriptedExecutor()):
        await till.settled(account, 0 if end == "captured" else PRICE)


async def test_only_the_change_that_wins_writes_a_message(tmp_path):
    """
    A cancel that races a completion leaves one message, of the end that was written.
    """
    async with store_of(tmp_path) as store:
        job = queued("jobs/1", "accounts/a")
        await store.insert(job)
        canceled = Job()
        canceled.CopyFrom(succeeded(job))
        canceled.state = Job.STATE_CANCELED
        wins = await store.change(succeeded(job))
        loses = await store.change(canceled)
        messages = await store.due_messages(TOPICS, 2**62, 10)

    assert (wins, loses) == (True, False)
    assert [message.topic for message in messages] == [CAPTURE]


async def test_a_free_job_leaves_no_message(tmp_path):
    """
    Without billing the outbox stays empty.
    """
    async with store_of(tmp_path) as store:
        job = queued("jobs/1", "accounts/a", price=0)
        await store.insert(job)
        await store.change(succeeded(job))

        assert await store.due_messages(TOPICS, 2**62, 10) == []


async def test_a_message_is_delivered_again_until_it_works(tmp_path):
    """
    While accounts is away the message stays, is tried again, and is delivered in the end.
    """
    attempts = []

    async def deliver(message) -> None:
        attempts.append(message.attempt_count)
        if len(attempts) < 3:
            raise Unavailable("accounts is away")

    async with store_of(tmp_path) as store:
        job = queued("jobs/1", "accounts/a")
        await store.insert(job)
        await store.change(succeeded(job))
        outbox = Outbox(store, {CAPTURE: Topic(deliver, longest_pause_seconds=0.0)})
        for _ in range(3):
            assert await outbox.deliver_due() == 1

        assert attempts == [0, 1, 2]
        assert await outbox.deliver_due() == 0
        assert not await store.is_to_be_settled("jobs/1")


async def test_two_processes_do_not_deliver_one_message_at_once(tmp_path):
    """
    Who takes a message has it for a while.
    """
    async with store_of(tmp_path) as store:
        job = queued("jobs/1", "accounts/a")
        await store.insert(job)
        await store.change(succeeded(job))
        [message] = await store.due_messages(TOPICS, 2**62, 10)
        taken = [await store.take_message(message, 2**61) for _ in range(2)]

    assert taken == [True, False]


def test_pauses_grow_to_a_bound():
    """
    A service that is away for long is asked ever less often, up to once a minute.
    """
    assert [pause_seconds(count, 60) for count in (1, 2, 3, 10, 10**6)] == [1, 2, 4, 60, 60]


async def test_a_hold_without_a_job_is_given_back(tmp_path, till):
    """
    A crash between the hold and the job costs nobody anything; a job that waits keeps its hold.
    """
    account = await till.account(5 * PRICE)
    for number in range(5):
        await till.hold(account, f"jobs/{number}")
    async with store_of(tmp_path) as store:
        waits, done, told = (queued(f"jobs/{number}", account) for number in (1, 2, 3))
        for job in (waits, done, told):
            await store.insert(job)
        await store.change(succeeded(done))
        [message] = await store.due_messages(TOPICS, 2**62, 10)
        await store.drop_message(message.sequence)
        await store.change(succeeded(told))
        await Charging(till.stub, store).reconcile()
        young = await till.balance(account)
        await Charging(till.stub, store, orphan_seconds=0).reconcile()

    assert young == (0, 5 * PRICE)
    # jobs/0 and jobs/4 never came to be; jobs/2 has succeeded; jobs/1 waits, jobs/3 is being told.
    assert await till.balance(account) == (2 * PRICE, 2 * PRICE)
    assert (await till.kinds(account))[:3].count("CAPTURE") == 1
