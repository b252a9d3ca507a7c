"""
What belongs to one account does not exist for another, and nothing answers without a credential.

Every RPC of every service is found by its descriptor, every route by its record: what is added
later is tested without being listed here.
"""

import contextlib
import re
import sqlite3
import uuid

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor

from gateway.bindings import bindings_of
from gateway.dialect import Generate
from gateway.routes import discover
from gateway.suite import SERVICES
from pictor.inference.v1 import inference_service_pb2
from pictor.worker.v1 import worker_service_pb2, worker_service_pb2_grpc
from services.rpc.channels import open_channel
from services.rpc.errors import SuiteError, reason_name
from services.rpc.interceptors import access_of
from services.rpc.server import MESSAGE_BYTES, Served, running_server
from tests.gateway.house import SERVED, open_house
from tests.services.rpc.test_calls import Keys

METHODS = [method for service in SERVICES.values() for method in service.methods]
GUARDED = [method for method in METHODS if not access_of(method.full_name).public]
OPERATIONS = [
    pytest.param(dialect, one, id=f"{dialect.name} {one.method} {one.path}")
    for dialect in discover()
    for one in dialect.operations
    if not one.public and not isinstance(one, Generate)
]
PLACEHOLDER = re.compile(r"\{\w+(:path)?\}")
# What a person may know of the machine only from its logs.
LEAK = re.compile(
    r"/tmp|/srv|/home|\.py|\.db|SELECT|sqlite|127\.0\.0\.1|Traceback|localhost", re.IGNORECASE
)


def by_name(method):
    return method.full_name.removeprefix("pictor.")


def path_of(method):
    service, _, name = method.full_name.rpartition(".")
    return f"/{service}/{name}"


def address_of(house, method):
    return house.environ[f"PICTOR_{method.full_name.split('.')[1].upper()}_ADDRESS"]


async def call(channel, method, request: bytes) -> list[bytes]:
    """Call any method with one message; return all that comes back."""
    arity = "stream" if method.client_streaming else "unary"
    arity += "_stream" if method.server_streaming else "_unary"
    function = getattr(channel, arity)(path_of(method))
    sent = _one(request) if method.client_streaming else request
    if method.server_streaming:
        answers = []
        async for answer in function(sent, timeout=5):
            answers.append(answer)
        return answers
    return [await function(sent, timeout=5)]


async def _one(request: bytes):
    yield request


def filled(descriptor, name: str):
    """Make a request that has a name wherever there may be one, also in lists and below."""
    message = message_factory.GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if field.type == FieldDescriptor.TYPE_STRING:
            if field.is_repeated:
                getattr(message, field.name).append(name)
            elif field.name not in ("page_token", "url", "dialect", "job_id"):
                setattr(message, field.name, name)
    return message


@pytest.fixture(scope="module")
async def alice(house):
    """What another account has: a job, an asset, a key, credits; by kind."""
    secret, key = await house.key("inference", new_account=True)
    house.executor.gate.set()
    async with house.client(secret) as client:
        drawn = await client.post(
            "/v1/images/generations", json={"model": SERVED, "prompt": "a secret of alice"}
        )
        assert drawn.status_code == 200
        job = f"jobs/{drawn.headers['x-pictor-job']}"
        [image] = (await client.get(f"/pictor/v1/{job}")).json()["result"]["images"]
    account = key.partition("/apiKeys/")[0]
    return {
        "job": job,
        "asset": image["asset"],
        "key": key,
        "account": account,
        "balance": f"{account}/balance",
    }


def invented(name: str) -> str:
    """Return a name of the same form, of something that does not exist."""
    digits = iter(uuid.uuid4().hex * 8)
    head, separator, tail = name.partition("/")
    return head + separator + re.sub(r"[0-9a-f](?=[0-9a-f-]{3})", lambda _: next(digits), tail)


