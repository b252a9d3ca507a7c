"""What a child that decodes can bear, and what the service does when it cannot."""

import asyncio
import io
import os
import pathlib
import secrets
import signal

import pytest
from PIL import Image, PngImagePlugin

from pictor.errors.v1 import error_reason_pb2 as reasons
from services.rpc.errors import InvalidRequest
from services.storage.decoding.pool import Decoders, Limits
from services.storage.spool import Spool
from tests.services.storage.pictures import picture

MOST_BYTES = 64 * 1024 * 1024
TRAILER = b"<html><script>alert(1)</script>"


@pytest.fixture
def spool(tmp_path):
    spools = []

    async def make(content=b""):
        one = Spool(tmp_path, MOST_BYTES)
        spools.append(one)
        await one.write(content)
        return one

    yield make
    for one in spools:
        one.close()


async def cleaned(decoders, spool, content):
    """Return what an upload becomes; None where it stays as it is."""
    target = await spool()
    _, is_changed = await decoders.clean(await spool(content), target)
    return b"".join([chunk async for chunk in target.chunks()]) if is_changed else None


def photo(form, *, orientation=1, **options):
    """Encode a picture with a red left half and metadata that nobody else should see."""
    image = Image.new("RGB", (64, 48), "white")
    image.paste((255, 0, 0), (0, 0, 32, 48))
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "SECRET maker"
    file = io.BytesIO()
    image.save(file, form, exif=exif, **options)
    return file.getvalue()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
async def test_metadata_and_trailers_are_dropped_and_pixels_kept(decoders, spool, form):
    """
    Where a photo was taken, and a page that hides behind its end, are in no file that is stored.
    """
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "SECRET text")
    options = {"pnginfo": info} if form == "PNG" else {"xmp": b"SECRET xmp"}
    content = photo(form, **options)
    assert b"SECRET" in content

    clean = await cleaned(decoders, spool, content + TRAILER)

    assert b"SECRET" not in clean
    assert not clean.endswith(TRAILER)
    before, after = (Image.open(io.BytesIO(one)) for one in (content, clean))
    assert before.tobytes() == after.tobytes()
    assert not after.getexif()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
async def test_a_photo_on_its_side_is_put_upright(decoders, spool, form):
    """
    EXIF's orientation is applied before it is dropped; red was left, so it is now at the top.
    """
    clean = await cleaned(decoders, spool, photo(form, orientation=6))
    upright = Image.open(io.BytesIO(clean)).convert("RGB")

    assert upright.size == (48, 64)
    red, white = upright.getpixel((24, 10)), upright.getpixel((24, 54))
    assert red[1] < 60
    assert white[1] > 200


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("options", [{}, {"icc_profile": secrets.token_bytes(600)}])
async def test_a_clean_image_stays_as_it_is(decoders, spool, form, options):
    """
    Byte by byte, with what its colours mean.
    """
    assert await cleaned(decoders, spool, picture(form, **options)) is None


async def test_a_progressive_jpeg_keeps_all_its_scans(decoders, spool):
    """
    A file of many scans is cut nowhere in between.
    """
    content = photo("JPEG", progressive=True, quality=95)
    clean = await cleaned(decoders, spool, content)

    before, after = (Image.open(io.BytesIO(one)) for one in (content, clean))
    assert before.tobytes() == after.tobytes()


async def test_what_takes_more_memory_than_a_child_has_is_refused(spool):
    """
    The kernel says no, the caller is told, and the child goes on.
    """
    decoders = Decoders(1, Limits(memory_bytes=160 * 1024 * 1024))
    file = io.BytesIO()
    Image.new("RGBA", (8000, 8000)).save(file, "PNG")
    try:
        with pytest.raises(InvalidRequest) as error:
            await decoders.inspect(await spool(file.getvalue()))
        assert error.value.reason == reasons.ERROR_REASON_INPUT_IMAGE_TOO_LARGE
        assert (await decoders.inspect(await spool(picture()))).width_px == 64
    finally:
        await decoders.close()


@pytest.mark.parametrize("limits", [Limits(cpu_seconds=0), Limits(seconds=0.3)], ids=str)
async def test_what_takes_too_long_is_refused_and_the_next_gets_a_new_child(spool, limits):
    """
    Whether the kernel or the service ends the child.
    """
    decoders = Decoders(1, limits)
    file = io.BytesIO()
    Image.effect_noise((4096, 4096), 90).save(file, "WEBP", quality=95)
    big = await spool(file.getvalue())
    target = await spool()
    try:
        with pytest.raises(InvalidRequest, match="more time or memory"):
            await decoders.run("resize", [big, target], **LARGER)
    finally:
        await decoders.close()


LARGER = {"factor": 1.9, "size": (0, 0), "crop": False, "resampling": "LANCZOS"}


async def test_a_child_that_is_killed_is_replaced(spool):
    """
    The image that it held is refused, as if it were to blame, and the next is looked at.
    """
    decoders = Decoders(1)
    try:
        await decoders.inspect(await spool(picture()))
        os.kill(decoders._idle[0].pid, signal.SIGKILL)
        with pytest.raises(InvalidRequest, match="more time or memory"):
            await decoders.inspect(await spool(picture()))
        assert (await decoders.inspect(await spool(picture()))).width_px == 64
    finally:
        await decoders.close()


async def test_a_child_inherits_no_secret(spool, monkeypatch):
    """
    Its environment holds where modules lie, and nothing of ours.
    """
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "word")
    decoders = Decoders(1)
    try:
        await decoders.inspect(await spool(picture()))
        path = pathlib.Path(f"/proc/{decoders._idle[0].pid}/environ")
        environ = await asyncio.to_thread(path.read_bytes)
    finally:
        await decoders.close()

    assert environ.startswith(b"PYTHONPATH=")
    assert environ.count(b"\0") == 1


async def test_a_good_image_costs_little(decoders, spool):
    """
    A child that waits adds milliseconds to what decoding takes.
    """
    file = await spool(picture())
    await decoders.inspect(file)
    begin = asyncio.get_running_loop().time()
    for _ in range(20):
        await decoders.inspect(file)

    assert (asyncio.get_running_loop().time() - begin) / 20 < 0.02
