"""One app, the same answers on every server behind the seam; TLS; servers that are not installed."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import importlib.util
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
REQUESTS: dict[str, bytes] = {
    "get": b"GET /a%20b/%C3%A9?x=1&y=%20 HTTP/1.1\r\n" + HOST + b"\r\n",
    "post": b"POST /post HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nX-Twice: 1\r\nX-Twice: 2\r\n\r\nhello",
    "empty post": b"POST /post HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n",
    "chunked": b"PUT /c HTTP/1.1\r\n"
    + HOST
    + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
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


@pytest.mark.parametrize(
    "server_name", [name for name in SERVERS if name == "uvicorn" or importlib.util.find_spec(name)]
)
def test_the_same_app_gives_the_same_answers(server_name: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        ours, theirs = await answers("thin"), await answers(server_name)
        for name in REQUESTS:
            assert ours[name] == theirs[name], name
        assert b"'answer': 42" in ours["get"][1]

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
        assert "pip install granian" in caught.value.help

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
