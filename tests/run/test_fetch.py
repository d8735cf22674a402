"""The fetcher reaches public addresses only, whatever the URL, the name server or a redirect says."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Sequence

import pytest

from tauten.errors import InputError, MachineError, MediaError, TautenError
from tauten.run.decode.fetch import fetch, is_public

CLOSED = [
    *("127.0.0.1", "127.255.255.254", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1"),
    *(
        "169.254.169.254",
        "100.64.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
    ),
    *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "fec0::1", "ff02::1", "2001:db8::1"),
    *(
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "2002:a00:1::1",
    ),
    *("2001:0:1:2:3:4:5:6", "localhost", "", "1.2.3"),
]
LOOPBACK_WRITTEN_OTHERWISE = [
    *("http://127.0.0.1/", "http://2130706433/", "http://0x7f000001/", "http://0177.0.0.1/", "http://127.1/"),
    *(
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://localhost/",
        "http://0/",
    ),
]
ODD = [
    *(
        "file:///etc/passwd",
        "ftp://example.com/x",
        "gopher://example.com/",
        "data:text/plain,x",
        "example.com/x",
    ),
    *("http://", "http:///x", "http://user@example.com/", "http://user:word@example.com/", "http://[::1/"),
    *(
        "http://example.com/a b",
        "http://example.com/\r\nHost: other",
        "http://example.com:99999/",
        "http://x:0/",
    ),
]


class Server:
    """A loopback server that answers each path with prepared bytes."""

    def __init__(self, **answers: bytes) -> None:
        self.answers = answers
        self.requests: list[str] = []
        self.silent = asyncio.Event()

    async def __aenter__(self) -> Server:
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
        path = self.requests[-1].split()[1].lstrip("/").partition("?")[0]
        writer.write(self.answers.get(path, b"HTTP/1.1 404 Not Found\r\n\r\n"))
        if path == "slow":
            await self.silent.wait()
        writer.close()

    async def __aexit__(self, *_: object) -> None:
        self.silent.set()
        self.server.close()
        await self.server.wait_closed()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"


def answer(body: bytes, *headers: str, status: str = "200 OK", length: bool = True) -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers, *([f"Content-Length: {len(body)}"] if length else [])]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def redirect(place: str) -> bytes:
    return answer(b"", f"Location: {place}", status="302 Found")


def always(*addresses: str) -> Callable[[str, int], Awaitable[Sequence[str]]]:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return addresses

    return resolve


def run(body: Callable[[Server], Awaitable[None]], **answers: bytes) -> None:
    async def main() -> None:
        async with Server(**answers) as server:
            await body(server)

    asyncio.run(main())


def refused(url: str, **options: object) -> TautenError:
    with pytest.raises(TautenError) as caught:
        asyncio.run(fetch(url, timeout_s=5, **options))  # type: ignore[arg-type]
    assert caught.value.help
    return caught.value


@pytest.mark.parametrize("address", CLOSED)
def test_closed_addresses(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "2002:808:808::1", "::ffff:8.8.8.8"]
)
def test_public_addresses(address: str) -> None:
    assert is_public(address)
    assert ipaddress.ip_address(address)


@pytest.mark.parametrize("url", LOOPBACK_WRITTEN_OTHERWISE)
def test_loopback_in_every_spelling(url: str) -> None:
    error = refused(url)
    assert isinstance(error, InputError)
    assert (error.code, "not a public address" in error.message) == ("E241", True)


@pytest.mark.parametrize("url", ODD)
def test_odd_urls(url: str) -> None:
    assert refused(url, resolve=always("127.0.0.1")).code == "E241"


@pytest.mark.parametrize("address", [address for address in CLOSED if address])
def test_a_name_that_leads_inside(address: str) -> None:
    assert refused("http://example.com/", resolve=always(address)).code == "E241"


def test_one_closed_address_among_open_ones_is_enough() -> None:
    assert refused("https://example.com/", resolve=always("93.184.216.34", "10.0.0.1")).code == "E241"


def test_a_working_fetch() -> None:
    async def body(server: Server) -> None:
        got = await fetch(server.url("a?b=c"), allow_private=True)
        assert got == b"picture"
        head = server.requests[0]
        assert head.startswith("GET /a?b=c HTTP/1.1\r\n")
        assert f"Host: 127.0.0.1:{server.port}\r\n" in head

    run(body, a=answer(b"picture"))


def test_bodies_of_every_framing() -> None:
    chunked = answer(b"4\r\npict\r\n3;x=y\r\nure\r\n0\r\n\r\n", "Transfer-Encoding: chunked", length=False)

    async def body(server: Server) -> None:
        for path in ("chunked", "open"):
            assert await fetch(server.url(path), allow_private=True) == b"picture"

    run(body, chunked=chunked, open=answer(b"picture", length=False))


@pytest.mark.parametrize("path", ["sized", "chunked", "open"])
def test_too_large_in_every_framing(path: str) -> None:
    big = bytes(2000)
    answers = {
        "sized": answer(big),
        "chunked": answer(b"7d0\r\n" + big + b"\r\n0\r\n\r\n", "Transfer-Encoding: chunked", length=False),
        "open": answer(big, length=False),
    }

    async def body(server: Server) -> None:
        with pytest.raises(MediaError, match="at most 1000") as caught:
            await fetch(server.url(path), allow_private=True, max_bytes=1000)
        assert caught.value.code == "E214"

    run(body, **answers)


def test_redirects_are_followed_and_checked_anew() -> None:
    hosts: list[str] = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        hosts.append(host)
        return ["127.0.0.1"]

    async def body(server: Server) -> None:
        assert await fetch(server.url("first"), allow_private=True, resolve=resolve) == b"picture"
        assert hosts == ["127.0.0.1"] * 2
        with pytest.raises(InputError, match="scheme 'file'"):
            await fetch(server.url("file"), allow_private=True)
        with pytest.raises(InputError, match="more than 5 redirects"):
            await fetch(server.url("loop"), allow_private=True)

    run(
        body,
        first=redirect("/a"),
        a=answer(b"picture"),
        file=redirect("file:///etc/passwd"),
        loop=redirect("/loop"),
    )


def test_a_redirect_to_loopback_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first hop counts as public, so that a redirect to a really closed address can be seen."""
    from tauten.run.decode import fetch as module

    real = module.is_public

    async def body(server: Server) -> None:
        first = "203.0.113.9"
        opened = asyncio.open_connection
        monkeypatch.setattr(module, "is_public", lambda address: address == first or real(address))
        monkeypatch.setattr(
            module.asyncio,
            "open_connection",
            lambda host, port, **options: opened("127.0.0.1" if host == first else host, port, **options),
        )

        async def resolve(host: str, port: int) -> Sequence[str]:
            return [first] if host == "example.com" else ["127.0.0.1"]

        with pytest.raises(InputError, match=r"localhost is 127\.0\.0\.1, which is not a public address"):
            await fetch(f"http://example.com:{server.port}/hop", resolve=resolve)
        assert len(server.requests) == 1

    run(body, hop=redirect("http://localhost/secret"))