async def outcome(channel, method, request) -> tuple[str, list[bytes]]:
    try:
        return "", await call(channel, method, request.SerializeToString())
    except grpc.aio.AioRpcError as error:
        raise AssertionError(f"{method.name}: {error.code()}") from error
    except SuiteError as error:
        return f"{error.code.name} {reason_name(error.reason)}", []


@pytest.mark.parametrize("method", GUARDED, ids=by_name)
async def test_no_rpc_shows_what_is_another_accounts(house, alice, method):
    """
    With another account's names every method answers as it does with names of nothing at all.
    """
    secret, _ = await house.key("inference", new_account=True)
    ids = [name.rpartition("/")[2].encode() for kind, name in alice.items() if kind != "balance"]
    async with open_channel(address_of(house, method), secret) as channel:
        for name in alice.values():
            real = await outcome(channel, method, filled(method.input_type, name))
            none = await outcome(channel, method, filled(method.input_type, invented(name)))

            assert real[0] == none[0], name
            assert not [one for one in ids for answer in real[1] if one in answer], name
            if method.name in ("GetJob", "CancelJob", "RetryJob", "FinishJob", "WatchJob"):
                assert real[0] == "NOT_FOUND JOB_NOT_FOUND"
            if method.name in ("GetAsset", "ReadAsset", "DeleteAsset"):
                assert real[0] == "NOT_FOUND ASSET_NOT_FOUND"


async def test_another_accounts_image_cannot_be_an_input(house, alice):
    """
    An asset's name in a request opens it no more than anywhere else.
    """
    secret, _ = await house.key("inference", new_account=True)
    request = inference_service_pb2.CreateJobRequest()
    request.generation.model, request.generation.prompt = SERVED, "a red circle"
    request.generation.input_images.add(asset=alice["asset"])
    method = SERVICES["pictor.inference.v1.InferenceService"].methods_by_name["CreateJob"]
    async with open_channel(address_of(house, method), secret) as channel:
        assert (await outcome(channel, method, request))[0] == "NOT_FOUND ASSET_NOT_FOUND"


@pytest.mark.parametrize(
    "binding", bindings_of(SERVICES.values()), ids=lambda b: f"{b.verb} {b.template}"
)
async def test_no_native_route_shows_what_is_another_accounts(house, alice, binding):
    """
    The same over REST: 403 or 404, or an answer without a trace of the other account.
    """
    secret, _ = await house.key("inference", new_account=True)
    if binding.access.public:
        return
    async with house.client(secret) as client:
        for name in alice.values():
            path = re.sub(r"\{[^}]*\}", name, binding.template)
            reply = await client.request(
                binding.verb, path, **({"json": {}} if binding.body else {})
            )
            if "{" in binding.template and binding.pattern.fullmatch(path):
                assert reply.status_code in (403, 404), reply.text
            for other in alice.values():
                assert other in path or name in other or other not in reply.text


@pytest.mark.parametrize(("dialect", "operation"), OPERATIONS)
async def test_no_route_of_a_public_api_shows_what_is_another_accounts(
    house, alice, dialect, operation
):
    """
    With another account's ids a route says 404, and no list has any of them.
    """
    secret, _ = await house.key("inference", new_account=True)
    async with house.client(secret) as client:
        for kind in ("job", "asset"):
            one = alice[kind].rpartition("/")[2]
            reply = await client.request(operation.method, PLACEHOLDER.sub(one, operation.path))
            if "{" in operation.path:
                assert reply.status_code == 404, reply.text
            assert "a secret of alice" not in reply.text
            assert alice["asset"].rpartition("/")[2] not in reply.text or kind == "asset"


