"""What becomes of images while their store fails: F7 and F8 of the faults."""

import asyncio
import contextlib
import dataclasses
import hashlib
import resource
import secrets
from urllib.parse import urlsplit

import pytest

from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.storage.v1 import storage_service_pb2
from pictor.storage.v1.asset_pb2 import Asset
from pictor.storage.v1.storage_service_pb2_grpc import StorageServiceStub
from services.rpc.channels import open_channel
from services.rpc.errors import Internal
from services.rpc.principals import acting_for, service_token
from services.storage.__main__ import running
from services.storage.backends import s3
from tests.network import link_to
from tests.services.storage import s3_servers
from tests.services.storage.pictures import picture

PICTURE = picture(size=(512, 384))
LARGE = picture(size=(2048, 1600))


@pytest.fixture(scope="module")
def moto():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_servers.ENVIRON.items():
            patch.setenv(name, value)
        # What a line that is cut off costs in production would be all that these tests do.
        patch.setattr(s3, "ANSWER_SECONDS", 1)
        with s3_servers.moto() as server:
            yield server


@contextlib.asynccontextmanager
async def storage_at(settings, url, patience=20.0):
    """Run storage on a back end, and yield a client that stores for an account."""
    changed = dataclasses.replace(settings, storage_url=url, patience_seconds=patience)
    async with (
        running(changed) as address,
        open_channel(address, service_token(settings.data_dir)) as channel,
    ):
        with acting_for("accounts/a"):
            yield StorageServiceStub(channel)


async def stored(storage, content):
    async def messages():
        metadata = Asset(origin=Asset.ORIGIN_GENERATED, job="jobs/1")
        yield storage_service_pb2.CreateAssetRequest(asset=metadata)
        for start in range(0, len(content), 1 << 20):
            yield storage_service_pb2.CreateAssetRequest(chunk=content[start : start + (1 << 20)])

    return await storage.CreateAsset(messages())


async def read(storage, name):
    call = storage.ReadAsset(storage_service_pb2.ReadAssetRequest(name=name))
    return b"".join([message.chunk async for message in call])


async def names(storage):
    listed = await storage.ListAssets(storage_service_pb2.ListAssetsRequest())
    return [asset.name for asset in listed.assets]


@contextlib.asynccontextmanager
async def storage_on_a_line(settings, moto, patience=20.0):
    """Run storage behind a line to moto that can be cut."""
    async with link_to(urlsplit(moto.endpoint).netloc) as link:
        url = moto.url(secrets.token_hex(4), endpoint=f"http://{link.address}")
        async with storage_at(settings, url, patience) as storage:
            yield storage, link


@pytest.mark.parametrize("content", [PICTURE, LARGE], ids=["one PUT", "parts"])
async def test_an_image_waits_for_a_store_that_does_not_answer(settings, moto, content):
    """
    While the line is cut it is kept on disk and no asset exists; then it is stored, once.
    """
    async with storage_on_a_line(settings, moto) as (storage, link):
        link.open.clear()
        storing = asyncio.create_task(stored(storage, content))
        await asyncio.sleep(1.5)
        assert not storing.done()
        assert await names(storage) == []
        link.open.set()
        asset = await storing

        assert asset.sha256 == hashlib.sha256(content).hexdigest()
        assert await read(storage, asset.name) == content
        assert await names(storage) == [asset.name]


async def test_an_image_survives_lines_that_break_again_and_again(settings, moto):
    """
    PUTs that are cut off in the middle, and answers that are lost, leave one whole object.
    """
    async with storage_on_a_line(settings, moto) as (storage, link):
        storing = asyncio.create_task(stored(storage, LARGE))
        for _ in range(8):
            await asyncio.sleep(0.15)
            link.reset()
        asset = await storing

        assert await read(storage, asset.name) == LARGE


async def test_a_store_that_stays_away_is_an_error_and_no_asset(settings, moto):
    """
    When patience ends the caller is told, and there is nothing to be charged for.
    """
    async with storage_on_a_line(settings, moto, patience=0.5) as (storage, link):
        link.open.clear()
        with pytest.raises(Internal) as error:
            await stored(storage, PICTURE)

        assert error.value.reason == reasons.ERROR_REASON_STORAGE_FAILED
        assert await names(storage) == []
        assert not list((settings.data_dir / "spool").iterdir())


async def test_a_slow_store_holds_nobody_else_up(settings, moto):
    """
    While a store takes its time, other calls are answered at once: it has threads of its own.
    """
    async with storage_on_a_line(settings, moto) as (storage, link):
        link.delay_seconds = 0.2
        storing = [asyncio.create_task(stored(storage, PICTURE)) for _ in range(8)]
        await asyncio.sleep(0.3)
        async with asyncio.timeout(0.2):
            await names(storage)
        assert not any(one.done() for one in storing)
        link.delay_seconds = 0
        await asyncio.gather(*storing)


@contextlib.contextmanager
def files_of_at_most(size_bytes):
    """Let every write behind this size fail, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_full_disk_is_a_clean_error(settings):
    """
    Neither half a file nor an asset is there, the error says nothing of paths, and later it works.
    """
    folder = settings.data_dir / "elsewhere"
    async with storage_at(settings, folder.as_uri()) as storage:
        with files_of_at_most(1_000_000), pytest.raises(Internal) as error:
            await stored(storage, LARGE)
        left = [path for path in folder.rglob("*") if path.is_file()]
        assert await names(storage) == []
        asset = await stored(storage, LARGE)
        assert await read(storage, asset.name) == LARGE

    assert not left
    assert not list((settings.data_dir / "spool").iterdir())
    assert error.value.reason == reasons.ERROR_REASON_STORAGE_FAILED
    assert str(settings.data_dir) not in error.value.message