def test_the_name_is_asked_once_and_the_checked_address_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that changes its answer between check and use gains nothing."""
    asked: list[str] = []
    reached: list[tuple[str, object]] = []

    async def rebinding(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["93.184.216.34"] if len(asked) == 1 else ["127.0.0.1"]

    async def connect(host: str, port: int, **options: object) -> None:
        reached.append((host, options["server_hostname"]))
        raise ConnectionRefusedError("closed")

    monkeypatch.setattr(asyncio, "open_connection", connect)
    assert refused("https://example.com/", resolve=rebinding).code == "E323"
    assert (asked, reached) == (["example.com"], [("93.184.216.34", "example.com")])


def test_failures_are_the_machines() -> None:
    async def body(server: Server) -> None:
        for path in ("cut", "garbage", "gzip", "negative", "endless"):
            with pytest.raises(MachineError) as caught:
                await fetch(server.url(path), allow_private=True)
            assert caught.value.code == "E323"
        with pytest.raises(MachineError, match=r"within 0.1 s"):
            await fetch(server.url("slow"), allow_private=True, timeout_s=0.1)
        with pytest.raises(InputError, match="answered 404") as missing:
            await fetch(server.url("none?key=secret"), allow_private=True)
        assert (missing.value.code, "secret" in str(missing.value)) == ("E242", False)

    run(
        body,
        cut=answer(b"picture").replace(b"7", b"9"),
        garbage=b"SSH-2.0\r\n\r\n",
        gzip=answer(b"x", "Content-Encoding: gzip"),
        negative=answer(b"-5\r\n", "Transfer-Encoding: chunked", length=False),
        endless=b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000,
        slow=b"HTTP/1.1 200 OK\r\n",
    )
    assert refused("http://example.com/", resolve=always()).code == "E323"


def test_a_cancelled_fetch_closes_its_connection() -> None:
    async def body(server: Server) -> None:
        task = asyncio.ensure_future(fetch(server.url("slow"), allow_private=True))
        while not server.requests:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(body, slow=b"HTTP/1.1 200 OK\r\n")
