"""
The inference service with real neighbours, and an executor that does what the test says.

The executor is one of the things that a plug-in may be; it draws nothing, so these tests need no
torch. The device process has tests of its own.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from pictor.catalog.v1 import catalog_service_pb2_grpc, serving_pb2
from pictor.inference.v1 import (
    generation_pb2,
    inference_service_pb2,
    inference_service_pb2_grpc,
    job_pb2,
    progress_pb2,
)
from pictor.worker.v1 import worker_pb2
from services.accounts import __main__ as accounts
from services.catalog import __main__ as catalog
from services.inference import __main__ as inference
from services.inference.executor import DeviceLost
from services.rpc.channels import open_channel
from services.rpc.principals import acting_for, service_token
from services.rpc.settings import read
from services.rpc.tls import PLAIN, Tls
from services.storage import __main__ as storage

# Tests end while jobs run.
QUICK = {"PICTOR_DRAIN_SECONDS": "0.05"}
ALICE, BOB = "accounts/alice", "accounts/bob"


@dataclass
class ScriptedExecutor:
    """
    Runs what it is told.

    Attributes:
        slots: How many attempts run at once.
        up: Attempts start while it is set, as it is at first.
        gate: Attempts wait here before they end.
        outcomes: How the next attempts end: a Report, or an exception to raise. Then: a result.
        assignments: What it was given.
        slow_steps: How long each step takes, in seconds.
        stopped: Jobs whose attempt was ended from outside.
        deadly: Prompts that end the device process: all its attempts are lost then.
        renewed: For how long attempts may go on, as it was told each time.
        finished: Jobs that were told to end with what they have; that opens the gate.
    """

    slots: int = 1
    up: asyncio.Event = field(default_factory=asyncio.Event)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    outcomes: list[worker_pb2.Report | Exception] = field(default_factory=list)
    assignments: list[worker_pb2.Assignment] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    deadly: set[str] = field(default_factory=set)
    renewed: list[float] = field(default_factory=list)
    steps: int = 3
    slow_steps: float = 0.0
    # Set when the device process that runs these attempts has ended.
    _process: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.up.set()

    @property
    def slot_count(self) -> int:
        return self.slots if self.up.is_set() else 0

    async def ready(self) -> None:
        await self.up.wait()
        while not self.slots:  # noqa: ASYNC110 - tests set it
            await asyncio.sleep(0.02)

    async def renew(self, seconds: float) -> None:
        self.renewed.append(seconds)

    async def finish(self, job: str) -> None:
        self.finished.append(job)
        self.gate.set()

    async def run(self, assignment: worker_pb2.Assignment) -> AsyncIterator[worker_pb2.Report]:
        self.assignments.append(assignment)
        process = self._process
        if assignment.generation.prompt in self.deadly:
            await asyncio.sleep(0.1)
            self._process, _ = asyncio.Event(), process.set()
        try:
            for step in range(self.steps):
                yield worker_pb2.Report(
                    progress=progress_pb2.Progress(
                        phase=progress_pb2.Progress.PHASE_DENOISING,
                        step=step,
                        step_count=self.steps,
                    )
                )
                await asyncio.sleep(self.slow_steps)
            await self.gate.wait()
            if self.deadly:
                # Long enough to be there when it happens.
                async with asyncio.timeout(0.3):
                    await process.wait()
                raise lost()
        except TimeoutError:
            pass
        except (GeneratorExit, asyncio.CancelledError):
            self.stopped.append(assignment.job)
            raise
        outcome = self.outcomes.pop(0) if self.outcomes else result(assignment)
        if isinstance(outcome, Exception):
            raise outcome
        yield outcome


def result(assignment: worker_pb2.Assignment) -> worker_pb2.Report:
    image = job_pb2.GeneratedImage(asset="assets/0", seed=assignment.generation.seed)
    return worker_pb2.Report(result=worker_pb2.Result(job_result=job_pb2.JobResult(images=[image])))


def lost() -> DeviceLost:
    return DeviceLost("the process ended")


@dataclass
class Inference:
    """The service under test, and its neighbours."""

    stub: "inference_service_pb2_grpc.InferenceServiceAsyncStub"
    executor: ScriptedExecutor
    settings: inference.Settings
    token: str

    async def create(
        self, account: str = ALICE, priority: int = 0, **fields: object
    ) -> job_pb2.Job:
        fields = {"model": "pictor/shapes", "prompt": "a red circle", **fields}
        request = inference_service_pb2.CreateJobRequest(
            generation=generation_pb2.Generation(**fields), priority=priority
        )
        with acting_for(account):
            return await self.stub.CreateJob(request)

    async def get(self, name: str, account: str = ALICE) -> job_pb2.Job:
        with acting_for(account):
            return await self.stub.GetJob(inference_service_pb2.GetJobRequest(name=name))

    async def jobs(self, account: str = ALICE) -> list[job_pb2.Job]:
        with acting_for(account):
            answer = await self.stub.ListJobs(inference_service_pb2.ListJobsRequest())
        return list(answer.jobs)

    async def cancel(self, name: str, account: str = ALICE) -> job_pb2.Job:
        with acting_for(account):
            return await self.stub.CancelJob(inference_service_pb2.CancelJobRequest(name=name))

    def watch(self, name: str, account: str = ALICE, **options: object):
        with acting_for(account):
            request = inference_service_pb2.WatchJobRequest(name=name, **options)
            return self.stub.WatchJob(request)

    async def ended(self, name: str, account: str = ALICE) -> job_pb2.Job:
        """Watch a job to its end and return it."""
        async with asyncio.timeout(10):
            messages = [message async for message in self.watch(name, account)]
        return messages[-1].job

    async def in_state(self, name: str, state: job_pb2.Job.State.ValueType) -> job_pb2.Job:
        async with asyncio.timeout(10):
            async for message in self.watch(name):
                if message.state == state:
                    return await self.get(name)
        raise AssertionError(f"the job ended without being {state}")


@contextlib.asynccontextmanager
async def neighbours(folder, **environ: str) -> AsyncIterator[dict[str, str]]:
    """Run accounts, catalog and storage, and yield the environment that names them."""
    bound = {
        "PICTOR_DATA_DIR": str(folder),
        "PICTOR_INFERENCE_ADDRESS": "127.0.0.1:0",
        **QUICK,
        **environ,
    }
    for part in ("ACCOUNTS", "CATALOG", "STORAGE"):
        bound[f"PICTOR_{part}_ADDRESS"] = "127.0.0.1:0"
    async with contextlib.AsyncExitStack() as stack:
        for part, module in (("ACCOUNTS", accounts), ("CATALOG", catalog), ("STORAGE", storage)):
            running = module.running(read(module.Settings, bound))
            bound[f"PICTOR_{part}_ADDRESS"] = await stack.enter_async_context(running)
        yield bound


async def serve_model(address: str, token: str, model: str, tls: Tls = PLAIN) -> None:
    """Tell the catalog of a device process that has *model* ready."""
    ready = serving_pb2.ReplicaModel(
        model=f"models/{model}", state=serving_pb2.ServingStatus.STATE_READY
    )
    request = serving_pb2.ReportReplicaRequest(
        replica=serving_pb2.Replica(replica_id="test", device="cpu", models=[ready])
    )
    request.ttl.FromSeconds(60)
    async with open_channel(address, token, tls=tls) as channel:
        await catalog_service_pb2_grpc.CatalogServiceStub(channel).ReportReplica(request)


@contextlib.asynccontextmanager
async def inference_in(environ, executor) -> AsyncIterator[Inference]:
    settings = read(inference.Settings, environ)
    token = service_token(settings.data_dir)
    async with (
        inference.serving(settings, executor) as bound,
        open_channel(bound, token, tls=settings.tls) as channel,
    ):
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        yield Inference(stub, executor, settings, token)
