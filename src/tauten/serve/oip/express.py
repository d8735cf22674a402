"""Raw inference without a task: a head that a client repeats is answered by callbacks, only its tensors are new.

Everything that a request goes through on the longer way holds here too: the caller and his bounds, the door, the
deadline, the departure of the client, the observers. What a head may ask beside that (another coding, an
idempotency key, a session) takes the longer way, and so does a request whose JSON was not seen before.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from tauten.clock import real
from tauten.errors import InputError, TautenError
from tauten.run.request import ANY_TIME, Request
from tauten.run.single import Item, Single, Station
from tauten.run.trace import Trace
from tauten.serve.door import Call, Caller, client_left, new_id, refusal
from tauten.serve.http.cycle import Cycle
from tauten.serve.http.known import Given
from tauten.serve.http.wire import Head
from tauten.serve.kept.traces import server_timing
from tauten.serve.oip import rest
from tauten.serve.oip.parameters import Parameters
from tauten.serve.oip.statistics import CODING_IN, CODING_OUT
from tauten.serve.safety.discreet import told
from tauten.serve.tensor_model import Feed, TensorService, rows_of
from tauten.serve.tensor_model import refusal as of_engine

if TYPE_CHECKING:
    from tauten.serve.app import Site

_DIGITS = 9  # of a length: a longer one is an error, which the longer way tells
_SHAPES = 64  # of one head's JSON: it has the same length for all
_RAW_OUTPUTS = Parameters(binary_data_output=True)


def express(site: Site, call: Call, service: TensorService) -> Express | None:
    """The quicker way for requests with the head of `call`; None where they are not tensors as they lie."""
    headers = call.exchange.headers
    size = headers.get(rest.HEAD_LENGTH, "")
    if not (size.isascii() and size.isdigit()) or len(size) > _DIGITS:
        return None
    if headers.get("accept-encoding", "") in rest.CODINGS:
        return None  # it asks for a compressed answer
    return Express(site, call, service, int(size))


class Express:
    """Requests to one model under one head. `call` stands for them all: what its head says, each of them says."""

    def __init__(self, site: Site, call: Call, service: TensorService, head_length: int) -> None:
        self.site = site
        self.service = service
        self.call = call
        call.id = ""  # it stands for others
        self._end = head_length
        self._items: dict[rest.Layout, tuple[object, Item]] = {}  # what the items of a layout have in common
        self._lines: dict[int, bytes] = {}  # of an answer's head, by the length of its JSON

    def take(self, cycle: Cycle, body: bytes, given: Given, waited_s: float) -> bool:
        """Begin one request; False where its JSON was not seen before, or asks for more than tensors."""
        began = real()
        layout = rest.layout_of(body, self._end)
        if layout is None or layout.raw is None or not self.service.ready:
            return False
        if len(body) > self.call.door.body_bytes:
            return False
        asked = layout.head.parameters
        if asked is not None and asked != _RAW_OUTPUTS:
            return False
        call = self.call
        if given:
            try:
                call = call.told(given)
            except InputError:
                return False  # the longer way says what is wrong
        try:
            station = self.service.station()
        except TautenError:  # no plan is open: the longer way says so
            return False
        self.site.in_flight += 1
        try:
            caller = call.door.identify(call.exchange, call.route)
        except TautenError as error:
            first, id = call.exchange.again(waited_s, call.exchange.hand_over()), call.id or new_id()
            first.extra.append(("x-request-id", id))
            self.refuse(cycle, call.again(first, id), error, began)
        else:
            Ride(self, call, station, cycle, layout, waited_s, caller, began).begin(body)
        return True

    def refuse(self, cycle: Cycle, call: Call, error: Exception, began: float) -> None:
        """Say why there is no answer, to a client that is there, and to the observers."""
        exchange = call.exchange
        self.site.in_flight -= 1
        try:
            if exchange.left:
                cycle.over()
            else:
                reply = refusal(exchange, call.route.failed, told(error, call))
                exchange.status = reply.status
                cycle.respond(Head(reply.status, exchange.lines(reply)), reply.whole())
        finally:
            self.site.finished(exchange, call, error, real() - began)

    def item(self, ride: Ride, body: bytes) -> Item:
        """The tensors of a body as the model runs them; raises InputError where they do not fit it."""
        layout, service = ride.layout, self.service
        feed = layout.tensors(body, Feed())
        known = self._items.get(layout)
        if known is not None and known[0] is service.signature:
            item = known[1]
            group = item.group if service.signature.batch_axis else ride.station.deployment.kin(feed)[1]
            return Item(feed, item.weight, group, item.rows)
        feed = service.fitted(feed)
        order = list(feed)  # the model's
        layout.parts.sort(key=lambda part: order.index(part[0]))
        weight, group = ride.station.deployment.kin(feed)
        item = Item(feed, weight, group, rows_of(feed))
        if len(self._items) >= _SHAPES:
            self._items.clear()
        self._items[layout] = (service.signature, item._replace(value=None))
        return item

    def lines(self, size: int, ride: Ride) -> bytes:
        """The head of an answer whose JSON is so long."""
        lines = self._lines.get(size)
        if lines is None:
            lines = self._lines[size] = (
                f"HTTP/1.1 200 OK\r\ncontent-type: {rest.RAW}\r\n{rest.HEAD_LENGTH}: {size}\r\nx-request-id: "
            ).encode()
        lines = b"%b%b\r\n" % (lines, ride.id.encode())
        if ride.caller.timing:
            lines += f"server-timing: {server_timing(ride.trace)}\r\n".encode()
        return lines


class Ride(Single):
    """One request on its way."""

    input_s = output_s = 0.0  # that its tensors took to be read and written
    seconds = 0.0  # from its arrival until its answer was written
    gone = False  # its client

    def __init__(
        self,
        way: Express,
        call: Call,
        station: Station,
        cycle: Cycle,
        layout: rest.Layout,
        waited_s: float,
        caller: Caller,
        began: float,
    ) -> None:
        service = way.service
        self.way = way
        self.first = call  # one whose head says the same
        self.cycle = cycle
        self.layout = layout
        self.caller = caller
        self.came = began
        self.id = call.id or new_id()
        self._closing = call.exchange.hand_over()  # to be called at its end
        timed = call.timed
        Single.__init__(
            self,
            station,
            budget_s=call.deadline_ms / 1e3 if timed else service.budget_s,
            aim=ANY_TIME if timed else service.aim,
            priority=min(call.priority, caller.priority),
            tenant=caller.tenant,
            lag_s=waited_s,
        )

    @property
    def plan(self) -> str:
        return self.station.opened.id

    def begin(self, body: bytes) -> None:
        """Let it in, or answer why not."""
        cycle = self.cycle
        try:
            began = real()
            item = self.way.item(self, body)
            self.input_s = real() - began
            cycle.add_callback(self._leave_client)
            self.enter(item)
        except Exception as error:  # noqa: BLE001  # every request gets an answer
            self._fail(error)

    def _leave_client(self) -> None:
        self.gone = True
        self.fail(client_left())

    def refuse(self, error: TautenError) -> None:
        self._fail(of_engine(error))

    def answer(self, value: Any) -> None:
        try:
            head, body = self._written(value)
        except Exception as problem:  # noqa: BLE001  # every request gets an answer
            self._fail(problem)
            return
        cycle = self.cycle
        self._release()
        if isinstance(head, bytes):
            cycle.respond_at_once(head, body)
        else:
            cycle.respond(head, body)
        del self.cycle  # whose client may stay long
        self.seconds = real() - self.came

    def _written(self, results: Any) -> tuple[bytes | Head, bytes]:
        """The answer, its head as bytes where all of that is ours."""
        began = real()
        way, layout = self.way, self.layout
        name = way.service.name
        raw = rest.all_raw(name, layout.raw or (), results)
        if raw is not None:
            text, body = raw
            lines = way.lines(len(text), self)
            self.output_s = real() - began
            return lines, body
        reply = rest.written(name, layout.head, results)  # an output is no plain tensor
        self.output_s = real() - began
        return Head(reply.status, self.call().exchange.lines(reply)), reply.whole()

    def _release(self) -> None:
        """Count it out before its client can know that it is over."""
        self.way.site.in_flight -= 1
        for callback in self._closing:
            callback()
        self._closing = []

    def settle(self) -> None:
        super().settle()
        if self.seconds:
            self.way.site.answered(self, self.seconds)

    def _fail(self, error: Exception) -> None:
        call, cycle = self.call(), self.cycle
        call.exchange.status = 0
        del self.cycle
        self.way.refuse(cycle, call, error, self.came)

    # -- for those who ask for more than that it went well ---------------------------------------------------

    def call(self) -> Call:
        """The same request as one that ran in a task."""
        exchange = self.first.exchange.again(self.lag_s, self._closing)
        exchange.status, exchange.left = 200, self.gone
        exchange.extra.append(("x-request-id", self.id))
        call = self.first.again(exchange, self.id)
        call.caller, call.service = self.caller, self.way.service
        if self.began:  # else it was refused before anything was begun
            call.request = cast(Request, self)  # whose plan, trace and failure are all that is looked at
        return call

    @property
    def trace(self) -> Trace:
        trace = super().trace
        trace.spent += [("", CODING_IN, self.input_s), ("", CODING_OUT, self.output_s)]
        return trace
