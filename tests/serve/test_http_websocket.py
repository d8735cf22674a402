"""WebSockets of the thin server, with the `websockets` client and with raw frames."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from serve.kit_http import GET, Peer, ask, run, say, until, up
from tauten.serve.http.limits import HttpLimits


class Echo:
    """Echoes until the client leaves; keeps what it was told."""

    def __init__(self) -> None:
        self.scopes: list[Any] = []
        self.last: Any = None
        self.told: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await say(send, b"http")
            return
        self.scopes.append(scope)
        scope["extensions"]["tauten.disconnect"].add_callback(lambda: self.told.append("gone"))
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept", "subprotocol": "b", "headers": [(b"x-app", b"1")]})
        while (message := await receive())["type"] == "websocket.receive":
            if message.get("text") == "close":
                await send({"type": "websocket.close", "code": 3001, "reason": "asked"})
            elif message.get("text") == "fail":
                raise RuntimeError("secret")
            elif message.get("text") == "return":
                return
            else:
                await send(
                    {
                        "type": "websocket.send",
                        **{key: message[key] for key in ("text", "bytes") if key in message},
                    }
                )
        self.last = message


@pytest.mark.parametrize("server_name", ["thin", "uvicorn"])
def test_messages_go_both_ways(server_name: str) -> None:
    async def main() -> None:
        app = Echo()
        chosen: Any = app
        if server_name == "uvicorn":

            async def chosen(scope: Any, receive: Any, send: Any) -> None:
                scope.setdefault("extensions", {})["tauten.disconnect"] = Deaf()
                await app(scope, receive, send)

        async with await up(chosen, server=server_name) as server:
            address = f"ws://127.0.0.1:{server.port}/a%20b?q=1"
            async with connect(address, subprotocols=["a", "b"], additional_headers={"X-Key": "k"}) as client:  # type: ignore[list-item]
                assert client.subprotocol == "b"
                assert client.response is not None
                assert client.response.headers["x-app"] == "1"
                await client.send("hällo")
                assert await client.recv() == "hällo"
                await client.send(b"\x00" * 300_000)
                assert await client.recv() == b"\x00" * 300_000
                await client.send(["in ", "three ", "parts"])
                assert await client.recv() == "in three parts"
                await client.ping()
                await client.close(4000, "bye")
            await until(lambda: app.last is not None)
            assert (app.last["code"], app.last["reason"]) == (4000, "bye")
            scope = app.scopes[0]
            assert (scope["type"], scope["path"], scope["query_string"]) == ("websocket", "/a b", b"q=1")
            assert (scope["scheme"], scope["subprotocols"]) == ("ws", ["a", "b"])
            assert (b"x-key", b"k") in scope["headers"]
            assert "method" not in scope

    run(main)


class Deaf:
    """uvicorn has no such extension."""

    def add_callback(self, callback: Any) -> None:
        return


def test_the_app_closes_fails_and_returns(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        app = Echo()
        async with await up(app) as server:
            for word, code, reason in (("close", 3001, "asked"), ("fail", 1011, ""), ("return", 1000, "")):
                async with connect(f"ws://127.0.0.1:{server.port}/", subprotocols=["b"]) as client:  # type: ignore[list-item]
                    await client.send(word)
                    with pytest.raises(ConnectionClosed):
                        await client.recv()
                    assert (client.close_code, client.close_reason) == (code, reason)
            await until(lambda: server.connections == 0)
            assert (await ask(server.port, GET))[2] == b"http"

    run(main)
    assert "the application failed" in caplog.text


def test_a_handshake_may_be_refused() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if scope["path"] == "/answer":
            await send(
                {"type": "websocket.http.response.start", "status": 401, "headers": [(b"x-why", b"key")]}
            )
            await send({"type": "websocket.http.response.body", "body": b"no ", "more_body": True})
            await send({"type": "websocket.http.response.body", "body": b"key"})
        elif scope["path"] == "/close":
            await send({"type": "websocket.close"})
        elif scope["path"] == "/inject":
            await send({"type": "websocket.accept", "headers": [(b"x", b"1\r\ny: 2")]})
        else:
            raise RuntimeError("secret")

    async def main() -> None:
        async with await up(app) as server:
            expected = {
                "/answer": (401, b"no key"),
                "/close": (403, None),
                "/inject": (500, None),
                "/fail": (500, None),
            }
            for path, (status, body) in expected.items():
                with pytest.raises(InvalidStatus) as caught:
                    await connect(f"ws://127.0.0.1:{server.port}{path}")
                response = caught.value.response
                assert response.status_code == status
                assert body is None or (response.body, response.headers["x-why"]) == (body, "key")
            await until(lambda: server.connections == 0)

    run(main)


UPGRADE = b"Host: here\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"


@pytest.mark.parametrize(
    "head",
    [
        UPGRADE,
        UPGRADE + b"Sec-WebSocket-Version: 13\r\n",
        UPGRADE + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short\r\n",
        UPGRADE + b"Sec-WebSocket-Version: 99\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
    ],
)
def test_bad_handshakes_are_refused(head: bytes) -> None:
    async def main() -> None:
        async with await up(Echo()) as server:
            status, _, _ = await ask(server.port, b"GET / HTTP/1.1\r\n" + head + b"\r\n")
            assert 400 <= status < 500
            await until(lambda: server.connections == 0)

    run(main)


def test_messages_beyond_the_limit_close_with_1009() -> None:
    async def main() -> None:
        async with await up(Echo(), HttpLimits(websocket_bytes=1000)) as server:
            for message in ("x" * 1001, ["x" * 600, "x" * 600]):
                async with connect(f"ws://127.0.0.1:{server.port}/", subprotocols=["b"]) as client:  # type: ignore[list-item]
                    await client.send(message)
                    with pytest.raises(ConnectionClosed):
                        await client.recv()
                    assert client.close_code == 1009

    run(main)


async def handshake(port: int) -> Peer:
    """A WebSocket of raw bytes."""
    return await shaken(await Peer.of(port))


async def shaken(peer: Peer) -> Peer:
    """The same over a connection that is there."""
    more = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    await peer.say(b"GET / HTTP/1.1\r\n" + UPGRADE + more + b"\r\n")
    assert (await peer.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
    return peer


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x81\x01a", 1002),  # not masked
        (b"\x83\x80\x00\x00\x00\x00", 1002),  # reserved opcode
        (b"\xc1\x80\x00\x00\x00\x00", 1002),  # reserved bit
        (b"\x81\x81\x00\x00\x00\x00\xff", 1007),  # not UTF-8
        (b"\x80\x80\x00\x00\x00\x00", 1002),  # a continuation of nothing
    ],
)
def test_broken_frames_close_the_socket(frame: bytes, code: int) -> None:
    async def main() -> None:
        async with await up(Echo(), HttpLimits(linger_s=0.1)) as server:
            peer = await handshake(server.port)
            await peer.say(frame)
            got = await peer.rest()
            assert got[0] == 0x88
            assert int.from_bytes(got[2:4], "big") == code
            await peer.close()
            await until(lambda: server.connections == 0)

    run(main)


def test_a_peer_that_gives_no_pong_is_dropped() -> None:
    async def main() -> None:
        app = Echo()
        async with await up(app, HttpLimits(websocket_ping_s=0.05, websocket_pong_s=0.05)) as server:
            async with connect(f"ws://127.0.0.1:{server.port}/", subprotocols=["b"]) as client:  # type: ignore[list-item]
                await asyncio.sleep(0.3)  # several pings, each answered
                await client.send("still here")
                assert await client.recv() == "still here"
            peer = await handshake(server.port)
            assert (await peer.rest())[:1] == b"\x89"
            await peer.close()
            await until(lambda: server.connections == 0)
            assert app.told == ["gone", "gone"]

    run(main)


def test_a_departure_stops_an_app_that_does_not_watch() -> None:
    ended: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("ended")

    async def main() -> None:
        async with await up(app) as server:
            peer = await handshake(server.port)
            peer.writer.transport.abort()
            await until(lambda: ended == ["ended"])

    run(main)


def test_back_pressure_in_both_directions() -> None:
    received = sent = 0
    go = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal received, sent
        await receive()
        await send({"type": "websocket.accept"})
        await go.wait()
        while (await receive())["type"] == "websocket.receive":
            received += 1
            if received == 500:
                break
        for _ in range(500):
            await send({"type": "websocket.send", "bytes": bytes(50_000)})
            sent += 1

    async def main() -> None:
        async with await up(app) as server:
            peer = await handshake(server.port)
            (connection,) = server._listener.hub.connections  # type: ignore[attr-defined]
            frame = b"\x82\xfe\xc3\x50\x00\x00\x00\x00" + bytes(50_000)
            writing = asyncio.create_task(peer.say(frame * 500))
            await asyncio.sleep(0.1)
            waiting = len(connection.socket._inbox)
            assert 0 < waiting < 40  # sixteen, and what one read brings
            go.set()
            await writing
            await until(lambda: sent > 0)
            await asyncio.sleep(0.1)
            assert received == 500
            assert sent < 400  # the client reads nothing: `send` waits
            for _ in range(500):
                await peer.reader.readexactly(4 + 50_000)
            await peer.close()

    run(main)


SMALL_BYTES = 32 * 1024  # of a socket's buffers: what is not read soon shows


def test_pings_of_a_client_that_does_not_read_are_not_answered_for_ever() -> None:
    pings = 20_000

    async def main() -> None:
        async with await up(Echo()) as server:
            raw = socket.socket()
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BYTES)
            raw.connect(("127.0.0.1", server.port))
            peer = await shaken(Peer(*await asyncio.open_connection(sock=raw, limit=2**20)))
            (connection,) = server._listener.hub.connections  # type: ignore[attr-defined]
            transport, socket_ = connection.transport, connection.socket
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BYTES)
            peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
            peer.writer.write((b"\x89\xfd\x00\x00\x00\x00" + bytes(125)) * pings)
            await until(lambda: not socket_._reading or transport.get_write_buffer_size() > 2**20)
            assert transport.get_write_buffer_size() < 2**20
            peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
            for _ in range(pings):
                assert (await peer.reader.readexactly(127))[:2] == b"\x8a\x7d"
            assert socket_._reading
            await peer.close()

    run(main)


def test_large_messages_that_wait_are_bounded_by_their_bytes() -> None:
    count = 15  # fewer than may wait
    received: list[int] = []
    go = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await go.wait()
        while (message := await receive())["type"] == "websocket.receive":
            received.append(len(message["bytes"]))

    async def main() -> None:
        async with await up(app) as server:
            peer = await handshake(server.port)
            (connection,) = server._listener.hub.connections  # type: ignore[attr-defined]
            socket_ = connection.socket
            frame = b"\x82\xff" + (500_000).to_bytes(8, "big") + bytes(4) + bytes(500_000)
            peer.writer.write(frame * count)
            await until(lambda: not socket_._reading or len(socket_._inbox) == count)
            assert len(socket_._inbox) < 5  # two fill it, and what one read brings
            go.set()
            await until(lambda: len(received) == count)
            assert socket_._waiting == 0
            await peer.close()
        assert received == [500_000] * count

    run(main)


def test_fragments_are_joined_as_they_come_and_their_number_is_bounded() -> None:
    empty, last = b"\x00\x80\x00\x00\x00\x00", b"\x80\x81\x00\x00\x00\x00b"

    async def main() -> None:
        async with await up(Echo(), HttpLimits(websocket_fragments=100, linger_s=0.1)) as server:
            peer = await handshake(server.port)
            (connection,) = server._listener.hub.connections  # type: ignore[attr-defined]
            for _ in range(2):  # what is counted of one message is not counted of the next
                await peer.say(b"\x01\x81\x00\x00\x00\x00a" + empty * 98)
                await until(lambda: connection.socket._fragments == 99)
                assert bytes(connection.socket._parts) == b"a"
                await peer.say(last)
                assert await peer.reader.readexactly(4) == b"\x81\x02ab"
            await peer.say(b"\x01\x81\x00\x00\x00\x00a" + empty * 99 + last)
            got = await peer.rest()
            assert (got[0], int.from_bytes(got[2:4], "big")) == (0x88, 1009)
            await peer.close()
            await until(lambda: server.connections == 0)

    run(main)


def test_nothing_behind_what_cannot_be_taken_reaches_the_app() -> None:
    told: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while not told or told[-1] == "websocket.receive":
            told.append((await receive())["type"])

    async def main() -> None:
        async with await up(app, HttpLimits(linger_s=0.1)) as server:
            peer = await handshake(server.port)
            await peer.say(b"\x81\x81\x00\x00\x00\x00\xff" + b"\x81\x81\x00\x00\x00\x00a")
            got = await peer.rest()
            assert (got[0], int.from_bytes(got[2:4], "big")) == (0x88, 1007)
            await peer.close()
            await until(lambda: "websocket.disconnect" in told)
        assert told == ["websocket.disconnect"]

    run(main)


def test_a_drain_closes_sockets_with_1012() -> None:
    async def main() -> None:
        async with await up(Echo()) as server:
            async with connect(f"ws://127.0.0.1:{server.port}/", subprotocols=["b"]) as client:  # type: ignore[list-item]
                await client.send("a")
                await client.recv()
                assert await server.drain(5.0) == 0
                with pytest.raises(ConnectionClosed):
                    await client.recv()
                assert client.close_code == 1012
            await until(lambda: server.connections == 0)

    run(main)
