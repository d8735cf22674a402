"""One connection of the thin server: bytes to requests in order, answers back, clocks on every phase."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, cast

import httptools

from tauten.serve.http.arrival import Inbox
from tauten.serve.http.cycle import Cycle
from tauten.serve.http.outflow import Outflow
from tauten.serve.http.reader import END, Reader
from tauten.serve.http.wire import Refusal, refusal

if TYPE_CHECKING:
    from tauten.serve.http.thin import Hub
    from tauten.serve.http.websocket import WebSocket

IDLE, HEAD, BODY, LINGER, UPGRADED, CLOSED = range(6)


class Connection(Outflow):
    """Reads, orders and bounds the requests of one client; its clocks are read by the hub's sweep."""

    transport: asyncio.Transport

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
        self._reader: Reader
        self._inbox: Inbox
        self._timed = IDLE  # the phase that `due` belongs to
        self._incoming: Cycle | None = None  # the one whose body is being received
        self._handshake: Cycle | None = None  # a request to become a WebSocket
        self._unfed = b""  # read, and not parsed yet: the queue is full
        self._last = False  # no request is taken any more: what still comes is dropped
        self._whole_read = b""  # a read that may be one whole request
        self._reading = True
        self._eof = False
        self._refused: Refusal | None = None  # answered once all before it are

    # -- transport ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(self.limits.write_bytes)
        ends = {
            "server": self.hub.place(transport.get_extra_info("sockname")),
            "client": _address(transport.get_extra_info("peername")),
        }
        self._reader = Reader(self, self.limits, self.hub.scope | ends)
        self._inbox = Inbox(transport)
        self.due = self.hub.now() + self.limits.head_s  # the first head; later ones have the idle time before
        if not self.hub.admit(self):
            self._say(Refusal(503, "too many connections"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.phase = CLOSED
        self.hub.forget(self)
        if self.socket is not None:
            self.socket.lost()
        for cycle in (self.current, *self.queue):
            if cycle is not None:
                self.hub.departed(cycle, lost=True)
        self.queue.clear()
        self.current = self._incoming = None
        self.resume_writing()
        self._reader.release()
        self._inbox.close()

    def eof_received(self) -> bool:
        """The client stopped sending: work for it stops, yet an answer on its way is still written."""
        self._eof = True
        if self.socket is not None or self.phase >= LINGER or self.hub.tls:
            return False
        if self.current is None or self._incoming is self.current:
            return False
        for cycle in (self.current, *self.queue):
            self.hub.departed(cycle, lost=False)
        return True

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.current is None and self.phase < LINGER:
            self._advance()

    # -- bytes to requests --------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self.socket is not None:
            self.socket.data_received(data)
        elif self._last:
            return  # no request is taken any more
        elif self._unfed:
            self._unfed += data  # what came before reading stopped: at most one read
        elif self.phase != IDLE or not self._repeat(data):
            self._feed(data)
            if self.phase != self._timed:
                self._time()

    def _repeat(self, data: bytes) -> bool:
        """Take a request whose head is the last one's, without parsing it again; where it is the next one and that can
        be done, without a task."""
        known = self._reader.known
        if known is None or (found := known.read(data)) is None:
            known = self._reader.recall(data, self.hub.heads)
            if known is None or (found := known.read(data)) is None:
                return False
            known.express = self.hub.express(known.scope(found[1]))
        at, given = found
        if known.express is not None and self.current is None and not (self.queue or self.stalled):
            direct = self.current = known.express.take(self, data, at, given)
            if direct is not None:
                self.hub.requests += 1
                self.hub.running.add(direct)
                direct.begin(self._inbox)
                return True
        scope = known.scope(given)
        cycle = Cycle(self, scope, known.length)
        cycle.whole = True
        cycle.head_only = scope["method"] == "HEAD"
        if known.length:
            cycle.size = cycle.waiting = known.length
            cycle.chunks.append(data[at:])
        self._offer(cycle)
        if self.queue:
            self._hold()
        return True

    def _feed(self, data: bytes) -> None:
        """Parse what was read; in pieces of one request when there may be several in it."""
        incoming = self._incoming
        if (incoming is None or incoming.length is None) and data.count(END) < 2:
            if self.phase == IDLE:
                self._whole_read = data  # perhaps
            self._parse(data)
            self._whole_read = b""
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
        cycle.size += len(body)
        cycle.waiting += len(body)
        cycle.chunks.append(body)
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
            if self._whole_read and not (cycle.close or cycle.old or cycle.length is None):
                known = self._reader.learn(self._whole_read, cycle.scope, cycle.length)
                if known is not None:
                    self.hub.learned(known)
            self._offer(cycle)

    # -- requests in order --------------------------------------------------------------------------------

    def _offer(self, cycle: Cycle) -> None:
        """Start a request, or let it wait for those before it."""
        if self.current is None and not self.queue and not self.stalled:
            self._start(cycle, self._inbox.waited_s())
        else:
            self.queue.append(cycle)

    def _start(self, cycle: Cycle, waited_s: float = 0.0) -> None:
        self.current = cycle
        self.hub.start(cycle, waited_s)

    def answered(self, cycle: Cycle) -> None:
        """The answer is written: on to the next request, or the end."""
        if cycle is not self.current:
            return
        self.current = None
        if cycle.close:
            self._end(gently=self._incoming is cycle or not self._last)
        elif self.queue or self.phase != IDLE or self._last or not self._reading or self._eof:
            self._advance()
        elif not self.stalled:
            self.due = self.hub.now() + self.limits.idle_s

    def _advance(self) -> None:
        """Nothing runs: take the next request, what was read of it, or wait for one."""
        if self.stalled:
            return  # answers are not piled up before a client that does not read
        if self.queue:
            self._start(self.queue.popleft())
        if self._unfed and len(self.queue) <= self.limits.pipelined // 2:
            data, self._unfed = self._unfed, b""
            self._feed(data)
        if not self._reading:
            self._hold()
        if self.current is not None:
            return
        if self._refused is not None:
            self._say(self._refused)
        elif self._eof:
            self.transport.close()
        elif self.phase == IDLE:
            self.due = self.hub.now() + self.limits.idle_s

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

    def over(self, cycle: Cycle) -> None:
        """The app's task has ended."""
        self.hub.running.discard(cycle)

    # -- the end ------------------------------------------------------------------------------------------

    def _refuse(self, refused: Refusal) -> None:
        """Take no more of this client; its last answer is the refusal."""
        self.hub.refused += 1
        self._last = True
        self._unfed = b""
        incoming, self._incoming = self._incoming, None
        self.phase = IDLE
        if incoming is not None and incoming in self.queue:
            self.queue.remove(incoming)
        if incoming is not None and incoming is self.current:
            self.hub.departed(incoming, lost=True)
            self.current = None
            if not incoming.untouched:
                self.transport.abort()
                return
        if self.current is None and not self.queue:
            self._say(refused)
        else:
            self._refused = refused
            self._hold()

    def _say(self, refused: Refusal) -> None:
        self.transport.write(refusal(refused.status, str(refused), self.hub.usual()))
        self._end(gently=True)

    def _end(self, *, gently: bool) -> None:
        """Close once all is written. Gently: the client may still send, and a reset would overtake the answer."""
        self._last = True
        self._unfed = b""
        if not (gently and self.transport.can_write_eof()) or self._eof:
            self.transport.close()
            return
        self.phase = LINGER
        self.due = self.hub.now() + self.limits.linger_s
        self._hold()
        self.transport.write_eof()

    def failed(self, error: BaseException) -> None:
        """The app raised."""
        self.hub.failed(error)

    def cut(self, cycle: Cycle, status: int) -> None:
        """An app that cannot finish: say so if nothing is written, else break off, never a false end."""
        if self.phase == CLOSED or cycle is not self.current:
            return
        self.current = None
        if cycle.untouched and not cycle.gone:
            self._say(Refusal(status, "the server could not answer"))
        else:
            self.transport.abort()

    def retire(self) -> None:
        """Close at the end of a drain."""
        if self.socket is not None:
            self.socket.retire()
        elif self.phase < LINGER and self.current is None:
            self._end(gently=True)

    # -- clocks -------------------------------------------------------------------------------------------

    def _time(self) -> None:
        """Set the clock of a phase that has just begun."""
        self._timed = self.phase
        if self.phase == HEAD:
            self.due = self.hub.now() + self.limits.head_s
        elif self.phase == BODY:
            self.due = self.hub.now() + self.limits.body_s
            self.mark = 0

    def sweep(self, now: float) -> None:
        """Called now and then: end what has taken too long."""
        if self.stalled and now - self.stalled_since > self.limits.write_stall_s:
            self.transport.abort()
        elif now < self.due or self.socket is not None:
            return
        elif self.phase == LINGER:
            self.transport.abort()
        elif self.phase == HEAD:
            self._refuse(Refusal(408, "the head took too long"))
        elif self.phase == BODY:
            self._sweep_body(now)
        elif self.current is None and not self.queue:
            self.transport.close()

    def _sweep_body(self, now: float) -> None:
        """A body must keep the slowest rate over each stretch in which we read it."""
        size = self._incoming.size if self._incoming is not None else 0
        if self._reading and size - self.mark < self.limits.body_bytes_per_s * self.limits.body_s:
            self._refuse(Refusal(408, "the body came too slowly"))
        else:
            self.mark, self.due = size, now + self.limits.body_s

    # -- WebSocket ----------------------------------------------------------------------------------------

    def _upgraded(self, rest: bytes) -> None:
        """The parser met an upgrade: become a WebSocket, or go on in HTTP as if it had not been asked."""
        cycle, self._handshake = self._handshake, None
        if cycle is None or cycle.scope is None:
            incoming, phase = self._incoming, self.phase
            self._reader.again(0 if incoming is None else incoming.length)
            self.phase = phase
            if rest:
                self._feed(rest)
        elif self.current is not None or self.queue:
            self._refuse(Refusal(400, "an upgrade behind unanswered requests"))
        else:
            self.phase = UPGRADED
            self.socket = self.hub.upgrade(self, cycle.scope, rest)


def _address(peer: Any) -> tuple[str, int] | None:
    """(host, port) of a peer; None for a Unix socket."""
    return (peer[0], peer[1]) if isinstance(peer, tuple) and len(peer) >= 2 else None
