"""
Two processes of the job service, driven at random, against a model that fits on a page.

Real store, real domain; only the clock is the test's. Each example ends with every invariant
checked: one end for each job, no gap in its events, nothing changed by a stale attempt.
"""

import asyncio
import pathlib
import shutil
import tempfile
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from pictor.inference.v1 import generation_pb2, job_pb2
from pictor.worker.v1 import worker_pb2
from services.database import open_database
from services.inference.hub import Hub
from services.inference.jobs import TERMINAL, Jobs
from services.inference.leases import Leases
from services.inference.store import JobStore
from services.rpc.errors import Exhausted, StateConflict
from services.rpc.principals import acting_for
from tests.services.inference.scripted import ALICE

Job = job_pb2.Job
LEASE_SECONDS = 6.0
MAX_ATTEMPTS = 3
EXAMPLES, STEPS = 80, 50


@dataclass
class Process:
    """A process of the service, as far as jobs are concerned."""

    jobs: Jobs
    store: JobStore
    leases: Leases
    attempts: set[str] = field(default_factory=set)
    is_frozen: bool = False


@dataclass(frozen=True)
class Attempt:
    """What a process believes to hold."""

    process: int
    job: Job

    def __hash__(self):
        return hash((self.process, self.job.name, self.job.revision))


@dataclass
class Expected:
    """What the model knows of a job."""

    state: int = Job.STATE_QUEUED
    revision: int = 1
    attempts: int = 0


