"""What every dialect must do, whatever it looks like; each dialect's test is a subclass."""

import asyncio
from typing import ClassVar

import pytest

from gateway.bodies import LIMIT_BYTES
from gateway.dialect import Body, Dialect, Operation


class DialectConformance:
    """
    Subclass it, and say which dialect it is and how its errors look.

    Attributes:
        dialect: The record.
        invalid_body: The status for a body that is not JSON.
        good_body: A body that draws a picture.
    """

    dialect: Dialect
    invalid_body = 400
    good_body: ClassVar[dict]

    def assert_envelope(self, body: dict, status: int) -> None:
        """Assert that an error has the dialect's form."""
        raise NotImplementedError

    @property
    def drawing(self) -> Operation:
        """The operation that takes ``good_body``."""
        return next(one for one in self.dialect.operations if one.body is not Body.NONE)

    async def refused(self, reply, status: int) -> dict:
        assert reply.status_code == status, reply.text
        assert reply.headers["x-request-id"]
        self.assert_envelope(reply.json(), status)
        return reply.json()

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
        paths = {one.path for one in self.dialect.operations if "{" in one.path}
        async with house.client() as client:
            for path in paths:
                start, end = path.index("{"), path.index("}") + 1
                reply = await client.get(f"{path[:start]}{'x' * 20_000}{path[end:]}")
                await self.refused(reply, 404)
                assert "x" * 101 not in reply.text

    async def test_a_wrong_method_is_405_and_names_the_right_ones(self, house):
        """
        A path that exists for other methods says which, in the Allow header.
        """
        async with house.client() as client:
            reply = await client.request("PATCH", self.drawing.path)

        await self.refused(reply, 405)
        assert self.drawing.method in reply.headers["allow"]

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

    async def test_a_picture_carries_its_job_in_the_headers(self, house):
        """
        A generation's reply names the job under which every other API knows it.
        """
        async with house.client() as client:
            reply = await client.request(
                self.drawing.method, self.drawing.path, json=self.good_body
            )

        assert reply.status_code == 200, reply.text
        assert f"jobs/{reply.headers['x-pictor-job']}" in [one.name for one in await house.jobs()]
        assert reply.headers["x-request-id"]
