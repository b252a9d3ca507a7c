"""
Clients that use the suite while its processes die, and write down what they are told.

They are good clients: what fails is tried again under the same id, a watch that breaks off is
resumed, and what was refused because it was there already counts as acknowledged.
"""

import asyncio
import base64
import contextlib
import hashlib
import json
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx

from pictor.accounts.v1 import (
    account_pb2,
    accounts_service_pb2,
    api_key_pb2,
    ledger_pb2,
)
from pictor.catalog.v1 import catalog_service_pb2
from pictor.inference.v1 import (
    generation_pb2,
    inference_service_pb2,
    job_pb2,
)
from pictor.storage.v1 import asset_pb2, storage_service_pb2
from services.rpc.channels import open_channel
from services.rpc.errors import (
    AlreadyExists,
    Canceled,
    DeadlineExceeded,
    NotFound,
    StateConflict,
    SuiteError,
    Unavailable,
)
from tests.chaos.history import (
    TERMINAL,
    BalanceRead,
    Change,
    History,
    KeyUse,
    Seen,
    Submission,
    Watch,
)

MODEL = "pictor/shapes"
SIDE_PX = 64
GRANT = 10**12
PAUSE_SECONDS = 0.1
PATIENCE_SECONDS = 25.0
# What a client hears of a process that is away, stops, or stands still.
AWAY = (Unavailable, DeadlineExceeded, Canceled)
OPENAI_STATES = {
    "QUEUED": "queued",
    "PROCESSING": "running",
    "PROCESSED": "succeeded",
    "FAILED": "failed",
    "CANCELED": "canceled",
}


def state_name(state: job_pb2.Job.State.ValueType) -> str:
    """Return a state as the history has it."""
    return job_pb2.Job.State.Name(state).removeprefix("STATE_").lower()


def png(seed: int) -> bytes:
    """Make a small picture that nobody else has made."""
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (SIDE_PX, SIDE_PX), tuple(seed.to_bytes(3, "big"))).save(file, "PNG")
    return file.getvalue()


@dataclass(frozen=True)
class Customer:
    """An account with credits, and a key of it."""

    account: str
    key: str


@dataclass
class Office:
    """
    The operator: channels with a key that may do everything.

    Attributes:
        inference: One channel for each inference process.
    """

    key: str
    addresses: dict[str, str]
    http: str
    stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    async def channel(self, part: str, key: str = "") -> grpc.aio.Channel:
        """Open a channel that lives as long as the office."""
        channel = open_channel(self.addresses[part], key or self.key, deadline_seconds=10.0)
        return await self.stack.enter_async_context(channel)

    async def customer(self, accounts: Any, name: str) -> Customer:
        """Make a prepaid account with more credits than a round can spend."""
        wanted = accounts_service_pb2.CreateAccountRequest(
            account=account_pb2.Account(display_name=name)
        )
        made = await insist(lambda: accounts.CreateAccount(wanted))
        prepaid = ledger_pb2.SetBillingRequest(
            name=made.name, billing=account_pb2.Account.BILLING_PREPAID
        )
        await insist(lambda: accounts.SetBilling(prepaid))
        given = ledger_pb2.GrantCreditsRequest(
            name=made.name, amount_microcredits=GRANT, request_id=name
        )
        await insist(lambda: accounts.GrantCredits(given))
        return Customer(made.name, await insist(lambda: make_key(accounts, made.name)))


async def make_key(accounts: Any, account: str) -> str:
    """Make a key that may draw."""
    answer = await accounts.CreateApiKey(
        accounts_service_pb2.CreateApiKeyRequest(
            parent=account, api_key=api_key_pb2.ApiKey(scopes=["inference"])
        )
    )
    return str(answer.secret)


