"""Ten times the load that can be drawn, and one caller that asks for far more than others."""

import asyncio
import itertools
import time

import pytest

from pictor.inference.v1 import job_pb2
from tests.gateway.house import open_house

BODY = {"model": "pictor/shapes", "prompt": "a", "size": "64x64"}
URL = "/v1/images/generations"
SLOTS, STEP_SECONDS = 2, 0.1


@pytest.fixture
async def slow_house(tmp_path):
    """A house that draws two pictures in 0.3 s, with room for four more to wait."""
    async with open_house(tmp_path, PICTOR_QUEUE="4") as house:
        house.executor.slots, house.executor.slow_steps = SLOTS, STEP_SECONDS
        yield house


async def test_overload_is_refused_and_the_rest_is_drawn(slow_house):
    """
    Every answer is a picture or 429 with Retry-After; the device is never without work.
    """
    seconds, rate = 3.0, 60
    async with slow_house.client() as client, asyncio.TaskGroup() as group:
        started, asked = time.monotonic(), []
        for number in itertools.count():
            moment = started + number / rate
            if moment > started + seconds:
                break
            await asyncio.sleep(max(0.0, moment - time.monotonic()))
            asked.append(group.create_task(client.post(URL, json=BODY)))
    took = time.monotonic() - started
    replies = [task.result() for task in asked]
    drawn = [reply for reply in replies if reply.status_code == 200]
    refused = [reply for reply in replies if reply.status_code == 429]

    assert len(drawn) + len(refused) == len(replies)
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in refused)
    assert len(refused) > len(drawn)
    # Half of what the device could draw in that time, on however busy a machine.
    assert len(drawn) >= 0.5 * took * SLOTS / (3 * STEP_SECONDS)


async def test_a_greedy_caller_holds_nobody_up(tmp_path):
    """
    Behind two hundred jobs of another account, one picture waits for a few of them.
    """
    async with open_house(tmp_path) as house:
        house.executor.slow_steps = 0.02
        modest, _ = await house.key("inference", new_account=True)
        async with house.client() as greedy, house.client(modest) as client:
            with house.held():
                made = [
                    (await greedy.post(URL, json={**BODY, "async": True})).status_code
                    for _ in range(200)
                ]
            before = ended(await house.jobs())
            reply = await client.post(URL, json=BODY)
            after = ended(await house.jobs())

    assert set(made) == {202}
    assert reply.status_code == 200
    assert after - before <= 10


def ended(jobs):
    return sum(job.state == job_pb2.Job.STATE_SUCCEEDED for job in jobs)


async def test_a_key_used_twenty_times_at_once_draws_one_picture(slow_house):
    """
    Duplicates get 409 while the first is under way, and its picture afterwards.
    """
    headers = {"idempotency-key": "twenty"}
    async with slow_house.client() as client:
        replies = await asyncio.gather(
            *(client.post(URL, json=BODY, headers=headers) for _ in range(20))
        )
        later = await client.post(URL, json=BODY, headers=headers)
        other = await client.post(URL, json={**BODY, "prompt": "b"}, headers=headers)

    answered = [reply for reply in replies if reply.status_code == 200]
    assert len(await slow_house.jobs()) == 1
    assert {reply.status_code for reply in replies} <= {200, 409}
    assert answered
    assert later.json() == answered[0].json()
    assert other.status_code == 400
