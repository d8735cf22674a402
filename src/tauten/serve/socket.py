"""A WebSocket at the door: an Exchange whose body and reply are messages."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec

from tauten.errors import Cancelled, TautenError
from tauten.serve.exchange import Exchange, Receive, Scope, Send

_CLOSED_BY_POLICY = 1008  # RFC 6455 section 7.4.1
_BROKEN = 1011


class Socket(Exchange):
    """Messages both ways; `left` once the other side is gone."""

    __slots__ = ("_accepted",)

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__({**scope, "method": "WEBSOCKET"}, receive, send)
        self._accepted = False

    async def accept(self) -> None:
        """Finish the handshake."""
        await self._receive()  # websocket.connect
        await self._send({"type": "websocket.accept"})
        self._accepted = True

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
        if self.left:
            raise Cancelled("the client left", help="its work was stopped")
        key = "text" if isinstance(message, str) else "bytes"
        await self._send({"type": "websocket.send", key: message})

    async def send_json(self, value: Any) -> None:
        await self.send(msgspec.json.encode(value).decode())

    async def end(self, code: int = 1000) -> None:
        """Close in order."""
        if not self.left:
            await self._send({"type": "websocket.close", "code": code})
            self.left = True

    async def fail(self, error: TautenError) -> None:
        """Say what went wrong, then close; before the handshake the server answers 403."""
        if self.left:
            return
        if self._accepted:
            wrong = {"code": error.code, "message": error.message, "help": error.help}
            await self.send_json({"type": "error", "error": wrong})
        await self.end(_CLOSED_BY_POLICY if error.http_status < 500 else _BROKEN)
