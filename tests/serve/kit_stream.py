"""Clients without a socket that stay: streams read as they come, sockets, and clients that leave when told."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import json
from typing import Any

from serve.kit_asgi import posed
from tauten.serve.app import App


class Client:
    """One HTTP request whose reply is read as it comes; `leave()` is the client going away."""

    def __init__(
        self, app: App, method: str, path: str, body: bytes | Any = b"", headers: dict[str, str] | None = None
    ) -> None:
        self.data, self.scope = posed(method, path, body, headers)
        self.status = 0
        self.headers: dict[str, str] = {}
        self.chunks: list[bytes] = []
        self.whole = False
        self._asked = False
        self._gone = asyncio.Event()
        self._news = asyncio.Condition()
        self.slow: asyncio.Event | None = None  # while it is there and not set, the client reads nothing
        self.task = asyncio.ensure_future(app(self.scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self.data, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if self.slow is not None:
            await self.slow.wait()
        async with self._news:
            if message["type"] == "http.response.start":
                self.status = message["status"]
                self.headers = {k.decode(): v.decode() for k, v in message["headers"]}
            else:
                self.chunks.append(message.get("body", b""))
                self.whole = not message.get("more_body", False)
            self._news.notify_all()

    def leave(self) -> None:
        self._gone.set()

    async def until(self, text: bytes) -> None:
        """Wait until the reply so far holds a text."""
        async with self._news:
            await self._news.wait_for(lambda: text in self.body)

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[tuple[str, Any]]:
        """(name, data) of each whole event."""
        found = []
        for block in self.body.decode().split("\n\n"):
            lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if lines:
                found.append((lines["event"], json.loads(lines["data"])))
        return found

    async def done(self) -> Client:
        await self.task
        return self


async def settle() -> None:
    """Let all that can go on do so."""
    for _ in range(20):
        await asyncio.sleep(0)


class Talk:
    """One WebSocket."""

    def __init__(self, app: App, path: str, headers: dict[str, str] | None = None) -> None:
        scope = {
            "type": "websocket",
            "path": path,
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()],
            "client": ("127.0.0.1", 1),
        }
        self._in: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._out: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._in.put_nowait({"type": "websocket.connect"})
        self.task = asyncio.ensure_future(app(scope, self._in.get, self._out_put))

    async def _out_put(self, message: Any) -> None:
        self._out.put_nowait(dict(message))

    def say(self, message: Any) -> None:
        key, value = ("bytes", message) if isinstance(message, bytes) else ("text", json.dumps(message))
        self._in.put_nowait({"type": "websocket.receive", key: value})

    @property
    def unread(self) -> int:
        """Messages that the server has not taken yet."""
        return self._in.qsize()

    async def hear(self) -> Any:
        """The next message: bytes, JSON, or the type of a control message."""
        message = await self._out.get()
        if message["type"] != "websocket.send":
            return message["type"]
        text = message.get("text")
        return message["bytes"] if text is None else json.loads(text)

    async def control(self) -> dict[str, Any]:
        """The next message whole."""
        return await self._out.get()

    async def leave(self) -> None:
        self._in.put_nowait({"type": "websocket.disconnect", "code": 1001})
        await self.task
