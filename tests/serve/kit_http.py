"""Raw sockets and small ASGI applications for the tests of the HTTP server."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

from tauten.serve.http.limits import HttpLimits
from tauten.serve.http.listener import Running, serve

PATIENCE_S = 20.0  # a test that waits longer hangs
GET = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"


def run(main: Callable[[], Awaitable[None]], *, uv: bool = True) -> None:
    """Run a test's coroutine, on uvloop unless told otherwise, and never for ever."""

    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await main()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop if uv else None) as runner:
        runner.run(bounded())


async def up(app: Any, limits: HttpLimits | None = None, **more: Any) -> Running:
    """A server without a lifespan."""
    return await serve(app, limits=limits, **{"lifespan": False, **more})


class Peer:
    """One client connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def of(cls, port: int) -> Peer:
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=2**20))

    @property
    def port(self) -> int:
        """The server's."""
        return int(self.writer.get_extra_info("peername")[1])

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, *, head_only: bool = False) -> tuple[int, dict[str, str], bytes]:
        """One whole answer: status, headers, body."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        status = int(first.split(" ")[1])
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        if head_only or status in (100, 204, 304):
            return status, headers, b""
        if headers.get("transfer-encoding") == "chunked":
            return status, headers, await self._chunks()
        if "content-length" in headers:
            return status, headers, await self.reader.readexactly(int(headers["content-length"]))
        return status, headers, await self.reader.read()

    async def _chunks(self) -> bytes:
        parts = []
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            parts.append(await self.reader.readexactly(size))
            assert await self.reader.readexactly(2) == b"\r\n"
        assert await self.reader.readexactly(2) == b"\r\n"
        return b"".join(parts)

    async def rest(self) -> bytes:
        """All until the server closes."""
        try:
            return await self.reader.read()
        except ConnectionResetError:
            return b""

    def go(self, how: str) -> None:
        """Leave without a word: `close`, `reset`, or say no more and listen on (`half`)."""
        if how == "half":
            self.writer.write_eof()
        elif how == "reset":
            self.writer.transport.abort()
        else:
            self.writer.close()

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except (ConnectionResetError, BrokenPipeError):
            return


async def ask(port: int, data: bytes, *, head_only: bool = False) -> tuple[int, dict[str, str], bytes]:
    """One request on a connection of its own."""
    peer = await Peer.of(port)
    try:
        await peer.say(data)
        return await peer.answer(head_only=head_only)
    finally:
        await peer.close()


async def whole(receive: Any) -> bytes:
    """The request's body."""
    parts = []
    while True:
        message = await receive()
        assert message["type"] == "http.request", message
        parts.append(message["body"])
        if not message["more_body"]:
            return b"".join(parts)


async def say(send: Any, body: bytes, *, status: int = 200, headers: list[Any] | None = None) -> None:
    """A whole answer."""
    await send({"type": "http.response.start", "status": status, "headers": headers or []})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with method, path and body."""
    body = await whole(receive)
    await say(send, f"{scope['method']} {scope['path']} ".encode() + body)


class Gate:
    """An app whose requests wait until they are let through; it knows who was cancelled or told."""

    def __init__(self) -> None:
        self.running = 0
        self.cancelled = 0
        self.finished = 0
        self.open = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.running += 1
        try:
            body = await whole(receive)
            await self.open.wait()
            await say(send, scope["path"].encode() + body)
            self.finished += 1
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; the test's own bound ends a wait in vain."""
    while not condition():
        await asyncio.sleep(0.002)
