"""One prompt becomes one picture, through the whole suite."""

import asyncio
import base64
import contextlib
import io
import json
import os
import pathlib
import re
import socket
import stat
import subprocess
import sys
import time

import grpc
import httpx
import psutil
import pytest
from openai import OpenAI
from PIL import Image

from pictor.inference.v1 import (
    generation_pb2,
    inference_service_pb2,
    inference_service_pb2_grpc,
    job_pb2,
)
from pictor.storage.v1 import storage_service_pb2, storage_service_pb2_grpc
from services.__main__ import _reserved
from services.rpc.process import ProcessSettings
from services.rpc.settings import read as read_settings
from tests.conftest import PORTS, run, suite_in_a_thread
from training.shapes.reading import read

Job = job_pb2.Job
LONG = 150  # steps: long enough to be interrupted
DEVICE_MODULE = "services.inference.worker"


def colours(content):
    """Return the background's colour and the largest figure's, as the pixels show them."""
    seen = read(Image.open(io.BytesIO(content)).convert("RGB"))
    return seen.background, seen.figures[0].colour if seen.figures else None


async def create(channel, prompt="a red circle on a white background", **fields):
    stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
    generation = generation_pb2.Generation(model="pictor/shapes", prompt=prompt, **fields)
    return await stub.CreateJob(inference_service_pb2.CreateJobRequest(generation=generation))


async def watched(channel, name):
    stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
    request = inference_service_pb2.WatchJobRequest(name=name)
    return [message async for message in stub.WatchJob(request)]


async def content_of(channel, asset):
    stub = storage_service_pb2_grpc.StorageServiceStub(channel)
    parts = stub.ReadAsset(storage_service_pb2.ReadAssetRequest(name=asset))
    return b"".join([part.chunk async for part in parts])


async def draw(suite, **fields):
    """Draw through gRPC and return the bytes of the first image."""
    async with suite.channel("inference") as channel:
        job = (await watched(channel, (await create(channel, **fields)).name))[-1].job
    assert job.state == Job.STATE_SUCCEEDED, job.error
    async with suite.channel("storage") as channel:
        return await content_of(channel, job.result.images[0].asset)


@pytest.mark.parametrize("form", ["url", "b64_json"])
@pytest.mark.parametrize(
    ("prompt", "shown"),
    [
        ("a red circle on a white background", ("white", "red")),
        ("blue square, yellow background", ("yellow", "blue")),
    ],
)
def test_openais_client_draws_what_the_prompt_says(suite, form, prompt, shown):
    """
    images.generate answers with a picture in whose pixels the prompt's colours are found.
    """
    client = OpenAI(base_url=f"{suite.url}/v1", api_key=suite.api_key)

    answer = client.images.generate(
        model="pictor/shapes", prompt=prompt, response_format=form, extra_body={"seed": 1}
    )

    image = answer.data[0]
    content = (
        base64.b64decode(image.b64_json) if form == "b64_json" else httpx.get(image.url).content
    )
    assert colours(content) == shown


