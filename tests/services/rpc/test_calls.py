import asyncio
import contextlib

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pictor.accounts.v1 import account_pb2, accounts_service_pb2, accounts_service_pb2_grpc
from pictor.catalog.v1 import catalog_service_pb2, catalog_service_pb2_grpc, model_pb2
from pictor.errors.v1 import error_reason_pb2 as reasons
from services.rpc import logs
from services.rpc.channels import open_channel
from services.rpc.errors import (
    DeadlineExceeded,
    Internal,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
    invalid,
)
from services.rpc.principals import Principal, acting_for, become, caller
from services.rpc.server import Served, Stop, running_server

TOKEN = "service-token-of-this-test"


class Keys:
    """Knows two keys: one with the scope for inference, one that may do everything."""

    async def authenticate(self, secret: str) -> Principal:
        if secret not in ("user", "admin"):
            raise Unauthenticated("the key is unknown")
        scope = {"user": "inference", "admin": "accounts:admin"}[secret]
        return Principal(account=f"accounts/{secret}", scopes=frozenset([scope]))


class Accounts(accounts_service_pb2_grpc.AccountsServiceServicer):
    """Answers with who called."""

    async def GetAccount(self, request, context):
        who = caller()
        return account_pb2.Account(
            name=who.account, display_name=f"{sorted(who.scopes)} {who.is_service}"
        )


