"""What becomes of a job when the command that waits for it is disturbed."""

import asyncio
import contextlib
import signal

import pytest

from cli.connection import CliSettings
from pictor.inference.v1.job_pb2 import Job
from services.rpc.settings import read
from tests.cli.conftest import Shell, environ_of
from tests.gateway.house import open_house


class Cable:
    """A connection to a service that can be cut: what flows through it is lost, it stays usable."""

    def __init__(self, target: str) -> None:
        self._host, _, self._port = target.rpartition(":")
        self._ends: set[asyncio.StreamWriter] = set()
        self.plugged = asyncio.Event()

    async def carry(self, near: asyncio.StreamReader, far: asyncio.StreamWriter) -> None:
        self.plugged.set()
        reader, writer = await asyncio.open_connection(self._host, int(self._port))
        self._ends |= {far, writer}
        await asyncio.gather(self._copy(near, writer), self._copy(reader, far))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    def cut(self) -> None:
        for end in self._ends:
            end.transport.abort()
        self._ends.clear()


@pytest.fixture(scope="module")
async def house(tmp_path_factory):
    async with open_house(tmp_path_factory.mktemp("house")) as one:
        yield one


@pytest.fixture
def shell(house, tmp_path):
    return Shell(tmp_path, environ_of(read(CliSettings, house.environ), house.api_key))


async def started(house) -> str:
    async with asyncio.timeout(60):
        await house.executor.started.wait()
    return (await house.jobs())[0].name


async def test_sigterm_cancels_the_job(house, shell):
    """
    Who ends the command as a service manager does leaves no job behind.
    """
    with house.held():
        process = await shell.start("generate", "a circle", "-o", "c.png")
        name = await started(house)
        process.send_signal(signal.SIGTERM)
        _, errors = await asyncio.wait_for(process.communicate(), 30)
        job = (await house.jobs())[0]

    assert process.returncode == 143, errors.decode()
    assert errors.decode() == f"canceled {name}\n"
    assert job.state == Job.STATE_CANCELED


async def test_a_lost_connection_does_not_end_the_command(house, shell):
    """
    The watch goes on where it was, and the picture is written in the end.
    """
    cable = Cable(house.environ["PICTOR_INFERENCE_ADDRESS"])
    server = await asyncio.start_server(cable.carry, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with house.held():
        process = await shell.start(
            "generate", "a circle", "-o", "c.png", PICTOR_INFERENCE_ADDRESS=address
        )
        await started(house)
        cable.plugged.clear()
        cable.cut()
        await asyncio.wait_for(cable.plugged.wait(), 30)
    _, errors = await asyncio.wait_for(process.communicate(), 60)
    server.close()

    assert process.returncode == 0, errors.decode()
    assert (shell.folder / "c.png").exists()


async def test_a_service_that_stays_away_is_one_line(house, shell):
    """
    After a few tries the command says how to go on later.
    """
    cable = Cable(house.environ["PICTOR_INFERENCE_ADDRESS"])
    server = await asyncio.start_server(cable.carry, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with house.held():
        process = await shell.start(
            "generate", "a circle", "-o", "c.png", PICTOR_INFERENCE_ADDRESS=address
        )
        name = await started(house)
        server.close()
        cable.cut()
        _, errors = await asyncio.wait_for(process.communicate(), 60)

    [line] = errors.decode().splitlines()
    assert process.returncode == 1
    assert line.startswith("error: the inference service is lost")
    assert name.removeprefix("jobs/") in line