@pytest.mark.parametrize("method", METHODS, ids=by_name)
async def test_no_rpc_answers_without_a_credential(house, method):
    """
    Without a key, and with one that nobody has given out, a method is UNAUTHENTICATED unless it is
    public; with a key that lacks the scope it is PERMISSION_DENIED.
    """
    access = access_of(method.full_name)
    request = message_factory.GetMessageClass(method.input_type)()
    async with grpc.aio.insecure_channel(address_of(house, method)) as channel:
        if access.public:
            return
        for metadata in ((), (("authorization", "Bearer nonsense"),), (("x-api-key", "pk_x"),)):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await _raw(channel, method, request.SerializeToString(), metadata)
            assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
    other = {"inference": "catalog:write"}.get(access.scope, "inference")
    secret, _ = await house.key(other)
    async with open_channel(address_of(house, method), secret) as channel:
        assert (await outcome(channel, method, request))[0] == "PERMISSION_DENIED SCOPE_MISSING"


async def _raw(channel, method, request: bytes, metadata) -> None:
    arity = "stream" if method.client_streaming else "unary"
    arity += "_stream" if method.server_streaming else "_unary"
    function = getattr(channel, arity)(path_of(method))
    answer = function(
        _one(request) if method.client_streaming else request, metadata=metadata, timeout=5
    )
    if method.server_streaming:
        async for _ in answer:
            pass
    else:
        await answer


@pytest.mark.parametrize("name", ["Run", "GetDevice", "Finish"])
async def test_a_device_process_answers_nobody_without_a_credential(name):
    """
    What runs jobs is guarded like what takes them; API keys open nothing there at all.
    """
    service = worker_service_pb2.DESCRIPTOR.services_by_name["WorkerService"]
    method = service.methods_by_name[name]
    served = Served(
        service,
        worker_service_pb2_grpc.add_WorkerServiceServicer_to_server,
        worker_service_pb2_grpc.WorkerServiceServicer(),
    )
    async with running_server("127.0.0.1:0", [served], Keys(), "the token") as address:
        for key, code in ((None, "UNAUTHENTICATED"), ("admin", "PERMISSION_DENIED")):
            metadata = (("authorization", f"Bearer {key}"),) if key else ()
            async with grpc.aio.insecure_channel(address) as channel:
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await _raw(channel, method, b"", metadata)
            assert error.value.code().name == code


@pytest.mark.parametrize("service", SERVICES.values(), ids=lambda s: s.name)
async def test_an_oversized_message_is_refused(house, service):
    """
    A message of over 4 MiB is turned away before anything reads it.
    """
    method = next(one for one in service.methods if not one.client_streaming)
    metadata = (("authorization", f"Bearer {house.api_key}"),)
    async with grpc.aio.insecure_channel(address_of(house, method)) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await _raw(channel, method, b"\0" * (MESSAGE_BYTES + 1), metadata)

    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_an_error_tells_nothing_of_the_machine(tmp_path):
    """
    Where a database is broken and files are gone, callers get a generic sentence and a request id.
    """
    async with open_house(tmp_path) as house, house.client() as client:
        drawn = await client.post(
            "/v1/images/generations", json={"model": SERVED, "prompt": "a red circle"}
        )
        address = drawn.json()["data"][0]["url"]
        for file in (tmp_path / "assets").rglob("*"):
            if file.is_file():
                file.write_bytes(b"")
        for name, table in (("inference", "job_events"), ("accounts", "preferences")):
            with contextlib.closing(sqlite3.connect(tmp_path / f"{name}.db")) as database:
                database.execute(f"DROP TABLE {table}")
                database.commit()
        replies = [
            await client.post("/v1/images/generations", json={"model": SERVED, "prompt": "a"}),
            await client.post("/v1/inference/image", json={"model": SERVED, "prompt": "a"}),
            await client.post(
                "/pictor/v1/jobs", json={"generation": {"model": SERVED, "prompt": "a"}}
            ),
            await client.get("/sdapi/v1/options"),
            await client.post(
                "/v1/images/edits",
                data={"model": SERVED, "prompt": "a"},
                files={"image": ("/etc/passwd", b"no image", "image/png")},
            ),
            await client.get(address),
        ]

    for reply in replies[:4]:
        assert reply.status_code == 500, reply.text
        assert reply.headers["x-request-id"] in reply.text
    for reply in replies:
        assert reply.status_code >= 400
        assert not LEAK.search(reply.text), reply.text
