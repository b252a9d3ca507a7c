"""Who may open an asset by its URL, for how long, and what small images there are."""

import asyncio
import dataclasses
import io
import time
from urllib.parse import parse_qs, urlsplit

import pytest
from google.protobuf.duration_pb2 import Duration
from PIL import Image

from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.storage.v1 import asset_url_pb2, storage_service_pb2
from pictor.storage.v1.asset_pb2 import Asset
from pictor.storage.v1.storage_service_pb2_grpc import StorageServiceStub
from services.rpc.channels import open_channel
from services.rpc.errors import InvalidRequest, NotFound, PermissionDenied
from services.rpc.principals import acting_for, service_token
from services.rpc.settings import SettingError, read
from services.storage.__main__ import Settings, running
from services.timestamps import now, to_timestamp
from tests.services.storage.pictures import picture

OLD, NEW = "an old secret of ours", "a new secret of ours"


async def create(storage, content=None, **fields):
    async def messages():
        metadata = Asset(**{"origin": Asset.ORIGIN_UPLOADED, **fields})
        yield storage_service_pb2.CreateAssetRequest(asset=metadata)
        yield storage_service_pb2.CreateAssetRequest(chunk=content or picture())

    return await storage.CreateAsset(messages())


async def sign(storage, asset, **fields):
    request = asset_url_pb2.SignAssetUrlRequest(name=asset.name, **fields)
    return await storage.SignAssetUrl(request)


async def resolve(suite, url, method="GET", **changes):
    """Ask as the gateway does when somebody opens a URL."""
    parts = urlsplit(url)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    name = f"assets/{parts.path.strip('/').rpartition('/')[2]}"
    request = {"name": name, "method": method, **query, **changes}
    return await suite.ResolveAsset(asset_url_pb2.ResolveAssetRequest(**request))


async def thumbnail(storage, asset, width_px, **fields):
    request = storage_service_pb2.ReadAssetRequest(
        name=asset.name, thumbnail_width_px=width_px, **fields
    )
    first, *rest = [message async for message in storage.ReadAsset(request)]
    return first.asset, b"".join(message.chunk for message in rest)


async def test_a_signed_url_opens_a_private_asset(suite, alice):
    """
    Its owner makes it, and whoever has it opens the asset, by GET and HEAD.
    """
    asset = await create(alice.storage)
    signed = await sign(alice.storage, asset)

    for method in ("GET", "HEAD"):
        assert (await resolve(suite, signed.url, method)).asset.name == asset.name
    assert signed.url.startswith("https://pictor.example.com/api/inference/assets/")
    assert 3590 < signed.expire_time.seconds - time.time() <= 3600


async def test_without_a_signature_a_private_asset_does_not_exist(suite, alice):
    """
    Knowing its id is not enough.
    """
    asset = await create(alice.storage)
    with pytest.raises(NotFound):
        await resolve(suite, f"/api/{asset.name}/")


@pytest.mark.parametrize("what", ["path", "missing", "method", "expires", "signature", "empty"])
async def test_an_altered_url_is_refused(suite, alice, what):
    """
    Another asset, one that does not exist, another method, a later end, a forged signature.
    """
    url = (await sign(alice.storage, await create(alice.storage))).url
    other = await create(alice.storage)
    expires = parse_qs(urlsplit(url).query)["expires"][0]
    changes = {
        "path": {"name": other.name},
        "missing": {"name": f"assets/{'0' * 32}"},
        "method": {"method": "DELETE"},
        "expires": {"expires": str(int(expires) + 1)},
        "signature": {"signature": "0" * 64},
        "empty": {"signature": ""},
    }[what]
    with pytest.raises(PermissionDenied) as error:
        await resolve(suite, url, **changes)

    assert error.value.reason == reasons.ERROR_REASON_URL_SIGNATURE_INVALID


async def test_a_signed_url_expires(suite, alice):
    """
    Not later than it says, and not later than the asset.
    """
    asset = await create(alice.storage, expire_time=to_timestamp(now() + 60_000_000))
    short = await sign(alice.storage, asset, ttl=Duration(seconds=1))
    long = await sign(alice.storage, asset, ttl=Duration(seconds=7 * 24 * 3600))
    await asyncio.sleep(1.1)

    with pytest.raises(PermissionDenied):
        await resolve(suite, short.url)
    assert long.expire_time.seconds <= asset.expire_time.seconds


@pytest.mark.parametrize("seconds", [0, -1, 7 * 24 * 3600 + 1, 10**15])
async def test_a_url_is_signed_for_a_second_to_a_week(alice, seconds):
    """
    The error names the range.
    """
    asset = await create(alice.storage)
    with pytest.raises(InvalidRequest, match="7 days"):
        await sign(alice.storage, asset, ttl=Duration(seconds=min(seconds, 315_576_000_000)))


async def test_nobody_signs_urls_of_others(alice, bob):
    """
    For another account the asset does not exist.
    """
    asset = await create(alice.storage)
    with pytest.raises(NotFound):
        await sign(bob.storage, asset)


async def test_only_the_suite_resolves(alice):
    """
    An API key reads by name, or not at all.
    """
    asset = await create(alice.storage, visibility=Asset.VISIBILITY_PUBLIC)
    with pytest.raises((NotFound, PermissionDenied)):
        await resolve(alice.storage, asset.url)


