"""StorageService over gRPC."""

import asyncio
import contextlib
import dataclasses
import hashlib
import os
import secrets
import time

import pytest

from pictor.errors.v1 import error_reason_pb2
from pictor.storage.v1 import asset_pb2, storage_service_pb2
from pictor.storage.v1.storage_service_pb2_grpc import StorageServiceStub
from services.rpc.channels import open_channel
from services.rpc.errors import Internal, InvalidRequest, NotFound, SuiteError, Unauthenticated
from services.rpc.principals import acting_for, service_token
from services.rpc.settings import SettingError, read
from services.storage.__main__ import Settings, running
from services.timestamps import now, to_timestamp
from tests.services.storage.pictures import picture

Asset = asset_pb2.Asset
PIECE_BYTES = 1000


async def upload(metadata, data, *, validate_only=False):
    yield storage_service_pb2.CreateAssetRequest(asset=metadata, validate_only=validate_only)
    for start in range(0, len(data), PIECE_BYTES):
        yield storage_service_pb2.CreateAssetRequest(chunk=data[start : start + PIECE_BYTES])


async def create(storage, data=None, *, validate_only=False, **fields):
    metadata = Asset(**{"origin": Asset.ORIGIN_UPLOADED, **fields})
    data = picture() if data is None else data
    return await storage.CreateAsset(upload(metadata, data, validate_only=validate_only))


async def get(storage, name):
    return await storage.GetAsset(storage_service_pb2.GetAssetRequest(name=name))


async def download(storage, name, **fields):
    call = storage.ReadAsset(storage_service_pb2.ReadAssetRequest(name=name, **fields))
    return [response async for response in call]


async def listed(storage, **fields):
    answer = await storage.ListAssets(storage_service_pb2.ListAssetsRequest(**fields))
    return [asset.name for asset in answer.assets]


async def delete(storage, name):
    await storage.DeleteAsset(storage_service_pb2.DeleteAssetRequest(name=name))


def path_of(settings, asset):
    key = asset.name.removeprefix("assets/")
    return settings.data_dir / "assets" / key[:2] / key


def kept_files(settings):
    folders = ("assets", "spool")
    return [
        path
        for folder in folders
        for path in (settings.data_dir / folder).rglob("*")
        if path.is_file()
    ]


def make_old(path):
    moment = time.time() - 3660
    os.utime(path, (moment, moment))


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - another process may be the cause
            await asyncio.sleep(0.02)


async def test_an_upload_is_described_from_its_bytes(alice):
    """
    Type, size and hash come from the content; an uploaded asset is private and has no URL.
    """
    data = picture("JPEG")
    asset = await create(alice.storage, data, media_type="image/png", width_px=1)

    assert asset.name.startswith("assets/")
    assert len(asset.name) == len("assets/") + 32
    assert asset.account == alice.account
    assert asset.media_type == "image/jpeg"
    assert (asset.width_px, asset.height_px) == (64, 48)
    assert asset.size_bytes == len(data)
    assert asset.sha256 == hashlib.sha256(data).hexdigest()
    assert asset.visibility == Asset.VISIBILITY_PRIVATE
    assert asset.url == ""
    assert asset.create_time.seconds > 0
    assert await get(alice.storage, asset.name) == asset


async def test_what_is_read_is_what_was_sent(alice):
    """
    The metadata comes first, then the bytes, in chunks of at most 256 KiB.
    """
    data = picture(size=(600, 600))
    asset = await create(alice.storage, data)

    first, *rest = await download(alice.storage, asset.name)

    assert first.asset == asset
    assert b"".join(response.chunk for response in rest) == data
    assert max(len(response.chunk) for response in rest) <= 256 * 1024


@pytest.mark.parametrize(
    ("offset", "length", "begin", "end"),
    [(0, 10, 0, 10), (5, None, 5, None), (7, 10**12, 7, None), (0, 0, 0, 0)],
)
async def test_a_range_can_be_read(alice, offset, length, begin, end):
    """
    offset_bytes and length_bytes choose a part; what lies behind the end is not there.
    """
    data = picture()
    asset = await create(alice.storage, data)

    responses = await download(alice.storage, asset.name, offset_bytes=offset, length_bytes=length)

    assert b"".join(response.chunk for response in responses[1:]) == data[begin:end]


async def test_a_range_behind_the_end_is_refused(alice):
    """
    The end itself may be the offset; a byte more may not, nor a negative length.
    """
    asset = await create(alice.storage)

    assert len(await download(alice.storage, asset.name, offset_bytes=asset.size_bytes)) == 1
    for fields in ({"offset_bytes": asset.size_bytes + 1}, {"length_bytes": -1}):
        with pytest.raises(InvalidRequest) as caught:
            await download(alice.storage, asset.name, **fields)
        assert caught.value.reason == error_reason_pb2.ERROR_REASON_FIELD_OUT_OF_RANGE


