"""Device processes beside each other: who is given what, and what the loss of one ends."""

import asyncio
import contextlib
import os

import pytest

from pictor.catalog.v1 import model_pb2
from pictor.worker.v1 import worker_pb2
from services.inference.device_process import DeviceProcess
from services.inference.executor import DeviceLost, open_executor
from services.inference.executors.local import LOAD_WORTH_JOBS, best_placed, child_environ
from services.inference.settings import Settings
from services.rpc.settings import SettingError, read
from tests.services.inference.worker.conftest import generation_of
from tests.services.inference.worker.suite import environ_of, neighbours
from tests.services.inference.worker.tiny import save_tiny_model

START_SECONDS = 60
LONG = 150


@pytest.fixture(scope="module")
async def environ(tmp_path_factory):
    """The environment of two device processes whose neighbours run, and who find a tiny model."""
    folder, models_folder = tmp_path_factory.mktemp("local"), tmp_path_factory.mktemp("models")
    save_tiny_model(models_folder / "tiny")
    given = {"PICTOR_DEVICE": "cpu,cpu", "PICTOR_DEVICE_JOBS": "3", "OMP_NUM_THREADS": "1"}
    own = environ_of(folder, models_folder)
    async with neighbours({**os.environ, **own, **given}) as bound:
        yield bound


@pytest.fixture(scope="module")
async def executor(environ):
    """A local executor with two device processes on the CPU, both up."""
    async with open_executor(read(Settings, environ), environ) as executor:
        await until(lambda: executor.slot_count == 6)
        yield executor


async def until(condition):
    async with asyncio.timeout(START_SECONDS):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.05)


def assignment(number, **fields):
    return worker_pb2.Assignment(
        job=f"jobs/{number}",
        account="accounts/" + "a" * 32,
        generation=generation_of(**fields),
        model=model_pb2.Model(
            name="models/tiny",
            family="stable-diffusion",
            checkpoint=model_pb2.Checkpoint(folder="tiny"),
        ),
    )


class Attempt:
    """An attempt in the background."""

    def __init__(self, executor, given):
        self.steps = 0
        self.result = None
        self.task = asyncio.create_task(self._run(executor, given))

    async def _run(self, executor, given):
        async with contextlib.aclosing(executor.run(given)) as reports:
            async for report in reports:
                self.steps = max(self.steps, report.progress.step)
                if report.HasField("result"):
                    self.result = report.result
                assert not report.HasField("error"), report.error


async def test_two_processes_share_the_work_and_the_loss_of_one_ends_its_attempts_alone(executor):
    """
    Two jobs run in two processes; one process is killed, the other's job ends well, and the lost
    process comes back.
    """
    attempts = [Attempt(executor, assignment(number, step_count=LONG)) for number in (1, 2)]
    await until(lambda: all(attempt.steps for attempt in attempts))
    counts = [process.running_count for process in executor._processes]
    executor._processes[0]._process.kill()
    await until(lambda: executor.slot_count == 3)
    ended = await asyncio.gather(*(one.task for one in attempts), return_exceptions=True)

    assert counts == [1, 1]
    assert sorted(type(one).__name__ for one in ended) == ["DeviceLost", "NoneType"]
    assert [len(a.result.job_result.images) for a in attempts if a.result] == [1]
    assert any(isinstance(one, DeviceLost) for one in ended)
    await until(lambda: executor.slot_count == 6)
    assert [process.running_count for process in executor._processes] == [0, 0]


async def test_a_process_tells_what_it_holds(executor):
    """
    When a model has drawn in a process, the executor knows that it is there.
    """
    await Attempt(executor, assignment(3)).task
    held = [await process.models() for process in executor._processes]

    assert any("models/tiny" in models for models in held)


def process(running_count):
    one = DeviceProcess("cpu", {}, "", lambda: None)
    one.running_count = running_count
    return one


def test_the_least_busy_process_is_chosen():
    """
    Among processes that hold the model, and among processes that do not, the one with least to do.
    """
    busy, idle = process(2), process(1)

    assert best_placed({busy: ["models/a"], idle: ["models/a"]}, "models/a") is idle
    assert best_placed({busy: [], idle: []}, "models/a") is idle


def test_a_model_is_loaded_again_only_when_that_is_worth_while():
    """
    A process that has the model is chosen until it is busier by what a load is worth.
    """
    for more, chosen in ((LOAD_WORTH_JOBS, "holder"), (LOAD_WORTH_JOBS + 1, "other")):
        holder, other = process(more), process(0)
        known = {holder: ["models/a"], other: []}

        assert best_placed(known, "models/a") is {"holder": holder, "other": other}[chosen]


async def test_a_process_that_is_not_up_ends_its_attempt():
    """
    Between the choice and the start a process may end; the job then goes back to the queue.
    """
    with pytest.raises(DeviceLost):
        async for _ in process(0).run(assignment(4)):
            pass


def test_threads_wait_without_spinning_and_share_the_cores(monkeypatch):
    """
    What the operator has set about threads stays; processes on GPUs share nothing.
    """
    monkeypatch.setattr("os.cpu_count", lambda: 8)

    assert child_environ({}, ["cpu"]) == {"OMP_WAIT_POLICY": "PASSIVE"}
    assert child_environ({}, ["cpu", "cpu"])["OMP_NUM_THREADS"] == "4"
    assert "OMP_NUM_THREADS" not in child_environ({}, ["cuda:0", "cuda:1"])
    own = {"OMP_WAIT_POLICY": "ACTIVE", "OMP_NUM_THREADS": "1"}
    assert child_environ(own, ["cpu", "cpu"]) == own


@pytest.mark.parametrize(
    ("variable", "value"), [("PICTOR_DEVICE", "cpu;cpu"), ("PICTOR_DEVICE_JOBS", "0")]
)
async def test_a_wrong_setting_stops_the_start(environ, variable, value):
    """
    Before any process is started, the error names variable and value.
    """
    given = {**environ, variable: value}
    with pytest.raises(SettingError, match=f"{variable}='{value}'"):
        async with open_executor(read(Settings, given), given):
            pass
