"""The reading side of a connection: bytes to requests, through the parser or past it, within bounds."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Any

import httptools

from tauten.clock import real
from tauten.serve.http.arrival import Inbox
from tauten.serve.http.cycle import Cycle
from tauten.serve.http.outflow import Outflow
from tauten.serve.http.reader import END, Reader
from tauten.serve.http.wire import Refusal

if TYPE_CHECKING:
    from tauten.serve.http.known import Given, Known
    from tauten.serve.http.thin import Hub
    from tauten.serve.http.websocket import WebSocket

IDLE, HEAD, BODY, LINGER, UPGRADED, CLOSED = range(6)


class Inflow(Outflow, ABC):
    """Reads one client's requests; what becomes of them is said by the connection."""

    transport: asyncio.Transport
    _reader: Reader
    _inbox: Inbox

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub.loop)
        self.hub = hub
        self.limits = hub.limits
        self.phase = IDLE
        self.due = 0.0  # when the phase must have ended
        self.mark = 0  # bytes of the body when its clock was last set
        self.current: Cycle | None = None  # the one whose answer is next on the wire
        self.queue: deque[Cycle] = deque()  # pipelined behind it
        self.socket: WebSocket | None = None
        self._timed = IDLE  # the phase that `due` belongs to
        self._since = 0.0  # when the first byte came of the request that is being received
        self._incoming: Cycle | None = None  # the one whose body is being received
        self._handshake: Cycle | None = None  # a request to become a WebSocket
        self._unfed = b""  # read, and not parsed yet: the queue is full
        self._last = False  # no request is taken any more: what still comes is dropped
        self._first_read = b""  # that the request begins with which is being received
        self._left = 0  # bytes of a body that are still to come, behind a head that is known
        self._given: Given = ()  # what varies in that head
        self._reading = True

    # -- what becomes of them -----------------------------------------------------------------------------

    @abstractmethod
    def _offer(self, cycle: Cycle) -> None:
        """Start a request, or let it wait for those before it."""

    @abstractmethod
    def _refuse(self, refused: Refusal) -> None:
        """Take no more of this client; its last answer is the refusal."""

    @abstractmethod
    def answered(self, cycle: Cycle) -> None:
        """The answer is written: on to the next request, or the end."""

    @abstractmethod
    def cut(self, cycle: Cycle, status: int) -> None:
        """An app that cannot finish: say so if nothing is written, else break off, never a false end."""

    @abstractmethod
    def failed(self, error: BaseException) -> None:
        """The app raised."""

    @abstractmethod
    def over(self, cycle: Cycle) -> None:
        """The app's task has ended."""

    @abstractmethod
    def _upgraded(self, rest: bytes) -> None:
        """The parser met an upgrade; `rest` came behind it."""

    # -- bytes to requests --------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self.socket is not None:
            self.socket.data_received(data)
        elif self._last:
            return  # no request is taken any more
        elif self._left:
            self._receive(data)
        elif self._unfed:
            self._unfed += data  # what came before reading stopped: at most one read
        elif self.phase != IDLE or not self._repeat(data):
            self._feed(data)
            if self.phase != self._timed:
                self._time()

    def _repeat(self, data: bytes) -> bool:
        """Take a request whose head is known, without parsing it again."""
        known = self._reader.known
        if known is None or (found := known.read(data)) is None:
            known = self._reader.recall(data, self.hub.heads)
            if known is None or (found := known.read(data)) is None:
                return False
            known.express = self.hub.express(known.scope(found[1]))
        at, given = found
        left = known.length - (len(data) - at)
        if left and known.length > self.limits.buffered_body_bytes:
            return False  # the app begins before it is whole
        if left or not self._directly(known, data, at, given):
            scope = known.scope(given)
            cycle = Cycle(self, scope, known.length)
            cycle.head_only = scope["method"] == "HEAD"
            self._add(cycle, data[at:])
            if left:
                self.phase, self._incoming, self._left, self._given = BODY, cycle, left, given
                self._time()
            else:
                self._whole(cycle)
        return True

    def _directly(self, known: Known, data: bytes, at: int, given: Given, since: float = 0.0) -> bool:
        """Begin a request without a task, where it is the next one and its app knows how."""
        if known.express is None or self.current is not None or self.queue or self.stalled:
            return False
        direct = self.current = known.express.take(self, data, at, given)
        if direct is None:
            return False
        self.hub.requests += 1
        self.hub.running.add(direct)
        if since:
            direct.since = since
        direct.begin(self._inbox)
        return True

    def _receive(self, data: bytes) -> None:
        """The body behind a known head goes on, and may end."""
        cycle, known = self._incoming, self._reader.known
        assert cycle is not None  # as long as any of it is left
        assert known is not None
        piece = data if len(data) <= self._left else data[: self._left]
        self._add(cycle, piece)
        self._left -= len(piece)
        if self._left:
            return
        self._incoming = None
        self.phase = self._timed = IDLE
        if not self._directly(known, b"".join(cycle.chunks), 0, self._given, cycle.since):
            self._whole(cycle)
        if len(piece) < len(data):
            self.data_received(data[len(piece) :])

    @staticmethod
    def _add(cycle: Cycle, piece: bytes) -> None:
        if piece:
            cycle.chunks.append(piece)
            cycle.size += len(piece)
            cycle.waiting += len(piece)

    def _whole(self, cycle: Cycle) -> None:
        cycle.whole = True
        self._offer(cycle)
        if self.queue:
            self._hold()

    def _feed(self, data: bytes) -> None:
        """Parse what was read; in pieces of one request when there may be several in it."""
        incoming = self._incoming
        if self.phase == IDLE:
            self._first_read = data
        if (incoming is None or incoming.length is None) and data.count(END) < 2:
            self._parse(data)
        else:
            self._feed_pieces(data)
        if self._incoming is not None or self.queue or not self._reading:
            self._hold()

    def _feed_pieces(self, data: bytes) -> None:
        view, at, size = memoryview(data), 0, len(data)
        while at < size and not self._last:
            if len(self.queue) >= self.limits.pipelined:
                self._unfed = bytes(view[at:])
                break
            incoming = self._incoming
            if incoming is not None and incoming.length is not None:
                end = at + incoming.length - incoming.size
            else:
                found = data.find(END, at)
                end = size if found < 0 else found + len(END)
            self._parse(view[at:end])
            at = end

    def _parse(self, data: bytes | memoryview) -> None:
        reader = self._reader
        framing = reader.framing
        framing.piece = len(data)
        try:
            reader.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgraded(bytes(data[upgrade.args[0] :]))
            return
        except httptools.HttpParserError as error:
            if not self._last:
                # llhttp's words name the rule that was broken, never the bytes
                self._refuse(reader.cause or Refusal(400, f"malformed request: {error}"))
            return
        excess: Refusal | None = None
        if self.phase == HEAD:
            excess = framing.part_of_head()
        elif self.phase == BODY and self._incoming is not None and self._incoming.length is None:
            excess = framing.part_of_chunked(self._incoming.size)
        if excess is not None:
            self._refuse(excess)

    def begun(self) -> None:
        """The first byte of a request."""
        self.phase = HEAD

    def head(self, scope: dict[str, Any], length: int | None, *, keep: bool, old: bool, expect: bool) -> None:
        """A whole head."""
        cycle = Cycle(self, scope, length)
        if not keep:
            cycle.close = True
        if old:
            cycle.old = True
        if scope["method"] == "HEAD":
            cycle.head_only = True
        if self._timed != IDLE:
            cycle.since = self._since
        self.phase = BODY
        self._reader.framing.whole_head()
        self._incoming = cycle
        if expect or (length is not None and length > self.limits.buffered_body_bytes):
            cycle.expect = expect
            self._offer(cycle)

    def body(self, body: bytes) -> None:
        """A part of the body."""
        cycle = self._incoming
        if cycle is None or cycle.answered:
            return  # nobody will read it
        self._add(cycle, body)
        if cycle.size > self.limits.body_bytes:
            raise self._reader.stop(
                413, f"the body is larger than the {self.limits.body_bytes} bytes that are taken"
            )
        if cycle.task is not None:
            cycle.wake()
        elif (
            cycle.size > self.limits.buffered_body_bytes
            and cycle is not self.current
            and cycle not in self.queue
        ):
            self._offer(cycle)

    def ended(self) -> None:
        """The last byte of a request."""
        cycle = self._incoming
        if cycle is not None and cycle.length != 0 and self._reader.parser.should_upgrade():
            return  # llhttp stops before the body of what asks for an upgrade; `_upgraded` goes on
        self._incoming = None
        self.phase = self._timed = IDLE
        first, self._first_read = self._first_read, b""
        if cycle is None:
            return
        cycle.whole = True
        if cycle.close:
            self._last = True
        if self._reader.wants == b"websocket" and self._reader.parser.should_upgrade():
            self._handshake = cycle
        elif cycle.task is not None:
            cycle.wake()
        elif not self.queue or cycle not in self.queue:
            if first and not (cycle.close or cycle.old or cycle.length is None):
                known = self._reader.learn(first, cycle.scope, cycle.length, self.hub.heads)
                if known is not None:
                    self.hub.learned(known)
            self._offer(cycle)

    # -- bounds -------------------------------------------------------------------------------------------

    def _hold(self) -> None:
        """Stop reading while more waits than the limits allow; read again once it does not."""
        if (read := not self._full()) is self._reading or self.transport.is_closing():
            return
        self._reading = read
        if read:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()

    def _full(self) -> bool:
        limits, incoming = self.limits, self._incoming
        if self._last:
            return False
        if self._unfed or len(self.queue) >= limits.pipelined:
            return True
        if self.queue and sum(cycle.waiting for cycle in self.queue) > limits.buffered_body_bytes:
            return True
        behind = self.current is not None or incoming in self.queue
        return incoming is not None and behind and incoming.waiting > limits.waiting_body_bytes

    def body_taken(self) -> None:
        """The app has taken what there was of its body."""
        if not self._reading:
            self._hold()

    def _time(self) -> None:
        """Set the clock of a phase that has just begun."""
        if self._timed == IDLE:
            self._since = real() - self._inbox.waited_s()
        if self._incoming is not None:
            self._incoming.since = self._since
        self._timed = self.phase
        if self.phase == HEAD:
            self.due = self.hub.now() + self.limits.head_s
        elif self.phase == BODY:
            self.due = self.hub.now() + self.limits.body_s
            self.mark = 0