@dataclass
class Client:
    """
    One customer at work.

    Args:
        office: Knows the addresses.
        customer: Whose key is used.
        rng: Decides all that is left to chance.
        history: Is written.
        secrets: Gets all prompts and keys.
    """

    office: Office
    customer: Customer
    rng: random.Random
    history: History
    secrets: set[str]
    http: httpx.AsyncClient
    accounts: Any
    catalog: Any
    storage: Any
    inference: Sequence[Any]
    most_steps: int

    def order(self, *, image_count: int = 1) -> Submission:
        """Choose a job's id, and what it shall draw."""
        job_id = uuid.UUID(int=self.rng.getrandbits(128), version=4)
        # Found in no log by chance.
        word = f"{self.rng.getrandbits(64):016x}"
        self.secrets.add(word)
        order = Submission(
            f"jobs/{job_id}", self.customer.account, f"a circle, {word}", image_count
        )
        self.history.submitted[order.job] = order
        return order

    def steps(self) -> int:
        return self.rng.randint(2, self.most_steps)

    # Over REST.

    async def openai_waiting(self) -> None:
        """Wait for a picture through OpenAI's API."""
        order = self.order(image_count=self.rng.randint(1, 2))
        reply = await self._post(order, "/v1/images/generations", self._openai(order))
        if reply is not None and reply.status_code == 200:
            shas = [await self._fetched(image["url"]) for image in reply.json()["data"]]
            if all(shas):
                self._see(order, "succeeded", shas)
        await self._poll_native(order, reply)

    async def openai_streaming(self) -> None:
        """Watch a picture through OpenAI's stream of events."""
        order = self.order()
        body = {**self._openai(order), "stream": True, "partial_images": 0}
        # Who leaves a stream has its job canceled.
        self.history.cancel_asked.add(order.job)
        with contextlib.suppress(httpx.HTTPError):
            async with self.http.stream(
                "POST", "/v1/images/generations", json=body, headers=self._headers(order)
            ) as reply:
                if not reply.is_success:
                    # What it says decides whether it is a refusal.
                    await reply.aread()
                self._note(order, reply, "openai stream")
                async for line in reply.aiter_lines():
                    self._heard(order, line)
        await self._poll_native(order, None)

    async def openai_later(self) -> None:
        """Ask for a picture through OpenAI's API, and come back for it."""
        order = self.order(image_count=self.rng.randint(1, 3))
        body = {**self._openai(order), "async": True}
        reply = await self._post(order, "/v1/images/generations", body)
        if reply is None or not reply.is_success:
            return await self._poll_native(order, reply)
        async for found in self._polled(f"/v1/jobs/{_id(order)}"):
            state = OPENAI_STATES[found["status"]]
            self._see(order, state)
            if state in TERMINAL:
                return None
        return None

    async def remotegpu(self) -> None:
        """Ask for a picture through RemoteGPU's API, and come back for it."""
        order = self.order()
        body = {
            "model": MODEL,
            "prompt": order.prompt,
            "width": SIDE_PX,
            "height": SIDE_PX,
            "steps": self.steps(),
        }
        reply = await self._post(order, "/v1/inference/image", body)
        if reply is None or not reply.is_success:
            return await self._poll_native(order, reply)
        async for found in self._polled(f"/v1/inference/jobs/{_id(order)}"):
            self._see(order, found["status"])
            if found["status"] in TERMINAL:
                if found["status"] == "succeeded" and (
                    sha := await self._fetched(found["result_url"])
                ):
                    self._see(order, "succeeded", [sha])
                return None
        return None

    async def native(self) -> None:
        """Ask for a picture through the native API."""
        order = self.order(image_count=2)
        body = {
            "job_id": _id(order),
            "generation": {
                "model": MODEL,
                "prompt": order.prompt,
                "width_px": SIDE_PX,
                "height_px": SIDE_PX,
                "step_count": self.steps(),
                "image_count": order.image_count,
            },
        }
        await self._poll_native(order, await self._post(order, "/pictor/v1/jobs", body))

    def _openai(self, order: Submission) -> dict[str, Any]:
        return {
            "model": MODEL,
            "prompt": order.prompt,
            "n": order.image_count,
            "size": f"{SIDE_PX}x{SIDE_PX}",
            "steps": self.steps(),
            "response_format": "url",
        }

    def _headers(self, order: Submission) -> dict[str, str]:
        return {"x-pictor-job": _id(order)}

    async def _post(
        self, order: Submission, path: str, body: dict[str, Any]
    ) -> httpx.Response | None:
        """Ask for a job until there is an answer; None if its connection broke for ever."""
        reply = None
        async with _patience():
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    reply = await self.http.post(path, json=body, headers=self._headers(order))
                    self._note(order, reply, path)
                    if not is_away(reply):
                        return reply
                await asyncio.sleep(PAUSE_SECONDS)
        return reply

    def _note(self, order: Submission, reply: httpx.Response, way: str) -> None:
        """Write down what an answer says about the job."""
        if reply.is_success or reply.status_code == 409:
            # 409: an earlier request was heard, and its answer was not.
            self.history.acknowledged.setdefault(order.job, way)
        elif not is_away(reply):
            self.history.refused.append(
                (order.job, f"{way}: {reply.status_code} {reply.text[:200]}")
            )

    def _heard(self, order: Submission, line: str) -> None:
        """Write down an event of OpenAI's stream."""
        if not line.startswith("data: {"):
            return
        event = json.loads(line.removeprefix("data: "))
        if event.get("type") == "image_generation.completed":
            self.history.cancel_asked.discard(order.job)
            digest = hashlib.sha256(base64.b64decode(event["b64_json"])).hexdigest()
            self._see(order, "succeeded", [digest])

    def _see(self, order: Submission, state: str, shas: Sequence[str] = ()) -> None:
        self.history.seen.append(Seen(order.job, state, tuple(shas)))

    async def _polled(self, path: str) -> AsyncIterator[dict[str, Any]]:
        """Ask again and again."""
        async with _patience():
            while True:
                with contextlib.suppress(httpx.HTTPError, json.JSONDecodeError):
                    reply = await self.http.get(path)
                    if reply.status_code == 200:
                        yield reply.json()
                    elif reply.status_code < 500:
                        self.history.refused.append((path, f"{reply.status_code} {reply.text}"))
                        return
                await asyncio.sleep(PAUSE_SECONDS)

    async def _poll_native(self, order: Submission, reply: httpx.Response | None) -> None:
        """Come back for a job until it has ended, if it was acknowledged."""
        if order.job not in self.history.acknowledged:
            return
        async for found in self._polled(f"/pictor/v1/{order.job}"):
            state = found["state"].removeprefix("STATE_").lower()
            images = found.get("result", {}).get("images", [])
            self._see(order, state, [image["sha256"] for image in images])
            if state in TERMINAL:
                return

    async def _fetched(self, url: str) -> str:
        """Fetch an image as anybody would; return its SHA-256, or nothing if that did not work."""
        async with _patience():
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    reply = await self.http.get(url, headers={"authorization": ""})
                    if reply.status_code == 200:
                        return hashlib.sha256(reply.content).hexdigest()
                    if reply.status_code < 500:
                        self.history.refused.append((url, f"image: {reply.status_code}"))
                        return ""
                await asyncio.sleep(PAUSE_SECONDS)
        return ""

    async def repeated(self) -> None:
        """Send one request under one idempotency key, several times, also after its end."""
        order = self.order()
        del self.history.submitted[order.job]
        key = order.job.removeprefix("jobs/")
        body = {**self._openai(order), "seed": 7}
        await asyncio.gather(self._once(order, key, body), self._once(order, key, {**body, "n": 1}))
        await self._once(order, key, body)

    async def _once(self, order: Submission, key: str, body: dict[str, Any]) -> None:
        """Ask with an idempotency key until there is an answer, and note which job it names."""
        async with _patience():
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    headers = {"idempotency-key": key}
                    reply = await self.http.post(
                        "/v1/images/generations", json=body, headers=headers
                    )
                    job = f"jobs/{reply.headers.get('x-pictor-job', '')}"
                    if reply.is_success:
                        self.history.keys.append(KeyUse(key, self.customer.account, job))
                        self.history.acknowledged.setdefault(job, "idempotency key")
                        self.history.submitted.setdefault(job, order._replace(job=job))
                        return
                    # 409: the first request of the key is being answered.
                    if reply.status_code != 409 and not is_away(reply):
                        self.history.refused.append((key, f"{reply.status_code} {reply.text}"))
                        return
                await asyncio.sleep(PAUSE_SECONDS)

    # Over gRPC.

    async def repeated_over_grpc(self) -> None:
        """Send one request under one idempotency key, twice at the same moment and once more."""
        order = self.order()
        del self.history.submitted[order.job]
        request = inference_service_pb2.CreateJobRequest(
            idempotency_key=order.job,
            generation=generation_pb2.Generation(
                model=f"models/{MODEL}",
                prompt=order.prompt,
                width_px=SIDE_PX,
                height_px=SIDE_PX,
                step_count=self.steps(),
            ),
        )

        async def once() -> None:
            job = await insist(lambda: self._any_inference().CreateJob(request))
            if job:
                self.history.keys.append(KeyUse(order.job, self.customer.account, job.name))
                self.history.acknowledged.setdefault(job.name, "idempotency key, grpc")
                self.history.submitted.setdefault(job.name, order._replace(job=job.name))

        await asyncio.gather(once(), once())
        await once()

    async def watched(self) -> None:
        """Make a job under a chosen id, and watch it over connections that break."""
        order = self.order(image_count=self.rng.randint(1, 2))
        if await self._create(order):
            await asyncio.gather(self.watch(order.job), self.watch(order.job, after_revision=1))

    async def canceled(self) -> None:
        """Make a job and cancel it at some moment."""
        order = self.order()
        if not await self._create(order):
            return
        watching = asyncio.create_task(self.watch(order.job))
        await asyncio.sleep(self.rng.uniform(0, 0.6))
        self.history.cancel_asked.add(order.job)
        request = inference_service_pb2.CancelJobRequest(name=order.job)
        with contextlib.suppress(StateConflict):
            if await insist(lambda: self._any_inference().CancelJob(request)):
                self.history.canceled.add(order.job)
        await watching

    async def twins(self) -> None:
        """Send one request twice at the same moment."""
        order = self.order()
        await asyncio.gather(self._create(order), self._create(order))

    async def _create(self, order: Submission) -> bool:
        """Ask until there is an answer; tell whether there is the job."""
        request = inference_service_pb2.CreateJobRequest(
            job_id=_id(order),
            generation=generation_pb2.Generation(
                model=f"models/{MODEL}",
                prompt=order.prompt,
                width_px=SIDE_PX,
                height_px=SIDE_PX,
                step_count=self.steps(),
                image_count=order.image_count,
            ),
        )
        try:
            made = await insist(lambda: self._any_inference().CreateJob(request))
        except AlreadyExists:
            # An earlier request was heard, or the twin.
            made = True
        except SuiteError as error:
            self.history.refused.append((order.job, f"CreateJob: {error}"))
            return False
        if made:
            self.history.acknowledged.setdefault(order.job, "grpc")
        return bool(made)

    async def watch(self, job: str, after_revision: int = 0) -> None:
        """Watch a job to its end, over as many connections as it takes."""
        watch = Watch(job, after_revision)
        self.history.watches.append(watch)
        async with _patience():
            while True:
                with contextlib.suppress(*AWAY):
                    if await self._watch_once(watch):
                        return
                await asyncio.sleep(self.rng.uniform(0.01, PAUSE_SECONDS))

    async def _watch_once(self, watch: Watch) -> bool:
        """Watch over one connection, which may be dropped; tell whether the end was seen."""
        watch.connections += 1
        told = watch.changes[-1].revision if watch.changes else watch.after_revision
        request = inference_service_pb2.WatchJobRequest(name=watch.job, after_revision=told)
        drop_after = self.rng.choice([3, 6, 1000])
        call = self._any_inference().WatchJob(request)
        try:
            async for message in call:
                if message.revision > told:
                    at = message.event_time.ToMicroseconds() / 1e6
                    watch.changes.append(Change(message.revision, state_name(message.state), at))
                    told = message.revision
                elif message.revision < told:
                    watch.stale.append(message.revision)
                if state_name(message.state) in TERMINAL:
                    return True
                drop_after -= 1
                if not drop_after:
                    return False
        finally:
            call.cancel()
        return False

    def _any_inference(self) -> Any:
        return self.rng.choice(self.inference)

    # Errands: what else a suite is asked for.

    async def ask_for_a_key(self) -> None:
        """Make one more key, and use it."""
        secret = await insist(lambda: make_key(self.accounts, self.customer.account))
        if secret:
            self.secrets.add(secret)
            reply = None
            with contextlib.suppress(httpx.HTTPError):
                headers = {"authorization": f"Bearer {secret}"}
                reply = await self.http.get("/v1/models", headers=headers)
            if reply is not None and reply.status_code in (401, 403):
                self.history.refused.append((self.customer.account, "a key that was made is none"))

    async def read_balance(self) -> None:
        """Ask for the balance while jobs come and go."""
        request = ledger_pb2.GetBalanceRequest(name=f"{self.customer.account}/balance")
        balance = await insist(lambda: self.accounts.GetBalance(request))
        if balance:
            self.history.balances.append(
                BalanceRead(
                    self.customer.account, balance.balance_microcredits, balance.held_microcredits
                )
            )

    async def pin_a_model(self) -> None:
        """Let an operator change what is served."""
        request = catalog_service_pb2.UpdateServingRequest(
            model=f"models/{MODEL}", pinned=self.rng.random() < 0.5
        )
        await insist(lambda: self.catalog.UpdateServing(request))

    async def upload(self) -> None:
        """Store a picture, and read it again."""
        content = png(self.rng.getrandbits(24))

        async def messages() -> AsyncIterator[storage_service_pb2.CreateAssetRequest]:
            wanted = asset_pb2.Asset(origin=asset_pb2.Asset.ORIGIN_UPLOADED)
            yield storage_service_pb2.CreateAssetRequest(asset=wanted)
            yield storage_service_pb2.CreateAssetRequest(chunk=content)

        asset = await insist(lambda: self.storage.CreateAsset(messages()))
        if asset:
            found = await insist(lambda: read_asset(self.storage, asset.name))
            if found is not None and found != content:
                self.history.refused.append((asset.name, "an upload has other bytes"))

    async def peep(self, others: "Client") -> None:
        """Ask for a job of another account."""
        for job in list(others.history.acknowledged):
            request = inference_service_pb2.GetJobRequest(name=job)
            if self.history.submitted[job].account == self.customer.account:
                continue
            with contextlib.suppress(NotFound):
                if await insist(lambda: self._any_inference().GetJob(request)):  # noqa: B023
                    self.history.foreign.append((job, self.customer.account))


def is_away(reply: httpx.Response) -> bool:
    """Tell whether an answer says that something is away, in whatever dialect, and only that."""
    if reply.status_code in (502, 503, 504):
        return True
    # OpenAI's API has no other word for a model whose device process is being started again.
    return "no_provider" in reply.text and "known but" in reply.text


async def insist(call: Callable[[], Awaitable[Any]]) -> Any:
    """Call until there is an answer; None if there never is one."""
    async with _patience():
        while True:
            with contextlib.suppress(*AWAY):
                return await call()
            await asyncio.sleep(PAUSE_SECONDS)
    return None


async def read_asset(storage: Any, name: str) -> bytes:
    """Read an asset's bytes."""
    request = storage_service_pb2.ReadAssetRequest(name=name)
    return b"".join([message.chunk async for message in storage.ReadAsset(request)])


@contextlib.asynccontextmanager
async def _patience() -> AsyncIterator[None]:
    """Give up within the block when it takes too long; the checker says what is wrong then."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_SECONDS):
            yield


def _id(order: Submission) -> str:
    return order.job.removeprefix("jobs/")
