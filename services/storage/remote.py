"""
Images that lie elsewhere, under URLs that callers send.

Who asks is services.outbound, which asks public addresses only. Here time and bytes have their
bounds, and what comes must be an image.
"""

import asyncio
import contextlib
import pathlib
from collections.abc import AsyncGenerator, Iterator, Sequence

import httpx
import structlog

from pictor.errors.v1 import error_reason_pb2
from services.outbound import (
    MOST_REDIRECTS,
    GuardedTransport,
    Network,
    Refused,
    Resolve,
    checked,
    open_client,
)
from services.rpc.errors import InvalidRequest, invalid
from services.storage.asset import Origin
from services.storage.assets import LIMIT_BYTES
from services.storage.decoding.pool import Decoders
from services.storage.spool import Spool, too_large

SECONDS = 20.0
# Each holds a connection and a spooled file.
FETCHED_AT_ONCE = 16
SENT_BYTES = 256 * 1024

_HEADERS = {
    "accept": "image/png, image/jpeg, image/webp, */*;q=0.1",
    # What is unpacked here could be larger than what was counted.
    "accept-encoding": "identity",
    "user-agent": "Pictor",
}

log = structlog.get_logger()


class RemoteImages:
    """
    Fetches images.

    Args:
        spool_dir: An existing folder for bytes that arrive.
        decoders: Who looks into images.
        permitted: Networks that may be read from although they are not public.
        seconds: How long one image may take, redirects included.
        resolve: Who knows the addresses of a host; None for the system.
    """

    def __init__(
        self,
        spool_dir: pathlib.Path,
        decoders: Decoders,
        permitted: Sequence[Network] = (),
        seconds: float = SECONDS,
        resolve: Resolve | None = None,
    ) -> None:
        self._spool_dir = spool_dir
        self._decoders = decoders
        self._permitted = tuple(permitted)
        self._seconds = seconds
        self._resolve = resolve
        self._turns = asyncio.Semaphore(FETCHED_AT_ONCE)

    async def fetch(self, url: str) -> AsyncGenerator[bytes]:
        """
        Fetch an image, and yield its bytes once it has come whole and was found good.

        Raises:
            InvalidRequest: If the URL is not one to fetch, or what it leads to is no image.
        """
        limit = LIMIT_BYTES[Origin.ORIGIN_UPLOADED]
        with _refusals():
            checked(url)
        async with self._turns:
            with Spool(self._spool_dir, limit) as spool:
                with _refusals():
                    await self._into(spool, url, limit)
                await self._decoders.inspect(spool)
                async for chunk in spool.chunks(SENT_BYTES):
                    yield chunk

    async def _into(self, spool: Spool, url: str, limit_bytes: int) -> None:
        transport = GuardedTransport(self._permitted, resolve=self._resolve)
        try:
            async with (
                asyncio.timeout(self._seconds),
                open_client(transport, seconds=self._seconds) as client,
                client.stream("GET", url, headers=_HEADERS) as response,
            ):
                if response.status_code != httpx.codes.OK:
                    raise _unreachable(f"its server answered {response.status_code}")
                _check_length(response, limit_bytes)
                async for chunk in response.aiter_raw():
                    await spool.write(chunk)
        except TimeoutError:
            raise _unreachable(f"it did not come within {self._seconds:g} s") from None
        except httpx.TooManyRedirects:
            rule = f"it was redirected more than {MOST_REDIRECTS} times"
            raise _unreachable(rule) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            log.info("remote.failed", error=type(error).__name__)
            raise _unreachable("its server could not be reached") from None


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except Refused as error:
        raise invalid("url", f"the URL is not fetched: {error}") from None


def _check_length(response: httpx.Response, limit_bytes: int) -> None:
    declared = response.headers.get("content-length", "")
    if declared.isdigit() and (len(declared) > 18 or int(declared) > limit_bytes):
        raise too_large(
            f"the image has more than {limit_bytes} bytes, which is the most that is taken",
            {"limit_bytes": str(limit_bytes)},
        )


def _unreachable(why: str) -> InvalidRequest:
    reason = error_reason_pb2.ERROR_REASON_INPUT_IMAGE_UNREACHABLE
    return invalid("url", f"the image at the URL could not be fetched: {why}", reason)