async def test_generated_assets_are_public(suite, alice):
    """
    What the suite stores for an account is the account's, public, and has the gateway's URL.
    """
    with acting_for(alice.account):
        asset = await create(suite, origin=Asset.ORIGIN_GENERATED, job="jobs/7c-1")

    key = asset.name.removeprefix("assets/")
    assert asset.account == alice.account
    assert asset.job == "jobs/7c-1"
    assert asset.url == f"https://pictor.example.com/api/inference/assets/{key}/"
    assert await get(alice.storage, asset.name) == asset


async def test_visibility_can_be_chosen(suite, alice):
    """
    An uploaded asset can be public and a generated one private.
    """
    uploaded = await create(alice.storage, visibility=Asset.VISIBILITY_PUBLIC)
    with acting_for(alice.account):
        generated = await create(
            suite, origin=Asset.ORIGIN_GENERATED, visibility=Asset.VISIBILITY_PRIVATE
        )

    assert uploaded.url
    assert not generated.url


@pytest.mark.parametrize("visibility", [Asset.VISIBILITY_PRIVATE, Asset.VISIBILITY_PUBLIC])
async def test_another_accounts_asset_does_not_exist(suite, alice, bob, visibility):
    """
    Public means by URL: over gRPC only the owner and the suite on its own behalf see an asset.
    """
    asset = await create(alice.storage, visibility=visibility)

    for call in (get, download, delete):
        with pytest.raises(NotFound) as caught:
            await call(bob.storage, asset.name)
        assert caught.value.reason == error_reason_pb2.ERROR_REASON_ASSET_NOT_FOUND
        assert caught.value.metadata == {"asset": asset.name}
    with acting_for(bob.account), pytest.raises(NotFound):
        await get(suite, asset.name)
    assert await listed(bob.storage) == []
    assert await get(suite, asset.name) == asset
    assert await listed(suite) == [asset.name]


@pytest.mark.parametrize(
    "name", ["assets/" + "0" * 32, "assets/../../service-token", "assets/", "x", "assets/%2e%2e"]
)
async def test_unknown_names_are_not_found(alice, name):
    """
    A name that no asset has, and one that none can have, are both ASSET_NOT_FOUND.
    """
    for call in (get, download, delete):
        with pytest.raises(NotFound) as caught:
            await call(alice.storage, name)
        assert caught.value.reason == error_reason_pb2.ERROR_REASON_ASSET_NOT_FOUND


async def test_validate_only_stores_nothing(settings, alice):
    """
    Everything is checked and described, but there is no name, no row and no file.
    """
    asset = await create(alice.storage, validate_only=True)
    with pytest.raises(InvalidRequest):
        await create(alice.storage, b"no image", validate_only=True)

    assert asset.media_type == "image/png"
    assert asset.name == ""
    assert not asset.HasField("create_time")
    assert await listed(alice.storage) == []
    assert kept_files(settings) == []


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", error_reason_pb2.ERROR_REASON_FIELD_REQUIRED),
        (b"no image", error_reason_pb2.ERROR_REASON_INPUT_IMAGE_INVALID),
        (picture("GIF"), error_reason_pb2.ERROR_REASON_MEDIA_TYPE_UNSUPPORTED),
        (picture()[:-100], error_reason_pb2.ERROR_REASON_INPUT_IMAGE_INVALID),
    ],
)
async def test_what_is_no_whole_image_is_not_stored(settings, alice, data, reason):
    """
    The reason says what is wrong, and nothing is left behind.
    """
    with pytest.raises(InvalidRequest) as caught:
        await create(alice.storage, data)

    assert caught.value.reason == reason
    assert await listed(alice.storage) == []
    assert kept_files(settings) == []


async def megabytes(count):
    yield storage_service_pb2.CreateAssetRequest(asset=Asset(origin=Asset.ORIGIN_UPLOADED))
    for _ in range(count):
        yield storage_service_pb2.CreateAssetRequest(chunk=bytes(1024 * 1024))


async def test_an_upload_has_a_limit(settings, alice):
    """
    An upload of more than 25 MiB is refused with the limit, and nothing is left behind.
    """
    # Several times: without reading on, a part of such refusals reaches the client as INTERNAL.
    for _ in range(3):
        with pytest.raises(InvalidRequest) as caught:
            await alice.storage.CreateAsset(megabytes(60))
        assert caught.value.reason == error_reason_pb2.ERROR_REASON_INPUT_IMAGE_TOO_LARGE
        assert caught.value.metadata["limit_bytes"] == "26214400"
    assert kept_files(settings) == []


