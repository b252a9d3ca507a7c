"""The client for hosts that somebody else named: what it asks, and what it never does."""

import asyncio
import ipaddress

import httpx
import pytest
from drawbridge import DrawbridgeError
from drawbridge._policy import Policy
from drawbridge._validator import check_ip

from services.outbound import GuardedTransport, Refused, checked, is_public, networks, open_client
from tests.connections import connections
from tests.corpora import ssrf

LOOPBACK = networks("127.0.0.0/8")
PUBLIC = "93.184.215.14"


class Wire(httpx.AsyncBaseTransport):
    """
    The network behind the guard.

    Attributes:
        asked: The requests that got through.
        answers: What comes back, by path.
    """

    def __init__(self, **answers):
        self.asked = []
        self.answers = answers

    async def handle_async_request(self, request):
        self.asked.append(request)
        location = self.answers.get(request.url.path.strip("/"))
        headers = {"location": location} if location else {}
        return httpx.Response(302 if location else 200, headers=headers, request=request)


def resolving(*answers):
    """Make a resolver that gives these lists of addresses, one after the other."""
    rest = list(answers)

    async def resolve(host, port):
        return rest.pop(0) if len(rest) > 1 else rest[0]

    return resolve


async def get(url, *, wire=None, resolve=None, permitted=(), headers=None):
    transport = GuardedTransport(permitted, inner=wire, resolve=resolve)
    async with open_client(transport, seconds=2) as client:
        return await client.get(url, headers=headers)


def test_the_corpus_is_what_its_rules_make():
    """
    At least 500 URLs, and none that was changed by hand.
    """
    assert len(ssrf.kept()) >= 500
    assert ssrf.kept() == ssrf.made()


async def test_no_url_of_the_corpus_makes_a_connection():
    """
    Each is refused before a socket is opened, as the interpreter itself counts them.
    """
    with connections() as made:
        for url in ssrf.kept():
            with pytest.raises(Refused):
                await get(str(checked(url)))
            assert not made, url


async def test_the_counter_of_connections_counts():
    """
    A permitted address is connected to; otherwise the test above would prove nothing.
    """
    with connections() as made, pytest.raises(httpx.ConnectError):
        await get("http://127.0.0.1:9/", permitted=LOOPBACK)

    assert made == [("127.0.0.1", 9)]


def test_what_a_second_guard_refuses_is_refused_here_too():
    """
    An address that drawbridge calls private is not public, however old our Python's registry is.
    """
    found = {ipaddress.ip_address(one) for one in ssrf.ADDRESSES}
    found |= {ipaddress.ip_address(one.partition("%")[0]) for one in ssrf.SIXES}
    found |= {ipaddress.ip_address(o) for address in ssrf.ADDRESSES for o in ssrf.six(address)}
    for text in ("0.1.2.3", "192.0.2.1", "192.175.48.1", "203.0.113.9", "198.51.100.7"):
        found.add(ipaddress.ip_address(text))

    assert not [one for one in found if is_public(one) and _is_refused_by_drawbridge(one)]


def _is_refused_by_drawbridge(address):
    try:
        check_ip("host", address, Policy())
    except DrawbridgeError:
        return True
    return False


@pytest.mark.parametrize(
    ("address", "public"),
    [
        (PUBLIC, True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("64:ff9b::5db8:d70e", True),
        ("::ffff:93.184.215.14", True),
        ("::93.184.215.14", True),
        ("2002:5db8:d70e::1", True),
        ("2002:a00:1::1", False),
        ("64:ff9b::a00:1", False),
        ("::ffff:10.0.0.1", False),
        ("fec0::1", False),
        ("2a00::5efe:a00:1", False),
        ("192.88.99.1", False),
    ],
)
def test_an_address_is_as_public_as_the_one_that_it_carries(address, public):
    """
    Whatever wraps an address of version 4, the one within decides.
    """
    assert is_public(ipaddress.ip_address(address)) is public


@pytest.mark.parametrize("inner", ["127.0.0.1", "10.0.0.8", "::1", "169.254.169.254"])
async def test_one_private_answer_among_public_ones_is_enough(inner):
    """
    A name that has both must not be asked: which one is taken would be chance.
    """
    wire = Wire()
    for answer in ([PUBLIC, inner], [inner, PUBLIC]):
        with pytest.raises(Refused, match="no public address"):
            await get("http://a.example/", wire=wire, resolve=resolving(answer))

    assert not wire.asked


async def test_a_name_that_changes_after_the_check_gains_nothing():
    """
    The host is resolved once a request, and the connection goes to what was checked.
    """
    wire = Wire()
    await get("https://a.example/x", wire=wire, resolve=resolving([PUBLIC], ["127.0.0.1"]))

    (request,) = wire.asked
    assert request.url.host == PUBLIC
    assert request.headers["host"] == "a.example"
    assert request.extensions["sni_hostname"] == "a.example"


async def test_each_hop_of_a_redirect_is_checked():
    """
    A public host must not send the suite to a private one.
    """
    wire = Wire(a="http://b.example/b")
    with pytest.raises(Refused):
        await get("http://a.example/a", wire=wire, resolve=resolving([PUBLIC], ["10.0.0.1"]))

    assert len(wire.asked) == 1


async def test_credentials_do_not_follow_to_another_host():
    """
    What was meant for one server is not told to the next, and cookies are not kept.
    """
    wire = Wire(a="http://b.example/b")
    await get(
        "http://a.example/a",
        wire=wire,
        resolve=resolving([PUBLIC]),
        headers={"authorization": "Bearer word"},
    )

    assert [request.headers.get("authorization") for request in wire.asked] == ["Bearer word", None]


@pytest.mark.parametrize("port", [22, 25, 110, 6000, 6667, 10080])
async def test_ports_of_other_protocols_are_not_asked(port):
    """
    Nobody serves images there, and what listens may act on what it takes for its own language.
    """
    wire = Wire()
    with pytest.raises(Refused, match=f"port {port}"):
        await get(f"http://a.example:{port}/", wire=wire, resolve=resolving([PUBLIC]))

    assert not wire.asked


@pytest.mark.parametrize("port", [80, 443, 8080, 8443, 50000])
async def test_ports_of_web_servers_are_asked(port):
    """
    The usual ones, and those that anybody may open.
    """
    wire = Wire()
    await get(f"http://a.example:{port}/", wire=wire, resolve=resolving([PUBLIC]))

    assert len(wire.asked) == 1


async def test_redirects_end():
    """
    A circle is left after three steps.
    """
    wire = Wire(a="/a")
    with pytest.raises(httpx.TooManyRedirects):
        await get("http://a.example/a", wire=wire, resolve=resolving([PUBLIC]))

    assert len(wire.asked) == 4


async def test_a_slow_resolver_is_bounded_by_its_user():
    """
    The whole of an errand is one awaitable, so a timeout around it ends everything.
    """

    async def never(host, port):
        await asyncio.sleep(60)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await get("http://a.example/", wire=Wire(), resolve=never)


@pytest.mark.parametrize("url", ["http://a.example", "https://a.example:8443/x?y=1#z"])
def test_a_url_that_is_one_is_read(url):
    """
    What a guard refuses without need is of no use either.
    """
    assert checked(url).host == "a.example"
