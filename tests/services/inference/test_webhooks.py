"""Webhooks, received by a real HTTP server on this machine."""

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from pictor.accounts.v1 import accounts_service_pb2_grpc, webhook_pb2
from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import generation_pb2, inference_service_pb2, job_pb2
from pictor.inference.v1 import webhook_pb2 as delivery_pb2
from services.inference.outbox import GiveUp, Outbox, Topic
from services.inference.store import WEBHOOK, JobStore
from services.inference.webhooks import signed
from services.rpc.channels import open_channel
from services.rpc.errors import Internal, InvalidRequest, NotFound, StateConflict, Unavailable
from services.rpc.principals import Principal, acting_for, become, caller, service_token
from tests.services.inference.scripted import (
    ScriptedExecutor,
    inference_in,
    neighbours,
    serve_model,
)
from tests.services.inference.test_charging import Till

Job = job_pb2.Job


@dataclass
class Receiver:
    """
    An HTTP server that keeps what it is told.

    Attributes:
        statuses: What it answers next; then 204.
        received: Headers and body of each request.
    """

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    received: list[tuple[dict[str, str], str]] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = head.split("\r\n")[1:]
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers["content-length"]))
        self.received.append((headers, body.decode()))
        status = self.statuses.pop(0) if self.statuses else 204
        away = "location: http://127.0.0.1:1/\r\n"
        writer.write(f"HTTP/1.1 {status} X\r\n{away}content-length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()
        self.news.set()

    async def wait(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.received) < count:
                self.news.clear()
                await self.news.wait()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    one = Receiver()
    server = await asyncio.start_server(one.answer, "127.0.0.1", 0)
    one.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    yield one
    server.close()
    await server.wait_closed()


@pytest.fixture
async def environ(tmp_path):
    """The environment of an inference service that may tell webhooks on this machine."""
    async with neighbours(tmp_path, PICTOR_WEBHOOK_NETWORKS="127.0.0.0/8") as bound:
        token = service_token(tmp_path)
        await serve_model(bound["PICTOR_CATALOG_ADDRESS"], token, "pictor/shapes")
        yield bound


@pytest.fixture
async def accounts(environ, tmp_path):
    address = environ["PICTOR_ACCOUNTS_ADDRESS"]
    async with open_channel(address, service_token(tmp_path)) as channel:
        yield accounts_service_pb2_grpc.AccountsServiceStub(channel)


@pytest.fixture
async def account(accounts):
    return await Till(accounts).account(0, prepaid=False)


async def rotate(accounts, name: str) -> webhook_pb2.RotateWebhookSecretResponse:
    return await accounts.RotateWebhookSecret(webhook_pb2.RotateWebhookSecretRequest(name=name))


async def create(service, account: str, url: str) -> Job:
    request = inference_service_pb2.CreateJobRequest(
        generation=generation_pb2.Generation(model="pictor/shapes", prompt="a red circle"),
        webhook_url=url,
    )
    with acting_for(account):
        return await service.stub.CreateJob(request)


async def log_of(service, account: str, **options) -> list[delivery_pb2.WebhookDelivery]:
    with acting_for(account):
        request = delivery_pb2.ListWebhookDeliveriesRequest(**options)
        return list((await service.stub.ListWebhookDeliveries(request)).webhook_deliveries)


async def logged(service, account: str, count: int) -> list[delivery_pb2.WebhookDelivery]:
    async with asyncio.timeout(10):
        while len(found := await log_of(service, account)) < count:  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.02)
    return found


async def test_a_webhook_is_told_of_the_end_and_can_verify_it(service, accounts, account, receiver):
    """
    The message is signed by the Standard Webhooks scheme, with the job as the native API shows it.
    """
    secret = (await rotate(accounts, account)).secret
    job = await create(service, account, receiver.url)
    service.executor.gate.set()
    await receiver.wait(1)

    [(headers, body)] = receiver.received
    told = Webhook(secret).verify(body, headers)
    assert told["type"] == "job.succeeded"
    assert told["data"]["name"] == job.name
    assert told["data"]["result"]["images"]
    assert headers["webhook-id"] == job.name.removeprefix("jobs/")
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body.replace("red", "blue"), headers)


@pytest.mark.parametrize("end", ["failed", "canceled"])
async def test_every_end_is_told(service, accounts, account, receiver, end):
    """
    A job that fails or is canceled is told of as well.
    """
    secret = (await rotate(accounts, account)).secret
    service.executor.outcomes = [Internal("the device is broken")]
    job = await create(service, account, receiver.url)
    if end == "canceled":
        await service.cancel(job.name, account)
    service.executor.gate.set()
    await receiver.wait(1)

    told = Webhook(secret).verify(receiver.received[0][1], receiver.received[0][0])
    assert told["type"] == f"job.{end}"


async def test_a_webhook_that_does_not_answer_is_told_again(service, accounts, account, receiver):
    """
    Until a 2xx comes it is tried again, with the same id, and the log shows each attempt.
    """
    await rotate(accounts, account)
    receiver.statuses = [500, 302]
    service.executor.gate.set()
    job = await create(service, account, receiver.url)
    await receiver.wait(3)
    deliveries = await logged(service, account, 3)

    assert [one.status_code for one in deliveries] == [204, 302, 500]
    assert [one.attempt for one in deliveries] == [3, 2, 1]
    assert {one.job for one in deliveries} == {job.name}
    assert len({headers["webhook-id"] for headers, _ in receiver.received}) == 1
    assert len(await log_of(service, account, job=job.name, page_size=2)) == 2
    assert await log_of(service, account, job="jobs/other") == []
    assert await log_of(service, "accounts/somebody-else") == []


