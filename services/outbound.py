"""
Requests to hosts that somebody else named: the one client for them.

    Refused       the URL is not one to ask; the text says why, and tells nothing of the network

A caller must not reach through the suite what only the suite's machine reaches. So a host is
resolved once, every address of it must be public, and the connection goes to just that address;
each redirect is a new request that passes the same way. Bounds of time and bytes are the user's.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence

import httpx

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
# Host and port -> every address, as text.
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

MOST_CHARACTERS = 4096
MOST_PORTS = 65_535
MOST_REDIRECTS = 3
CONNECT_SECONDS = 5.0
PORTS = {"http": 80, "https": 443}
FIRST_FREE_PORT = 1024
# Above that, what browsers refuse to ask too (the fetch standard's list of bad ports): the X
# server, IRC, NFS and the like.
BAD_PORTS = frozenset(
    {1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6679, 6697, 10080}
    | set(range(6665, 6670))
)

_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_COMPATIBLE = ipaddress.IPv6Network("::/96")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Public by the letter, or in what some versions of Python know of the registries, and nobody's
# host: protocol assignments, anycast that whoever is near answers, the 6bone, documentation.
_NOBODYS = tuple(
    ipaddress.ip_network(one)
    for one in (
        "192.0.0.0/24",
        "192.88.99.0/24",
        "192.175.48.0/24",
        "2001::/23",
        "3ffe::/16",
        "3fff::/20",
    )
)
# The beginning of an interface's identifier in ISATAP, whose rest is an address of version 4.
_ISATAP = (0x00005EFE, 0x02005EFE)


class Refused(Exception):
    """The URL is not one to ask."""


class GuardedTransport(httpx.AsyncBaseTransport):
    """
    Lets through only requests to public addresses.

    Args:
        permitted: Networks that may be asked although they are not public.
        inner: Who carries a request whose URL holds a checked address; None for the network.
        resolve: Who knows the addresses of a host; None for the system.
    """

    def __init__(
        self,
        permitted: Sequence[Network] = (),
        *,
        inner: httpx.AsyncBaseTransport | None = None,
        resolve: Resolve | None = None,
    ) -> None:
        self._permitted = tuple(permitted)
        # The environment's proxies would be asked for names that were checked here.
        self._inner = inner or httpx.AsyncHTTPTransport(trust_env=False)
        self._resolve = resolve or _resolved

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """
        Carry a request to a public address of its host.

        Raises:
            Refused: If the URL is not one to ask, or its host has another address too.
            httpx.HTTPError: If the server does not answer as HTTP wants it.
        """
        url = checked(str(request.url))
        address = await self._address(url)
        pinned = httpx.Request(
            request.method,
            url.copy_with(host=str(address), fragment=None),
            headers=request.headers,
            stream=request.stream,
            # The certificate is the name's, not the address's.
            extensions={**request.extensions, "sni_hostname": url.raw_host.decode("ascii")},
        )
        return await self._inner.handle_async_request(pinned)

    async def aclose(self) -> None:
        """Give the connections back."""
        await self._inner.aclose()

    def may_ask(self, address: Address) -> bool:
        """Tell whether a connection to *address* may be made."""
        return self._is_permitted(address) or is_public(address)

    async def _address(self, url: httpx.URL) -> Address:
        """Return an address of the host; all of them must be ones that may be asked."""
        port = url.port or PORTS[url.scheme]
        try:
            found = await self._resolve(url.raw_host.decode("ascii"), port)
            addresses = [ipaddress.ip_address(one.partition("%")[0]) for one in found]
        except (OSError, ValueError):
            addresses = []
        if not addresses or not all(self.may_ask(address) for address in addresses):
            # Whether a name exists in this network is nobody's business.
            raise Refused("its host has no public address")
        if not self._is_permitted(addresses[0]) and not _is_open(port):
            raise Refused(f"port {port} is none of images; give 80, 443 or one from 1024 up")
        return addresses[0]

    def _is_permitted(self, address: Address) -> bool:
        return any(address in network for network in self._permitted)


def open_client(
    transport: GuardedTransport, *, seconds: float, redirects: int = MOST_REDIRECTS
) -> httpx.AsyncClient:
    """
    Open a client for one errand; it keeps no cookies for the next.

    Args:
        transport: Who guards it.
        seconds: How long each wait may take; bound the whole with ``asyncio.timeout``.
        redirects: How many are followed; Authorization goes to no other host than the first.
    """
    return httpx.AsyncClient(
        transport=transport,
        trust_env=False,
        timeout=httpx.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS)),
        follow_redirects=redirects > 0,
        max_redirects=redirects,
    )


def networks(text: str) -> tuple[Network, ...]:
    """Parse networks, separated by commas: ``10.0.0.0/8, fd00::/8``."""
    return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())


def checked(text: str) -> httpx.URL:
    """
    Parse a URL that may be asked, as far as its text tells.

    Raises:
        Refused: If it is none.
    """
    if len(text) > MOST_CHARACTERS:
        raise Refused(f"it has more than {MOST_CHARACTERS} characters")
    # Parsers disagree on what these end, and who parses last would decide.
    if any(character in text for character in "\\\t\r\n\0") or text != text.strip():
        raise Refused("it is no URL")
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError):
        raise Refused("it is no URL") from None
    if url.scheme not in PORTS or not url.host:
        raise Refused("only absolute URLs with http or https are fetched")
    if url.port is not None and not 0 < url.port <= MOST_PORTS:
        raise Refused("it is no URL")
    if url.userinfo:
        raise Refused("it holds a user's name")
    return url


def is_public(address: Address) -> bool:
    """Tell whether everybody on the Internet reaches *address*, and no others than that host."""
    carried = _carried(address)
    if carried is not None:
        return is_public(carried)
    if isinstance(address, ipaddress.IPv6Address):
        inner = _isatap(address)
        if address not in _GLOBAL_UNICAST or (inner is not None and not is_public(inner)):
            return False
    if any(address in network for network in _NOBODYS):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved)


def _carried(address: Address) -> ipaddress.IPv4Address | None:
    """Return the address of version 4 to which one of version 6 leads."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64 or address in _COMPATIBLE:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None)


def _isatap(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    low = int(address) & 0xFFFFFFFFFFFFFFFF
    return ipaddress.IPv4Address(low & 0xFFFFFFFF) if low >> 32 in _ISATAP else None


def _is_open(port: int) -> bool:
    return port in PORTS.values() or (port >= FIRST_FREE_PORT and port not in BAD_PORTS)


async def _resolved(host: str, port: int) -> Sequence[str]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(one[4][0]) for one in found]