def test_the_command_line_draws_what_the_prompt_says(suite, tmp_path):
    """
    Pictor generate writes a PNG that shows the prompt, and tells its seed.
    """
    path = tmp_path / "circle.png"

    done = run(
        "-m", "cli", "generate", "a green circle on a black background", "-o", str(path),
        "--seed", "1", **suite.environ,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert "seed 1" in done.stdout
    assert colours(path.read_bytes()) == ("black", "green")


async def test_an_internal_client_needs_nothing_but_the_stubs(suite):
    """
    With grpcio and the stubs alone a job is created, watched to its end, and its asset read.
    """
    metadata = [("authorization", f"Bearer {suite.api_key}")]
    async with grpc.aio.insecure_channel(suite.settings.inference_address) as channel:
        jobs = inference_service_pb2_grpc.InferenceServiceStub(channel)
        generation = generation_pb2.Generation(model="pictor/shapes", prompt="a circle")
        request = inference_service_pb2.CreateJobRequest(generation=generation)
        job = await jobs.CreateJob(request, metadata=metadata)
        watch = inference_service_pb2.WatchJobRequest(name=job.name)
        messages = [message async for message in jobs.WatchJob(watch, metadata=metadata)]
    image = messages[-1].job.result.images[0]
    async with grpc.aio.insecure_channel(suite.settings.storage_address) as channel:
        assets = storage_service_pb2_grpc.StorageServiceStub(channel)
        read_asset = storage_service_pb2.ReadAssetRequest(name=image.asset)
        parts = [part async for part in assets.ReadAsset(read_asset, metadata=metadata)]

    steps = [message.progress.step for message in messages]
    assert messages[-1].state == Job.STATE_SUCCEEDED
    assert steps == sorted(steps)
    assert messages[-1].progress.step == messages[-1].progress.step_count > 0
    content = b"".join(part.chunk for part in parts)
    assert len(content) == image.size_bytes
    assert Image.open(io.BytesIO(content)).size == (256, 256)


async def test_a_seed_fixes_the_bytes(suite):
    """
    The same request with the same seed gives the same bytes; another seed another picture.
    """
    first = await draw(suite, prompt="a circle", seed=5, step_count=8)
    again = await draw(suite, prompt="a circle", seed=5, step_count=8)
    other = await draw(suite, prompt="a circle", seed=6, step_count=8)

    assert first == again
    assert first != other


async def test_a_seed_fixes_the_bytes_after_a_restart(suite, tmp_path):
    """
    Another process, another day: the same request gives the same bytes.
    """
    first = await draw(suite, prompt="a circle", seed=5, step_count=8)
    with suite_in_a_thread(tmp_path) as restarted:
        again = await draw(restarted, prompt="a circle", seed=5, step_count=8)

    assert first == again


async def test_one_job_has_one_id_everywhere(suite):
    """
    A job made through RemoteGPU's API is the same job in gRPC, in the native API and in its header.
    """
    async with suite.client() as client:
        made = await client.post(
            "/v1/inference/image", json={"model": "pictor/shapes", "prompt": "a circle"}
        )
        job_id = made.json()["job_id"]
        image = await client.get(made.json()["result_url"])
        native = await client.get(f"/pictor/v1/jobs/{job_id}")
        status = await client.get(f"/v1/inference/jobs/{job_id}")
    async with suite.channel("inference") as channel:
        messages = await watched(channel, f"jobs/{job_id}")

    assert made.headers["x-pictor-job"] == job_id
    assert image.headers["content-type"] == "image/png"
    assert native.json()["name"] == f"jobs/{job_id}"
    assert status.json()["status"] == "succeeded"
    assert messages[-1].job.dialect == "remotegpu"


async def test_a_watch_on_rest_is_the_watch_on_grpc(suite):
    """
    Server-sent events tell the states in order, end after the terminal one, and resume.
    """
    async with suite.client() as client:
        body = {"generation": {"model": "pictor/shapes", "prompt": "a circle"}}
        job = (await client.post("/pictor/v1/jobs", json=body)).json()["name"]
        path = f"/pictor/v1/{job}:watch"
        text = (await client.get(path)).text
        resumed = (await client.get(path, headers={"last-event-id": "2"})).text

    ids = [int(number) for number in re.findall(r"^id: ?(\d+)$", text, re.MULTILINE)]
    assert set(ids) | {1, 2} == {1, 2, 3}
    assert ids == sorted(ids)
    assert json.loads(re.findall(r"^data: (.*)$", text, re.MULTILINE)[-2])["job"]["result"]
    assert text.rstrip().split("\n\n")[-1].startswith("event: end")
    assert set(re.findall(r"^id: ?(\d+)$", resumed, re.MULTILINE)) == {"3"}


async def test_a_killed_device_process_loses_nothing(suite):
    """
    The suite stays up, and the jobs that the process held run again.
    """
    async with suite.channel("inference") as channel:
        held = await create(channel, step_count=LONG)
        following = await create(channel, step_count=LONG)
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        for job in (held, following):
            request = inference_service_pb2.WatchJobRequest(name=job.name)
            async for message in stub.WatchJob(request):
                if message.progress.step >= 2:
                    break
        device_process(suite).kill()

        ended = [(await watched(channel, job.name))[-1].job for job in (held, following)]
    async with suite.client() as client:
        alive = await client.get("/livez")

    assert [job.state for job in ended] == [Job.STATE_SUCCEEDED] * 2
    assert [job.attempt_count for job in ended] == [2, 2]
    assert alive.status_code == 200


def device_process(suite):
    """Find the device process of this suite; other tests' suites may run beside it."""
    data_dir = str(suite.settings.data_dir)
    return next(
        child
        for child in psutil.Process().children(recursive=True)
        if DEVICE_MODULE in child.cmdline() and child.environ()["PICTOR_DATA_DIR"] == data_dir
    )


async def test_canceling_stops_the_device_within_a_step(suite):
    """
    After a cancel the device is free for the next job, long before the canceled one's last step.
    """
    async with suite.channel("inference") as channel:
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        held = await create(channel, step_count=LONG, width_px=256)
        async for message in stub.WatchJob(inference_service_pb2.WatchJobRequest(name=held.name)):
            if message.progress.step >= 2:
                break
        canceled = await stub.CancelJob(inference_service_pb2.CancelJobRequest(name=held.name))
        following = (await watched(channel, (await create(channel, step_count=1)).name))[-1].job

    assert canceled.state == Job.STATE_CANCELED
    assert canceled.progress.step < LONG - 20
    assert following.state == Job.STATE_SUCCEEDED


async def test_a_client_that_hangs_up_cancels_its_job(suite):
    """
    A synchronous client that closes its connection leaves no work behind.
    """
    async with suite.client() as client:
        body = {"model": "pictor/shapes", "prompt": "a circle", "steps": LONG}
        with pytest.raises(httpx.ReadTimeout):
            await client.post("/v1/images/generations", json=body, timeout=0.8)
        async with asyncio.timeout(20):
            while True:
                newest = (await client.get("/pictor/v1/jobs", params={"pageSize": 1})).json()
                if newest["jobs"][0]["state"] == "STATE_CANCELED":
                    break
                await asyncio.sleep(0.1)

    assert int(newest["jobs"][0]["progress"].get("step", 0)) < LONG - 20


async def test_the_api_key_of_the_first_start_is_the_owners_alone(suite):
    """
    The file of the first key can be read by its owner and by nobody else.
    """
    mode = (suite.settings.data_dir / "api-key").stat().st_mode

    assert stat.S_IMODE(mode) == 0o600


def test_the_command_that_the_terminal_shows_draws_a_picture(tmp_path):
    """
    ``python -m services`` prints a command; pasted into a shell it makes a PNG of its prompt.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "services"],
        env={**os.environ, **PORTS, "PICTOR_DATA_DIR": str(tmp_path / "data")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=pathlib.Path(__file__).parents[1],
    )
    try:
        lines = []
        while "or, with a progress bar" not in (lines or [""])[-1]:
            lines.append(process.stdout.readline())
            assert lines[-1], process.stderr.read()
        shown = "".join(lines)
        command = shown[shown.index("curl ") : shown.index("or, with a progress bar")]
        subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True, timeout=60)
    finally:
        process.terminate()
        process.communicate(timeout=30)

    key = (tmp_path / "data/api-key").read_text().strip()
    assert key in command
    assert colours((tmp_path / "circle.png").read_bytes()) == ("white", "red")
    assert process.returncode == 0


@pytest.mark.parametrize("part", ["accounts", "catalog", "storage", "inference"])
def test_each_service_runs_alone(tmp_path, part):
    """
    ``python -m services.X`` starts, says where it listens, and stops when it is told to.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", f"services.{part}"],
        env={**os.environ, **PORTS, "PICTOR_DATA_DIR": str(tmp_path), "PICTOR_LOG_FORM": "json"},
        stderr=subprocess.PIPE,
        text=True,
        cwd=pathlib.Path(__file__).parents[1],
    )
    try:
        started = time.monotonic()
        line = ""
        while "server.started" not in line:
            line = process.stderr.readline()
            assert line
            assert time.monotonic() - started < 60
    finally:
        process.terminate()
        process.communicate(timeout=30)

    assert f"pictor.{part}.v1" in line
    assert process.returncode == 0


