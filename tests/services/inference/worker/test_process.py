import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys

import pytest

from pictor.catalog.v1 import model_pb2
from pictor.worker.v1 import worker_pb2, worker_service_pb2
from services.inference.worker.settings import WorkerSettings
from services.rpc.channels import open_channel
from services.rpc.errors import InvalidRequest
from services.rpc.principals import service_token
from services.rpc.settings import SettingError, read
from tests.services.inference.worker.conftest import generation_of
from tests.services.inference.worker.suite import environ_of, neighbours, worker_stub

MODULE = "services.inference.worker"
START_SECONDS = 60


@contextlib.contextmanager
def process(tmp_path, *options, stderr=subprocess.DEVNULL, **environ):
    """Start a device process without neighbours; yield it and its first line."""
    process = subprocess.Popen(
        [sys.executable, *options, "-m", MODULE],
        env={**os.environ, **environ_of(tmp_path, tmp_path), **environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


async def test_it_tells_where_it_listens(tmp_path):
    """
    One line of JSON, and the address in it answers, with the catalog away.
    """
    with process(tmp_path) as one:
        line = json.loads(one.stdout.readline())
        async with open_channel(line["address"], service_token(tmp_path)) as channel:
            request = worker_service_pb2.RunRequest(assignment=worker_pb2.Assignment(job="jobs/1"))
            with pytest.raises(InvalidRequest):
                async for _ in worker_stub(channel).Run(request):
                    pass

    assert line["address"].startswith("127.0.0.1:")
    assert line["replica_id"].startswith("worker-")


async def test_it_draws(models_folder, tmp_path):
    """
    A job that is assigned at once waits for torch and the weights, and is drawn and stored.
    """
    assignment = worker_pb2.Assignment(
        job="jobs/1",
        account="accounts/" + "a" * 32,
        generation=generation_of(),
        model=model_pb2.Model(name="models/tiny", checkpoint=model_pb2.Checkpoint(folder="tiny")),
    )
    async with neighbours(environ_of(tmp_path, models_folder)) as bound:
        with process(tmp_path, **bound, OMP_NUM_THREADS="1") as one:
            line = json.loads(one.stdout.readline())
            async with (
                open_channel(line["address"], service_token(tmp_path)) as channel,
                asyncio.timeout(START_SECONDS),
            ):
                request = worker_service_pb2.RunRequest(assignment=assignment)
                reports = [answer.report async for answer in worker_stub(channel).Run(request)]

    assert len(reports[-1].result.job_result.images) == 1


def test_it_can_be_called_before_torch_is_there(tmp_path):
    """
    The address comes before the first module of torch, whose import takes seconds.
    """
    lines = []
    with process(tmp_path, "-X", "importtime", stderr=subprocess.STDOUT) as one:
        for line in one.stdout:
            lines.append(line)
            if re.search(r"\|\s+torch$", line):
                break
    address = next(k for k, line in enumerate(lines) if line.startswith("{"))
    torch = [k for k, line in enumerate(lines) if "torch" in line and "import time" in line]

    assert torch
    assert address < torch[0]


def test_it_ends_with_its_standard_input(tmp_path):
    """
    Whoever started it need not live long enough to end it.
    """
    with process(tmp_path) as one:
        one.stdout.readline()
        one.stdin.close()

        assert one.wait(START_SECONDS) == 0


def test_it_can_be_told_to_go_on(tmp_path):
    """
    PICTOR_WORKER_KEEP lets it run by itself, until it is stopped.
    """
    with process(tmp_path, PICTOR_WORKER_KEEP="true") as one:
        one.stdout.readline()
        one.stdin.close()
        with pytest.raises(subprocess.TimeoutExpired):
            one.wait(1)
        one.send_signal(signal.SIGTERM)

        assert one.wait(START_SECONDS) == 0


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "CPU"])
def test_a_device_that_is_none_is_refused(name):
    """
    The error names the variable, the value and the rule.
    """
    with pytest.raises(SettingError, match=r"PICTOR_DEVICE='.*': must be auto, cpu, mps, cuda"):
        read(WorkerSettings, {"PICTOR_DEVICE": name})
