"""Images that lie elsewhere: what is fetched, and what is not."""

import asyncio
import contextlib
import dataclasses
from dataclasses import dataclass, field

import pytest

from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.storage.v1 import storage_service_pb2
from pictor.storage.v1.storage_service_pb2_grpc import StorageServiceStub
from services.outbound import GuardedTransport, networks
from services.rpc.channels import open_channel
from services.rpc.errors import InvalidRequest, Unauthenticated
from services.rpc.principals import service_token
from services.storage.__main__ import running
from services.storage.remote import RemoteImages
from tests.services.storage.pictures import picture

LOOPBACK = networks("127.0.0.1/32")
PICTURE = picture()


def answer(status="200 OK", content=b"", **headers):
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(content)}", "connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


@dataclass
class Site:
    """
    A web server of some paths.

    Attributes:
        url: Where it listens.
        pages: What it answers, by path; None never ends.
        asked: The heads of the requests that came.
    """

    url: str = ""
    pages: dict[str, bytes | None] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def serve(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.asked.append(head)
        page = self.pages.get(head.split()[1], answer("404 Not Found"))
        with contextlib.suppress(ConnectionError):
            if page is None:
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
                await reader.read()
            else:
                writer.write(page)
                await writer.drain()
        writer.close()


@pytest.fixture
async def site():
    one = Site()
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0)
    one.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield one


async def fetched(remote, url):
    return b"".join([chunk async for chunk in remote.fetch(url)])


async def refusal(remote, url):
    with pytest.raises(InvalidRequest) as error:
        await fetched(remote, url)
    return error.value


async def test_an_image_comes_whole_through_the_service(settings, site):
    """
    FetchImage sends the bytes, to whoever has the scope, and stores nothing.
    """
    site.pages["/a.png?size=1"] = answer(content=PICTURE, content_type="text/plain")
    permitting = dataclasses.replace(settings, fetch_networks=LOOPBACK)
    request = storage_service_pb2.FetchImageRequest(url=f"{site.url}/a.png?size=1#part")
    async with running(permitting) as address:
        token = service_token(settings.data_dir)
        async with open_channel(address, token) as channel, open_channel(address, "") as nobody:
            call = StorageServiceStub(channel).FetchImage(request)
            content = b"".join([message.chunk async for message in call])
            listed = await StorageServiceStub(channel).ListAssets(
                storage_service_pb2.ListAssetsRequest()
            )
            with pytest.raises(Unauthenticated):
                [message async for message in StorageServiceStub(nobody).FetchImage(request)]

    assert content == PICTURE
    assert not listed.assets
    assert f"host: {site.url.removeprefix('http://')}" in site.asked[0].lower()


async def test_only_public_addresses_are_read_unless_the_operator_says_more(alice):
    """
    Without a setting, the service reaches nothing that only this machine reaches.
    """
    request = storage_service_pb2.FetchImageRequest(url="http://127.0.0.1:1/a.png")
    with pytest.raises(InvalidRequest, match="no public address"):
        [message async for message in alice.storage.FetchImage(request)]


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "localhost",
        "0.0.0.0",
        "10.0.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[fe80::1]",
        "[fd00::1]",
        "no-such-host.invalid",
    ],
)
async def test_hosts_that_are_not_public_are_refused_alike(tmp_path, decoders, host):
    """
    However an address is written, and whatever carries it; a name that is unknown looks the same.
    """
    error = await refusal(RemoteImages(tmp_path, decoders), f"http://{host}:1/a.png")

    assert error.message == "the URL is not fetched: its host has no public address"
    assert error.reason == reasons.ERROR_REASON_FIELD_INVALID


