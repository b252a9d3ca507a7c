import asyncio

import httpx_sse
import pytest

from gateway import events
from tests.gateway.house import NOT_SERVED, SERVED

JOBS = "/pictor/v1/jobs"


def generation(**fields):
    return {"generation": {"model": SERVED, "prompt": "a red circle", **fields}}


async def test_models_are_public_and_written_as_proto_json(house):
    """
    Names have camel case, enums are words, and empty fields are there.
    """
    async with house.client("") as client:
        page = (await client.get("/pictor/v1/models", params={"pageSize": 1})).json()
        model = (await client.get(f"/pictor/v1/models/{NOT_SERVED}")).json()

    assert len(page["models"]) == 1
    assert page["nextPageToken"]
    assert model["name"] == f"models/{NOT_SERVED}"
    assert model["limits"]["maxPromptChars"] == 2048
    assert model["operations"][0].startswith("OPERATION_")


async def test_a_job_is_made_read_listed_and_canceled(house):
    """
    The native API does what gRPC does, under the same names.
    """
    async with house.client() as client:
        with house.held():
            made = await client.post(JOBS, json=generation(stepCount=7))
            name = made.json()["name"]
            read = await client.get(f"/pictor/v1/{name}")
            listed = await client.get(JOBS, params={"states": ["STATE_QUEUED", "STATE_RUNNING"]})
            canceled = await client.post(f"/pictor/v1/{name}:cancel")

    assert made.status_code == 200, made.text
    assert read.json()["generation"]["stepCount"] == 7
    assert name in [job["name"] for job in listed.json()["jobs"]]
    assert canceled.json()["state"] == "STATE_CANCELED"


async def test_keys_are_made_and_revoked(house):
    """
    A rule with a body field takes the resource as the body.
    """
    async with house.client() as client:
        account = (await client.get("/pictor/v1/accounts")).json()["accounts"][0]["name"]
        made = await client.post(
            f"/pictor/v1/{account}/apiKeys", json={"scopes": ["inference"], "displayName": "x"}
        )
        name = made.json()["apiKey"]["name"]
        revoked = await client.post(f"/pictor/v1/{name}:revoke")

    assert made.json()["secret"].startswith("pk_")
    assert revoked.json()["state"] == "STATE_REVOKED"


async def test_a_watch_is_a_stream_of_events(house):
    """
    Each event has the revision as its id, proto JSON as data, and the last one ends the stream.
    """
    async with house.client() as client:
        with house.held():
            name = (await client.post(JOBS, json=generation())).json()["name"]
            async with httpx_sse.aconnect_sse(client, "GET", f"/pictor/v1/{name}:watch") as source:
                received = []
                async for event in source.aiter_sse():
                    received.append(event)
                    house.executor.gate.set()

    messages = [event for event in received if event.event == "message"]
    assert messages[0].json()["job"]["name"] == name
    assert messages[-1].json()["state"] == "STATE_SUCCEEDED"
    assert messages[-1].id == messages[-1].json()["revision"]
    assert received[-1].event == "end"


async def test_a_watch_goes_on_after_the_last_event(house):
    """
    The id that a browser sends back becomes after_revision.
    """
    async with house.client() as client:
        name = (await client.post(JOBS, json=generation())).json()["name"]
        whole = (await client.get(f"/pictor/v1/{name}:watch")).text
        rest = await client.get(f"/pictor/v1/{name}:watch", headers={"last-event-id": "1"})

    assert "STATE_SUCCEEDED" in whole
    assert "STATE_QUEUED" not in rest.text.replace('"progress"', "")
    assert "STATE_RUNNING" in rest.text


async def test_a_silent_stream_is_kept_open_by_comments():
    """
    Proxies close what is silent; None stands for a heartbeat.
    """

    async def slow():
        yield 1
        await asyncio.sleep(0.1)
        yield 2

    items = [item async for item in events.with_heartbeats(slow(), seconds=0.03)]

    assert items[0] == 1
    assert items[-1] == 2
    assert None in items