class JobMachine(RuleBasedStateMachine):
    """Drives them; a frozen process neither beats nor rescues, but its attempts may wake up."""

    names = Bundle("names")
    held = Bundle("held")

    def __init__(self):
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="pictor-machine-"))
        self.now = 0.0
        self.model: dict[str, Expected] = {}
        self.ends: dict[str, Job] = {}

    @initialize()
    def start(self):
        url = f"sqlite+aiosqlite:///{self.folder / 'jobs.db'}"
        self.database = self.run(open_database(url, "inference"))
        self.processes = [self.run(self.process()) for _ in range(2)]

    async def process(self):
        store, hub = JobStore(self.database), Hub()
        await store.join()
        return Process(Jobs(store, hub), store, Leases(LEASE_SECONDS, lambda: self.now))

    def run(self, work):
        async def as_alice():
            with acting_for(ALICE):
                return await work

        return self.runner.run(as_alice())

    def teardown(self):
        self.run(self.database.close())
        self.runner.close()
        shutil.rmtree(self.folder)

    @rule(target=names, which=st.integers(0, 1), priority=st.integers(-10, 0))
    def create(self, which, priority):
        generation = generation_pb2.Generation(model="models/a", prompt="x", step_count=4)
        job = self.run(
            self.processes[which].jobs.create(
                generation, dialect="", served_by="models/a", receipt=[], priority=priority
            )
        )
        self.model[job.name] = Expected()
        return job.name

    @rule(target=held, which=st.integers(0, 1))
    def lease(self, which):
        process = self.processes[which]
        job = self.run(process.jobs.start(lambda _: True))
        queued = [name for name, known in self.model.items() if known.state == Job.STATE_QUEUED]
        if job is None:
            assert not queued
            return multiple()
        assert job.name in queued
        process.attempts.add(job.name)
        expected = self.model[job.name]
        expected.attempts += 1
        self.changed(job.name, Job.STATE_RUNNING)
        assert job.revision == expected.revision
        return Attempt(which, job)

    @rule(attempt=consumes(held))
    def succeed(self, attempt):
        self.end(attempt, Job.STATE_SUCCEEDED, lambda jobs: jobs.succeed(attempt.job, RESULT))

    @rule(attempt=consumes(held))
    def fail(self, attempt):
        error = Exhausted("the device is full")
        self.end(attempt, Job.STATE_FAILED, lambda jobs: jobs.fail(attempt.job, error))

    @rule(attempt=consumes(held))
    def lose(self, attempt):
        again = attempt.job.attempt_count < MAX_ATTEMPTS
        state = Job.STATE_QUEUED if again else Job.STATE_FAILED
        self.end(attempt, state, lambda jobs: jobs.lose(attempt.job, MAX_ATTEMPTS))

    @rule(attempt=consumes(held))
    def release(self, attempt):
        current = self.is_current(attempt)
        self.end(attempt, Job.STATE_QUEUED, lambda jobs: jobs.release(attempt.job))
        if current:
            self.model[attempt.job.name].attempts -= 1

    @rule(name=names, which=st.integers(0, 1))
    def cancel(self, name, which):
        expected = self.model[name]
        try:
            self.run(self.processes[which].jobs.cancel(name))
        except StateConflict:
            assert expected.state in (Job.STATE_SUCCEEDED, Job.STATE_FAILED)
            return
        if expected.state not in TERMINAL:
            self.changed(name, Job.STATE_CANCELED)
        assert expected.state == Job.STATE_CANCELED

    @rule(which=st.integers(0, 1), frozen=st.booleans())
    def freeze(self, which, frozen):
        self.processes[which].is_frozen = frozen

    @rule(seconds=st.sampled_from([0.5, 2.0, LEASE_SECONDS]))
    def wait(self, seconds):
        self.now += seconds

    @rule(which=st.integers(0, 1))
    def beat(self, which):
        process = self.processes[which]
        if process.is_frozen:
            return
        sent, held = self.now, process.leases.left_seconds > 0
        if not (held and self.run(process.store.beat())):
            process.attempts.clear()
            self.run(process.store.join())
        process.leases.acknowledge(sent)

    @rule(which=st.integers(0, 1))
    def rescue(self, which):
        process = self.processes[which]
        if process.is_frozen:
            return
        before = {n: e.revision for n, e in self.model.items() if e.state == Job.STATE_RUNNING}
        self.run(process.jobs.rescue(process.attempts, process.leases, MAX_ATTEMPTS))
        for name, revision in before.items():
            stored = self.stored(name)
            if stored.revision != revision:
                # Never what this very process still holds and works at.
                assert name not in process.attempts
                again = self.model[name].attempts < MAX_ATTEMPTS
                self.changed(name, Job.STATE_QUEUED if again else Job.STATE_FAILED)

    @invariant()
    def the_store_is_what_the_model_says(self):
        for name, expected in self.model.items():
            stored = self.stored(name)
            assert (stored.state, stored.revision, stored.attempt_count) == (
                expected.state,
                expected.revision,
                expected.attempts,
            )
            if stored.state in TERMINAL:
                # An end is an end: not a byte changes any more.
                assert self.ends.setdefault(name, stored) == stored

    @invariant()
    def events_have_no_gap_and_one_end(self):
        for name, expected in self.model.items():
            events = self.run(self.processes[0].store.events(name, 0))
            assert [event.revision for event in events] == [*range(1, expected.revision + 1)]
            assert events[-1].state == expected.state
            assert not any(event.state in TERMINAL for event in events[:-1])

    def is_current(self, attempt):
        expected = self.model[attempt.job.name]
        return (expected.state, expected.revision) == (Job.STATE_RUNNING, attempt.job.revision)

    def end(self, attempt, state, write):
        """Write how an attempt ended; where it is stale, nothing may change."""
        process, current = self.processes[attempt.process], self.is_current(attempt)
        self.run(write(process.jobs))
        process.attempts.discard(attempt.job.name)
        if current:
            self.changed(attempt.job.name, state)

    def changed(self, name, state):
        self.model[name].state = state
        self.model[name].revision += 1

    def stored(self, name):
        return self.run(self.processes[0].store.get(name))


RESULT = worker_pb2.Result(
    job_result=job_pb2.JobResult(images=[job_pb2.GeneratedImage(asset="assets/0")])
)
TestJobMachine = JobMachine.TestCase
TestJobMachine.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
