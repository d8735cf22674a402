"""One app, the same answers on every server behind the seam; TLS; servers that are not installed."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import importlib.util
import json
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from serve.kit_http import GET, Peer, echo, run, say, until, up, whole
from tauten.errors import MachineError
from tauten.serve.http.limits import HttpLimits
from tauten.serve.http.listener import SERVERS, serve

HOST = b"Host: here\r\n"
INSTALLED = [name for name in SERVERS if name in ("thin", "uvicorn") or importlib.util.find_spec(name)]
REQUESTS: dict[str, bytes] = {
    "get": b"GET /a%20b/%C3%A9?x=1&y=%20 HTTP/1.1\r\n" + HOST + b"\r\n",
    "post": b"POST /post HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nX-Twice: 1\r\nX-Twice: 2\r\n\r\nhello",
    "empty post": b"POST /post HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n",
    "chunked": b"PUT /c HTTP/1.1\r\n"
    + HOST
    + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    "trailers": b"PUT /t HTTP/1.1\r\n"
    + HOST
    + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Late: 1\r\nX-Later: 2\r\n\r\n",
    "large": b"POST /large HTTP/1.1\r\n" + HOST + b"Content-Length: 3000000\r\n\r\n" + bytes(3_000_000),
    "stream": b"GET /stream HTTP/1.1\r\n" + HOST + b"\r\n",
    "teapot": b"DELETE /status/418 HTTP/1.1\r\n" + HOST + b"\r\n",
    "no content": b"GET /status/204 HTTP/1.1\r\n" + HOST + b"\r\n",
    "error": b"GET /error HTTP/1.1\r\n" + HOST + b"\r\n",
}


async def mirror(scope: Any, receive: Any, send: Any) -> None:
    """Says what it saw."""
    body = await whole(receive)
    path = scope["path"]
    if path == "/error":
        raise RuntimeError("secret")
    if path.startswith("/status/"):
        await send({"type": "http.response.start", "status": int(path[8:]), "headers": [(b"x-a", b"1")]})
        await send({"type": "http.response.body"})
    elif path == "/stream":
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}
        )
        for word in (b"one ", b"two ", b"three"):
            await send({"type": "http.response.body", "body": word, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b""})
    else:
        seen = {
            **{
                key: scope[key]
                for key in ("type", "method", "path", "raw_path", "query_string", "http_version")
            },
            "headers": [(name, value) for name, value in scope["headers"] if name != b"content-length"],
            "state": scope.get("state", {}),
            "size": len(body),
            "first": body[:9],
        }
        answer = repr(seen).encode()
        await say(send, answer, headers=[(b"content-length", b"%d" % len(answer))])


async def with_lifespan(scope: Any, receive: Any, send: Any) -> None:
    """`mirror`, after a startup that leaves something for the requests."""
    if scope["type"] == "lifespan":
        await receive()
        scope["state"]["answer"] = 42
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
    else:
        await mirror(scope, receive, send)


async def answers(server_name: Any) -> dict[str, tuple[int, bytes, str | None]]:
    """What a server answers to each of the requests."""
    found = {}
    async with await serve(with_lifespan, server=server_name) as server:
        for name, request in REQUESTS.items():
            peer = await Peer.of(server.port)
            for _ in range(2):  # the second time on the same connection, unless it was closed
                if peer.reader.at_eof():
                    continue
                await peer.say(request)
                status, headers, body = await peer.answer()
                if status == 500:
                    assert b"secret" not in body
                    body = b""
                assert headers["server"] == "tauten" or server_name == "granian"
                found[name] = (status, body, headers.get("x-a"))
                if status == 500:
                    break
            await peer.close()
    return found


@pytest.mark.parametrize("server_name", INSTALLED[1:])
def test_the_same_app_gives_the_same_answers(server_name: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        ours, theirs = await answers("thin"), await answers(server_name)
        for name in REQUESTS:
            assert ours[name] == theirs[name], name
        assert b"'answer': 42" in ours["get"][1]

    run(main)


FEW = HttpLimits(header_bytes=20_000, header_count=20, target_bytes=500, body_bytes=100_000, linger_s=0.2)
TOO_MUCH = {
    "long header": (b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 30_000 + b"\r\n\r\n", 431),
    "endless header": (b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 900_000, 431),
    "endless headers": (b"GET / HTTP/1.1\r\n" + HOST + b"X: 1\r\n" * 200_000, 431),
    "many headers": (b"GET / HTTP/1.1\r\n" + HOST + b"X: 1\r\n" * 50 + b"\r\n", 431),
    "long target": (b"GET /" + b"a" * 600 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
    "long query": (b"GET /?" + b"a" * 600 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
    "endless target": (b"GET /" + b"a" * 900_000, 431),
    "announced body": (
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 100001\r\n\r\n" + bytes(100_001),
        413,
    ),
    "chunked body": (
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
        b"" + (b"4000\r\n" + bytes(0x4000) + b"\r\n") * 9 + b"0\r\n\r\n",
        413,
    ),
}


@pytest.mark.parametrize("name", TOO_MUCH)
@pytest.mark.parametrize("server_name", INSTALLED)
def test_what_is_too_much_is_refused_by_every_server(server_name: Any, name: str) -> None:
    async def main() -> None:
        data, wanted = TOO_MUCH[name]
        async with await up(mirror, FEW, server=server_name) as server:
            peer = await Peer.of(server.port)
            peer.writer.write(data)
            got = await peer.rest()
            await peer.close()
            if server_name != "granian" or got:  # it closes the connection upon a head that does not end
                assert int(got[9:12]) == wanted, got[:200]
            if server_name != "granian":
                assert json.loads(got.partition(b"\r\n\r\n")[2])["error"]["code"].startswith("E")
            peer = await Peer.of(server.port)
            await peer.say(REQUESTS["post"])
            assert (await peer.answer())[0] == 200
            await peer.close()

    run(main)


@pytest.mark.parametrize("server_name", INSTALLED)
def test_what_is_just_within_the_limits_is_taken(server_name: Any) -> None:
    async def main() -> None:
        async with await up(mirror, FEW, server=server_name) as server:
            peer = await Peer.of(server.port)
            head = b"POST /" + b"a" * 400 + b" HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 15_000 + b"\r\n"
            for _ in range(3):  # what is counted of one head is not counted of the next
                await peer.say(head + b"X: 1\r\n" * 15 + b"Content-Length: 100000\r\n\r\n" + bytes(100_000))
                status, _, body = await peer.answer()
                assert status == 200
                assert b"'size': 100000" in body
            await peer.close()

    run(main)


def test_an_app_hears_of_a_body_that_is_too_large_as_of_a_client_that_left() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] == "http.request" and message["more_body"]:
            pass
        seen.append(message["type"])
        await say(send, b"late")

    async def main() -> None:
        async with await up(app, FEW, server="uvicorn") as server:
            peer = await Peer.of(server.port)
            peer.writer.write(TOO_MUCH["chunked body"][0])
            got = await peer.rest()
            await peer.close()
            assert got.count(b"HTTP/1.1") == 1
            assert b"late" not in got
        assert seen == ["http.disconnect"]

    run(main)


def test_uvicorn_drains_and_closes() -> None:
    async def main() -> None:
        started, release = asyncio.Event(), asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            started.set()
            await release.wait()
            await say(send, b"done", headers=[(b"content-length", b"4")])

        async with await up(app, server="uvicorn") as server:
            peer = await Peer.of(server.port)
            await peer.say(GET)
            await started.wait()
            assert server.connections == 1
            draining = asyncio.create_task(server.drain(5.0))
            release.set()
            assert (await peer.answer())[2] == b"done"
            await peer.close()
            assert await draining == 0
        release.clear()
        started.clear()
        server = await up(app, server="uvicorn")
        peer = await Peer.of(server.port)
        await peer.say(GET)
        await started.wait()
        await server.close()
        await peer.close()

    run(main)


@pytest.mark.skipif(importlib.util.find_spec("granian") is not None, reason="granian is installed")
def test_a_server_that_is_not_installed_is_named() -> None:
    async def main() -> None:
        with pytest.raises(MachineError, match="granian") as caught:
            await up(echo, server="granian")
        assert caught.value.code == "E343"
        assert caught.value.help == "pip install granian, or use --server thin (or server='thin')"

    run(main)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A key and a certificate for 127.0.0.1, signed by itself."""
    place = tmp_path_factory.mktemp("tls")
    key, cert = place / "key.pem", place / "cert.pem"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=here"
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*make.split(), *names, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return key, cert


@pytest.mark.parametrize("server_name", ["thin", "uvicorn"])
def test_tls(server_name: Any, certificate: tuple[Path, Path]) -> None:
    async def main() -> None:
        key, cert = certificate
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(cert, key)
        client = ssl.create_default_context(cafile=str(cert))
        async with await up(mirror, HttpLimits(linger_s=0.2), server=server_name, tls=tls) as server:
            peer = Peer(*await asyncio.open_connection("127.0.0.1", server.port, ssl=client))
            for name in ("get", "large", "stream"):
                await peer.say(REQUESTS[name])
                assert (await peer.answer())[0] == 200
            await peer.say(b"GARBAGE\r\n\r\n")
            assert (await peer.answer())[0] == 400
            await peer.close()
            peer = Peer(*await asyncio.open_connection("127.0.0.1", server.port, ssl=client))
            await peer.say(GET)
            assert (await peer.answer())[0] == 200
            await peer.close()
            await until(lambda: server.connections == 0)

    run(main)
