"""One HTTP request at the door: what came, the body within its bound, the reply, and whether the client left."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from tauten.clock import VirtualLoop, real
from tauten.errors import Cancelled, InputError, TautenError
from tauten.serve.http.arrival import ARRIVED, SENT, TICK_S
from tauten.serve.http.departure import LEAVING

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

JSON = "application/json"
_NONE: dict[str, Any] = {}  # never written to
BEAT_S = 15.0  # proxies close what is silent for 30 to 60 s


class TooLarge(InputError):
    """A body beyond the server's bound."""

    code = "E288"
    http_status = 413
    grpc_status = "RESOURCE_EXHAUSTED"


class Reply:
    """What goes back. A body that is an iterator is streamed, a chunk at a time, as the client reads.

    `beat` is sent into a stream that says nothing for `BEAT_S` seconds; `broken` is how its API says an error in one
    that has begun, None where it cannot.
    """

    __slots__ = ("beat", "body", "broken", "headers", "media_type", "status")

    def __init__(
        self,
        body: bytes | AsyncIterator[bytes] = b"",
        *,
        status: int = 200,
        media_type: str = JSON,
        headers: list[tuple[str, str]] | None = None,
        beat: bytes = b"",
        broken: Callable[[TautenError], bytes] | None = None,
    ) -> None:
        self.body = body
        self.beat = beat
        self.broken = broken
        self.status = status
        self.media_type = media_type
        self.headers = headers or []

    def whole(self) -> bytes:
        """The body of one that is no stream."""
        assert isinstance(self.body, bytes)
        return self.body

    @classmethod
    def json(cls, value: Any, *, status: int = 200, headers: list[tuple[str, str]] | None = None) -> Reply:
        """A value as JSON."""
        return cls(msgspec.json.encode(value), status=status, headers=headers)


def failure(error: TautenError) -> Reply:
    """An error in the native API's form."""
    return Reply.json({"error": error.as_json()}, status=error.http_status)