async def _signed_with(settings, keys, url=""):
    """Sign a URL of a service that has these keys, or resolve one there."""
    changed = dataclasses.replace(settings, url_keys=keys)
    async with (
        running(changed) as address,
        open_channel(address, service_token(settings.data_dir)) as channel,
    ):
        storage = StorageServiceStub(channel)
        if url:
            return await resolve(storage, url)
        with acting_for("accounts/a"):
            return (await sign(storage, await create(storage))).url


async def test_keys_are_rotated_without_breaking_urls(settings):
    """
    The new key signs, the old one still verifies, and once it is taken away it opens nothing.
    """
    url = await _signed_with(settings, (OLD,))

    assert await _signed_with(settings, (NEW, OLD), url)
    with pytest.raises(PermissionDenied):
        await _signed_with(settings, (NEW,), url)


async def test_the_suites_own_key_outlives_the_process(settings):
    """
    Where no key is set, one is made in the data folder that nobody else can read.
    """
    url = await _signed_with(settings, ())

    assert await _signed_with(settings, (), url)
    assert (settings.data_dir / "url-key").stat().st_mode & 0o777 == 0o600


def test_a_short_key_stops_the_start():
    """
    And is not told in the error.
    """
    with pytest.raises(SettingError, match="at least 16 characters") as error:
        read(Settings, {"PICTOR_URL_KEYS": f"{NEW},short"})

    assert "rule" in str(error.value) or "PICTOR_URL_KEYS" in str(error.value)


async def test_an_expired_asset_is_told_from_one_that_never_was(suite, alice):
    """
    Its bytes are gone on every way, its metadata are still there.
    """
    asset = await create(
        alice.storage,
        visibility=Asset.VISIBILITY_PUBLIC,
        expire_time=to_timestamp(now() + 300_000),
    )
    await asyncio.sleep(0.35)
    for call in (
        resolve(suite, asset.url),
        thumbnail(alice.storage, asset, 64),
        sign(alice.storage, asset),
    ):
        with pytest.raises(NotFound) as error:
            await call
        assert error.value.reason == reasons.ERROR_REASON_ASSET_EXPIRED
    found = await alice.storage.GetAsset(storage_service_pb2.GetAssetRequest(name=asset.name))
    assert found.sha256 == asset.sha256


async def test_generated_images_are_kept_as_long_as_the_operator_says(settings):
    """
    Whatever the job wanted; what callers send in is theirs.
    """
    changed = dataclasses.replace(settings, retention_seconds=60.0)
    async with (
        running(changed) as address,
        open_channel(address, service_token(settings.data_dir)) as channel,
    ):
        storage = StorageServiceStub(channel)
        with acting_for("accounts/a"):
            generated = {"origin": Asset.ORIGIN_GENERATED, "job": "jobs/1"}
            later, sooner = (to_timestamp(now() + 10**6 * s) for s in (600, 6))
            kept = [
                await create(storage, **generated),
                await create(storage, expire_time=later, **generated),
                await create(storage, expire_time=sooner, **generated),
            ]
            uploaded = await create(storage)

    ends = [round(one.expire_time.seconds - time.time()) for one in kept]
    assert [50 < end <= 60 for end in ends] == [True, True, False]
    assert not uploaded.HasField("expire_time")


@pytest.mark.parametrize("width_px", [64, 256])
async def test_a_thumbnail_is_a_small_webp(alice, settings, width_px):
    """
    Made once, of the width that was asked for, and described by its own metadata.
    """
    asset = await create(alice.storage, picture(size=(600, 300)))
    small, content = await thumbnail(alice.storage, asset, width_px)
    again, same = await thumbnail(alice.storage, asset, width_px)

    with Image.open(io.BytesIO(content)) as image:
        assert (image.format, image.size) == ("WEBP", (width_px, width_px // 2))
    assert (small.media_type, small.width_px) == ("image/webp", width_px)
    assert small.size_bytes == len(content)
    assert (again, same) == (small, content)
    assert len(list((settings.data_dir / "thumbnails").iterdir())) == 1


async def test_a_picture_is_never_enlarged_to_a_thumbnail(alice):
    """
    A small one stays as small as it is.
    """
    asset = await create(alice.storage, picture(size=(40, 20)))

    assert (await thumbnail(alice.storage, asset, 512))[0].width_px == 40


@pytest.mark.parametrize("width_px", [1, 65, 4096, -64])
async def test_there_are_few_widths(alice, width_px):
    """
    Otherwise one caller could fill the disk with one picture.
    """
    asset = await create(alice.storage)
    with pytest.raises(InvalidRequest, match="64, 128, 256, 512, 1024"):
        await thumbnail(alice.storage, asset, width_px)


async def test_thumbnails_go_with_their_asset(alice, bob, settings):
    """
    Nobody else sees them, and deleting the asset leaves none on disk.
    """
    asset = await create(alice.storage)
    await thumbnail(alice.storage, asset, 64)
    with pytest.raises(NotFound):
        await thumbnail(bob.storage, asset, 64)
    await alice.storage.DeleteAsset(storage_service_pb2.DeleteAssetRequest(name=asset.name))

    assert not list((settings.data_dir / "thumbnails").iterdir())
