import asyncio
import contextlib
import shutil
import socket

import pytest

from pictor.errors.v1 import error_reason_pb2 as reasons
from services.rpc.errors import Exhausted
from services.rpc.limits import Limits
from services.rpc.principals import SUITE, Principal
from services.rpc.rates import Rates
from services.rpc.settings import SettingError

MEMORY = "async+memory://"


def bearer(key="accounts/a/apiKeys/1", **limits):
    return Principal("accounts/a", frozenset(), api_key=key, limits=Limits(**limits))


async def test_a_key_may_ask_so_often_a_minute():
    """
    What is left counts down; the one too many says when to come again.
    """
    rates = Rates(3, MEMORY)
    counted = [await rates.count(bearer()) for _ in range(4)]

    assert [one.remaining for one in counted] == [2, 1, 0, 0]
    assert [one.exceeded for one in counted] == [False, False, False, True]
    with pytest.raises(Exhausted, match="may send 3 requests a minute") as refused:
        counted[3].require()
    assert refused.value.reason == reasons.ERROR_REASON_RATE_LIMITED
    assert 50 < refused.value.retry_after_seconds <= 60


async def test_keys_are_counted_apart():
    """
    Another key of the same account has an allowance of its own.
    """
    rates = Rates(1, MEMORY)
    counted = [await rates.count(bearer(key)) for key in ("k/1", "k/2", "k/1")]

    assert [one.exceeded for one in counted] == [False, False, True]


async def test_of_many_at_once_no_more_pass_than_may():
    """
    The limit is exact, whatever comes at the same moment.
    """
    rates = Rates(10, MEMORY)
    counted = await asyncio.gather(*(rates.count(bearer()) for _ in range(100)))

    assert sum(not one.exceeded for one in counted) == 10


async def test_an_accounts_own_limit_wins():
    """
    A lower one, a higher one, and none at all.
    """
    rates = Rates(5, MEMORY)

    assert (await rates.count(bearer(requests_per_minute=2))).limit == 2
    assert (await rates.count(bearer(requests_per_minute=50))).limit == 50
    assert await rates.count(bearer(requests_per_minute=0)) is None


async def test_nobody_is_counted_by_default():
    """
    Without a limit, and for the suite itself, there is no allowance to tell of.
    """
    assert await Rates(0, MEMORY).count(bearer()) is None
    assert await Rates(1, MEMORY).count(SUITE) is None


@pytest.mark.parametrize("url", ["memory://", "nowhere://x", "redis"])
def test_a_storage_that_does_not_exist_stops_the_start(url):
    """
    The error names the variable, the value and what would do.
    """
    with pytest.raises(SettingError, match=r"PICTOR_RATE_STORAGE=.*async\+"):
        Rates(1, url)


@pytest.fixture
async def redis():
    """The URL of a Redis of its own, and what stops it."""
    pytest.importorskip("coredis", reason="needs limits[async-redis]")
    if not shutil.which("redis-server"):
        pytest.skip("Redis is not installed: apt-get install redis-server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = await asyncio.create_subprocess_exec(
        *("redis-server", "--port", str(port), "--save", ""), stdout=asyncio.subprocess.DEVNULL
    )
    async with asyncio.timeout(10):
        await answering(port)

    async def stop():
        server.terminate()
        await server.wait()

    yield f"async+redis://127.0.0.1:{port}", stop
    if server.returncode is None:
        await stop()


async def answering(port):
    """Wait until somebody listens."""
    for _ in range(200):
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.05)


async def test_processes_share_a_count_and_do_without_it(redis):
    """
    Two that count in one Redis count together; when it is away, nobody is stopped.
    """
    url, stop = redis
    one, other = Rates(3, url), Rates(3, url)
    counted = [await rates.count(bearer()) for rates in (one, other, one, other)]
    await stop()

    assert [allowance.exceeded for allowance in counted] == [False, False, False, True]
    assert await one.count(bearer()) is None
