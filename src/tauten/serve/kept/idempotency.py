"""Idempotency keys: who sends the same request twice gets the first reply again, and nothing runs twice.

A key belongs to a tenant and to one request (path, query, body, what it accepts), whichever API it comes by:
an HTTP POST, a gRPC call, a request of a WebSocket. Only replies that succeeded are kept; a reply that failed,
or whose client left before it was whole, is forgotten, and the next request with that key runs. One that comes
while the first runs waits for it until its own deadline passes or its own client leaves: the first goes on.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import TYPE_CHECKING

from tauten.clock import Clock, in_ms, real
from tauten.errors import Cancelled, DeadlineExceeded, InputError
from tauten.run.deadline import arm, disarm, stoppable
from tauten.run.request import Request
from tauten.serve.exchange import Reply
from tauten.serve.kept.kept import Kept
from tauten.serve.kept.news import News
from tauten.serve.sse import telling

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

    __slots__ = (
        "chunks",
        "error",
        "failed",
        "fingerprint",
        "first",
        "news",
        "reply",
        "size_bytes",
        "streamed",
        "whole",
    )

    def __init__(self, fingerprint: bytes, first: Call) -> None:
        self.fingerprint = fingerprint
        self.first: Call | None = first  # while it runs
        self.reply: Reply | None = None  # its head, once there is one
        self.chunks: list[bytes] = []
        self.size_bytes = 0
        self.streamed = False  # in chunks, which are sent again as they were: messages have bounds
        self.whole = False
        self.failed = False
        self.error: BaseException | None = None  # that its last chunk tells
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
        self._clock = clock
        self._kept: Kept[Record] = Kept(most, most_bytes=most_bytes, age_s=age_s, clock=clock)
        self._running: dict[tuple[str, str], Record] = {}

    async def reply(self, call: Call, handler: Handler, asked: Sequence[bytes] | None = None) -> Reply:
        """The handler's reply, or the one that this key had already. `asked` is the request where it is not HTTP's."""
        key = call.exchange.headers[HEADER]
        if not _KEY.fullmatch(key):
            raise InputError(f"{HEADER}: {key[:40]!r}", help="1 to 255 visible characters", code="E291")
        fingerprint = _fingerprint(call, await _asked(call) if asked is None else asked)
        name = (call.caller.tenant, key)
        waiter: Request | None = None
        while (record := self._running.get(name) or self._kept.get(*name)) is not None:
            if record.fingerprint != fingerprint:
                raise OtherRequest(
                    f"{HEADER} {key[:40]!r} was used for another request",
                    help="make a new key for each new request; repeat one only with the same body",
                )
            waiter = waiter or self._waiter(call, record)
            again = await _again(call, waiter, record)
            if again is not None:
                self.replayed += 1
                return again
        if waiter is not None:
            _spend(call, waiter)
        return await self._first(call, handler, name, fingerprint)

    def _waiter(self, call: Call, record: Record) -> Request:
        """One more request with a key, as deadlines and departures see it: it has those of its own."""
        since = call.exchange.since_arrival()
        sent_s, lag_s, read_s = since["sent_s"], since["lag_s"], since["read_s"]
        tenant = call.caller.tenant
        waiter = Request(self._clock, id=call.id, tenant=tenant, sent_s=sent_s, lag_s=lag_s, read_s=read_s)
        service = None if record.first is None else record.first.service
        if call.deadline_ms < math.inf:
            waiter.deadline = waiter.trace.start + call.deadline_ms / 1e3
        elif service is not None:
            waiter.deadline = waiter.start + service.budget_s  # the same request asks for the same service
        call.exchange.on_leave(lambda: waiter.fail(_left()))
        return waiter

    async def _first(self, call: Call, handler: Handler, name: tuple[str, str], fingerprint: bytes) -> Reply:
        record = self._running[name] = Record(fingerprint, call)
        try:
            reply = await handler(call)
        except BaseException:
            self._end(name, record, kept=False)
            raise
        head = _head(reply)
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
            if not record.failed:
                record.error = call.error
        finally:
            self._end(name, record, kept=complete)
            close = getattr(body, "aclose", None)
            if close is not None:
                await close()

    def _end(self, name: tuple[str, str], record: Record, *, kept: bool) -> None:
        if record.whole or record.failed:
            return
        record.whole, record.failed, record.first = kept, not kept, None
        if self._running.get(name) is record:
            del self._running[name]
        if kept and record.size_bytes <= self.reply_bytes:
            self._kept.put(*name, record, record.size_bytes)
        record.news.tell()


async def _again(call: Call, waiter: Request, record: Record) -> Reply | None:
    """A reply out of a record; None where the first one failed, or was too large to keep."""
    arm(waiter)
    try:
        while record.reply is None and not record.failed:
            await _news(waiter, record)
    finally:
        disarm(waiter)
    if record.failed or record.reply is None:
        return None
    first = _head(record.reply)
    first.headers = [*record.reply.headers, ("idempotent-replayed", "true")]
    if not record.streamed:
        first.body = record.chunks[0]
        return first
    following = _following(call, waiter, record)
    first.body = telling(call, following, first.broken) if first.broken else following
    return first


def _head(reply: Reply) -> Reply:
    """A reply of the same kind that says nothing yet."""
    return Reply(status=reply.status, media_type=reply.media_type, beat=reply.beat, broken=reply.broken)


async def _following(call: Call, waiter: Request, record: Record) -> AsyncGenerator[bytes, None]:
    """What was recorded at once, then what comes; a first reply that breaks breaks this one."""
    place = 0
    arm(waiter)
    try:
        while not (record.whole and place == len(record.chunks)):
            if place < len(record.chunks) and (record.whole or waiter.failure is None):
                yield record.chunks[place]
                place += 1
            elif record.error is not None:
                call.error = record.error  # and its last chunk has told it
                return
            elif record.failed:
                raise Cancelled("the first request with this key ended early", help="send it again")
            else:
                await _news(waiter, record)
    finally:
        disarm(waiter)


async def _news(waiter: Request, record: Record) -> None:
    """Until something is added to a record; raises where who waits for it is stopped before."""
    try:
        await stoppable(waiter, record.news.wait())
    except DeadlineExceeded:
        raise DeadlineExceeded(
            f"the first request with this key took longer than {in_ms(waiter.deadline - waiter.start)} ms",
            help="ask again with the same key: it goes on",
        ) from None


def _spend(call: Call, waiter: Request) -> None:
    """What it waited is gone from its budget when it runs itself."""
    before_s = sum(call.exchange.since_arrival().values())  # which it will be told again
    call.spent_s = waiter.clock() - waiter.trace.start - before_s
    call.deadline_ms = max(0.0, waiter.left() + before_s) * 1e3


def _left() -> Cancelled:
    return Cancelled("the client left", help="send the request again with the same key")


def _of_the_door(call: Call, reply: Reply) -> list[tuple[str, str]]:
    """The first reply's own id and session, so that the second says the same."""
    own = {name.lower() for name, _ in reply.headers}
    return [each for each in call.exchange.extra if each[0] in _SAME and each[0] not in own]


_SAME = frozenset({"x-request-id", "x-tauten-session", "x-tauten-ignored"})


async def _asked(call: Call) -> Sequence[bytes]:
    """What an HTTP request asks for, beside its path."""
    headers = call.exchange.headers
    told = [headers.get(name, "").encode() for name in ("accept", "content-type", "x-tauten-session")]
    coding = headers.get("accept-encoding", "")
    told.append(coding.encode() if coding in call.route.codings else b"")
    return [*told, call.exchange.scope.get("query_string", b""), await call.body()]


def _fingerprint(call: Call, asked: Sequence[bytes]) -> bytes:
    """What makes two requests the same."""
    digest = hashlib.sha256(call.exchange.path.encode())
    for part in asked:
        digest.update(b"\0%d\0" % len(part))
        digest.update(part)
    return digest.digest()
