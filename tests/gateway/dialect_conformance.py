"""What every dialect must do, whatever it looks like; each dialect's test is a subclass."""

import asyncio
import contextlib
import re
import uuid
from collections.abc import AsyncIterator
from typing import ClassVar

import httpx
import httpx_sse
import pytest
from jsonschema import Draft202012Validator

from gateway import causes
from gateway.answers import failure_of, receipt_line
from gateway.bodies import LIMIT_BYTES
from gateway.dialect import Body, Dialect, Generate, Operation, ShowJob
from gateway.openapi import statuses_of
from gateway.routes import discover
from pictor.inference.v1 import inference_service_pb2, inference_service_pb2_grpc, job_pb2
from services.rpc.channels import open_channel
from services.rpc.errors import Internal
from tests.gateway.house import House

STATES = job_pb2.Job.State
PLACEHOLDER = re.compile(r"\{\w+(:path)?\}")
START_SECONDS = 5


class DialectConformance:
    """
    Subclass it, and say which dialect it is and how its errors look.

    Attributes:
        dialect: The record.
        invalid_body: The status for a body that is not JSON.
        good_body: A body that draws a picture.
        good_requests: How other routes draw one: what httpx is given, by method and path, e.g.
            ``{"POST /v1/images/edits": {"data": {...}, "files": {...}}}``; with ``url`` where the
            path has parameters. A route that is not here takes ``good_body``.
        asynchronous: What a body also holds when nobody waits for the picture, ``{"async": True}``.
    """

    dialect: Dialect
    invalid_body = 400
    good_body: ClassVar[dict]
    good_requests: ClassVar[dict[str, dict]] = {}
    asynchronous: ClassVar[dict] = {}

    def assert_envelope(self, body: dict, status: int) -> None:
        """Assert that an error has the dialect's form."""
        raise NotImplementedError

    @property
    def drawing(self) -> Operation:
        """The operation that takes ``good_body``."""
        return next(one for one in self.dialect.operations if one.body is not Body.NONE)

    @property
    def drawings(self) -> list[Generate]:
        """Every operation that draws."""
        return [one for one in self.dialect.operations if isinstance(one, Generate)]

    async def refused(self, reply, status: int) -> dict:
        assert reply.status_code == status, reply.text
        assert reply.headers["x-request-id"]
        self.assert_envelope(reply.json(), status)
        assert_fits(self.dialect.error, reply.json())
        return reply.json()

    def asking(self, operation: Operation, more: dict | None = None, **options: object) -> dict:
        """Return what httpx is given to draw, with *more* in the body."""
        request = dict(
            self.good_requests.get(f"{operation.method} {operation.path}", {"json": self.good_body})
        )
        for part in ("json", "data"):
            if part in request:
                request[part] = {**request[part], **(more or {})}
        return {"method": operation.method, "url": operation.path, **request, **options}

    @contextlib.asynccontextmanager
    async def running(
        self, house: House, client: httpx.AsyncClient, request: dict
    ) -> AsyncIterator[tuple[str, asyncio.Task]]:
        """Have a job of this dialect run, and not end, within the block; yield its id."""
        job_id = str(uuid.uuid4())
        with house.held():
            asked = client.request(**request, headers={"x-pictor-job": job_id})
            asking = asyncio.create_task(asked)
            started = asyncio.create_task(house.executor.started.wait())
            while not started.done():
                both = asyncio.wait({started, asking}, return_when=asyncio.FIRST_COMPLETED)
                await asyncio.wait_for(both, START_SECONDS)
                if asking.done():
                    assert asking.result().is_success, asking.result().text
                    await asyncio.wait_for(started, START_SECONDS)
            try:
                yield job_id, asking
            finally:
                house.executor.gate.set()
                await asyncio.gather(asking, return_exceptions=True)

    async def test_an_unknown_route_is_404_in_the_envelope(self, house):
        """
        Whatever lies below one of the dialect's prefixes is answered in its words.
        """
        async with house.client() as client:
            for prefix in self.dialect.prefixes:
                await self.refused(await client.get(f"{prefix}/there/is/nothing"), 404)

    async def test_a_name_that_is_too_long_is_404(self, house):
        """
        What no thing is called is looked for nowhere.
        """
        named = [one for one in self.dialect.operations if "{" in one.path]
        async with house.client() as client:
            for one in named:
                path = PLACEHOLDER.sub("x" * 20_000, one.path, count=1)
                reply = await client.request(one.method, PLACEHOLDER.sub("x", path))
                await self.refused(reply, 404)
                assert "x" * 101 not in reply.text

    async def test_a_wrong_method_is_405_and_names_the_right_ones(self, house):
        """
        A path that exists for other methods says which, in the Allow header.
        """
        async with house.client() as client:
            for one in self.dialect.operations:
                reply = await client.request("PATCH", PLACEHOLDER.sub("x", one.path))
                await self.refused(reply, 405)
                assert one.method in reply.headers["allow"].split(", ")

    @pytest.mark.parametrize("key", ["", "pk_0123456789ab_wrong"])
    async def test_without_a_good_key_it_is_401_before_the_body_is_read(self, house, key):
        """
        A missing and a wrong key are refused alike, whatever the body.
        """
        before = len(await house.jobs())
        async with house.client(key) as client:
            for content in (b"{", b'{"prompt": "a"}'):
                reply = await client.request(
                    self.drawing.method, self.drawing.path, content=content
                )
                await self.refused(reply, 401)
                assert "www-authenticate" in reply.headers
        assert len(await house.jobs()) == before

    async def test_who_cannot_pay_is_told_402(self, shop):
        """
        A balance that does not cover the price is refused in the dialect's words, before any job.
        """
        secret, _ = await shop.key("inference", prepaid=True)
        before = len(await shop.jobs())
        async with shop.client(secret) as client:
            for one in self.drawings:
                reply = await client.request(**self.asking(one))
                await self.refused(reply, 402)
                assert "the balance is 0" in reply.text
                assert 402 in statuses_of(self.dialect, one)
        assert len(await shop.jobs()) == before

    async def test_every_route_wants_a_key_with_the_scope_unless_it_is_public(self, house):
        """
        A public route ignores even a bad key, and every other one refuses what is not good enough.
        """
        secret, _ = await house.key("catalog:write")
        async with house.client("pk_wrong") as stranger, house.client(secret) as other:
            for one in self.dialect.operations:
                path = PLACEHOLDER.sub("x", one.path)
                if one.public:
                    reply = await stranger.request(one.method, path)
                    assert reply.status_code not in (401, 403), reply.text
                    continue
                await self.refused(await stranger.request(one.method, path), 401)
                if one.scope != "catalog:write":
                    await self.refused(await other.request(one.method, path), 403)

    async def test_a_key_without_the_scope_is_403(self, house):
        """
        A good key that may do other things is told which scope is missing.
        """
        secret, _ = await house.key("catalog:write")
        async with house.client(secret) as client:
            reply = await client.request(self.drawing.method, self.drawing.path, content=b"{")

        await self.refused(reply, 403)
        assert "inference" in reply.text

    async def test_a_revoked_key_is_401_within_a_second(self, house):
        """
        A key that has just worked stops working when it is revoked.
        """
        secret, name = await house.key("inference")
        async with house.client(secret) as client:
            reply = await client.request(self.drawing.method, self.drawing.path, json={})
            assert reply.status_code not in (401, 403)
            await house.revoke(name)
            for _ in range(30):
                reply = await client.request(self.drawing.method, self.drawing.path, json={})
                if reply.status_code == 401:
                    break
                await asyncio.sleep(0.1)

        await self.refused(reply, 401)

    async def test_a_body_over_the_limit_is_413(self, house):
        """
        A body that is declared too large is refused without being read.
        """
        status, body = await house.declare(
            self.drawing.method, self.drawing.path, size_bytes=LIMIT_BYTES + 1
        )

        assert status == 413
        self.assert_envelope(body, status)

    @pytest.mark.parametrize(
        "content", [b"{", b"[]", b"", b'"a"', b"\xff", b'{"a": NaN}', b"[" * 50_000, b'"\\ud800"']
    )
    async def test_a_body_that_is_not_an_object_is_refused(self, house, content):
        """
        Broken, deep and foreign bodies are the caller's mistake and never the server's.
        """
        async with house.client() as client:
            reply = await client.request(self.drawing.method, self.drawing.path, content=content)

        await self.refused(reply, self.invalid_body)

    def test_whatever_goes_wrong_has_the_envelope_and_a_documented_status(self):
        """
        Each error that a route can meet is written as the dialect's schema says.
        """
        general = (*causes.ANYWHERE, *causes.BODY, *causes.KEY, *causes.NAMES)
        for operation in self.dialect.operations:
            documented = statuses_of(self.dialect, operation)
            for cause in (*operation.causes, *general):
                failure = failure_of(self.dialect, cause, operation, None)
                answer = self.dialect.encode_error(failure)
                if cause not in general:
                    assert answer.status in documented, (operation.path, cause.message)
                self.assert_envelope(answer.body, answer.status)
                assert_fits(self.dialect.error, answer.body)

    async def test_a_picture_carries_its_job_in_the_headers(self, house):
        """
        A generation's reply names the job under which every other API knows it.
        """
        async with house.client() as client:
            for one in self.drawings:
                reply = await client.request(**self.asking(one))
                assert reply.is_success, reply.text
                assert_fits({200: one.reply, **one.replies}[reply.status_code], reply.json())
                jobs = [job.name for job in await house.jobs()]
                assert f"jobs/{reply.headers['x-pictor-job']}" in jobs
                assert reply.headers["x-request-id"]

    async def test_a_job_that_fails_is_told_in_the_envelope(self, house):
        """
        Who waits gets an error that the route documents, with the job's id.
        """
        async with house.client() as client:
            for one in self.drawings:
                house.executor.outcomes.append(Internal("a defect"))
                reply = await client.request(**self.asking(one))
                if reply.is_success:
                    # Nobody waits: the job's own view tells of it.
                    await finished(house, reply.headers["x-pictor-job"])
                    continue
                assert reply.status_code in statuses_of(self.dialect, one), reply.text
                await self.refused(reply, reply.status_code)
                assert reply.headers["x-pictor-job"]

    async def test_a_job_can_be_named_by_its_caller_and_only_once(self, house):
        """
        The id that came with the request is the job's; with it, nothing is drawn a second time.
        """
        async with house.client() as client:
            for one in self.drawings:
                headers = {"x-pictor-job": str(uuid.uuid4())}
                first = await client.request(**self.asking(one, headers=headers))
                before = len(await house.jobs())
                second = await client.request(**self.asking(one, headers=headers))
                assert first.headers["x-pictor-job"] == headers["x-pictor-job"]
                await self.refused(second, 409)
                assert len(await house.jobs()) == before

    async def test_every_view_shows_a_job_of_this_dialect(self, house):
        """
        Running, done, failed or canceled: each dialect's job route, gRPC and SSE know it by one id,
        and another account finds it nowhere.
        """
        secret, _ = await house.key("inference", new_account=True)
        async with house.client() as client, house.client(secret) as other:
            async with self.running(house, client, self.asking(self.drawing)) as (job_id, _):
                await shown_everywhere(house, client, other, job_id, "STATE_RUNNING")
            await finished(house, job_id)
            await shown_everywhere(house, client, other, job_id, "STATE_SUCCEEDED")
            house.executor.outcomes.append(Internal("a defect"))
            async with self.running(house, client, self.asking(self.drawing)) as (job_id, _):
                pass
            await finished(house, job_id)
            await shown_everywhere(house, client, other, job_id, "STATE_FAILED")
            async with self.running(house, client, self.asking(self.drawing)) as (job_id, _):
                await client.post(f"/pictor/v1/jobs/{job_id}:cancel")
            await shown_everywhere(house, client, other, job_id, "STATE_CANCELED")

    async def test_who_leaves_cancels_its_job_unless_nobody_waits_for_it(self, house):
        """
        Who waits for a picture and goes away ends its job within a step; other jobs go on.
        """
        requests = [self.asking(one) for one in self.drawings]
        if self.asynchronous:
            requests += [self.asking(one, self.asynchronous) for one in self.drawings]
        for request in requests:
            async with house.client() as client:
                async with self.running(house, client, request) as (job_id, asking):
                    await asyncio.wait({asking}, timeout=0.3)
                    waits = not asking.done()
                    asking.cancel()
                    await asyncio.gather(asking, return_exceptions=True)
                    await client.aclose()
                    state = await settled(house, job_id)
                    # The device has let go of it, though nothing has let it end.
                    stopped = f"jobs/{job_id}" in house.executor.stopped
                assert (state, stopped) == (
                    ("STATE_CANCELED", True) if waits else ("STATE_RUNNING", False)
                ), request
                if not waits:
                    assert await finished(house, job_id) == "STATE_SUCCEEDED"

    async def test_the_receipt_in_the_header_is_the_jobs(self, house):
        """
        Every parameter is in both, and one that this API does not have is ignored in both.
        """
        async with house.client() as client:
            for one in self.drawings:
                reply = await client.request(**self.asking(one, {"no_such_parameter": "7"}))
                assert reply.is_success, reply.text
                job = await house.job(reply.headers["x-pictor-job"])
                line = reply.headers["x-pictor-receipt"]
                assert "no_such_parameter=ignored" in line
                assert line == receipt_line(self.dialect.on(one), job.receipt)
                assert all(n.treatment and n.parameter for n in job.receipt)
                assert all(n.reason for n in job.receipt if n.treatment > n.TREATMENT_HONOURED)

    async def test_strict_handling_refuses_what_would_be_ignored(self, house):
        """
        400 in the envelope with parameter, value and reason; nothing is queued and nothing stored.
        """
        strict = {"prefer": "handling=strict"}
        async with house.client() as client:
            for one in self.drawings:
                jobs, uploads = len(await house.jobs()), await house.uploads()
                request = self.asking(one, {"no_such_parameter": "7"}, headers=strict)
                reply = await client.request(**request)
                await self.refused(reply, 400)
                assert "no_such_parameter 7 would be ignored: " in reply.text
                assert reply.headers["preference-applied"] == "handling=strict"
                assert (len(await house.jobs()), await house.uploads()) == (jobs, uploads)