@pytest.mark.parametrize(
    ("address", "may"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("64:ff9b::5db8:d70e", True),
        ("10.1.2.3", True),
        ("10.2.0.1", False),
    ],
)
async def test_public_and_permitted_addresses_may_be_read(address, may):
    """
    The setting adds networks, and no more than those.
    """
    guard = GuardedTransport(networks("10.1.0.0/16, fd00::/8"))

    assert guard.may_ask(*[network[0] for network in networks(address)]) is may


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://example.com/a.png", "http or https"),
        ("file:///etc/passwd", "http or https"),
        ("/a.png", "http or https"),
        ("", "http or https"),
        ("http://", "http or https"),
        ("http://user:word@example.com/", "it holds a user's name"),
        ("http://a b/", "it is no URL|no public address"),
        ("http://example.com:99999/", "it is no URL"),
        (f"http://example.com/{'a' * 5000}", "more than 4096 characters"),
    ],
)
async def test_what_is_no_url_to_fetch_is_refused(tmp_path, decoders, url, says):
    """
    The sentence says which rule is broken.
    """
    error = await refusal(RemoteImages(tmp_path, decoders), url)

    assert error.reason == reasons.ERROR_REASON_FIELD_INVALID
    assert any(one in error.message for one in says.split("|"))


async def test_redirects_are_followed_as_far_as_they_lead_to_what_may_be_read(
    tmp_path, decoders, site
):
    """
    Each step is checked anew, and there are three at most.
    """
    site.pages |= {
        "/a": answer("302 Found", location="/b"),
        "/b": answer("307 Temporary Redirect", location=f"{site.url}/c"),
        "/c": answer(content=PICTURE),
        "/out": answer("302 Found", location="http://127.0.0.2:1/"),
        "/file": answer("302 Found", location="file:///etc/passwd"),
        "/round": answer("302 Found", location="/round"),
    }
    remote = RemoteImages(tmp_path, decoders, LOOPBACK)

    assert await fetched(remote, f"{site.url}/a") == PICTURE
    assert "no public address" in (await refusal(remote, f"{site.url}/out")).message
    assert "http or https" in (await refusal(remote, f"{site.url}/file")).message
    assert "more than 3 times" in (await refusal(remote, f"{site.url}/round")).message


@pytest.mark.parametrize(
    ("page", "reason", "says"),
    [
        (answer("404 Not Found"), "INPUT_IMAGE_UNREACHABLE", "its server answered 404"),
        (b"nonsense\r\n\r\n", "INPUT_IMAGE_UNREACHABLE", "could not be reached"),
        (None, "INPUT_IMAGE_UNREACHABLE", "did not come within 0.5 s"),
        (answer(content=b"<html>"), "INPUT_IMAGE_INVALID", "no image"),
        (answer(content=b"GIF89a" + bytes(50)), "MEDIA_TYPE_UNSUPPORTED", "image/gif"),
        (answer(content=PICTURE[:-30]), "INPUT_IMAGE_INVALID", "incomplete"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n",
            "INPUT_IMAGE_TOO_LARGE",
            "more than 26214400 bytes",
        ),
        (
            b"HTTP/1.1 200 OK\r\n\r\n" + bytes(25 * 1024 * 1024 + 1),
            "INPUT_IMAGE_TOO_LARGE",
            "more than 26214400 bytes",
        ),
    ],
    ids=["404", "no HTTP", "slow", "a page", "a GIF", "cut off", "declared large", "large"],
)
async def test_what_does_not_lead_to_an_image_is_told_apart(  # noqa: PLR0917 - fixtures
    tmp_path, decoders, site, page, reason, says
):
    """
    Nothing there, nothing usable there, and too much of it; nothing of it stays.
    """
    site.pages["/a.png"] = page

    error = await refusal(
        RemoteImages(tmp_path, decoders, LOOPBACK, seconds=0.5), f"{site.url}/a.png"
    )

    assert error.reason == getattr(reasons, f"ERROR_REASON_{reason}")
    assert says in error.message
    assert not list(tmp_path.iterdir())


async def test_a_server_that_is_not_there_is_unreachable(tmp_path, decoders):
    """
    No more is said than that.
    """
    error = await refusal(RemoteImages(tmp_path, decoders, LOOPBACK), "http://127.0.0.1:1/a.png")

    assert error.reason == reasons.ERROR_REASON_INPUT_IMAGE_UNREACHABLE
    assert "127.0.0.1" not in error.message


@pytest.mark.parametrize("text", ["10.0.0.1/8", "here", "10.0.0.0/99"])
def test_a_network_that_is_none_is_refused(text):
    """
    A setting that is misspelt must not open another network than was meant.
    """
    with pytest.raises(ValueError, match=r"not appear|host bits"):
        networks(text)