class Exchange:
    """An HTTP request of an ASGI server, and the way back."""

    __slots__ = (
        "_closing",
        "_first",
        "_held",
        "_leaving",
        "_receive",
        "_send",
        "_sent_s",
        "_taken_s",
        "_watch",
        "_whole",
        "came",
        "extra",
        "headers",
        "lag_s",
        "left",
        "method",
        "path",
        "scope",
        "started",
        "status",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers: dict[str, str] = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        told = scope.get("extensions", _NONE)
        self.came = now = real()  # when the event loop had it, whole
        self.lag_s: float = max(0.0, now - told.get(ARRIVED, now))  # what it waited for that
        self._sent_s: float = told.get(SENT, 0.0)
        self._taken_s: float | None = None
        self.left = False  # the client is gone
        self.started = False  # the reply's head has been sent
        self.status = 0
        self._held: bytes | None = None
        self._first: MutableMapping[str, Any] | None = None  # of a body that came in parts, read already
        self._receive = receive
        self._send = send
        self._whole = False
        self._leaving: list[Callable[[], None]] = []
        self._closing: list[Callable[[], None]] = []
        self.extra: list[tuple[str, str]] = []  # headers of the door: the request's id, who may read it
        self._watch: asyncio.Task[None] | None = None

    def again(self, waited_s: float, closing: list[Callable[[], None]]) -> Exchange:
        """One more request with the same head, its body taken; `closing` is to be called at its end."""
        new = Exchange.__new__(Exchange)
        new.scope = self.scope
        new.method, new.path, new.headers = self.method, self.path, self.headers
        new.lag_s, new.left, new.started, new.status = waited_s, False, False, 0
        new.came, new._sent_s, new._taken_s = real(), 0.0, 0.0
        new._held, new._first, new._whole, new._watch = b"", None, True, None
        new._receive, new._send = self._receive, self._send
        new._leaving, new._closing, new.extra = [], closing, []
        return new

    def query(self) -> dict[str, str]:
        """Parameters of the query string; of a name given twice the last."""
        raw: bytes = self.scope.get("query_string", b"")
        return dict(parse_qsl(raw.decode("latin-1"), keep_blank_values=True)) if raw else {}

    @property
    def sent_s(self) -> float:
        """Seconds that its client took to send it; less than a tick is what reading takes."""
        return self._sent_s if self._sent_s >= TICK_S else 0.0

    @property
    def arrived(self) -> float:
        """When its first byte reached this machine."""
        return self.came - self.lag_s - self.sent_s

    def since_arrival(self) -> dict[str, float]:
        """Seconds that passed from its first byte until its work began: by its client, the event loop and its reading.

        Whatever is begun for it later has the same.
        """
        if self._taken_s is None:  # in virtual time reading takes none
            virtual = isinstance(asyncio.get_running_loop(), VirtualLoop)
            self._taken_s = 0.0 if virtual else real() - self.came
        return {"sent_s": self.sent_s, "lag_s": self.lag_s, "read_s": self._taken_s}

    # -- the body -----------------------------------------------------------------------------------------

    async def chunks(self, limit_bytes: int) -> AsyncIterator[bytes]:
        """The body as it comes; raises TooLarge beyond `limit_bytes`, Cancelled when the client leaves."""
        if self._held is not None:
            yield self._held
            return
        declared = self.headers.get("content-length", "")
        if declared.isascii() and declared.isdigit() and int(declared) > limit_bytes:
            raise _too_large(int(declared), limit_bytes)
        size = 0
        while not self._whole:
            message = self._first or await self._part()
            self._first = None
            if message["type"] == "http.disconnect":
                self._gone()
                raise Cancelled("the client left while it sent its body", help="send the request again")
            self._whole = not message.get("more_body", False)
            chunk: bytes = message.get("body", b"")
            size += len(chunk)
            if size > limit_bytes:
                raise _too_large(size, limit_bytes)
            yield chunk

    async def _part(self) -> MutableMapping[str, Any]:
        """The next part of it. What it is waited for is its client's time: only then the request is here."""
        asked = real()
        message = await self._receive()
        waited_s = real() - asked
        self.came += waited_s
        self._sent_s += waited_s
        return message

    async def body(self, limit_bytes: int) -> bytes:
        """The whole body; may be read again."""
        if self._held is None and not self._whole:  # the common one: small, and all there
            message = await self._part()
            chunk: bytes = message.get("body", b"")
            if (
                message["type"] == "http.request"
                and not message.get("more_body")
                and len(chunk) <= limit_bytes
            ):
                self._held, self._whole = chunk, True
                return chunk
            self._first = message
        parts = [chunk async for chunk in self.chunks(limit_bytes)]
        self._held = parts[0] if len(parts) == 1 else b"".join(parts)
        return self._held

    # -- the client ---------------------------------------------------------------------------------------

    def on_leave(self, callback: Callable[[], None]) -> None:
        """Call back when the client goes before its reply is whole. The body must have been read."""
        if self.left:
            callback()
            return
        self._leaving.append(callback)
        extension = self.scope.get("extensions", {}).get(LEAVING)
        if extension is not None:
            if len(self._leaving) == 1:
                extension.add_callback(self._gone)
        elif self._watch is None:
            self._watch = asyncio.get_running_loop().create_task(self._watching())

    async def _watching(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone()

    def _gone(self) -> None:
        self.left = True
        callbacks, self._leaving = self._leaving, []
        for callback in callbacks:
            callback()

    def on_close(self, callback: Callable[[], None]) -> None:
        """Call back once when the exchange is over, however it ended."""
        self._closing.append(callback)

    def hand_over(self) -> list[Callable[[], None]]:
        """What was to be called at its end, for another's: a head that is asked for each request that repeats it."""
        callbacks, self._closing = self._closing, []
        return callbacks

    def close(self) -> None:
        """The exchange is over: nobody watches the client any more."""
        self._leaving.clear()
        callbacks, self._closing = self._closing, []
        for callback in callbacks:
            callback()
        if self._watch is not None:
            self._watch.cancel()

    # -- the reply ----------------------------------------------------------------------------------------

    async def reply(self, reply: Reply) -> None:
        """Send a reply; a stream that fails half-way leaves the connection broken, never a false end."""
        body, headers = reply.body, self.lines(reply)
        whole = isinstance(body, bytes | bytearray | memoryview)
        if whole:
            headers.append((b"content-length", str(len(body)).encode()))  # type: ignore[arg-type]
        self.status, self.started = reply.status, True
        await self._send({"type": "http.response.start", "status": reply.status, "headers": headers})
        if whole:
            await self._send({"type": "http.response.body", "body": body})
            return
        await self._stream(body, reply.beat)  # type: ignore[arg-type]

    def lines(self, reply: Reply) -> list[tuple[bytes, bytes]]:
        """The headers of a reply, with the door's."""
        headers = [(b"content-type", reply.media_type.encode("latin-1"))]
        for name, value in self._all(reply.headers) if reply.headers else self.extra:
            headers.append((name.encode("latin-1"), value.encode("latin-1")))
        return headers

    async def _stream(self, body: AsyncIterator[bytes], beat: bytes) -> None:
        pulse = _Pulse(self._send, beat) if beat else None
        send = pulse.send if pulse else self._send
        try:
            async for chunk in body:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            if pulse is not None:
                pulse.stop()
            close = getattr(body, "aclose", None)
            if close is not None:  # a client that cannot be written to: the work behind it stops now
                await close()

    def _all(self, own: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """The reply's headers and the door's; the reply's own come first and win."""
        if not self.extra:
            return own
        named = {name.lower() for name, _ in own}
        return own + [each for each in self.extra if each[0] not in named]


class _Pulse:
    """Sends a comment into a stream that has been silent; one timer a stream, nothing a chunk but a time."""

    def __init__(self, send: Send, beat: bytes) -> None:
        self._beat = beat
        self._raw = send
        self._one = asyncio.Lock()  # a comment never stands inside a chunk
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._task: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(BEAT_S, self._look)

    async def send(self, message: MutableMapping[str, Any]) -> None:
        async with self._one:
            await self._raw(message)
            self._last = self._loop.time()

    def _look(self) -> None:
        silent_s = self._loop.time() - self._last
        if silent_s >= BEAT_S and not self._one.locked():
            self._task = self._loop.create_task(self._say())
            silent_s = 0.0
        self._timer = self._loop.call_later(max(BEAT_S - silent_s, 0.1), self._look)

    async def _say(self) -> None:
        try:
            await self.send({"type": "http.response.body", "body": self._beat, "more_body": True})
        except OSError:  # the client is gone; the stream's own next write, or the watcher, says so
            self._timer.cancel()

    def stop(self) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()


def _too_large(size: int, limit: int) -> TautenError:
    return TooLarge(
        f"a body of {size} bytes; at most {limit} are taken",
        help="send less, or start the server with a larger --max-body-mb",
    )
