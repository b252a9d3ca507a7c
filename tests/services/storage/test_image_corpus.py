"""Files that are made to hurt, through the service: refused quickly, and nobody grows."""

import asyncio
import pathlib
import time

import psutil
import pytest

from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.storage.v1 import storage_service_pb2
from pictor.storage.v1.asset_pb2 import Asset
from services.rpc.errors import InvalidRequest
from services.storage.decoding.pool import MEMORY_BYTES, Decoders
from services.storage.spool import Spool
from tests.corpora import images

REFUSED = dict(images.refused())
REASONS = {
    reasons.ERROR_REASON_INPUT_IMAGE_INVALID,
    reasons.ERROR_REASON_INPUT_IMAGE_TOO_LARGE,
    reasons.ERROR_REASON_MEDIA_TYPE_UNSUPPORTED,
    reasons.ERROR_REASON_FIELD_REQUIRED,
}
MOST_SECONDS = 0.1
# What the interpreter itself may take anew while it runs a test.
MOST_GROWN_BYTES = 40 * 1024 * 1024


async def create(storage, content):
    async def messages():
        metadata = Asset(origin=Asset.ORIGIN_UPLOADED)
        yield storage_service_pb2.CreateAssetRequest(asset=metadata)
        for start in range(0, len(content), 1 << 20):
            yield storage_service_pb2.CreateAssetRequest(chunk=content[start : start + (1 << 20)])

    return await storage.CreateAsset(messages())


async def refusal(storage, content):
    """Return the error of an upload, and how long it took at best of two."""
    seconds = []
    for _ in range(2):
        begin = time.perf_counter()
        with pytest.raises(InvalidRequest) as error:
            await create(storage, content)
        seconds.append(time.perf_counter() - begin)
    return error.value, min(seconds)


@pytest.mark.parametrize("name", REFUSED)
async def test_it_is_refused_at_once(alice, name):
    """
    With a reason that the caller can act on, within 100 ms, and the next image is looked at.
    """
    await create(alice.storage, images.written(images.Image.new("RGB", (8, 8)), "PNG"))
    error, seconds = await refusal(alice.storage, REFUSED[name])

    assert error.reason in REASONS
    assert seconds < MOST_SECONDS


@pytest.mark.parametrize(("name", "content"), list(images.odd()), ids=[n for n, _ in images.odd()])
async def test_what_is_odd_and_good_is_taken(alice, name, content):
    """
    A guard that refuses what is only unusual is of no use.
    """
    assert (await create(alice.storage, content)).width_px >= 1


async def verdict(decoders, folder, content):
    """Return why a file is refused, or nothing where it is taken, and how long that took."""
    with Spool(folder, 1 << 26) as spool:
        await spool.write(content)
        begin = time.perf_counter()
        try:
            await decoders.inspect(spool)
        except InvalidRequest as error:
            return error, time.perf_counter() - begin
        return None, time.perf_counter() - begin


async def test_files_with_changed_bytes_are_refused_or_good(decoders, tmp_path):
    """
    Whatever was changed, there is an answer in time, and no child is lost over it.
    """
    found = [await verdict(decoders, tmp_path, content) for _, content in images.fuzzed()]
    errors = [error for error, _ in found if error]

    assert 0 < len(errors) < len(found)
    assert {error.reason for error in errors} <= REASONS
    assert not [error for error in errors if "more time or memory" in error.message]
    assert max(seconds for _, seconds in found) < MOST_SECONDS * 5


async def test_neither_the_service_nor_its_child_grows(tmp_path):
    """
    The service holds nothing of what it refuses, and the kernel holds the child below 512 MB.
    """
    decoders = Decoders(1)
    process = psutil.Process()
    try:
        await decoders.warm()
        child = decoders._idle[0].pid
        before = process.memory_info().rss
        for content in REFUSED.values():
            assert (await verdict(decoders, tmp_path, content))[0]
        grown = process.memory_info().rss - before
        status = await asyncio.to_thread(pathlib.Path(f"/proc/{child}/status").read_text)
    finally:
        await decoders.close()

    assert grown < MOST_GROWN_BYTES
    peak = next(line for line in status.splitlines() if line.startswith("VmPeak"))
    assert int(peak.split()[1]) * 1024 <= MEMORY_BYTES