@pytest.mark.parametrize(
    ("method", "path", "status", "reason"),
    [
        ("GET", "/pictor/v1/jobs/none", 404, "JOB_NOT_FOUND"),
        ("GET", "/pictor/v1/jobs/none:watch", 404, "JOB_NOT_FOUND"),
        ("GET", "/pictor/v1/nothing", 404, "ROUTE_NOT_FOUND"),
        ("PUT", "/pictor/v1/jobs", 405, "METHOD_NOT_ALLOWED"),
        ("TRACE", "/pictor/v1/jobs", 405, "METHOD_NOT_ALLOWED"),
        ("GET", "/pictor/v1/jobs?pageSize=many", 400, "FIELD_INVALID"),
        ("GET", "/pictor/v1/jobs?color=red", 400, "FIELD_INVALID"),
        ("GET", "/pictor/v1/jobs?pageToken=a&pageToken.pageToken=b", 400, "FIELD_INVALID"),
        ("GET", "/pictor/v1/jobs?pageSize=1&pageSize=2", 400, "FIELD_INVALID"),
        ("GET", "/pictor/v1/jobs?pageSize=1e999", 400, "FIELD_INVALID"),
        ("GET", "/pictor/v1/jobs?pageSize=99999999999999999999", 400, "FIELD_INVALID"),
        ("GET", "/pictor/v1/jobs?states=STATE_NONE", 400, "FIELD_INVALID"),
        ("GET", "/pictor/v1/jobs?states=99999999999999999999", 400, "FIELD_INVALID"),
        ("GET", f"/pictor/v1/jobs?states={'X' * 9000}", 400, "FIELD_INVALID"),
        ("GET", f"/pictor/v1/jobs/{'x' * 501}", 404, "ROUTE_NOT_FOUND"),
        ("GET", f"/pictor/v1/models/{'x/' * 20_000}x", 404, "ROUTE_NOT_FOUND"),
        ("POST", "/pictor/v1/jobs", 400, "FIELD_REQUIRED"),
    ],
)
async def test_errors_are_google_rpc_status(house, method, path, status, reason):
    """
    The envelope of AIP-193: the HTTP status as code, the gRPC code as status, details with types.
    """
    async with house.client() as client:
        reply = await client.request(method, path)

    error = reply.json()["error"]
    assert reply.status_code == error["code"] == status, reply.text
    info = error["details"][0]
    assert info["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
    assert info["reason"] == reason
    assert len(error["message"]) < 600
    assert "x" * 101 not in reply.text.lower()


@pytest.mark.parametrize("content", [b'{"a":"' + b"a" * (4 << 20) + b'"}', b"[" * (5 << 20)])
async def test_a_body_that_grpc_cannot_carry_is_413(house, content):
    """
    The limit is named, and the services are not asked.
    """
    async with house.client() as client:
        reply = await client.post(JOBS, content=content)

    error = reply.json()["error"]
    assert reply.status_code == error["code"] == 413
    assert error["details"][0]["reason"] == "REQUEST_TOO_LARGE"
    assert error["details"][0]["metadata"] == {"limit_bytes": "4194304"}


@pytest.mark.parametrize("content", [b"{", b"[1]", b'{"generation": 3}', b'{"nothing": 1}'])
async def test_a_body_that_does_not_fit_the_message_is_400(house, content):
    """
    Unknown fields and wrong types are refused by the JSON mapping of the protos.
    """
    async with house.client() as client:
        reply = await client.post(JOBS, content=content)

    assert reply.status_code == 400
    assert reply.json()["error"]["status"] == "INVALID_ARGUMENT"


@pytest.mark.parametrize(("key", "status"), [("", 401), ("pk_wrong", 401)])
async def test_a_key_is_needed_before_the_body_is_read(house, key, status):
    """
    Only public methods answer without a key.
    """
    async with house.client(key) as client:
        reply = await client.post(JOBS, content=b"{")

    assert reply.status_code == status


async def test_a_scope_is_needed(house):
    """
    The scope is the one that the proto states.
    """
    secret, _ = await house.key("inference")
    async with house.client(secret) as client:
        reply = await client.get("/pictor/v1/accounts")

    assert reply.status_code == 403
    assert reply.json()["error"]["details"][0]["metadata"] == {"scope": "accounts:admin"}


async def test_another_accounts_job_does_not_exist(house):
    """
    The channels carry the caller's account, so ownership is the services' own check.
    """
    secret, _ = await house.key("inference", new_account=True)
    async with house.client() as client, house.client(secret) as other:
        name = (await client.post(JOBS, json=generation())).json()["name"]
        reply = await other.get(f"/pictor/v1/{name}")
        mine = await other.get(JOBS)

    assert reply.status_code == 404
    assert mine.json()["jobs"] == []


@pytest.mark.parametrize("name", ["validate_only", "validateOnly"])
async def test_a_quote_by_the_query_makes_no_job(house, name):
    """
    As docs/credits.md asks for one.
    """
    before = len(await house.jobs())
    async with house.client() as client:
        body = {"generation": {"model": SERVED, "prompt": "a"}}
        reply = await client.post(f"/pictor/v1/jobs?{name}=true", json=body)

    assert reply.status_code == 200, reply.text
    assert not reply.json().get("name")
    assert len(await house.jobs()) == before
