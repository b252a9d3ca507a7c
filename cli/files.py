"""Images as files of the caller: read into assets, and written from them."""

import asyncio
import contextlib
import os
import pathlib
from collections.abc import AsyncIterator

from cli.connection import Failure
from pictor.inference.v1.generation_pb2 import Output
from pictor.storage.v1 import asset_pb2, storage_service_pb2, storage_service_pb2_grpc

CHUNK_BYTES = 1024 * 1024
FORMATS = {
    ".png": Output.FORMAT_PNG,
    ".jpg": Output.FORMAT_JPEG,
    ".jpeg": Output.FORMAT_JPEG,
    ".webp": Output.FORMAT_WEBP,
}


def output_format(path: pathlib.Path) -> Output.Format.ValueType:
    """
    Return the form in which a file of this name is written.

    Raises:
        Failure: If the name ends otherwise, or its folder does not exist.
    """
    if not path.absolute().parent.is_dir():
        raise Failure(f"cannot write {path}: its folder does not exist")
    if path.suffix.lower() not in FORMATS:
        raise Failure(f"cannot write {path}: its name must end in {', '.join(FORMATS)}")
    return FORMATS[path.suffix.lower()]


def numbered(path: pathlib.Path, count: int) -> list[pathlib.Path]:
    """Return the file of each image: the path itself, or ``circle-1.png``, ``circle-2.png``, ..."""
    if count == 1:
        return [path]
    return [path.with_stem(f"{path.stem}-{number}") for number in range(1, count + 1)]


async def upload(
    storage: "storage_service_pb2_grpc.StorageServiceAsyncStub", path: pathlib.Path
) -> str:
    """
    Store a file as an asset of the caller.

    Returns:
        The asset's name.
    """
    content = await asyncio.to_thread(_read, path)

    async def messages() -> AsyncIterator[storage_service_pb2.CreateAssetRequest]:
        asset = asset_pb2.Asset(origin=asset_pb2.Asset.ORIGIN_UPLOADED)
        yield storage_service_pb2.CreateAssetRequest(asset=asset)
        for start in range(0, len(content), CHUNK_BYTES):
            chunk = content[start : start + CHUNK_BYTES]
            yield storage_service_pb2.CreateAssetRequest(chunk=chunk)

    return (await storage.CreateAsset(messages())).name


async def download(
    storage: "storage_service_pb2_grpc.StorageServiceAsyncStub", asset: str, path: pathlib.Path
) -> None:
    """Write an asset's bytes to a file: the whole file appears at once, or none does."""
    content = bytearray()
    async for message in storage.ReadAsset(storage_service_pb2.ReadAssetRequest(name=asset)):
        content += message.chunk
    await asyncio.to_thread(_write, path, bytes(content))


def _read(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Failure(f"cannot read {path}: {error.strerror}") from None


def _write(path: pathlib.Path, content: bytes) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(content)
        aside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise Failure(f"cannot write {path}: {error.strerror}") from None
