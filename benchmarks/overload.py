"""
Overload: ten times the requests that can be drawn, over as many as can.

The gateway and the services run in a process of their own, with an executor that takes as long as a
device and needs none. First so many callers ask again and again that the queue is never empty: the
peak. Then requests come ten times as often, whether answered or not, and most are refused.
"""

import asyncio
import contextlib
import itertools
import multiprocessing
import pathlib
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import httpx

from benchmarks.report import Row
from services.rpc.logs import configure
from tests.gateway.house import SERVED, House, open_house

REPEATS = 3
SECONDS, WARM_SECONDS = 6.0, 2.0
SLOTS, STEPS, STEP_SECONDS = 4, 3, 0.1
QUEUE = 2 * SLOTS
TIMES = 10
LEAST_GOODPUT = 0.95
MOST_REFUSAL_SECONDS = 0.05
LEAST_EVERY = 5
BODY = {"model": SERVED, "prompt": "a red circle", "size": "64x64"}
URL = "/v1/images/generations"


@dataclass
class Answers:
    """When requests were drawn and refused, in seconds of this process's clock."""

    drawn: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    others: list[int] = field(default_factory=list)
    # How long the least answer of all takes meanwhile.
    least: list[float] = field(default_factory=list)

    def rate(self, since: float, until: float) -> float:
        """Count the pictures a second between two moments."""
        return sum(since <= moment < until for moment in self.drawn) / (until - since)

    def add(self, reply: httpx.Response, started: float) -> None:
        """Note an answer; a refusal that does not say when to come again is none."""
        now = time.monotonic()
        if reply.status_code == 200:
            self.drawn.append(now)
        elif reply.status_code == 429 and int(reply.headers["retry-after"]) >= 1:
            self.refusals.append(now - started)
        else:
            self.others.append(reply.status_code)


def measure() -> list[Row]:
    """Measure peak and overload, in turn."""
    peaks, goodputs, refusals, least = [], [], [], []
    with _served() as (url, key):
        for _ in range(REPEATS):
            peak, goodput, answers = asyncio.run(_measured(url, key))
            if answers.others:
                raise RuntimeError(f"answers that were not expected: {set(answers.others)}")
            peaks.append(peak)
            goodputs.append(goodput)
            refusals.append(_p99(answers.refusals))
            least.append(_p99(answers.least))
            count = len(answers.refusals)
    note = f"{TIMES} times the peak; of the last repeat {count} requests were refused"
    return [
        Row(
            "goodput under overload, over the peak",
            goodputs,
            peaks,
            LEAST_GOODPUT,
            "pictures/s",
            at_least=True,
            note=note,
        ),
        Row("refusals, p99", refusals, goal=MOST_REFUSAL_SECONDS),
        Row("GET /livez meanwhile, p99", least),
    ]


def _p99(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=100)[98]


async def _measured(url: str, key: str) -> tuple[float, float, Answers]:
    async with _client(url, key) as client:
        peak = await _peak(client)
        goodput, answers = await _overload(client, TIMES * peak)
    return peak, goodput, answers


async def _peak(client: httpx.AsyncClient) -> float:
    answers = Answers()
    started = time.monotonic()
    until = started + WARM_SECONDS + SECONDS

    async def ask_again_and_again() -> None:
        while time.monotonic() < until:
            await _ask(client, answers)

    # Some always wait, and none is refused.
    await asyncio.gather(*(ask_again_and_again() for _ in range(SLOTS + QUEUE // 2)))
    return answers.rate(started + WARM_SECONDS, until)


async def _overload(client: httpx.AsyncClient, rate: float) -> tuple[float, Answers]:
    answers = Answers()
    started = time.monotonic()
    until = started + WARM_SECONDS + SECONDS
    async with asyncio.TaskGroup() as asking:
        for number in itertools.count():
            moment = started + number / rate
            if moment > until:
                break
            await asyncio.sleep(max(0.0, moment - time.monotonic()))
            if number % LEAST_EVERY == 0:
                asking.create_task(_look(client, answers))
            asking.create_task(_ask(client, answers))
    return answers.rate(started + WARM_SECONDS, until), answers


async def _ask(client: httpx.AsyncClient, answers: Answers) -> None:
    started = time.monotonic()
    answers.add(await client.post(URL, json=BODY), started)


async def _look(client: httpx.AsyncClient, answers: Answers) -> None:
    started = time.monotonic()
    await client.get("/livez")
    answers.least.append(time.monotonic() - started)


def _client(url: str, key: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=url,
        headers={"authorization": f"Bearer {key}"},
        timeout=60,
        # Shorter than the gateway keeps them: who asks just when it hangs up gets no answer.
        limits=httpx.Limits(
            max_connections=None, max_keepalive_connections=None, keepalive_expiry=2.0
        ),
    )


@contextlib.contextmanager
def _served() -> Iterator[tuple[str, str]]:
    """Serve in another process within the block, and yield where, and a key."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        server = context.Process(target=_serve, args=(folder, theirs))
        server.start()
        # So that its end is noticed here.
        theirs.close()
        try:
            yield ours.recv()
        finally:
            ours.send("stop")
            server.join()


def _serve(folder: str, pipe: Connection) -> None:
    configure("error", "json")
    asyncio.run(_serving(pathlib.Path(folder), pipe))


async def _serving(folder: pathlib.Path, pipe: Connection) -> None:
    async with _house(folder) as house:
        pipe.send((house.url, house.api_key))
        await asyncio.to_thread(pipe.recv)


@contextlib.asynccontextmanager
async def _house(folder: pathlib.Path) -> AsyncIterator[House]:
    async with open_house(folder, PICTOR_QUEUE=str(QUEUE)) as house:
        house.executor.slots = SLOTS
        house.executor.steps, house.executor.slow_steps = STEPS, STEP_SECONDS
        yield house
