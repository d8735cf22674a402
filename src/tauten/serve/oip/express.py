"""Raw inference without a task: a head that a client repeats is answered by callbacks, only its tensors are new.

Everything that a request goes through on the longer way holds here too, and by the same objects: the caller and
his bounds, the door, the deadline, the departure of the client, the observers. What a head may ask beside that
(another coding, an idempotency key, a session) takes the longer way.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tauten.clock import real
from tauten.errors import TautenError
from tauten.serve.door import Call, refusal
from tauten.serve.exchange import Reply
from tauten.serve.http.cycle import Cycle
from tauten.serve.http.wire import Head
from tauten.serve.kept.traces import server_timing
from tauten.serve.oip import calls, rest
from tauten.serve.oip.parameters import Parameters
from tauten.serve.safety.discreet import told
from tauten.serve.tensor_model import Feed, TensorService
from tauten.serve.tensor_model import refusal as of_engine

if TYPE_CHECKING:
    from tauten.serve.app import Site

_DIGITS = 9  # of a length: a longer one is an error, which the longer way tells
_RAW_OUTPUTS = Parameters(binary_data_output=True)


def express(site: Site, call: Call, service: TensorService) -> Express | None:
    """The quicker way for requests with the head of `call`; None where they are not tensors as they lie."""
    size = call.exchange.headers.get(rest.HEAD_LENGTH, "")
    if not (size.isascii() and size.isdigit()) or len(size) > _DIGITS:
        return None
    return Express(site, call, service, int(size))


class Express:
    """Requests to one model under one head. `call` is the first of them: what its head says, all say."""

    def __init__(self, site: Site, call: Call, service: TensorService, head_length: int) -> None:
        self.site = site
        self.service = service
        self.call = call
        self._end = head_length
        self._lines: dict[int, bytes] = {}  # headers of an answer by the length of its JSON

    def take(self, cycle: Cycle, body: bytes, waited_s: float) -> bool:
        """Begin one request; False where its JSON was not seen before, or asks for more than tensors."""
        layout = rest.layout_of(body, self._end)
        if layout is None or layout.raw is None or not _plain(layout.head):
            return False
        _Ride(self, cycle, layout, waited_s).begin(body)
        return True

    def lines(self, text: bytes) -> bytes:
        """The headers that answers with a JSON of that length share."""
        size = len(text)
        found = self._lines.get(size)
        if found is None:
            found = self._lines[size] = f"content-type: {rest.RAW}\r\n{rest.HEAD_LENGTH}: {size}\r\n".encode(
                "ascii"
            )
        return found


def _plain(head: rest.Head) -> bool:
    """Whether its parameters ask for nothing but raw outputs."""
    asked = head.parameters
    return asked is None or asked == _RAW_OUTPUTS


class _Ride:
    """One request on its way."""

    __slots__ = ("_began", "_call", "_cycle", "_layout", "_read_s", "_way")

    def __init__(self, way: Express, cycle: Cycle, layout: rest.Layout, waited_s: float) -> None:
        self._way = way
        self._cycle = cycle
        self._layout = layout
        self._began = real()
        self._read_s = 0.0
        self._call = way.call.again(way.call.exchange.again(cycle, waited_s))

    def begin(self, body: bytes) -> None:
        way, call = self._way, self._call
        way.site.in_flight += 1
        exchange = call.exchange
        try:
            call.caller = call.door.identify(exchange, call.route)
            exchange.extra.append(("x-request-id", call.id))
            request = call.begin(way.service)
            feed = self._feed(body)
            way.service.begin(request, feed, self._ended)
        except Exception as error:  # noqa: BLE001  # every request gets an answer
            self._fail(error)

    def _feed(self, body: bytes) -> Feed:
        layout, service = self._layout, self._way.service
        began = real()
        feed = layout.tensors(body, Feed())
        if layout.fits is not service.signature:
            feed = service.fitted(feed)
            order = list(feed)  # the model's
            layout.parts.sort(key=lambda part: order.index(part[0]))
            layout.fits = service.signature
        self._read_s = real() - began
        return feed

    def _ended(self, value: Any, error: TautenError | None) -> None:
        """The model has run, or will not."""
        try:
            if error is not None:
                self._call.error = error = of_engine(error)
                raise error
            self._answer(value)
        except Exception as problem:  # noqa: BLE001  # every request gets an answer
            self._fail(problem)

    def _answer(self, results: Any) -> None:
        began = real()
        layout, call, way = self._layout, self._call, self._way
        raw = rest.all_raw(way.service.name, layout.raw or (), results)
        if raw is None:  # an output that is no plain tensor
            reply = rest.written(way.service.name, layout.head, results)
            calls.coded(call, self._read_s, real() - began)
            self._respond(reply)
        else:
            text, body = raw
            calls.coded(call, self._read_s, real() - began)
            lines = way.lines(text)
            if call.caller.timing and call.request is not None:
                lines += b"server-timing: %b\r\n" % server_timing(call.request.trace).encode()
            self._send(Head.ready(200, b"%bx-request-id: %b\r\n" % (lines, call.id.encode())), body)
        self._close(None)

    def _respond(self, reply: Reply) -> None:
        assert isinstance(reply.body, bytes)
        self._send(Head(reply.status, self._call.exchange.lines(reply)), reply.body)

    def _send(self, head: Head, body: bytes) -> None:
        exchange = self._call.exchange
        exchange.status, exchange.started = head.status, True
        self._cycle.respond(head, body)

    def _fail(self, error: Exception) -> None:
        call = self._call
        if call.exchange.left:
            self._cycle.over()
        elif not call.exchange.started:
            self._respond(refusal(call.exchange, call.route.failed, told(error, call)))
        self._close(error)

    def _close(self, problem: BaseException | None) -> None:
        way = self._way
        way.site.in_flight -= 1
        way.site.finished(self._call.exchange, self._call, problem, real() - self._began)
