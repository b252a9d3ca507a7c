"""Limits as callers of each public API see them."""

import asyncio

import openai
import pytest

from gateway.pressure import ASKING_SECONDS, FORGOTTEN_SECONDS, REMEMBERED_SECONDS, Pressure
from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import inference_service_pb2, inference_service_pb2_grpc
from services.rpc.channels import open_channel
from services.rpc.errors import Exhausted
from tests.gateway.house import open_house

BODY = {"model": "pictor/shapes", "prompt": "a red circle", "size": "256x256"}
URL = "/v1/images/generations"
NAMES = (
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "ratelimit",
    "ratelimit-policy",
)


async def test_an_answer_tells_what_is_left_to_the_key(house):
    """
    In OpenAI's headers and in the IETF's; errors and the native API tell it too.
    """
    secret = await house.limited_key(requests_per_minute=10)
    async with house.client(secret) as client:
        drawn = await client.post(URL, json=BODY)
        wrong = await client.post(URL, json={"prompt": ""})
        native = await client.get("/pictor/v1/jobs")

    assert [reply.status_code for reply in (drawn, wrong, native)] == [200, 400, 200]
    left = [reply.headers["x-ratelimit-remaining-requests"] for reply in (drawn, wrong, native)]
    assert left == ["9", "8", "7"]
    assert drawn.headers["x-ratelimit-limit-requests"] == "10"
    assert 0 < int(drawn.headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 60
    assert drawn.headers["ratelimit-policy"] == '"requests";q=10;w=60'
    assert drawn.headers["ratelimit"].startswith('"requests";r=9;t=')


async def test_who_has_no_limit_is_told_of_none(house):
    """
    By default nothing is counted, and nothing is said of it.
    """
    async with house.client() as client:
        reply = await client.get("/v1/models")

    assert not [name for name in NAMES if name in reply.headers]


async def test_a_refusal_is_remembered_before_bodies_are_read(house):
    """
    The second one costs nothing: a body that could not even be parsed is not looked at.
    """
    secret = await house.limited_key(unfinished_jobs=1)
    async with house.client(secret) as client:
        with house.held():
            await client.post(URL, json={**BODY, "async": True})
            replies = [
                await client.post(URL, json=BODY),
                await client.post(URL, content=b"{"),
            ]
            await asyncio.sleep(REMEMBERED_SECONDS)
            later = await client.post(URL, content=b"{")

    assert [reply.status_code for reply in replies] == [429, 429]
    assert later.status_code == 400


async def test_openais_own_package_waits_and_succeeds(house):
    """
    It reads Retry-After and asks again; the caller sees nothing but a picture.
    """
    secret = await house.limited_key(unfinished_jobs=1)
    with house.held():
        async with house.client(secret) as client:
            await client.post(URL, json={**BODY, "async": True})
        client = openai.AsyncOpenAI(base_url=f"{house.url}/v1", api_key=secret, max_retries=3)
        asking = asyncio.create_task(
            client.images.generate(model="pictor/shapes", prompt="a circle")
        )
        await asyncio.sleep(0.3)
        assert not asking.done()
        house.executor.gate.set()
        image = await asking
        await client.close()

    assert image.data[0].url


async def test_limits_hold_for_grpc_too(house):
    """
    RESOURCE_EXHAUSTED with RetryInfo, for keys that call the service themselves.
    """
    secret = await house.limited_key(requests_per_minute=2)
    async with open_channel(house.environ["PICTOR_INFERENCE_ADDRESS"], secret) as channel:
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        for _ in range(2):
            await stub.ListJobs(inference_service_pb2.ListJobsRequest())
        with pytest.raises(Exhausted) as refused:
            await stub.ListJobs(inference_service_pb2.ListJobsRequest())

    assert refused.value.reason == reasons.ERROR_REASON_RATE_LIMITED
    assert refused.value.retry_after_seconds > 1


async def test_the_settings_hold_for_keys_without_limits_of_their_own(tmp_path):
    """
    PICTOR_RATE_LIMIT counts every key, the operator's own included.
    """
    async with open_house(tmp_path, PICTOR_RATE_LIMIT="2") as house, house.client() as client:
        statuses = [(await client.get("/v1/models")).status_code for _ in range(3)]

    assert statuses == [200, 200, 429]


def test_a_refusal_is_forgotten_after_a_moment():
    """
    Who was refused may be asked about again; others were never meant, unless everybody was.
    """
    now = [0.0]
    pressure = Pressure(lambda: now[0])
    refuse(pressure, "a", of="account")
    pressure.require_room("b")
    with pytest.raises(Exhausted):
        pressure.require_room("a")
    now[0] += REMEMBERED_SECONDS
    pressure.require_room("a")
    refuse(pressure, "a", of="everybody")
    with pytest.raises(Exhausted):
        pressure.require_room("b")


def test_one_request_asks_for_all_whether_there_is_room_again():
    """
    The others are refused until it is answered; when nobody was refused for a while, all may ask.
    """
    now = [0.0]
    pressure = Pressure(lambda: now[0])
    refuse(pressure, "a", of="account")
    now[0] += REMEMBERED_SECONDS
    pressure.require_room("a")
    with pytest.raises(Exhausted):
        pressure.require_room("a")
    now[0] += ASKING_SECONDS
    pressure.require_room("a")
    refuse(pressure, "a", of="account")
    pressure.admitted("a")
    pressure.require_room("a")
    with pytest.raises(Exhausted):
        pressure.require_room("a")
    now[0] += FORGOTTEN_SECONDS + 0.1
    pressure.admitted("a")
    for _ in range(3):
        pressure.require_room("a")


def refuse(pressure, account, *, of):
    full = Exhausted("full", reason=reasons.ERROR_REASON_QUEUE_FULL, metadata={"of": of})
    with pytest.raises(Exhausted), pressure.noted(account):
        raise full
