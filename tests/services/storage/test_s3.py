"""The S3 back end, against moto and against rclone, each for what it checks."""

import asyncio
import base64
import hashlib
import secrets
from urllib.parse import urlsplit

import httpx
import pytest

from services.storage.backend import BackendError, BackendUnavailable
from services.storage.backends import open_backend, s3
from tests.network import link_to
from tests.services.storage import s3_servers
from tests.services.storage.backend_conformance import FAR, BackendConformance, read, send

LONG_AGO_SECONDS = 3660
LARGE = s3.PART_BYTES * 2 + 12345


@pytest.fixture(scope="module")
def _credentials():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_servers.ENVIRON.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def moto(_credentials):
    with s3_servers.moto() as server:
        yield server


@pytest.fixture(scope="module")
def rclone(_credentials, tmp_path_factory):
    with s3_servers.rclone(tmp_path_factory.mktemp("rclone") / "buckets") as server:
        yield server


class S3Conformance(BackendConformance):
    """What both servers show."""

    @pytest.fixture
    def prefix(self):
        return f"test-{secrets.token_hex(4)}"

    @pytest.fixture
    async def backend(self, server, prefix):
        backend = open_backend(server.url(prefix))
        yield backend
        await backend.close()

    @pytest.fixture
    def age(self, server, prefix):
        async def age(key):
            name = f"{prefix}/{key}"
            await asyncio.to_thread(s3_servers.make_old, server, name, LONG_AGO_SECONDS)

        return age

    async def test_a_large_image_goes_in_parts(self, backend, key):
        """
        What is larger than one part comes back as one object.
        """
        data = secrets.token_bytes(LARGE)

        assert await backend.put(key, send(data[:1000], data[1000:])) == LARGE
        assert await read(backend, key) == data
        assert await read(backend, key, s3.PART_BYTES - 5, 10) == data[s3.PART_BYTES - 5 :][:10]

    async def test_parts_of_a_put_that_fails_are_given_back(self, backend, key):
        """
        A source that breaks behind the first part leaves nothing visible, and the key free.
        """

        async def breaking():
            yield bytes(s3.PART_BYTES + 1)
            raise RuntimeError("the source broke")

        with pytest.raises(RuntimeError, match="the source broke"):
            await backend.put(key, breaking())

        assert await backend.size(key) is None
        assert await backend.put(key, send(b"again")) == 5

    async def test_a_signed_url_opens_the_bytes(self, backend, key):
        """
        Whoever has it reads, without credentials, with the type that was asked for.
        """
        await backend.put(key, send(b"abc"))
        url = await backend.url(key, "image/webp", 60)
        async with httpx.AsyncClient() as client:
            reply = await client.get(url)

        assert reply.content == b"abc"


class TestMoto(S3Conformance):
    """moto honours If-None-Match, so it shows that keys are written once."""

    @pytest.fixture
    def server(self, moto):
        return moto

    async def test_parts_of_a_process_that_died_are_given_back(self, backend, moto, prefix):
        """
        They cost the bucket's owner and no listing of objects shows them; moto's are from 2010.
        """
        s3_servers.begin_upload(moto, f"{prefix}/{secrets.token_hex(16)}")
        before = s3_servers.uploads(moto, prefix)
        await backend.tidy(3600)

        assert len(before) == 1
        assert s3_servers.uploads(moto, prefix) == []

    async def test_a_large_image_is_written_once_too(self, backend, key):
        """
        Parts are not put together over what is there.
        """
        await backend.put(key, send(b"first"))
        with pytest.raises(s3.KeyTaken):
            await backend.put(key, send(bytes(LARGE)))

        assert await read(backend, key) == b"first"

    async def test_each_put_carries_its_checksum(self, backend, key, moto, prefix):
        """
        The server keeps the SHA-256 that was sent; S3 refuses bytes that do not match it.
        """
        await backend.put(key, send(b"abc"))
        head = await asyncio.to_thread(s3_servers.head, moto, f"{prefix}/{key}")

        assert base64.b64decode(head["ChecksumSHA256"]) == hashlib.sha256(b"abc").digest()


class TestRclone(S3Conformance):
    """rclone checks signatures, so it shows that ours are good and others are not."""

    @pytest.fixture
    def server(self, rclone):
        return rclone

    @pytest.mark.skip(reason="rclone ignores If-None-Match; moto shows it")
    async def test_bytes_are_written_once(self):
        pass

    @pytest.mark.skip(reason="rclone ignores If-None-Match; moto shows it")
    async def test_of_many_writers_one_wins(self):
        pass

    @pytest.mark.parametrize("what", ["path", "method", "expiry", "signature", "secret"])
    async def test_an_altered_url_opens_nothing(self, backend, key, what, monkeypatch):
        """
        Another object, another method, a longer time, a forged signature, an old secret: 403.
        """
        other = secrets.token_hex(16)
        for one in (key, other):
            await backend.put(one, send(b"abc"))
        if what == "secret":
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
            endpoint = urlsplit(await backend.url(key, "image/png", 60)).netloc
            backend = open_backend(f"s3://{s3_servers.BUCKET}/x?endpoint=http://{endpoint}")
        url = await backend.url(key, "image/png", 60)
        altered = {
            "path": url.replace(key, other),
            "expiry": url.replace("X-Amz-Expires=60", "X-Amz-Expires=6000"),
            "signature": url[:-4] + "0000",
        }.get(what, url)
        async with httpx.AsyncClient() as client:
            reply = await client.request("DELETE" if what == "method" else "GET", altered)

        assert reply.status_code == 403
        assert what == "secret" or await backend.size(other) == 3

    async def test_a_wrong_secret_is_no_outage(self, rclone, key, monkeypatch):
        """
        Trying again does not help, and is not said to.
        """
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
        with pytest.raises(BackendError) as error:
            await open_backend(rclone.url()).put(key, send(b"abc"))

        assert not isinstance(error.value, BackendUnavailable)


@pytest.mark.usefixtures("_credentials")
async def test_a_server_that_is_not_there_may_be_later():
    """
    The error says that the same call may succeed.
    """
    backend = open_backend("s3://bucket?endpoint=http://127.0.0.1:9")
    with pytest.raises(BackendUnavailable):
        await backend.size("0" * 32)


async def test_a_line_that_breaks_while_reading_is_mended(moto):
    """
    The bytes go on behind those that have come.
    """
    data, key = secrets.token_bytes(LARGE), secrets.token_hex(16)
    await open_backend(moto.url()).put(key, send(data))
    async with link_to(urlsplit(moto.endpoint).netloc) as link:
        digest, broken = hashlib.sha256(), False
        async for chunk in open_backend(moto.url(endpoint=f"http://{link.address}")).read(
            key, 0, FAR
        ):
            digest.update(chunk)
            if not broken:
                broken = True
                link.reset()

    assert digest.digest() == hashlib.sha256(data).digest()
    assert link.accepted == 2


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("s3://", "name of a bucket"),
        ("s3:///prefix", "name of a bucket"),
        ("s3://Bad_Bucket/a", "name of a bucket"),
        ("s3://bucket?endpoint=localhost:9000", "http or https"),
        ("s3://bucket?end=http://a", "endpoint, region"),
    ],
)
def test_a_url_that_is_misspelt_says_what_is_meant(url, says):
    """
    The rule is named before anything is asked.
    """
    with pytest.raises(ValueError, match=says):
        open_backend(url)