async def test_an_upload_without_end_is_cut_off(settings, alice):
    """
    A client that sends on and on is not listened to for long.
    """
    sent = 0

    async def endless():
        nonlocal sent
        async for message in megabytes(1000):
            sent += 1
            yield message

    with pytest.raises(SuiteError):
        await alice.storage.CreateAsset(endless())

    assert sent < 200
    assert kept_files(settings) == []


async def test_a_refusal_does_not_wait_for_a_silent_client(alice):
    """
    A client that sends bad metadata and then nothing learns the reason within seconds.
    """

    async def silent():
        yield storage_service_pb2.CreateAssetRequest(asset=Asset())
        await asyncio.sleep(60)

    async with asyncio.timeout(10):
        with pytest.raises(InvalidRequest, match="origin"):
            await alice.storage.CreateAsset(silent())


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"origin": 0}, error_reason_pb2.ERROR_REASON_FIELD_REQUIRED),
        ({"origin": 9}, error_reason_pb2.ERROR_REASON_FIELD_INVALID),
        ({"origin": Asset.ORIGIN_GENERATED}, error_reason_pb2.ERROR_REASON_FIELD_INVALID),
        ({"visibility": 9}, error_reason_pb2.ERROR_REASON_FIELD_INVALID),
        ({"job": "jobs/1"}, error_reason_pb2.ERROR_REASON_FIELD_INVALID),
        ({"expire_time": to_timestamp(1)}, error_reason_pb2.ERROR_REASON_FIELD_INVALID),
    ],
)
async def test_bad_metadata_is_refused(alice, fields, reason):
    """
    An API key uploads; origin, visibility, job and expiry have their rules.
    """
    with pytest.raises(InvalidRequest) as caught:
        await create(alice.storage, **fields)

    assert caught.value.reason == reason


async def test_an_asset_needs_an_owner(suite):
    """
    The suite on its own behalf owns nothing.
    """
    with pytest.raises(InvalidRequest, match="account"):
        await create(suite)


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([], "asset"),
        ([{"chunk": b"x"}], "asset"),
        ([{"asset": {"origin": 1}}, {"asset": {"origin": 1}}], "asset"),
        ([{"asset": {"origin": 1}}, {"chunk": bytes(1024 * 1024 + 1)}], "chunk"),
    ],
)
async def test_an_upload_is_metadata_and_then_chunks(alice, messages, field):
    """
    Any other order, and chunks of more than 1 MiB, are refused.
    """

    async def sent():
        for message in messages:
            yield storage_service_pb2.CreateAssetRequest(**message)

    with pytest.raises(InvalidRequest) as caught:
        await alice.storage.CreateAsset(sent())

    assert caught.value.violations[0].field == field


