"""A WebSocket at the door: an Exchange whose body and reply are messages."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, MutableMapping
from typing import Any

import msgspec

from tauten.errors import Cancelled, TautenError
from tauten.serve.exchange import Exchange, Receive, Reply, Scope, Send
from tauten.serve.http.under_way import UNDER_WAY, UnderWay

_CLOSED_BY_POLICY = 1008  # RFC 6455 section 7.4.1
_BROKEN = 1011
_SWITCHED = 101  # what the handshake was answered with


class Socket(Exchange):
    """Messages both ways; `left` once the other side is gone."""

    __slots__ = ("accepted", "closed", "under_way")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__({**scope, "method": "WEBSOCKET"}, receive, send)
        self.accepted = False
        self.closed = False  # by us
        self.under_way: UnderWay = scope.get("extensions", {}).get(UNDER_WAY) or UnderWay()

    async def accept(self) -> None:
        """Finish the handshake."""
        await self._receive()  # websocket.connect
        await self._send({"type": "websocket.accept"})
        self.accepted = True

        extension = self.scope.get("extensions", {}).get("tauten.disconnect")
        if extension is not None:
            extension.add_callback(self._gone)  # also while nobody reads, held back by what it feeds

    def on_leave(self, callback: Callable[[], None]) -> None:
        """Call back when the other side goes: whoever reads the messages sees it."""
        if self.left:
            callback()
        else:
            self._leaving.append(callback)

    def settle(self) -> None:
        """Let the door count the handshake out: from here on it counts each request by itself."""
        callbacks, self._closing = self._closing, []
        for callback in callbacks:
            callback()

    def _gone(self) -> None:
        if not self.closed:  # else it goes because we did
            super()._gone()

    def part(self) -> None:
        """The other side closed while nothing of its was under way: the end of a dialogue, nothing cut off."""
        self.left = False
        self.closed = True
        self.status = _SWITCHED

    async def messages(self) -> AsyncIterator[str | bytes]:
        """What the client sends, until it leaves."""
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                self._gone()
                return
            text = message.get("text")
            yield message["bytes"] if text is None else text

    async def send(self, message: str | bytes) -> None:
        """Send one message; raises Cancelled when the other side is gone."""
        if self.left or self.closed:
            raise Cancelled("the client left", help="its work was stopped")
        key = "text" if isinstance(message, str) else "bytes"
        await self._send({"type": "websocket.send", key: message})

    async def send_json(self, value: Any) -> None:
        await self.send(msgspec.json.encode(value).decode())

    async def end(self, code: int = 1000) -> None:
        """Close in order."""
        if not self.left and not self.closed:
            self.closed = True
            await self._send({"type": "websocket.close", "code": code})

    async def fail(self, error: TautenError) -> None:
        """Say what went wrong, then close."""
        if self.left:
            return
        await self.send_json({"type": "error", "error": error.as_json()})
        await self.end(_code(error.http_status))

    async def refuse(self, reply: Reply) -> None:
        """Answer the handshake by HTTP; a server that cannot do that closes, and its client reads 403."""
        if self.left:
            return
        if "websocket.http.response" not in self.scope.get("extensions", {}):
            self.status = reply.status
            await self.end(_code(reply.status))
            return
        send = self._send

        async def answer(message: MutableMapping[str, Any]) -> None:
            await send({**message, "type": f"websocket.{message['type']}"})

        self._send = answer
        await self.reply(reply)


def _code(status: int) -> int:
    """The closing code that is nearest to a status."""
    return _CLOSED_BY_POLICY if status < 500 else _BROKEN


class Turn(Exchange):
    """One of the requests of a socket, as the door and the observers see it: an exchange of its own."""

    __slots__ = ("socket",)

    def __init__(self, socket: Socket, headers: dict[str, str]) -> None:
        super().__init__({**socket.scope, "headers": []}, socket._receive, socket._send)
        self.socket = socket
        self.headers = headers
        self.started = True

    def on_leave(self, callback: Callable[[], None]) -> None:
        """Call back when the other side goes while this request runs."""
        if self.socket.left:
            self.left = True
            callback()
            return
        if not self._leaving:
            self.socket.on_leave(self._gone)
        self._leaving.append(callback)

    def unwatch(self) -> None:
        """Its last word goes: whoever leaves from here on leaves nothing undone."""
        self._leaving.clear()
        if self._gone in self.socket._leaving:
            self.socket._leaving.remove(self._gone)

    def close(self) -> None:
        """This request is over."""
        self.unwatch()
        super().close()