def test_a_taken_address_is_told_in_a_sentence(suite, tmp_path):
    """
    A second suite on the same ports ends with the address that is taken, not with a traceback.
    """
    done = run(
        "-m", "services", **{**suite.environ, "PICTOR_DATA_DIR": str(tmp_path)},
    )  # fmt: skip

    assert done.returncode != 0
    assert "is it taken by another process?" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_suite_that_cannot_start_leaves_nothing_behind(tmp_path):
    """
    A bad setting of a service ends the suite with one line, and the device process with it.
    """
    environ = {**PORTS, "PICTOR_DATA_DIR": str(tmp_path), "PICTOR_STAND_IN": "nobody"}

    done = run("-m", "services", **environ)

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("pictor: PICTOR_STAND_IN='nobody'")
    assert "Traceback" not in done.stderr
    assert str(tmp_path) not in [data_dir_of(process) for process in psutil.process_iter()]


def data_dir_of(process):
    """Return the data folder in a process's environment; None where nobody may read that."""
    with contextlib.suppress(psutil.Error):
        return process.environ().get("PICTOR_DATA_DIR")
    return None


def test_ports_that_nobody_chose_are_free_and_different():
    """
    Port 0 of five parts becomes five ports, in the notation of the address that was given.
    """
    settings = read_settings(ProcessSettings, {**PORTS, "PICTOR_HTTP_ADDRESS": "localhost:0"})

    with _reserved(settings) as addresses:
        assert set(addresses) == set(PORTS)
        assert addresses["PICTOR_HTTP_ADDRESS"].startswith("localhost:")
        assert len({address.rpartition(":")[2] for address in addresses.values()} - {"0"}) == 5


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets two sockets share a port")
def test_a_reserved_port_is_for_a_server_alone():
    """
    Until its part listens there, with SO_REUSEADDR as servers do, nobody else is given it.
    """
    with _reserved(read_settings(ProcessSettings, PORTS)) as addresses:
        for address in addresses.values():
            place = ("127.0.0.1", int(address.rpartition(":")[2]))
            with socket.socket() as other, pytest.raises(OSError, match="in use"):
                other.bind(place)
            socket.create_server(place).close()


async def test_answers_follow_each_other_without_pause(suite):
    """
    On a connection that is kept open no answer waits for the acknowledgement of its own head.
    """
    seconds = []
    async with suite.client("") as client:
        for _ in range(10):
            started = time.monotonic()
            await client.get("/livez")
            seconds.append(time.monotonic() - started)

    # The first few are acknowledged at once; the others would wait at least 40 ms, each of them.
    assert min(seconds[5:]) < 0.03
