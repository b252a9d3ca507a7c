"""
Named points at which a test ends a process as a kill would: nothing is flushed, nobody is told.

Every process of the suite may be given a file's path (PICTOR_CRASH_FILE). When it comes to the
point whose name the file holds, it removes the file and ends; so one file ends one process, once,
and a test can choose the point while the processes run. Without the path a point costs one
comparison.
"""

import os
import pathlib
from collections.abc import Mapping

import structlog

# What a shell shows for a process that was killed.
STATUS = 137

POINTS: Mapping[str, str] = {
    "accounts.authenticate": "a key is about to be checked",
    "accounts.before_commit": "a transaction of accounts is whole, and not committed",
    "accounts.after_commit": "it is committed, and nobody knows",
    "catalog.report": "a device process has reported, and is not answered",
    "catalog.before_commit": "a transaction of the catalog is whole, and not committed",
    "catalog.after_commit": "it is committed, and nobody knows",
    "inference.before_commit": "a transaction of inference is whole, and not committed",
    "inference.after_commit": "it is committed, and nobody knows",
    "inference.after_hold": "a price is held, and there is no job",
    "inference.before_admission": "a job is admitted, and not durable",
    "inference.after_admission": "a job is durable, and not acknowledged",
    "inference.after_lease": "a job is leased, and no device has it",
    "inference.before_change": "a job's new state is written, and not committed",
    "inference.after_change": "a job's new state is committed, and nobody is told",
    "inference.result": "the result of a job has come, and is not written",
    "inference.before_delivery": "a message of the outbox is taken, and not delivered",
    "inference.after_delivery": "it is delivered, and still in the outbox",
    "inference.mid_stream": "a watcher was told a part of what there is",
    "storage.before_asset_write": "an image has come whole, and nothing of it is stored",
    "storage.mid_asset_write": "an image's bytes lie aside, and not under their name",
    "storage.after_asset_write": "an image's bytes are durable, and it has no row",
    "storage.before_commit": "a transaction of storage is whole, and not committed",
    "storage.after_commit": "it is committed, and nobody knows",
    "storage.mid_stream": "a part of an image's bytes was sent",
    "device.step": "a step is taken, and not reported",
    "device.before_store": "a job is drawn, and nothing is stored",
    "device.after_asset": "an image is stored, and the next one, or the result, is not told",
    "device.after_store": "all images are stored, and the result is not told",
    "gateway.before_submit": "a request is read, and no job is asked for",
    "gateway.after_submit": "a job is acknowledged to the gateway, and not to its client",
    "gateway.before_answer": "a job has ended, and its client is not answered",
    "gateway.mid_stream": "a client was sent a part of its events",
}

log = structlog.get_logger()
_file: pathlib.Path | None = None


def arm(path: str) -> None:
    """Let this process end at the point that the file names, whenever it is there; empty: never."""
    global _file  # noqa: PLW0603 - a point is passed in places that share nothing else
    _file = pathlib.Path(path) if path else None


def crash_point(name: str) -> None:
    """End the process here, if that is what the file says."""
    if _file is not None and _is_named(_file, name):
        log.error("process.crashing", point=name)
        os._exit(STATUS)


def _is_named(file: pathlib.Path, name: str) -> bool:
    try:
        if file.read_text() != name:
            return False
        # Of several processes that come here at once, one can remove it.
        file.unlink()
    except FileNotFoundError:
        return False
    return True
