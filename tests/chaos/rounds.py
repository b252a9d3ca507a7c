"""One round after another: clients at work, a fault, quiet, and the checker."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import httpx

from pictor.accounts.v1 import accounts_service_pb2_grpc
from pictor.catalog.v1 import catalog_service_pb2, catalog_service_pb2_grpc
from pictor.inference.v1 import inference_service_pb2_grpc
from pictor.storage.v1 import storage_service_pb2_grpc
from services.rpc.errors import SuiteError
from services.rpc.principals import service_token
from tests.chaos.checker import Violation, check
from tests.chaos.clients import MODEL, Client, Office
from tests.chaos.faults import CRASH, KILL, PAUSE, Fault, Plan
from tests.chaos.history import Findings, History
from tests.chaos.processes import Processes
from tests.chaos.reading import Logs, Reader, all_jobs, crashes, ledger_of, recoveries

START_SECONDS = 60.0
QUIET_SECONDS = 20.0
CUSTOMERS = 2
# A real step takes longer than the other device's.
PLAIN_STEPS, REAL_STEPS = 30, 6
# How long a round with two crash points waits for the first one to be reached.
ARMED_SECONDS = 0.5
# How long after the clients' work a point may still be reached: device processes report each 2 s.
LATE_SECONDS = 1.0
# Who waits no longer cancels its job.
HTTP_SECONDS = 60.0


@dataclass
class Outcome:
    """
    What a round has shown.

    Attributes:
        missed: Crash points that no process came to.
        recovered: By kind of process, in seconds.
    """

    number: int
    faults: Sequence[Fault]
    violations: Sequence[Violation]
    missed: Sequence[str]
    recovered: Sequence[tuple[str, float]]
    states: Counter[str] = field(default_factory=Counter)
    orphans: int = 0
    seconds: float = 0.0


@dataclass
class Kept:
    """A round that is over, to see whether it stays as it was."""

    client: Client
    findings: Findings


class Loop:
    """
    Runs rounds on processes that run.

    Args:
        processes: The suite.
        seed: Decides everything but the scheduling of the machine.
    """

    def __init__(self, processes: Processes, seed: int) -> None:
        self.processes = processes
        self._rng = random.Random(seed)
        self.plan = Plan(random.Random(seed + 1), processes.names)
        self._logs = Logs(processes.folder)
        self._office: Office
        self._accounts: accounts_service_pb2_grpc.AccountsServiceAsyncStub
        self.reader: Reader
        self._secrets: set[str] = set()
        self.kept: list[Kept] = []
        self._rounds = 0
        self._most_steps = PLAIN_STEPS

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Wait until the suite can draw, and keep the operator's channels open within the block."""
        data = self.processes.data
        async with asyncio.timeout(START_SECONDS):
            while not (data / "api-key").exists():  # noqa: ASYNC110 - it is polled for
                await asyncio.sleep(0.1)
        key = (data / "api-key").read_text().strip()
        token = service_token(data)
        self._secrets |= {key, token}
        addresses = {k.lower(): v for k, v in self.processes.addresses.items()}
        self._office = Office(key, addresses, f"http://{addresses['http']}")
        async with self._office.stack:
            channel = await self._office.channel("accounts")
            self._accounts = accounts_service_pb2_grpc.AccountsServiceStub(channel)
            storage = await self._office.channel("storage", token)
            self.reader = Reader(
                data / "assets",
                data / "spool",
                storage_service_pb2_grpc.StorageServiceStub(storage),
            )
            await self.until_ready()
            yield

    async def until_ready(self) -> None:
        """Wait until every device process can draw."""
        channel = await self._office.channel("catalog")
        catalog = catalog_service_pb2_grpc.CatalogServiceStub(channel)
        request = catalog_service_pb2.ListServingStatusesRequest(models=[f"models/{MODEL}"])
        async with asyncio.timeout(START_SECONDS):
            while True:
                with contextlib.suppress(SuiteError):
                    answer = await catalog.ListServingStatuses(request)
                    ready = answer.serving_statuses[0].ready_replicas
                    if ready >= len(self.processes.replicas):
                        return
                await asyncio.sleep(0.1)

    async def use_real_device(self) -> None:
        """Let the device processes be the ones with torch from now on."""
        self._most_steps = REAL_STEPS
        await self.processes.use_real_device()
        await self.until_ready()

    async def round(self, faults: Sequence[Fault]) -> Outcome:
        """Run one round."""
        self._rounds += 1
        started = time.time()
        deaths = len(self.processes.deaths)
        history = History()
        async with contextlib.AsyncExitStack() as stack:
            clients = [await self._client(stack, history, k) for k in range(CUSTOMERS)]
            working = asyncio.create_task(self._work(clients))
            missed = await self._strike(faults, working)
            await working
            await self.reader.quiet(clients, QUIET_SECONDS)
            logs = self._logs.news()
            findings = await self.findings(clients, logs)
        self.kept += [Kept(client, findings) for client in clients]
        died = self.processes.deaths[deaths:]
        violations = check(history, findings, self._secrets)
        violations += [
            Violation("F1", death.name, "ended by itself") for death in died if not death.fault
        ]
        return Outcome(
            self._rounds,
            faults,
            violations,
            missed,
            list(recoveries(findings, died, list(crashes(logs)))),
            Counter(job.state for job in findings.jobs.values()),
            len(findings.orphans),
            time.time() - started,
        )

    async def compare_all(self) -> list[Violation]:
        """Tell what has changed in rounds that were over."""
        violations = []
        for kept in self.kept:
            account, before = kept.client.customer.account, kept.findings
            now = {job.name: job.revision async for job in all_jobs(kept.client)}
            then = {j.name: j.revision for j in before.jobs.values() if j.account == account}
            violations += [
                Violation("I1", name, f"ended at revision {then.get(name)}, is at {now.get(name)}")
                for name in now.keys() | then.keys()
                if now.get(name) != then.get(name)
            ]
            if await ledger_of(kept.client) != before.ledgers[account]:
                violations.append(Violation("I2", account, "its ledger grew, and no job goes on"))
        return violations

    async def _client(
        self, stack: contextlib.AsyncExitStack, history: History, number: int
    ) -> Client:
        name = f"round-{self._rounds}-customer-{number}"
        customer = await self._office.customer(self._accounts, name)
        self._secrets.add(customer.key)
        channels = {
            part: await self._office.channel(part, customer.key)
            for part in ("accounts", "storage", *self.processes.replicas)
        }
        http = httpx.AsyncClient(
            base_url=self._office.http,
            headers={"authorization": f"Bearer {customer.key}"},
            timeout=HTTP_SECONDS,
        )
        await stack.enter_async_context(http)
        return Client(
            self._office,
            customer,
            random.Random(self._rng.getrandbits(64)),
            history,
            self._secrets,
            http,
            accounts=self._accounts,
            catalog=catalog_service_pb2_grpc.CatalogServiceStub(
                await self._office.channel("catalog")
            ),
            storage=storage_service_pb2_grpc.StorageServiceStub(channels["storage"]),
            inference=[
                inference_service_pb2_grpc.InferenceServiceStub(channels[name])
                for name in self.processes.replicas
            ],
            most_steps=self._most_steps,
        )

    async def _work(self, clients: Sequence[Client]) -> None:
        """Let each kind of client work once, in an order of chance, and some of them twice."""
        one, two = clients
        kinds = [
            one.openai_waiting,
            two.openai_streaming,
            one.openai_later,
            two.remotegpu,
            one.native,
            two.watched,
            one.canceled,
            two.twins,
            two.repeated,
            one.repeated_over_grpc,
            two.upload,
            one.read_balance,
            two.ask_for_a_key,
            one.pin_a_model,
            two.pin_a_model,
        ]
        kinds += self._rng.choices([one.watched, two.native, two.canceled, one.remotegpu], k=2)
        self._rng.shuffle(kinds)
        async with asyncio.TaskGroup() as tasks:
            for kind in kinds:
                tasks.create_task(kind())
                await asyncio.sleep(self._rng.uniform(0, 0.06))
        await one.peep(two)
        await two.peep(one)

    async def _strike(self, faults: Sequence[Fault], working: "asyncio.Task[None]") -> list[str]:
        """Do what the faults say; return the crash points that nobody came to."""
        missed: list[str] = []
        async with asyncio.TaskGroup() as tasks:
            for fault in faults:
                if fault.kind != CRASH:
                    tasks.create_task(self._one(fault))
            for fault in faults:
                if fault.kind == CRASH:
                    await self.processes.disarmed(ARMED_SECONDS)
                    missed += self.processes.disarm()
                    await self._one(fault)
        await asyncio.wait([working])
        await self.processes.disarmed(LATE_SECONDS)
        return missed + self.processes.disarm()

    async def _one(self, fault: Fault) -> None:
        await asyncio.sleep(fault.delay_seconds)
        if fault.kind == KILL:
            self.processes.kill(fault.target)
        elif fault.kind == PAUSE:
            await self.processes.pause(fault.target, fault.seconds)
        else:
            self.processes.arm(fault.target)

    async def findings(self, clients: Sequence[Client], logs: dict[str, str]) -> Findings:
        """Read all; again where a process is being started again."""
        async with asyncio.timeout(QUIET_SECONDS):
            while True:
                try:
                    return await self.reader.findings(clients, logs)
                except SuiteError:
                    await asyncio.sleep(0.1)
