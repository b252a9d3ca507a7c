"""
URLs that lead, or might lead, to what only this machine reaches: made by rules, kept in ssrf.txt.

    python tests/corpora/ssrf.py

writes the file anew; each line is a URL as a Python literal, since some hold control characters.
"""

import ast
import ipaddress
import pathlib

FILE = pathlib.Path(__file__).with_name("ssrf.txt")
PATH = "/latest/meta-data/a.png"
# One of each kind that is not everybody's: this host, private, shared, link-local, and so on.
ADDRESSES = (
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
)
SIXES = (
    "::",
    "::1",
    "fe80::1",
    "fe80::1%25lo",
    "fec0::1",
    "fc00::1",
    "fd00:ec2::254",
    "ff02::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2001:2::1",
    "2001:10::1",
    "3ffe::1",
    "64:ff9b:1::7f00:1",
    "5f00::1",
    "0:0:0:0:0:0:0:1",
    "0000:0000:0000:0000:0000:0000:0000:0001",
)
NAMES = (
    "localhost",
    "LOCALHOST",
    "localhost.",
    "localhost.localdomain",
    "ip6-localhost",
    "ip6-loopback",
    "metadata.google.internal",
    "metadata",
    "kubernetes.default.svc",
    "host.docker.internal",
    "127.0.0.1.nip.io",
    "localtest.me",
    "no-such-host.invalid",
)
SCHEMES = (
    "file:///etc/passwd",
    "file://127.0.0.1/etc/passwd",
    "gopher://127.0.0.1:6379/_INFO",
    "dict://127.0.0.1:11211/stat",
    "ftp://127.0.0.1/a.png",
    "ldap://127.0.0.1/",
    "tftp://127.0.0.1/a",
    "jar:http://127.0.0.1!/a.png",
    "javascript:alert(1)",
    "unix:///var/run/docker.sock",
    "http+unix://%2Fvar%2Frun%2Fdocker.sock/a",
    "netdoc:///etc/passwd",
    "data:text/html,<script>",
    "//127.0.0.1/a.png",
    "http:127.0.0.1/a.png",
    "http:/127.0.0.1/a.png",
    "http:///127.0.0.1/a.png",
    "http://",
    "https://",
    "http://#",
    "http://?",
    "http:// /",
)
PORTS = (0, 1, 22, 25, 80, 443, 2375, 6379, 8080, 11211, 65535, 65536, 99999, -1, "80a")
# What parsers of URLs have read differently.
TRICKS = (
    "http://user@{host}/a.png",
    "http://user:word@{host}/a.png",
    "http://example.com@{host}/a.png",
    "http://{host}@example.com/a.png",
    "http://example.com:80@{host}/a.png",
    "http://example.com\\@{host}/a.png",
    "http://{host}\\@example.com/a.png",
    "http://example.com\\.{host}/a.png",
    "http:\\\\{host}\\a.png",
    "http://{host}#@example.com/a.png",
    "http://{host}?@example.com/a.png",
    "http://{host}%2f@example.com/",
    "http://{host}%00.example.com/",
    "http://{host}\t/a.png",
    "http://{host}\r\nx: y/a.png",
    "http://{host}\0.example.com/",
    " http://{host}/a.png",
    "HTTP://{host}/a.png",
    "hTTps://{host}/a.png",
    "http://{host}./a.png",
    "http://[{host}]/a.png",
    "http://{host}:/a.png",
    "http://{host}:080/a.png",
    "http://@{host}/a.png",
    "http://:@{host}/a.png",
)


def four(address: str) -> list[str]:
    """Return the ways in which an address of version 4 is written."""
    number = int(ipaddress.IPv4Address(address))
    a, b, c, d = (int(part) for part in address.split("."))
    return [
        address,
        str(number),
        f"{number:#x}",
        f"0{number:o}",
        f"{a}.{(b << 16) + (c << 8) + d}",
        f"{a}.{b}.{(c << 8) + d}",
        f"{a:#x}.{b:#x}.{c:#x}.{d:#x}",
        f"0{a:o}.0{b:o}.0{c:o}.0{d:o}",
        f"{a:#x}.{b}.0{c:o}.{d}",
        f"{a + 256}.{b}.{c}.{d}",
        "".join(
            chr(ord("\N{FULLWIDTH DIGIT ZERO}") + int(x)) if x != "." else "。" for x in address
        ),
        "".join(chr(0x245F + int(x)) if x in "123456789" else x for x in address),
        address.replace(".", "%2e"),
    ]


def six(address: str) -> list[str]:
    """Return the addresses of version 6 that carry one of version 4."""
    number = int(ipaddress.IPv4Address(address))
    high, low = number >> 16, number & 0xFFFF
    turned = number ^ 0xFFFFFFFF
    return [
        f"::ffff:{address}",
        f"::ffff:{high:x}:{low:x}",
        f"::{address}",
        f"::ffff:0:{high:x}:{low:x}",
        f"64:ff9b::{high:x}:{low:x}",
        f"64:ff9b:1::{high:x}:{low:x}",
        f"2002:{high:x}:{low:x}::1",
        f"2001:0:4136:e378:8000:63bf:{turned >> 16:x}:{turned & 0xFFFF:x}",
        f"fe80::5efe:{high:x}:{low:x}",
        f"2a00::5efe:{high:x}:{low:x}",
    ]


def made() -> list[str]:
    """Return all URLs, each once."""
    hosts = [spelling for address in ADDRESSES for spelling in four(address)]
    hosts += [f"[{one}]" for address in ADDRESSES for one in six(address)]
    hosts += [*(f"[{one}]" for one in SIXES), *NAMES]
    urls = [f"http://{host}{PATH}" for host in hosts]
    urls += [f"https://{host}/a.png" for host in (*ADDRESSES, *NAMES)]
    urls += SCHEMES
    for host in ("127.0.0.1", "169.254.169.254", "[::1]", "localhost"):
        urls += [f"http://{host}:{port}/a.png" for port in PORTS]
        urls += [trick.format(host=host) for trick in TRICKS]
    return list(dict.fromkeys(urls))


def kept() -> list[str]:
    """Return the URLs of the file."""
    return [ast.literal_eval(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    FILE.write_text("".join(f"{url!a}\n" for url in made()), encoding="utf-8")
