"""Writes a drawing's images and stores them under the account of its job."""

import asyncio
import time
from collections.abc import AsyncIterator

from google.protobuf import timestamp_pb2

from pictor.inference.v1.job_pb2 import GeneratedImage
from pictor.storage.v1 import asset_pb2, storage_service_pb2, storage_service_pb2_grpc
from pictor.worker.v1 import worker_pb2
from services.inference.worker.drawing import Drawing
from services.inference.worker.encode import EncodedImage, encode
from services.inference.worker.frames import Size
from services.inference.worker.infotext import infotext
from services.rpc.crash import crash_point
from services.rpc.patience import outlast

CHUNK_BYTES = 256 * 1024


async def store(
    storage: "storage_service_pb2_grpc.StorageServiceAsyncStub",
    assignment: worker_pb2.Assignment,
    drawing: Drawing,
) -> list[GeneratedImage]:
    """
    Store every image, in order. Whoever calls acts for the job's account.

    Raises:
        Internal: With STORAGE_FAILED.
    """
    return [
        await _store_one(
            storage, assignment, await asyncio.to_thread(_encoded, drawing, k, assignment), seed
        )
        for k, seed in enumerate(drawing.seeds)
    ]


async def _store_one(
    storage: "storage_service_pb2_grpc.StorageServiceAsyncStub",
    assignment: worker_pb2.Assignment,
    encoded: EncodedImage,
    seed: int,
) -> GeneratedImage:
    asset = await outlast(lambda: storage.CreateAsset(_messages(assignment, encoded.content)))
    crash_point("device.after_asset")
    return GeneratedImage(
        asset=asset.name,
        url=asset.url,
        seed=seed,
        width_px=asset.width_px,
        height_px=asset.height_px,
        media_type=asset.media_type,
        size_bytes=asset.size_bytes,
        sha256=asset.sha256,
    )


async def _messages(
    assignment: worker_pb2.Assignment, content: bytes
) -> AsyncIterator[storage_service_pb2.CreateAssetRequest]:
    metadata = asset_pb2.Asset(
        origin=asset_pb2.Asset.ORIGIN_GENERATED, job=assignment.job, expire_time=_expiry(assignment)
    )
    yield storage_service_pb2.CreateAssetRequest(asset=metadata)
    for start in range(0, len(content), CHUNK_BYTES):
        chunk = content[start : start + CHUNK_BYTES]
        yield storage_service_pb2.CreateAssetRequest(chunk=chunk)


def _expiry(assignment: worker_pb2.Assignment) -> timestamp_pb2.Timestamp | None:
    if not assignment.HasField("result_ttl"):
        return None
    moment = timestamp_pb2.Timestamp()
    moment.FromNanoseconds(time.time_ns() + assignment.result_ttl.ToNanoseconds())
    return moment


def _encoded(drawing: Drawing, index: int, assignment: worker_pb2.Assignment) -> EncodedImage:
    generation, picture = assignment.generation, drawing.images[index]
    text = ""
    if not generation.output.omit_parameters:
        size = str(Size(*picture.size))
        text = infotext(generation, seed=drawing.seeds[index], sampler=drawing.sampler, size=size)
    return encode(picture, generation.output, text)