async def test_an_upload_that_breaks_off_leaves_nothing(settings, alice):
    """
    A caller that goes away in the middle leaves no row and no file, and the service goes on.
    """
    half = asyncio.Event()
    data = picture()

    async def hanging():
        async for message in upload(Asset(origin=Asset.ORIGIN_UPLOADED), data[: len(data) // 2]):
            yield message
        half.set()
        await asyncio.sleep(60)

    call = asyncio.ensure_future(_awaited(alice.storage.CreateAsset(hanging())))
    await half.wait()
    await asyncio.sleep(0.1)
    call.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await call
    asset = await create(alice.storage)

    assert await listed(alice.storage) == [asset.name]
    assert kept_files(settings) == [path_of(settings, asset)]


async def _awaited(call):
    return await call


async def test_assets_are_listed_newest_first_page_by_page(alice):
    """
    Pages together hold each asset once.
    """
    made = [(await create(alice.storage)).name for _ in range(5)]
    found, token = [], ""
    while True:
        page = await alice.storage.ListAssets(
            storage_service_pb2.ListAssetsRequest(page_size=2, page_token=token)
        )
        found += [asset.name for asset in page.assets]
        token = page.next_page_token
        if not token:
            break

    assert found == made[::-1]


@pytest.mark.parametrize("fields", [{"page_size": 1001}, {"page_token": "x"}])
async def test_bad_paging_is_refused(alice, fields):
    """
    A page of 1001 and a token that no list gave are errors.
    """
    with pytest.raises(InvalidRequest):
        await listed(alice.storage, **fields)


async def test_what_is_deleted_is_gone(settings, alice):
    """
    Row and bytes go; a second time there is nothing to delete.
    """
    asset = await create(alice.storage)
    await delete(alice.storage, asset.name)

    for call in (get, download, delete):
        with pytest.raises(NotFound):
            await call(alice.storage, asset.name)
    assert kept_files(settings) == []


async def test_of_an_expired_asset_the_metadata_remains(alice):
    """
    After expire_time the bytes are not found, and the metadata is as before.
    """
    asset = await create(alice.storage, expire_time=to_timestamp(now() + 400_000))
    before = await download(alice.storage, asset.name)
    await asyncio.sleep(0.5)

    with pytest.raises(NotFound) as caught:
        await download(alice.storage, asset.name)
    assert len(before) == 2
    assert caught.value.reason == error_reason_pb2.ERROR_REASON_ASSET_EXPIRED
    assert await get(alice.storage, asset.name) == asset


async def test_damaged_bytes_are_noticed(settings, alice):
    """
    Bytes that do not match their SHA-256, or are lost, end in STORAGE_FAILED.
    """
    asset = await create(alice.storage)
    path = path_of(settings, asset)
    data = path.read_bytes()
    for damaged in (data[:-1] + b"!", data[:-1], None):
        path.unlink() if damaged is None else path.write_bytes(damaged)
        with pytest.raises(Internal) as caught:
            await download(alice.storage, asset.name)
        assert caught.value.reason == error_reason_pb2.ERROR_REASON_STORAGE_FAILED
        assert str(settings.data_dir) not in caught.value.message


async def test_a_full_disk_is_storage_failed(settings, alice):
    """
    If the back end cannot write, the caller learns it and nothing is listed.
    """
    (settings.data_dir / "assets" / "incoming").rmdir()

    with pytest.raises(Internal) as caught:
        await create(alice.storage)

    assert caught.value.reason == error_reason_pb2.ERROR_REASON_STORAGE_FAILED
    assert await listed(alice.storage) == []


async def test_assets_outlive_the_process(settings):
    """
    After a restart assets are there, and files of a crash without a row, and those of expired
    assets, are gone once they are an hour old.
    """
    token = (settings.data_dir / "service-token").read_text().strip()
    async with running(settings) as address, open_channel(address, token) as channel:
        with acting_for("accounts/a"):
            kept = await create(StorageServiceStub(channel))
            expired = await create(
                StorageServiceStub(channel), expire_time=to_timestamp(now() + 300_000)
            )
    orphan, young = (secrets.token_hex(16) for _ in range(2))
    for key in (orphan, young):
        folder = settings.data_dir / "assets" / key[:2]
        folder.mkdir(exist_ok=True)
        (folder / key).write_bytes(b"abc")
    young_path = settings.data_dir / "assets" / young[:2] / young
    for path in kept_files(settings):
        if path != young_path:
            make_old(path)
    await asyncio.sleep(0.3)

    async with running(settings) as address, open_channel(address, token) as channel:
        await until(lambda: len(kept_files(settings)) == 2)
        names = await listed(StorageServiceStub(channel))

    assert set(kept_files(settings)) == {path_of(settings, kept), young_path}
    assert names == [expired.name, kept.name]


async def test_a_process_that_goes_on_collects_too(settings):
    """
    Bytes without a row, half of a file and those of an expired asset go within the operator's time.
    """
    quick = dataclasses.replace(settings, collect_seconds=1.0)
    token = service_token(settings.data_dir)
    async with running(quick) as address, open_channel(address, token) as channel:
        with acting_for("accounts/a"):
            kept = await create(StorageServiceStub(channel))
            await create(StorageServiceStub(channel), expire_time=to_timestamp(now() + 300_000))
        orphan, half = secrets.token_hex(16), f"{secrets.token_hex(16)}.0"
        for path in (f"{orphan[:2]}/{orphan}", f"incoming/{half}"):
            file = settings.data_dir / "assets" / path
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(b"abc")
        await until(lambda: len(kept_files(settings)) == 1)

    assert kept_files(settings) == [path_of(settings, kept)]


async def test_a_foreign_key_is_refused(address):
    """
    Storage asks accounts whose key it is, and refuses one that nobody gave out.
    """
    async with open_channel(address, "pk_aaaaaaaaaaaa_" + "a" * 43) as channel:
        with pytest.raises(Unauthenticated):
            await listed(StorageServiceStub(channel))


async def test_an_unknown_storage_url_stops_the_start(settings):
    """
    The error names variable, value and the back ends that there are.
    """
    wrong = read(
        Settings,
        {
            "PICTOR_DATA_DIR": str(settings.data_dir),
            "PICTOR_STORAGE_URL": "ftp://host/assets",
        },
    )
    with pytest.raises(SettingError, match=r"PICTOR_STORAGE_URL='ftp://host/assets'.*file://"):
        async with running(wrong):
            pass
