"""
Images that lie elsewhere: the one door through which the suite reads URLs that callers send.

A caller must not reach through it what only this machine reaches. So a host is resolved here, every
address of it must be public, and the connection goes to just that address; a redirect is a new URL
that passes the same way. Time, bytes and redirects have bounds, and what comes must be an image.
"""

import asyncio
import contextlib
import ipaddress
import pathlib
import socket
from collections.abc import AsyncGenerator, Sequence

import httpx
import structlog

from pictor.errors.v1 import error_reason_pb2
from services.rpc.errors import InvalidRequest, invalid
from services.storage.asset import Origin
from services.storage.assets import LIMIT_BYTES
from services.storage.images import too_large
from services.storage.spool import Spool

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MOST_CHARACTERS = 4096
MOST_PORTS = 65_535
MOST_REDIRECTS = 3
SECONDS = 20.0
CONNECT_SECONDS = 5.0
# Each holds a connection and a spooled file.
FETCHED_AT_ONCE = 16
SENT_BYTES = 256 * 1024

# Addresses of version 6 that carry one of version 4 are as public as the one that they carry.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
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
        permitted: Networks that may be read from although they are not public.
        seconds: How long one image may take, redirects included.
    """

    def __init__(
        self,
        spool_dir: pathlib.Path,
        permitted: Sequence[Network] = (),
        seconds: float = SECONDS,
    ) -> None:
        self._spool_dir = spool_dir
        self._permitted = tuple(permitted)
        self._seconds = seconds
        self._turns = asyncio.Semaphore(FETCHED_AT_ONCE)

    async def fetch(self, url: str) -> AsyncGenerator[bytes]:
        """
        Fetch an image, and yield its bytes once it has come whole and was found good.

        Raises:
            InvalidRequest: If the URL is not one to fetch, or what it leads to is no image.
        """
        limit = LIMIT_BYTES[Origin.ORIGIN_UPLOADED]
        async with self._turns:
            with await asyncio.to_thread(Spool, self._spool_dir, limit) as spool:
                await self._into(spool, url, limit)
                await spool.picture()
                async for chunk in spool.chunks():
                    for start in range(0, len(chunk), SENT_BYTES):
                        yield chunk[start : start + SENT_BYTES]

    async def _into(self, spool: Spool, url: str, limit_bytes: int) -> None:
        # The environment's proxies would be asked for names that were checked here.
        timeout = httpx.Timeout(self._seconds, connect=CONNECT_SECONDS)
        try:
            async with (
                asyncio.timeout(self._seconds),
                httpx.AsyncClient(trust_env=False, timeout=timeout) as client,
                contextlib.aclosing(self._chunks(client, url, limit_bytes)) as chunks,
            ):
                async for chunk in chunks:
                    await spool.write(chunk)
        except TimeoutError:
            raise _unreachable(f"it did not come within {self._seconds:g} s") from None
        except httpx.HTTPError as error:
            log.info("remote.failed", error=type(error).__name__)
            raise _unreachable("its server could not be reached") from None

    async def _chunks(
        self, client: httpx.AsyncClient, url: str, limit_bytes: int
    ) -> AsyncGenerator[bytes]:
        for _ in range(MOST_REDIRECTS + 1):
            request = await self._request(client, _checked(url))
            response = await client.send(request, stream=True)
            async with contextlib.aclosing(response):
                if response.has_redirect_location:
                    url = _redirected(_checked(url), response.headers["location"])
                    continue
                if response.status_code != httpx.codes.OK:
                    raise _unreachable(f"its server answered {response.status_code}")
                _check_length(response, limit_bytes)
                async for chunk in response.aiter_raw():
                    yield chunk
                return
        raise _unreachable(f"it was redirected more than {MOST_REDIRECTS} times")

    async def _request(self, client: httpx.AsyncClient, url: httpx.URL) -> httpx.Request:
        address = await self._address(url)
        return client.build_request(
            "GET",
            url.copy_with(host=str(address), fragment=None),
            headers={**_HEADERS, "host": url.netloc.decode("ascii")},
            # The certificate is the name's, not the address's.
            extensions={"sni_hostname": url.raw_host.decode("ascii")},
        )

    async def _address(self, url: httpx.URL) -> Address:
        """Return an address of the host; all of them must be ones that may be read from."""
        port = url.port or (443 if url.scheme == "https" else 80)
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                url.raw_host.decode("ascii"), port, type=socket.SOCK_STREAM
            )
        except (OSError, UnicodeError):
            found = []
        addresses = [ipaddress.ip_address(str(one[4][0]).partition("%")[0]) for one in found]
        if not addresses or not all(self._may_read(address) for address in addresses):
            # Whether a name exists in this network is nobody's business.
            raise _refused("its host has no public address")
        return addresses[0]

    def _may_read(self, address: Address) -> bool:
        if any(address in network for network in self._permitted):
            return True
        carried = _carried(address)
        if carried:
            return self._may_read(carried)
        return address.is_global and not address.is_multicast


def networks(text: str) -> tuple[Network, ...]:
    """Parse networks, separated by commas: ``10.0.0.0/8, fd00::/8``."""
    return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())


def _checked(text: str) -> httpx.URL:
    if len(text) > MOST_CHARACTERS:
        raise _refused(f"it has more than {MOST_CHARACTERS} characters")
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        raise _refused("it is no URL") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise _refused("only absolute URLs with http or https are fetched")
    if url.port is not None and url.port > MOST_PORTS:
        raise _refused("it is no URL")
    if url.userinfo:
        raise _refused("it holds a user's name")
    return url


def _redirected(url: httpx.URL, location: str) -> str:
    try:
        return str(url.join(location))
    except httpx.InvalidURL:
        raise _unreachable("its server redirects to what is no URL") from None


def _carried(address: Address) -> ipaddress.IPv4Address | None:
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None)


def _check_length(response: httpx.Response, limit_bytes: int) -> None:
    declared = response.headers.get("content-length", "")
    if declared.isdigit() and (len(declared) > 18 or int(declared) > limit_bytes):
        raise too_large(
            f"the image has more than {limit_bytes} bytes, which is the most that is taken",
            {"limit_bytes": str(limit_bytes)},
        )


def _refused(why: str) -> InvalidRequest:
    return invalid("url", f"the URL is not fetched: {why}")


def _unreachable(why: str) -> InvalidRequest:
    reason = error_reason_pb2.ERROR_REASON_INPUT_IMAGE_UNREACHABLE
    return invalid("url", f"the image at the URL could not be fetched: {why}", reason)
