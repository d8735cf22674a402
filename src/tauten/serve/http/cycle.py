"""One request and its answer on the thin server: the two ASGI calls, their framing, and who left."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from tauten.errors import InternalError
from tauten.serve.http.arrival import Inbox
from tauten.serve.http.departure import Departure
from tauten.serve.http.wire import Head

Message = MutableMapping[str, Any]
Asgi = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
    Awaitable[None],
]

BODILESS = frozenset((204, 304))
PLAIN, CHUNKED, NOTHING = range(3)  # how an answer's body is written
SEPARATE = 32 * 1024  # above this copying head and body together costs more than a second buffer


class Shared(Protocol):
    """What a cycle reads of what all connections share."""

    draining: bool

    def usual(self) -> bytes: ...


class Wire(Protocol):
    """What a cycle asks of its connection."""

    transport: asyncio.Transport
    stalled: bool

    @property
    def hub(self) -> Shared: ...

    def answered(self, cycle: Cycle) -> None: ...
    def body_taken(self) -> None: ...
    def cut(self, cycle: Cycle, status: int) -> None: ...
    async def writable(self) -> None: ...
    def failed(self, error: BaseException) -> None: ...
    def over(self, cycle: Cycle) -> None: ...


class Express(Protocol):
    """What an application may give for a head that comes again and again; see `Hub.express`."""

    def take(self, wire: Wire, data: bytes, at: int, given: tuple[tuple[bytes, bytes], ...]) -> Direct | None:
        """One more request with that head, whose body begins at `at` of what was read; None: the app shall answer.

        `given` are the headers whose values are its own, in lower case.
        """
        ...


class Cycle(Departure):
    """One request: filled by the connection's parser, emptied by the app."""

    task: asyncio.Task[None] | None = None
    close = False  # the connection ends with this answer
    old = False  # HTTP/1.0
    head_only = False
    expect = False  # the client waits for 100 Continue
    size = 0  # of the body so far
    waiting = 0  # of it, what the app has not taken
    since = 0.0  # when its first byte came, on the monotonic clock, where it took several reads
    whole = False  # the body has ended
    delivered = False  # and the app has been told
    lost = False  # the connection is gone; `gone` alone: it has only stopped sending
    answered = False
    _left: int | None = None  # bytes that the answer still owes to its Content-Length
    _waiter: asyncio.Future[None] | None = None
    _head: Head | None = None
    _started = False  # the head has been written
    _form = PLAIN

    def __init__(self, wire: Wire, scope: MutableMapping[str, Any] | None, length: int | None) -> None:
        self.wire = wire
        self.scope = scope  # handed over at the start: keeps no circle
        self.length = length  # of the body; None: chunked
        self.chunks: list[bytes] = []

    # -- the app's task -----------------------------------------------------------------------------------

    def start(self, app: Asgi, loop: asyncio.AbstractEventLoop) -> None:
        """Run the app in the one task of this request."""
        scope, self.scope = self.scope, None
        self.task = loop.create_task(self._run(app, scope))  # type: ignore[arg-type]

    async def _run(self, app: Asgi, scope: MutableMapping[str, Any]) -> None:
        try:
            await app(scope, self.receive, self.send)
            if not self.answered and not self.gone:
                raise InternalError("the app returned before its answer was whole", help="send the last body")
            self._end_unanswered()
        except asyncio.CancelledError as error:
            self._broke(error)
        except Exception as error:  # noqa: BLE001  # the server outlives every app; the wire logs it
            self._broke(error)
        finally:
            self.wire.over(self)

    def _end_unanswered(self) -> None:
        """The client had left: what is half-closed is closed now."""
        if not self.answered:
            self.answered = True
            self.wire.cut(self, 499)

    def _broke(self, error: BaseException) -> None:
        """An app that failed: an answer if there is none yet, a cut connection otherwise."""
        if isinstance(error, ConnectionResetError) and self.gone:
            return
        if not (self.gone and isinstance(error, asyncio.CancelledError)):
            self.wire.failed(error)
        if not self.answered:
            self.answered = True
            self.wire.cut(self, 503 if isinstance(error, asyncio.CancelledError) else 500)

    @property
    def untouched(self) -> bool:
        """Whether nothing of the answer is on the wire."""
        return not self._started

    # -- the request: parser to app -----------------------------------------------------------------------

    def wake(self) -> None:
        """What `receive` waits for has come."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def receive(self) -> Message:
        """ASGI receive: parts of the body, then, once it is whole, the departure of the client."""
        if not self.delivered and not (self.chunks or self.whole or self.gone):
            self._continue()
        while not (self.chunks or self.gone or self.answered or (self.whole and not self.delivered)):
            if self._waiter is None or self._waiter.done():
                self._waiter = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._waiter)  # two may wait, and one of them be cancelled
        if self.delivered or (self.gone and not self.whole) or self.answered:
            return {"type": "http.disconnect"}
        chunks, self.chunks, self.waiting = self.chunks, [], 0
        self.delivered = self.whole
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        if not self.whole:
            self.wire.body_taken()
        return {"type": "http.request", "body": body, "more_body": not self.whole}

    def _continue(self) -> None:
        """The app wants the body now: the client may send it."""
        if self.expect and not self._started:
            self.expect = False
            self.wire.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def depart(self, *, lost: bool) -> None:
        """The client has stopped sending, or, when `lost`, is gone altogether."""
        self.lost = self.lost or lost
        if self.answered or self.gone:
            return
        self.gone = True
        self.wake()
        self._tell()

    def stop(self) -> None:
        """Cancel an app that did not notice the departure by itself."""
        if self.task is not None and not self.answered and not self.watched:
            self.task.cancel()

    # -- the answer: app to wire --------------------------------------------------------------------------

    async def send(self, message: Message) -> None:
        """ASGI send; waits while the client reads too slowly, raises ConnectionResetError when it is gone."""
        if self.lost:
            raise ConnectionResetError("the client has left")
        kind = message["type"]
        if kind == "http.response.body":
            more = message.get("more_body", False)
            self._body(message.get("body", b""), more)
            if more and self.wire.stalled:
                await self.wire.writable()
                if self.lost:
                    raise ConnectionResetError("the client has left")
        elif kind == "http.response.start":
            if self._head is not None:
                raise InternalError("the app sent a second http.response.start")
            self._head = Head(message["status"], message.get("headers", ()))
        else:
            raise InternalError(f"the app sent {kind!r}, expected http.response.start or http.response.body")

    def respond(self, head: Head, body: bytes) -> None:
        """The whole answer of one that runs in no task of its own; it is over with that."""
        if not self.lost:
            self._head = head
            self._body(body, more=False)
        self.over()

    def over(self) -> None:
        """One that runs in no task of its own has ended, answered or left by its client."""
        self._end_unanswered()
        self.wire.over(self)

    def _body(self, body: bytes, more: bool) -> None:
        if self.answered or self._head is None:
            raise InternalError(
                "the app sent a body out of turn, expected one answer that begins with its start"
            )
        head = b"" if self._started else self._begin(self._head, body, more)
        if self._form != PLAIN or self._left != len(body) or more:
            body = self._framed(body, more)
        self._started = True
        write = self.wire.transport.write
        if head and len(body) <= SEPARATE:
            write(head + body)
        else:
            if head:
                write(head)
            if body:
                write(body)
        if not more:
            self.answered = True
            if self._callbacks:
                self._callbacks = []  # nobody need be told any more, and watchers know this object
            if self._waiter is not None:
                self.wake()
            self.wire.answered(self)

    def _begin(self, head: Head, body: bytes, more: bool) -> bytes:
        """Decide the framing and return the head's bytes."""
        hub = self.wire.hub
        if head.close or not self.whole or hub.draining:
            self.close = True  # also when an answer overtakes its request's body: what still comes is dropped
        if self.head_only or head.status in BODILESS:
            framing = self._bodiless(head, len(body), more)
        elif head.length is not None or not more:
            self._left = len(body) if head.length is None else head.length
            framing = b"content-length: %d\r\n" % self._left
        elif self.old:
            self.close, framing = True, b""  # HTTP/1.0: a body of unknown length ends with the connection
        else:
            self._form, framing = CHUNKED, b"transfer-encoding: chunked\r\n"
        if self.close:
            framing += b"connection: close\r\n"
        elif self.old:
            framing += b"connection: keep-alive\r\n"
        return head.render(framing, hub.usual())

    def _bodiless(self, head: Head, size: int, more: bool) -> bytes:
        """No body follows; HEAD still says how long it would have been, where that is known."""
        self._form = NOTHING
        if head.status in BODILESS:
            return b""
        length = head.length if head.length is not None or more else size
        return b"" if length is None else b"content-length: %d\r\n" % length

    def _framed(self, body: bytes, more: bool) -> bytes:
        """A part of the body as it goes on the wire."""
        if self._form == NOTHING:
            return b""
        if self._form == CHUNKED:
            return (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (b"" if more else b"0\r\n\r\n")
        if self._left is not None:
            self._left -= len(body)
            if self._left < 0:
                raise InternalError("the app's body is longer than its Content-Length")
            if self._left and not more:
                self.close = True  # less than it promised: only the end of the connection says so
        return body


class Direct(Cycle, ABC):
    """A request that was whole when it came, and is answered without a task, by `respond` or `send_off`."""

    whole = True

    @abstractmethod
    def begin(self, inbox: Inbox) -> None:
        """Work on it; `inbox` says how long it waited to be read."""

    def send_off(self, message: bytes) -> None:
        """The whole answer as it goes on the wire, of one whose connection stays open."""
        self._started = self.answered = True
        wire = self.wire
        wire.over(self)
        wire.transport.write(message)
        wire.answered(self)