class Catalog(catalog_service_pb2_grpc.CatalogServiceServicer):
    """Raises what the test asks for by the model's name."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    async def GetModel(self, request, context):
        if request.name == "defect":
            raise RuntimeError("secret path /srv/pictor")
        if request.name == "field":
            raise invalid("width", "width 700 is not a multiple of 16")
        if request.name == "slow":
            await asyncio.sleep(30)
        if request.name == "busy":
            raise Unavailable("later", retry_after_seconds=2.5)
        if request.name == "id":
            return model_pb2.Model(name=structlog.contextvars.get_contextvars()["request_id"])
        raise NotFound(
            "no such model",
            reason=reasons.ERROR_REASON_MODEL_NOT_FOUND,
            metadata={"model": request.name},
        )

    async def WatchServingStatuses(self, request, context):
        try:
            for _ in range(3):
                yield catalog_service_pb2.ListServingStatusesResponse()
            if request.models:
                raise NotFound("gone", reason=reasons.ERROR_REASON_MODEL_NOT_FOUND)
            await asyncio.sleep(30)
        finally:
            self.left.set()


@pytest.fixture
async def catalog():
    return Catalog()


@pytest.fixture
async def address(catalog):
    accounts = accounts_service_pb2.DESCRIPTOR.services_by_name["AccountsService"]
    models = catalog_service_pb2.DESCRIPTOR.services_by_name["CatalogService"]
    served = [
        Served(
            accounts, accounts_service_pb2_grpc.add_AccountsServiceServicer_to_server, Accounts()
        ),
        Served(models, catalog_service_pb2_grpc.add_CatalogServiceServicer_to_server, catalog),
    ]
    async with running_server("127.0.0.1:0", served, Keys(), TOKEN) as bound:
        yield bound


@contextlib.asynccontextmanager
async def accounts_as(address, credential):
    async with open_channel(address, credential) as channel:
        yield accounts_service_pb2_grpc.AccountsServiceStub(channel)


@contextlib.asynccontextmanager
async def catalog_as(address, credential, **options):
    async with open_channel(address, credential, **options) as channel:
        yield catalog_service_pb2_grpc.CatalogServiceStub(channel)


GET_ACCOUNT = accounts_service_pb2.GetAccountRequest(name="accounts/x")


def get_model(name):
    return catalog_service_pb2.GetModelRequest(name=name)


async def test_an_error_arrives_as_the_class_that_was_raised(address):
    """
    What a servicer raises is raised again at the caller, with reason, metadata and fields.
    """
    async with catalog_as(address, "user") as stub:
        with pytest.raises(NotFound) as missing:
            await stub.GetModel(get_model("models/a/b"))
        with pytest.raises(Exception, match="multiple of 16") as field:
            await stub.GetModel(get_model("field"))
        with pytest.raises(Unavailable) as busy:
            await stub.GetModel(get_model("busy"))

    assert missing.value.reason == reasons.ERROR_REASON_MODEL_NOT_FOUND
    assert missing.value.metadata == {"model": "models/a/b"}
    assert missing.value.request_id
    assert field.value.violations[0].field == "width"
    assert busy.value.retry_after_seconds == 2.5


async def test_a_defect_tells_the_request_id_and_nothing_else(address, capsys):
    """
    An unknown exception is logged with its traceback and answered without its text.
    """
    async with catalog_as(address, "user") as stub:
        with pytest.raises(Internal) as error:
            await stub.GetModel(get_model("defect"))

    assert "/srv/pictor" not in error.value.message
    assert error.value.request_id in error.value.message


@pytest.mark.parametrize("form", ["console", "json"])
async def test_a_traceback_shows_no_values(address, form, capsys):
    """
    The log of a defect has its traceback, and neither the caller's key nor the request.
    """
    before = structlog.get_config()
    logs.configure("info", form)
    try:
        async with catalog_as(address, "user") as stub:
            with pytest.raises(Internal):
                await stub.GetModel(get_model("defect"))
    finally:
        structlog.configure(**before)

    logged = capsys.readouterr().err
    assert "RuntimeError" in logged
    assert "raise RuntimeError" in logged or '"frames"' in logged
    assert TOKEN not in logged
    assert "Bearer" not in logged


async def test_an_id_that_no_log_can_hold_is_replaced(address):
    """
    A caller's request id of ten thousand characters does not reach the logs.
    """
    async with grpc.aio.insecure_channel(address) as channel:
        stub = catalog_service_pb2_grpc.CatalogServiceStub(channel)
        for given in ("x" * 1000, "a b"):
            metadata = [("x-request-id", given)]
            assert len((await stub.GetModel(get_model("id"), metadata=metadata)).name) == 36


async def test_who_calls_without_a_key_gains_none(address):
    """
    A public method that calls on does so without the suite's credential.
    """
    async with accounts_as(address, TOKEN) as stub:
        become(Principal())
        with pytest.raises(Unauthenticated):
            await stub.GetAccount(GET_ACCOUNT)


async def test_what_grpc_says_itself_is_told_in_our_words(address):
    """
    A message that is too large, and an address where nothing listens, are told without gRPC's text.
    """
    async with catalog_as(address, "user") as stub:
        with pytest.raises(InvalidRequest, match="larger than 4 MiB") as large:
            await stub.GetModel(get_model("x" * 5_000_000))
    async with catalog_as("127.0.0.1:1", "user", deadline_seconds=5) as stub:
        with pytest.raises(Unavailable, match="does not answer") as away:
            await stub.GetModel(get_model("x"))

    assert large.value.reason == reasons.ERROR_REASON_REQUEST_TOO_LARGE
    assert "127.0.0.1" not in away.value.message


async def test_who_may_call_is_read_from_the_protos(address):
    """
    A method answers those whom its access option names, and nobody else.
    """
    async with accounts_as(address, "admin") as stub:
        assert (await stub.GetAccount(GET_ACCOUNT)).name == "accounts/admin"
    async with accounts_as(address, "user") as stub:
        with pytest.raises(PermissionDenied, match="'accounts:admin'; the key has: inference"):
            await stub.GetAccount(GET_ACCOUNT)
    async with accounts_as(address, "nobody") as stub:
        with pytest.raises(Unauthenticated):
            await stub.GetAccount(GET_ACCOUNT)
    async with accounts_as(address, "admin") as stub:
        with pytest.raises(PermissionDenied, match="service token"):
            await stub.Authenticate(accounts_service_pb2.AuthenticateRequest(secret="x"))


async def test_a_call_without_a_key_is_refused(address):
    """
    Without any credential a call is UNAUTHENTICATED with API_KEY_MISSING.
    """
    async with grpc.aio.insecure_channel(address) as channel:
        stub = accounts_service_pb2_grpc.AccountsServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub.GetAccount(GET_ACCOUNT)

    assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_the_suite_acts_for_an_account(address):
    """
    With the service token a call is made for the principal of the present task, with its scopes.
    """
    async with accounts_as(address, TOKEN) as stub:
        with acting_for("accounts/somebody"):
            assert (await stub.GetAccount(GET_ACCOUNT)).name == "accounts/somebody"
        become(Principal(account="accounts/poor", scopes=frozenset(["inference"])))
        with pytest.raises(PermissionDenied):
            await stub.GetAccount(GET_ACCOUNT)


async def test_only_the_suite_may_act_for_others(address):
    """
    An API key that claims to act for another account acts for its own.
    """
    async with accounts_as(address, "admin") as stub:
        with acting_for("accounts/victim"):
            assert (await stub.GetAccount(GET_ACCOUNT)).name == "accounts/admin"


async def test_one_request_id_runs_through_all_processes(address):
    """
    A call made while a request is handled carries that request's id.
    """
    with structlog.contextvars.bound_contextvars(request_id="r-1"):
        async with catalog_as(address, "user") as stub:
            assert (await stub.GetModel(get_model("id"))).name == "r-1"


async def test_a_call_without_a_timeout_is_bounded(address):
    """
    A service that does not answer costs the channel's deadline and no more.
    """
    async with catalog_as(address, "user", deadline_seconds=0.2) as stub:
        with pytest.raises(DeadlineExceeded):
            await stub.GetModel(get_model("slow"))


async def test_a_stream_fails_with_the_servers_error(address):
    """
    An error in the middle of a stream comes after the messages, as the class that was raised.
    """
    received = []
    async with catalog_as(address, "user") as stub:
        request = catalog_service_pb2.WatchServingStatusesRequest(models=["models/a/b"])
        with pytest.raises(NotFound):
            async for message in stub.WatchServingStatuses(request):
                received.append(message)

    assert len(received) == 3


async def test_a_reader_that_leaves_ends_the_call(address, catalog):
    """
    A caller that stops reading a stream ends the call at the server.
    """
    async with catalog_as(address, "user") as stub:
        call = stub.WatchServingStatuses(catalog_service_pb2.WatchServingStatusesRequest())
        async for _ in call:
            break
        call.cancel()
        async with asyncio.timeout(5):
            await catalog.left.wait()


async def test_health_and_reflection_need_no_key(address):
    """
    Every server answers health checks for itself and for each of its services.
    """
    async with grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", "pictor.catalog.v1.CatalogService"):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_taken_address_is_a_clear_error(address):
    """
    A second server on the same address is refused in a sentence.
    """
    with pytest.raises(OSError, match="cannot listen on"):
        async with running_server(address, [], Keys(), TOKEN):
            pass


@contextlib.asynccontextmanager
async def server_of(catalog, **stop):
    models = catalog_service_pb2.DESCRIPTOR.services_by_name["CatalogService"]
    served = [
        Served(models, catalog_service_pb2_grpc.add_CatalogServiceServicer_to_server, catalog)
    ]
    async with running_server("127.0.0.1:0", served, Keys(), TOKEN, stop=Stop(**stop)) as bound:
        yield bound


async def test_calls_that_do_not_end_are_told_that_the_server_stops(catalog):
    """
    With a status that says to try again, not with a connection that breaks; streams too.
    """
    outcomes = []

    async def call(answer):
        with pytest.raises(Unavailable, match="stopping") as ended:
            await answer
        outcomes.append(ended.value.retry_after_seconds)

    async def stream(stub):
        request = catalog_service_pb2.WatchServingStatusesRequest()
        return [message async for message in stub.WatchServingStatuses(request)]

    async with contextlib.AsyncExitStack() as stack:
        server = server_of(catalog, drain_seconds=0.2)
        bound = await server.__aenter__()
        stub = await stack.enter_async_context(catalog_as(bound, "user"))
        calls = [
            asyncio.create_task(call(stub.GetModel(get_model("slow")))),
            asyncio.create_task(call(stream(stub))),
        ]
        await asyncio.sleep(0.3)
        await server.__aexit__(None, None, None)
        await asyncio.gather(*calls)

    assert outcomes == [1.0, 1.0]
    assert catalog.left.is_set()


async def test_a_server_that_stops_says_so_before_it_refuses(catalog):
    """
    In the time of grace health says NOT_SERVING while calls are still answered: whoever chooses
    among servers has learnt of it when they no longer are.
    """
    server = server_of(catalog, grace_seconds=0.5)
    bound = await server.__aenter__()
    async with grpc.aio.insecure_channel(bound) as channel, catalog_as(bound, "user") as stub:
        health = health_pb2_grpc.HealthStub(channel)
        stopping = asyncio.create_task(server.__aexit__(None, None, None))
        await asyncio.sleep(0.2)
        answer = await health.Check(health_pb2.HealthCheckRequest())
        model = await stub.GetModel(get_model("id"))
        await stopping
        with pytest.raises(Unavailable):
            await stub.GetModel(get_model("id"))

    assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert model.name
