"""Raw inference without a task: a head that a client repeats is answered by callbacks, only its tensors are new.

Everything that a request goes through on the longer way holds here too: the caller and his bounds, the door, the
deadline, the departure of the client, the observers. What a head may ask beside that (another coding, an
idempotency key, a session) takes the longer way, and so does a request whose JSON was not seen before.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

from tauten.clock import real
from tauten.errors import InputError, TautenError
from tauten.run.oip.tensors import Buffer
from tauten.run.request import Request
from tauten.run.single import tell
from tauten.run.trace import Trace
from tauten.serve.door import ANYONE, Call, Caller, draining, new_id, refusal
from tauten.serve.exchange import Reply
from tauten.serve.http.arrival import TICK_S, Inbox
from tauten.serve.http.cycle import Direct, Wire
from tauten.serve.http.known import Given
from tauten.serve.http.wire import Head
from tauten.serve.kept.traces import server_timing
from tauten.serve.oip import rest
from tauten.serve.oip.parameters import Parameters
from tauten.serve.oip.ride import Line, Ride
from tauten.serve.oip.statistics import CODING_IN, CODING_OUT
from tauten.serve.safety.discreet import told

if TYPE_CHECKING:
    from tauten.serve.app import Site

_DIGITS = 9  # of a length: a longer one is an error, which the longer way tells
_RAW_OUTPUTS = Parameters(binary_data_output=True)
_NONE: Any = None  # a wire after the last word: taking the attribute away would cost more than all the others


def express(site: Site, call: Call, line: Line) -> Express | None:
    """The quicker way for requests with the head of `call`; None where they are not tensors as they lie."""
    headers = call.exchange.headers
    size = headers.get(rest.HEAD_LENGTH, "")
    if not (size.isascii() and size.isdigit()) or len(size) > _DIGITS:
        return None
    if headers.get("accept-encoding", "") in rest.CODINGS:
        return None  # it asks for a compressed answer
    return Express(site, call, line, int(size))


class Express:
    """Requests to one model under one head. `call` stands for them all: what its head says, each of them says."""

    def __init__(self, site: Site, call: Call, line: Line, head_length: int) -> None:
        self.site = site
        self.line = line
        self.call = call
        call.id = ""  # it stands for others
        self._end = head_length
        self._layout: rest.Layout | None = None  # of the last one

    def take(self, wire: Wire, data: bytes, at: int, given: Given) -> Rider | None:
        """One more request, whose body begins at `at`; None where its JSON was not seen before, or asks for more
        than tensors."""
        layout = self._layout
        if layout is None or not data.startswith(layout.text, at) or len(data) - at != layout.whole:
            layout = self._layout_of(data[at:])
            if layout is None:
                return None
        service = self.line.service
        if service.pays or not (service.ready and service.engine.plans):
            return None
        call = self.call
        if given:
            try:
                call = call.told(given)
            except InputError:
                return None  # the longer way says what is wrong
        return Rider(self, call, wire, layout, data, at)

    def _layout_of(self, body: bytes) -> rest.Layout | None:
        layout = rest.layout_of(body, self._end)
        if layout is None or layout.raw is None or len(body) > self.call.door.body_bytes:
            return None
        asked = layout.head.parameters
        if asked is not None and asked != _RAW_OUTPUTS:
            return None
        self._layout = layout
        return layout


class Rider(Direct):
    """One request on its way."""

    ride: Ride | None = None  # once it is on one
    caller: Caller = ANYONE
    seconds = 0.0  # from its arrival until its answer was written
    lag_s = 0.0  # that it waited for the event loop
    came = 0.0  # when that had it
    _closing: list[Callable[[], None]]  # to be called at its end

    def __init__(
        self, way: Express, call: Call, wire: Wire, layout: rest.Layout, data: bytes, at: int
    ) -> None:
        self.wire = wire
        self.way = way
        self.first = call  # one whose head says the same
        self.id = call.id or new_id()
        self.layout = layout
        self.data = data
        self.at = at  # where its body begins in it

    @property
    def arrived(self) -> float:
        """When it was whole."""
        return self.came - self.lag_s

    @property
    def sent_s(self) -> float:
        """Seconds that its client took to send it; less than a tick is what reading takes."""
        sent_s = self.arrived - self.since if self.since else 0.0
        return sent_s if sent_s >= TICK_S else 0.0

    def begin(self, inbox: Inbox) -> None:
        """Let it come along, or answer why not."""
        way = self.way
        line, call = way.line, self.first
        self.came = came = real()
        if came - line.opened > TICK_S:  # the loop may have been busy since it last looked here
            self.lag_s = inbox.waited_s()
        way.site.in_flight += 1
        exchange = call.exchange
        self._closing = []
        try:
            self.caller = caller = call.door.identify(exchange, call.route)
            self._closing = exchange.hand_over()
            if call.door.closing.is_set():
                raise draining()
            line.board(self, min(call.priority, caller.priority), alone=call.timed)
        except Exception as error:  # noqa: BLE001  # every request gets an answer
            self._closing += exchange.hand_over()
            self.fail(error)

    def _tell(self) -> None:
        if self.ride is not None:
            self.ride.part(self)

    def answer(self, head: bytes, tail: bytes, text: bytes, body: Iterable[Buffer]) -> None:
        """Send what the ride brought: tensors behind a head and its JSON, which are `head`, the id, and `tail`."""
        head = b"%b%b\r\n" % (head, self.id.encode())
        if self.caller.timing:
            head += f"server-timing: {server_timing(self.trace)}\r\n".encode()
        self._release()
        if self.wire.hub.draining:
            self.respond(Head.ready(head), b"".join((text, *body)))
        else:
            self.send_off(b"".join((head, tail, *body)))
        self._over()

    def turn_away(self, message: bytes) -> None:
        """Send a refusal that others were told, too, as it goes on the wire. The observers hear of it from there."""
        self._release()
        self.send_off(message)
        self._over()

    def reply(self, reply: Reply) -> None:
        """As `answer`, of what is not made for many."""
        exchange = self.call().exchange
        if self.caller.timing:
            exchange.extra.append(("server-timing", server_timing(self.trace)))
        head = Head(reply.status, exchange.lines(reply))
        self._release()
        self.respond(head, reply.whole())
        self._over()

    def _over(self) -> None:
        self.wire, self.data = _NONE, b""  # whose client may stay long
        self.seconds = real() - (self.since or self.arrived)

    def _release(self) -> None:
        """Count it out before its client can know that it is over."""
        self.way.site.in_flight -= 1
        for callback in self._closing:
            callback()
        self._closing = []

    def fail(self, problem: Exception) -> None:
        """Tell the client why there is no answer; where it has one already, whoever keeps an eye on the loop."""
        try:
            if self.answered:
                raise problem
            self._refuse(problem)
        except Exception as mistake:  # noqa: BLE001  # the others are to be told, too
            tell(mistake)

    def _refuse(self, error: Exception) -> None:
        """Say why there is no answer, to a client that is there, and to the observers."""
        call, site, seconds = self.call(), self.way.site, real() - (self.since or self.arrived)
        exchange = call.exchange
        site.in_flight -= 1
        try:
            if self.gone:
                self.over()
            else:
                reply = refusal(exchange, call.route.failed, told(error, call))
                exchange.status = reply.status
                self.respond(Head(reply.status, exchange.lines(reply)), reply.whole())
        finally:
            self.wire, self.data = _NONE, b""
            site.finished(exchange, call, error, seconds)

    # -- for those who ask for more than that it went well ---------------------------------------------------

    def call(self) -> Call:
        """The same request as one that ran in a task."""
        exchange = self.first.exchange.again(self.lag_s, self._closing)
        exchange.status, exchange.left = (0 if not self.seconds else 200), self.gone
        exchange.extra.append(("x-request-id", self.id))
        call = self.first.again(exchange, self.id)
        call.caller, call.service = self.caller, self.way.line.service
        if self.ride is not None and self.ride.inside:  # else it was refused before anything was begun
            call.request = cast(Request, self)  # whose plan, trace and failure are all that is looked at
        return call

    def refused(self, error: TautenError) -> Call:
        """The same, of one that was turned away."""
        call = self.call()
        call.exchange.status = error.http_status
        return call

    @property
    def plan(self) -> str:
        return self._ride.plan

    @property
    def failure(self) -> TautenError | None:
        return self._ride.failure

    @property
    def end(self) -> float:
        """When its model's answer was there."""
        return self._ride.end

    @property
    def _ride(self) -> Ride:
        assert self.ride is not None  # nobody asks before
        return self.ride

    @property
    def trace(self) -> Trace:
        """Made anew at each call."""
        ride = self._ride
        trace, sent_s = ride.trace_of(self.arrived, self.lag_s), self.sent_s
        if sent_s:
            trace.start -= sent_s
            trace.rows.insert(0, ("", "client", trace.start, self.arrived))
        count = ride.count
        trace.spent += [("", CODING_IN, ride.input_s / count), ("", CODING_OUT, ride.output_s / count)]
        return trace