async def test_a_webhook_that_is_gone_is_left_alone(service, accounts, account, receiver):
    """
    410 says that nobody wants to know; nothing is sent again.
    """
    await rotate(accounts, account)
    receiver.statuses = [410]
    service.executor.gate.set()
    await create(service, account, receiver.url)
    await receiver.wait(1)
    await asyncio.sleep(1.5)

    assert len(receiver.received) == 1


async def test_after_a_rotation_both_secrets_verify(service, accounts, account, receiver):
    """
    Receivers have a day to learn the new secret.
    """
    first = await rotate(accounts, account)
    second = await rotate(accounts, account)
    service.executor.gate.set()
    await create(service, account, receiver.url)
    await receiver.wait(1)

    headers, body = receiver.received[0]
    assert not first.HasField("previous_expire_time")
    left = second.previous_expire_time.ToDatetime(dt.UTC) - dt.datetime.now(dt.UTC)
    assert dt.timedelta(hours=23) < left <= dt.timedelta(hours=24)
    for secret in (first.secret, second.secret):
        assert Webhook(secret).verify(body, headers)["type"] == "job.succeeded"


async def test_without_a_secret_a_webhook_is_refused(service, account):
    """
    A message that nobody could verify is not promised; the error says how to get a secret.
    """
    with pytest.raises(StateConflict, match="rotateWebhookSecret") as error:
        await create(service, account, "https://example.com/hook")

    assert error.value.reason == reasons.ERROR_REASON_WEBHOOK_SECRET_MISSING
    assert await service.jobs(account) == []


@pytest.mark.parametrize(
    "url", ["ftp://example.com", "/hook", "http://u:p@example.com/", "http://a\\b/", "x" * 5000]
)
async def test_what_is_no_url_is_refused_at_once(service, accounts, account, url):
    """
    An error of form is told to who can mend it, before there is a job.
    """
    await rotate(accounts, account)

    with pytest.raises(InvalidRequest, match="webhook_url"):
        await create(service, account, url)
    assert await service.jobs(account) == []


async def test_a_private_address_is_never_connected_to(tmp_path, receiver):
    """
    Without the operator's permission nothing reaches this machine, whoever names it how.
    """
    async with neighbours(tmp_path) as environ:
        token = service_token(tmp_path)
        await serve_model(environ["PICTOR_CATALOG_ADDRESS"], token, "pictor/shapes")
        async with (
            inference_in(environ, ScriptedExecutor()) as service,
            open_channel(environ["PICTOR_ACCOUNTS_ADDRESS"], token) as channel,
        ):
            accounts = accounts_service_pb2_grpc.AccountsServiceStub(channel)
            account = await Till(accounts).account(0, prepaid=False)
            await rotate(accounts, account)
            service.executor.gate.set()
            for host in ("127.0.0.1", "localhost", "2130706433"):
                await create(service, account, receiver.url.replace("127.0.0.1", host))
            deliveries = await logged(service, account, 3)

    assert {one.status_code for one in deliveries} == {0}
    assert all(one.error.startswith("refused: ") for one in deliveries)
    assert receiver.received == []


async def test_another_accounts_secret_is_not_replaced(accounts, account):
    """
    Who may not see an account cannot rotate its secret either.
    """
    other = await Till(accounts).account(0, prepaid=False)
    before = caller()
    become(Principal(account=other, scopes=frozenset(["inference"])))
    try:
        with pytest.raises(NotFound):
            await rotate(accounts, account)
        mine = await rotate(accounts, "accounts/me")
    finally:
        become(before)

    assert mine.secret.startswith("whsec_")
    kept = await accounts.GetWebhookSecrets(webhook_pb2.GetWebhookSecretsRequest(name=account))
    assert list(kept.secrets) == []


async def test_nobody_is_told_for_ever(tmp_path):
    """
    After a day, or where nobody ever will answer, a message is dropped.
    """
    store = await JobStore.open(f"sqlite+aiosqlite:///{tmp_path / 'inference.db'}")
    attempts = []

    async def deliver(message) -> None:
        attempts.append(message.job)
        raise GiveUp("gone") if message.job == "jobs/gone" else Unavailable("no answer")

    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(store.close)
        for name in ("gone", "away"):
            job = Job(name=f"jobs/{name}", revision=1, webhook_url="https://example.com")
            await store.insert(job)
            job.state, job.revision = Job.STATE_SUCCEEDED, 2
            job.result.SetInParent()
            await store.change(job)
        topic = Topic(deliver, longest_pause_seconds=0, give_up_seconds=0.2)
        outbox = Outbox(store, {WEBHOOK: topic})
        counts = [await outbox.deliver_due(), await outbox.deliver_due()]
        await asyncio.sleep(0.25)
        counts += [await outbox.deliver_due(), await outbox.deliver_due()]

    assert counts == [2, 1, 1, 0]
    assert attempts.count("jobs/gone") == 1


def test_a_signature_covers_id_time_and_body():
    """
    A message replayed under another id or later does not verify.
    """
    secret = "whsec_" + "A" * 43 + "="
    headers = signed("1", "{}", [secret])

    assert Webhook(secret).verify("{}", headers) == {}
    late = {**headers, "webhook-timestamp": str(int(headers["webhook-timestamp"]) - 1)}
    for changed in ({**headers, "webhook-id": "2"}, late):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify("{}", changed)
