"""One connection of the thin server: requests in order, answers back, clocks on every phase."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from tauten.serve.http.arrival import Inbox
from tauten.serve.http.cycle import Cycle
from tauten.serve.http.inflow import BODY, CLOSED, HEAD, IDLE, LINGER, UPGRADED, Inflow
from tauten.serve.http.reader import Reader
from tauten.serve.http.wire import Refusal, refusal

if TYPE_CHECKING:
    from tauten.serve.http.thin import Hub


class Connection(Inflow):
    """Orders the requests of one client, and ends them; its clocks are read by the hub's sweep."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub)
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
        if self.phase == UPGRADED and self.socket is not None:
            self.socket.resumed()
        if self.current is None and self.phase < LINGER:
            self._advance()

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