def assert_fits(schema: dict, body: object) -> None:
    """Assert that a body is as its schema describes it."""
    errors = Draft202012Validator(schema).iter_errors(body)
    assert not [f"{error.json_path}: {error.message}" for error in errors]


async def shown_everywhere(house, client, other, job_id, state):
    """Assert that a job's owner, and nobody else, sees it through every API."""
    views = [(d, one) for d in discover() for one in d.operations if isinstance(one, ShowJob)]
    assert views
    for dialect, view in views:
        path = PLACEHOLDER.sub(job_id, view.path)
        reply = await client.get(path)
        assert reply.status_code == 200, (dialect.name, state, reply.text)
        assert reply.headers["x-pictor-job"] == job_id
        assert job_id in reply.text
        assert_fits(view.reply, reply.json())
        assert (await other.get(path)).status_code == 404
    native = await client.get(f"/pictor/v1/jobs/{job_id}")
    assert native.json()["state"] == state
    assert (await other.get(f"/pictor/v1/jobs/{job_id}")).status_code == 404
    watched = f"/pictor/v1/jobs/{job_id}:watch"
    async with httpx_sse.aconnect_sse(client, "GET", watched) as source:
        event = await anext(source.aiter_sse())
        assert event.json()["state"] == state
        await source.response.aclose()
    async with open_channel(house.environ["PICTOR_INFERENCE_ADDRESS"], house.api_key) as channel:
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        request = inference_service_pb2.GetJobRequest(name=f"jobs/{job_id}")
        assert STATES.Name((await stub.GetJob(request)).state) == state


async def settled(house, job_id) -> str:
    """Return a job's state after a moment, sooner if it has ended."""
    for _ in range(10):
        state = STATES.Name((await house.job(job_id)).state)
        if state == "STATE_CANCELED":
            break
        await asyncio.sleep(0.05)
    return state


async def finished(house, job_id) -> str:
    """Wait for a job's end; return the state."""
    async with asyncio.timeout(10):
        request = inference_service_pb2.WatchJobRequest(name=f"jobs/{job_id}")
        states = [message.state async for message in house.inference.stub.WatchJob(request)]
    return STATES.Name(states[-1])
