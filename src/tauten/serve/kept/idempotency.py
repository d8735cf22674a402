"""Idempotency keys: who sends the same request twice gets the first reply again, and nothing runs twice.

A key belongs to a tenant and to one request (path, query, body, what it accepts), whichever API it comes by:
an HTTP POST, a gRPC call, a request of a WebSocket. Only replies that succeeded are kept; a reply that failed, or whose client left before it was whole, is forgotten, and the
next request with that key runs.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import hashlib
import math
import re
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from tauten.clock import Clock, real
from tauten.errors import Cancelled, DeadlineExceeded, InputError
from tauten.serve.exchange import Reply
from tauten.serve.kept.kept import Kept
from tauten.serve.kept.news import News

if TYPE_CHECKING:
    from tauten.serve.door import Call
    from tauten.serve.routes import Handler

HEADER = "idempotency-key"
AGE_S = 24 * 3600.0  # clients retry within minutes, batch jobs within the day
MOST = 10_000  # replies of all tenants
MOST_BYTES = 64 * 1024 * 1024  # of all replies; beyond it the tenant that holds most loses its oldest
REPLY_BYTES = 8 * 1024 * 1024  # a larger reply (minutes of sound) is sent, not kept
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


class OtherRequest(InputError):
    """A key that was used for another request."""

    code = "E284"
    http_status = 422


class Record:
    """One reply as it is made: what was sent so far, and whether it is whole."""

    __slots__ = ("chunks", "failed", "fingerprint", "news", "reply", "size_bytes", "streamed", "whole")

    def __init__(self, fingerprint: bytes) -> None:
        self.fingerprint = fingerprint
        self.reply: Reply | None = None  # its head, once there is one
        self.chunks: list[bytes] = []
        self.size_bytes = 0
        self.streamed = False  # in chunks, which are sent again as they were: messages have bounds
        self.whole = False
        self.failed = False
        self.news = News()  # something was added


class Idempotency:
    """The replies of a site by tenant and key."""

    def __init__(
        self,
        *,
        most: int = MOST,
        most_bytes: int = MOST_BYTES,
        reply_bytes: int = REPLY_BYTES,
        age_s: float = AGE_S,
        clock: Clock = real,
    ) -> None:
        self.reply_bytes = reply_bytes
        self.replayed = 0
        self._kept: Kept[Record] = Kept(most, most_bytes=most_bytes, age_s=age_s, clock=clock)
        self._running: dict[tuple[str, str], Record] = {}

    async def reply(self, call: Call, handler: Handler, asked: Sequence[bytes] | None = None) -> Reply:
        """The handler's reply, or the one that this key had already. `asked` is the request where it is not HTTP's."""
        key = call.exchange.headers[HEADER]
        if not _KEY.fullmatch(key):
            raise InputError(f"{HEADER}: {key[:40]!r}", help="1 to 255 visible characters", code="E291")
        fingerprint = _fingerprint(call, await _asked(call) if asked is None else asked)
        name = (call.caller.tenant, key)
        while (record := self._running.get(name) or self._kept.get(*name)) is not None:
            if record.fingerprint != fingerprint:
                raise OtherRequest(
                    f"{HEADER} {key[:40]!r} was used for another request",
                    help="make a new key for each new request; repeat one only with the same body",
                )
            again = await self._again(call, record)
            if again is not None:
                self.replayed += 1
                return again
        return await self._first(call, handler, name, fingerprint)

    async def _again(self, call: Call, record: Record) -> Reply | None:
        """A reply out of a record; None where the first one failed, or was too large to keep."""
        loop = asyncio.get_running_loop()
        left: asyncio.Future[None] = loop.create_future()
        call.exchange.on_leave(lambda: None if left.done() else left.set_result(None))
        until = loop.time() + call.deadline_ms / 1e3
        while record.reply is None and not record.failed:
            news = asyncio.ensure_future(record.news.wait())
            wait_s = None if until == math.inf else until - loop.time()
            try:
                await asyncio.wait([news, left], return_when=asyncio.FIRST_COMPLETED, timeout=wait_s)
                late = not news.done()
            finally:
                news.cancel()
            if left.done():
                raise Cancelled("the client left", help="send the request again with the same key")
            if late:
                raise DeadlineExceeded(
                    f"the first request with this key took longer than {call.deadline_ms:.0f} ms",
                    help="ask again with the same key: it goes on",
                )
        if record.failed or record.reply is None:
            return None
        first = record.reply
        headers = [*first.headers, ("idempotent-replayed", "true")]
        body = _following(record) if record.streamed else record.chunks[0]
        return Reply(body, status=first.status, media_type=first.media_type, headers=headers, beat=first.beat)

    async def _first(self, call: Call, handler: Handler, name: tuple[str, str], fingerprint: bytes) -> Reply:
        record = self._running[name] = Record(fingerprint)
        try:
            reply = await handler(call)
        except BaseException:
            self._end(name, record, kept=False)
            raise
        head = Reply(b"", status=reply.status, media_type=reply.media_type, beat=reply.beat)
        head.headers = [*reply.headers, *_of_the_door(call, reply)]
        if isinstance(reply.body, bytes | bytearray | memoryview):
            record.chunks, record.size_bytes = [bytes(reply.body)], len(reply.body)
            if reply.status < 400:
                record.reply = head
            self._end(name, record, kept=reply.status < 400)
            return reply
        record.reply, record.streamed = head, True
        record.news.tell()
        call.exchange.on_close(lambda: self._end(name, record, kept=False))  # one that was never read
        reply.body = self._recorded(call, reply.body, name, record)
        return reply

    async def _recorded(
        self, call: Call, body: AsyncIterator[bytes], name: tuple[str, str], record: Record
    ) -> AsyncIterator[bytes]:
        """Pass a stream on, and keep what passes."""
        complete = False
        try:
            async for chunk in body:
                record.size_bytes += len(chunk)
                if record.size_bytes > self.reply_bytes:
                    self._end(name, record, kept=False)
                if not record.failed:
                    record.chunks.append(chunk)
                    record.news.tell()
                yield chunk
            complete = call.error is None
        finally:
            self._end(name, record, kept=complete)
            close = getattr(body, "aclose", None)
            if close is not None:
                await close()

    def _end(self, name: tuple[str, str], record: Record, *, kept: bool) -> None:
        if record.whole or record.failed:
            return
        record.whole, record.failed = kept, not kept
        if self._running.get(name) is record:
            del self._running[name]
        if kept and record.size_bytes <= self.reply_bytes:
            self._kept.put(*name, record, record.size_bytes)
        record.news.tell()


async def _following(record: Record) -> AsyncIterator[bytes]:
    """What was recorded at once, then what comes; a first reply that breaks breaks this one."""
    place = 0
    while True:
        while place < len(record.chunks):
            yield record.chunks[place]
            place += 1
        if record.whole:
            return
        if record.failed:
            raise Cancelled("the first request with this key ended early", help="send it again")
        await record.news.wait()


def _of_the_door(call: Call, reply: Reply) -> list[tuple[str, str]]:
    """The first reply's own id and session, so that the second says the same."""
    own = {name.lower() for name, _ in reply.headers}
    return [each for each in call.exchange.extra if each[0] in _SAME and each[0] not in own]


_SAME = frozenset({"x-request-id", "x-tauten-session", "x-tauten-ignored"})


async def _asked(call: Call) -> Sequence[bytes]:
    """What an HTTP request asks for, beside its path."""
    headers = call.exchange.headers
    told = [headers.get(name, "").encode() for name in ("accept", "content-type", "x-tauten-session")]
    return [*told, call.exchange.scope.get("query_string", b""), await call.body()]


def _fingerprint(call: Call, asked: Sequence[bytes]) -> bytes:
    """What makes two requests the same."""
    digest = hashlib.sha256(call.exchange.path.encode())
    for part in asked:
        digest.update(b"\0%d\0" % len(part))
        digest.update(part)
    return digest.digest()
