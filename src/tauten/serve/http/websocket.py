"""A WebSocket of the thin server: the `websockets` package speaks the protocol, this file speaks ASGI."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, MutableMapping
from typing import TYPE_CHECKING, Any

from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from tauten.errors import InternalError
from tauten.serve.http.cycle import Message
from tauten.serve.http.departure import Departure
from tauten.serve.http.under_way import UNDER_WAY, UnderWay
from tauten.serve.http.wire import Head, refusal

if TYPE_CHECKING:
    from tauten.serve.http.connection import Connection
    from tauten.serve.http.thin import Hub

log = logging.getLogger("tauten.serve.websocket")
log_frames = logging.getLogger("tauten.serve.websocket.frames")
log_frames.setLevel(logging.WARNING)  # the package tells of every opening; frames hold what users said


class WebSocket(Departure):
    """One WebSocket from its handshake to its close."""

    def __init__(
        self, hub: Hub, connection: Connection, scope: MutableMapping[str, Any], rest: bytes
    ) -> None:
        super().__init__()
        self.hub = hub
        self.limits = hub.limits
        self.task: asyncio.Task[None] | None = None
        self.under_way = UnderWay()
        self._connection = connection
        self._transport = connection.transport
        self._protocol = ServerProtocol(max_size=hub.limits.websocket_bytes, logger=log_frames)
        self._inbox: deque[tuple[Message, int]] = deque([({"type": "websocket.connect"}, 0)])
        self._waiting = 0  # bytes in it: the sum of its second parts
        self._waiter: asyncio.Future[None] | None = None
        self._parts = bytearray()  # of a fragmented message
        self._fragments = 0  # how many there were
        self._text = False
        self._spoilt = False  # by what came: the rest of it is dropped
        self._replied = 0  # bytes of pongs and the like since the client stopped reading
        self._response: Response | None = None  # the 101 that waits for the app
        self._denial: tuple[Head, list[bytes]] | None = None
        self._early = rest  # frames that came before the app accepted
        self._reading = True
        self._goodbye: Message | None = None  # what the app is told at the end
        self._timer: asyncio.TimerHandle | None = None
        self._pinged = False
        self._handshake(scope)

    # -- handshake ----------------------------------------------------------------------------------------

    def _handshake(self, scope: MutableMapping[str, Any]) -> None:
        """Check the upgrade and start the app, or answer why not."""
        protocol = self._protocol
        lines = [b"GET %b HTTP/1.1\r\n" % scope["raw_path"]]
        lines += [b"%b: %b\r\n" % each for each in scope["headers"]]
        protocol.receive_data(b"".join(lines) + b"\r\n")
        events = protocol.events_received()
        if not events or not isinstance(events[0], Request):
            self._reply(refusal(400, "the WebSocket handshake is too large or malformed", self.hub.usual()))
            return
        response = protocol.accept(events[0])
        if response.status_code != 101:
            protocol.send_response(response)
            self._flush()
            return
        self._response = response
        offered = events[0].headers.get_all("Sec-WebSocket-Protocol")
        del scope["method"]
        scope.update(
            {
                "type": "websocket",
                "scheme": "wss" if self.hub.tls else "ws",
                "subprotocols": [name.strip() for line in offered for name in line.split(",")],
                "extensions": {
                    "websocket.http.response": {},
                    "tauten.disconnect": self,
                    UNDER_WAY: self.under_way,
                },
            }
        )
        self.task = self.hub.loop.create_task(self._run(scope))

    async def _run(self, scope: MutableMapping[str, Any]) -> None:
        code = CloseCode.NORMAL_CLOSURE
        try:
            await self.hub.app(scope, self.receive, self.send)
        except asyncio.CancelledError:
            code = CloseCode.SERVICE_RESTART
        except Exception as error:  # noqa: BLE001  # the server outlives every app
            if not (self.gone and isinstance(error, ConnectionResetError)):
                self.hub.failed(error)
            code = CloseCode.INTERNAL_ERROR
        finally:
            self.hub.running.discard(self)
        if self._response is not None and not self.gone:
            self._reply(refusal(500, "the server could not answer", self.hub.usual()))
        elif self._protocol.state is State.OPEN:
            self._close(code, "")

    # -- from the client ----------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Bytes of the connection."""
        if self._response is not None:
            self._early += data
            if len(self._early) > self.limits.waiting_body_bytes:
                self._transport.abort()
            return
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Frame):
                self._frame(event)
        replied = self._flush()
        if self._connection.stalled:
            self._replied += replied
        if self._protocol.state is not State.OPEN:
            self._ended()
        self._hold()

    def _frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.PONG:
            self._pinged = False
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            return
        if self._spoilt or self._goodbye is not None:
            return
        if frame.opcode is not Opcode.CONT:
            self._text = frame.opcode is Opcode.TEXT
            if frame.fin:
                self._message(bytes(frame.data))
                return
        self._parts += frame.data
        self._fragments += 1
        if frame.fin:
            parts, self._parts, self._fragments = self._parts, bytearray(), 0
            self._message(parts)
        elif self._fragments >= self.limits.websocket_fragments:
            self._spoil(CloseCode.MESSAGE_TOO_BIG, "a message in too many fragments")

    def _spoil(self, code: CloseCode, reason: str) -> None:
        """What came cannot be taken: say so, and take no more."""
        self._spoilt = True
        self._parts.clear()
        self._protocol.fail(code, reason)

    def _message(self, data: bytes | bytearray) -> None:
        """One whole message, for the app."""
        message: Message = {"type": "websocket.receive"}
        if self._text:
            try:
                message["text"] = data.decode()
            except UnicodeDecodeError:
                self._spoil(CloseCode.INVALID_DATA, "text is not UTF-8")
                return
        else:
            message["bytes"] = bytes(data)
        self._inbox.append((message, len(data)))
        self._waiting += len(data)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _hold(self) -> None:
        """Stop reading while the app lags behind, or the client makes us write what it does not read."""
        limits = self.limits
        read = (
            len(self._inbox) < limits.websocket_waiting
            and self._waiting < limits.websocket_waiting_bytes
            and self._replied < limits.write_bytes
        )
        if read is self._reading or self._transport.is_closing():
            return
        self._reading = read
        if read:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def resumed(self) -> None:
        """The client reads again."""
        self._replied = 0
        self._hold()

    async def receive(self) -> Message:
        """ASGI receive."""
        while not self._inbox:
            if self._goodbye is not None:
                return dict(self._goodbye)
            if self._waiter is None or self._waiter.done():
                self._waiter = self.hub.loop.create_future()
            await asyncio.shield(self._waiter)
        message, size = self._inbox.popleft()
        self._waiting -= size
        if not self._reading:
            self._hold()
        return message

    # -- to the client ------------------------------------------------------------------------------------

    async def send(self, message: Message) -> None:
        """ASGI send; waits while the client reads too slowly, raises ConnectionResetError when it is gone."""
        kind = message["type"]
        if self._response is not None and not self.gone:
            self._answer(kind, message)
            return
        if self._protocol.state is not State.OPEN:
            raise ConnectionResetError("the WebSocket is closed")
        if kind == "websocket.send":
            text = message.get("text")
            if text is not None:
                self._protocol.send_text(text.encode())
            else:
                self._protocol.send_binary(message["bytes"])
            self._flush()
            if self._connection.stalled:
                await self._connection.writable()
                if self.gone:
                    raise ConnectionResetError("the WebSocket is closed")
        elif kind == "websocket.close":
            self._close(message.get("code", CloseCode.NORMAL_CLOSURE), message.get("reason") or "")
        else:
            raise InternalError(f"the app sent {kind!r}, expected websocket.send or websocket.close")

    def _answer(self, kind: str, message: Message) -> None:
        """What an app may say to a handshake: yes, no, or an HTTP answer of its own."""
        if kind == "websocket.accept":
            self._accept(message.get("subprotocol"), message.get("headers", ()))
        elif kind == "websocket.close":
            self._reply(refusal(403, "the WebSocket was refused", self.hub.usual()))
        elif kind == "websocket.http.response.start":
            self._denial = (Head(message["status"], message.get("headers", ())), [])
        elif kind == "websocket.http.response.body" and self._denial is not None:
            head, parts = self._denial
            parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                body = b"".join(parts)
                framing = b"content-length: %d\r\nconnection: close\r\n" % len(body)
                self._reply(head.render(framing, self.hub.usual()) + body)
        else:
            raise InternalError(f"the app sent {kind!r}, expected websocket.accept or websocket.close")

    def _accept(self, subprotocol: str | None, headers: Iterable[tuple[bytes, bytes]]) -> None:
        Head(200, headers)  # checks them for line breaks
        if subprotocol is not None:
            Head(200, [(b"sec-websocket-protocol", subprotocol.encode("latin-1"))])
        response, self._response = self._response, None
        if response is None:
            return
        for name, value in headers:
            response.headers[name.decode("latin-1")] = value.decode("latin-1")
        response.headers["Server"] = "tauten"
        if subprotocol is not None:
            self._protocol.subprotocol = Subprotocol(subprotocol)
            response.headers["Sec-WebSocket-Protocol"] = subprotocol
        self._protocol.send_response(response)
        self._flush()
        self._timer = self.hub.loop.call_later(self.limits.websocket_ping_s, self._ping)
        early, self._early = self._early, b""
        if early:
            self.data_received(early)

    def _reply(self, answer: bytes) -> None:
        """An HTTP answer instead of a WebSocket."""
        self._response = None
        self._transport.write(answer)
        self._transport.close()

    def _flush(self) -> int:
        """Write what the protocol has to say; how many bytes that is."""
        said = self._protocol.data_to_send()
        data = said[0] if len(said) == 1 else b"".join(said)
        if data:
            self._transport.write(data)
        if b"" in said:
            self._transport.close()  # the package's sign for the end of our side
        return len(data)

    # -- the end ------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether the app has something under way, or has yet to take a message that may begin it."""
        return bool(self.under_way.count or self._inbox)

    def _ping(self) -> None:
        """Ask for a sign of life."""
        if self._protocol.state is not State.OPEN:
            return
        self._pinged = True
        self._protocol.send_ping(b"")
        self._flush()
        self._timer = self.hub.loop.call_later(self.limits.websocket_pong_s, self._check)

    def _check(self) -> None:
        """A peer that gave no sign is dead; while we do not read we cannot know."""
        if self._protocol.state is not State.OPEN:
            return
        if self._pinged and self._reading:
            self._protocol.fail(CloseCode.INTERNAL_ERROR, "no pong")
            self._flush()
            self._ended()
            self._transport.abort()
        else:
            self._timer = self.hub.loop.call_later(self.limits.websocket_ping_s, self._ping)

    def _close(self, code: int, reason: str) -> None:
        """Our side closes; the other has a moment to agree."""
        self._protocol.send_close(code, reason)
        self._flush()
        self._ended(stop=False)
        self.hub.loop.call_later(self.limits.linger_s, self._transport.abort)

    def retire(self) -> None:
        """The server goes away."""
        if self._protocol.state is State.OPEN:
            self._close(CloseCode.SERVICE_RESTART, "the server restarts")
        elif self._response is not None:
            self._reply(refusal(503, "the server restarts", self.hub.usual()))

    def lost(self) -> None:
        """The connection is gone."""
        if self._protocol.state is not State.CONNECTING:
            self._protocol.receive_eof()
        self._ended()

    def _ended(self, *, stop: bool = True) -> None:
        """Tell the app, once; one that does not notice that the client left is stopped."""
        if self._goodbye is not None:
            return
        received = self._protocol.close_rcvd
        sent = self._protocol.close_sent
        close = received or sent
        code = close.code if close is not None else CloseCode.ABNORMAL_CLOSURE
        reason = close.reason if close is not None else ""
        self._goodbye = {"type": "websocket.disconnect", "code": int(code), "reason": reason}
        if self._timer is not None:
            self._timer.cancel()
        self.gone = True
        self._wake()
        self._tell()
        if stop:
            self.hub.loop.call_later(self.limits.departed_s, self._stop)

    def _stop(self) -> None:
        """Cancel an app that did not notice the end by itself."""
        if self.task is not None and not self.watched:
            self.task.cancel()
