"""Requests over a WebSocket, one after another: inputs that stream in, outputs that stream out.

The client sends JSON objects, and bytes for increments of media:

    {"inputs": {...}}                               begins a request; may carry "id", "deadline_ms",
                                                    "priority", "traceparent" and "idempotency_key"
    {"type": "input", "input": NAME, "value": ...}  one increment of a streamed input
    {"type": "input", "input": NAME}                the bytes that follow are increments of this one
    {"type": "end", "input": NAME}                  that input is whole
    {"type": "cancel"}                              stop the request

The server answers `started`, `output` (media: their type, then a message of bytes), `done` or `error`.
With a key that came before, these are the first request's messages, and `started` says `replayed`.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec

from tauten.clock import real
from tauten.describe.payload import Media
from tauten.describe.ports import Session, Stream
from tauten.errors import Cancelled, InputError, NotFound, suggest
from tauten.serve.door import Call, check_depth
from tauten.serve.exchange import Reply, TooLarge
from tauten.serve.kept.idempotency import HEADER as IDEMPOTENCY_KEY
from tauten.serve.kept.sessions import HEADER as SESSION
from tauten.serve.kept.traces import timing_ms, usage
from tauten.serve.native.values import FormField, Inputs, encode, is_address
from tauten.serve.safety.discreet import told
from tauten.serve.safety.safe_fetch import SIDE_BY_SIDE
from tauten.serve.service import Service
from tauten.serve.socket import Socket, Turn

if TYPE_CHECKING:
    from tauten.serve.app import Site

FEED = 64  # increments of an input that wait for the workflow; then the client is held back
_TYPES = ("run", "input", "end", "cancel")
_SAID = {
    "id": "x-request-id",
    "deadline_ms": "x-tauten-deadline-ms",
    "priority": "x-tauten-priority",
    "traceparent": "traceparent",
    "idempotency_key": IDEMPOTENCY_KEY,
}
_FIELDS = ("type", "inputs", *_SAID)  # of the message that begins a request


class Feed(AsyncIterator[Any]):
    """Increments of an input on their way from the socket to the workflow, behind a bound.

    One may be a task that brings it, from elsewhere: it keeps its place while the socket is read on.
    """

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Any] = asyncio.Queue(FEED)
        self._next: asyncio.Task[Any] | None = None  # that the workflow waits for
        self.ended = False
        self._left = False

    async def put(self, value: Any) -> None:
        """Hand over one increment; waits while the workflow has enough, drops what nobody reads any more."""
        if not self._left:
            await self._queue.put(value)
        if self._left:  # or while it waited
            self.leave()
            _stop(value)

    async def end(self) -> None:
        self.ended = True
        await self.put(_END)

    async def __anext__(self) -> Any:
        value = await self._following()
        while value is _NONE:
            value = await self._following()
        if value is _END:
            self._queue.put_nowait(_END)  # a second look finds the end again
            raise StopAsyncIteration
        return value

    async def _following(self) -> Any:
        """What was put next. One that is still brought stays the next where its reader gives up."""
        if self._next is None:
            value = await self._queue.get()
            if not isinstance(value, asyncio.Task):
                return value
            self._next = value
        await asyncio.wait([self._next])
        task, self._next = self._next, None
        return _END if task.cancelled() else task.result()

    async def aclose(self) -> None:
        self.leave()

    def leave(self) -> None:
        """Nobody reads any more: whoever waits to put goes on, and nothing is brought."""
        self._left = True
        _stop(self._next)
        while not self._queue.empty():
            _stop(self._queue.get_nowait())


class Last(str):
    """The message that ends a request: the socket is free for the next one before it goes."""


class _Run:
    """The request that runs now."""

    def __init__(self, turn: Turn, feeds: dict[str, Feed]) -> None:
        self.turn = turn
        self.feeds = feeds
        self.bytes_for = next(iter(feeds)) if len(feeds) == 1 else ""
        self.call: Call | None = None
        self.task: asyncio.Task[None] | None = None
        self.begun = False  # the task has taken its first step
        self.stopped = False
        self.side_by_side = asyncio.Semaphore(SIDE_BY_SIDE)  # increments that are brought

    def feed(self, name: Any) -> Feed:
        if name not in self.feeds:
            raise _unclear(f"no streamed input {str(name)[:60]!r}", suggest(str(name), self.feeds))
        feed = self.feeds[name]
        if feed.ended:
            raise _unclear(f"input `{name}` has ended", "begin another request")
        return feed

    def stop(self) -> None:
        self.stopped = True
        request = self.call.request if self.call is not None else None
        if request is not None:
            request.fail(_cancelled())
        elif self.task is not None and self.begun:  # a task that was cancelled before would answer nothing
            self.task.cancel()


class Dialogue:
    """One socket of a service."""

    def __init__(self, site: Site, call: Call, service: Service, inputs: Inputs) -> None:
        assert isinstance(call.exchange, Socket)  # the route is a socket's
        self.site = site
        self.socket = call.exchange
        self.first = call
        self.service = service
        self.inputs = inputs
        self._run: _Run | None = None
        self._session = ""
        self._count = 0
        self._parted = False  # the client left, and no request ran

    async def talk(self) -> None:
        """Until the client leaves; what still runs then is stopped."""
        await self.socket.accept()
        self.socket.settle()
        self.socket.on_leave(self._left)
        task: asyncio.Task[None] | None = None
        try:
            async for message in self.socket.messages():
                try:
                    await self._take(message)
                except InputError as error:
                    await self.socket.send_json(_error(error))
                task = self._run.task if self._run is not None else task
        finally:
            if task is not None and not task.done():
                if not self.socket.left:
                    task.cancel()
                await asyncio.wait([task])
        if self._parted:
            self.socket.part()

    def _left(self) -> None:
        self._parted = self._run is None

    async def _take(self, message: str | bytes) -> None:
        if len(message) > self.first.door.body_bytes:
            raise TooLarge(
                f"a message of {len(message)} bytes; at most {self.first.door.body_bytes} are taken",
                help="send less, or start the server with a larger --max-body-mb",
            )
        if isinstance(message, bytes):
            await self._bytes(message)
            return
        given = _object(message)
        kind = given.get("type", "run" if "inputs" in given else "")
        if kind == "run":
            self._begin(given)
        elif kind == "cancel":
            if self._run is not None:
                self._run.stop()
        elif kind in ("input", "end"):
            await self._input(self._running(), given, kind)
        else:
            raise _unclear(f"a message of type {str(kind)[:60]!r}", suggest(str(kind), _TYPES))

    async def _input(self, run: _Run, given: Mapping[str, Any], kind: str) -> None:
        name = given.get("input")
        feed = run.feed(name)
        if kind == "end":
            await feed.end()
        elif "value" in given:
            value = given["value"]
            if is_address(value):
                await feed.put(_task(self._fetched(run, str(name), value)))
            else:
                await feed.put(await self.inputs.increment(str(name), value, self.first.door.fetch))
        else:
            run.bytes_for = str(name)

    async def _fetched(self, run: _Run, name: str, value: Any) -> Any:
        """An increment from elsewhere; of one that cannot be had the client is told, and the request goes on."""
        door = self.first.door
        try:
            async with run.side_by_side, door.connections:
                return await self.inputs.increment(name, value, door.fetch)
        except InputError as error:
            if not self.socket.left:
                await self.socket.send_json(_error(error))
            return _NONE

    async def _bytes(self, message: bytes) -> None:
        run = self._running()
        if not run.bytes_for:
            raise _unclear("bytes for no input", 'first say {"type": "input", "input": NAME}')
        feed = run.feed(run.bytes_for)
        await feed.put(await self.inputs.increment(run.bytes_for, FormField(message, filename="")))

    def _running(self) -> _Run:
        if self._run is None:
            raise _unclear("no request runs", 'begin with {"inputs": {...}}')
        return self._run

    def _begin(self, given: Mapping[str, Any]) -> None:
        if self._run is not None:
            raise _unclear("a request runs already", "wait for its `done` or `error`, or open another socket")
        for name in given:
            if name not in _FIELDS:
                raise _unclear(f"a request with {name[:60]!r}", suggest(name[:60], _FIELDS))
        inputs = given.get("inputs", {})
        if not isinstance(inputs, dict):
            raise _unclear("`inputs` is no object", 'begin with {"inputs": {...}}')
        streamed = [name for name, port in self.inputs.ports.items() if port.stream and name not in inputs]
        run = self._run = _Run(Turn(self.socket, self._headers(given)), {name: Feed() for name in streamed})
        run.task = asyncio.get_running_loop().create_task(self._answer(run, inputs))
        self.socket.under_way.until(run.task)

    def _headers(self, given: Mapping[str, Any]) -> dict[str, str]:
        """The handshake's headers with what this request says of itself."""
        headers = dict(self.socket.headers)
        self._count += 1
        if self._count > 1:
            for name in ("x-request-id", IDEMPOTENCY_KEY):  # the handshake's are its first request's
                headers.pop(name, None)
        if self._session:
            headers[SESSION] = self._session
        for name, header in _SAID.items():
            if given.get(name) is not None:
                headers[header] = str(given[name])
        return headers

    async def _answer(self, run: _Run, given: Mapping[str, Any]) -> None:
        """One request, as the observers see any other."""
        began = real()  # uvloop tells its own time in whole milliseconds
        problem: BaseException | None = None
        run.begun = True
        try:
            run.call = call = self.first.door.enter(run.turn, self.first.route, self.first.params)
            if run.stopped:
                raise _cancelled()
            await self._tell(run, call, await self._reply(run, call, given))
        except asyncio.CancelledError as error:
            problem = error
            if not run.stopped or self.socket.left:
                raise
            problem = stopped = _cancelled()  # it waited for another's answer
            await self._fail(run, stopped)
        except Exception as error:  # noqa: BLE001  # every request gets its answer
            problem = error
            await self._fail(run, error)
        finally:
            self._over(run)
            self.site.finished(run.turn, run.call, problem, real() - began)

    async def _reply(self, run: _Run, call: Call, given: Mapping[str, Any]) -> Reply:
        """The messages of this request, or of the first one with its key."""

        async def begun(call: Call) -> Reply:
            return await self._begun(run, call, given)

        if IDEMPOTENCY_KEY not in call.exchange.headers:
            return await begun(call)
        if run.feeds:
            names = ", ".join(run.feeds)
            raise _unclear(f"a key for a request whose input streams: {names}", "send the input whole")
        session = self.socket.headers.get(SESSION, "").encode()
        return await self.site.idempotency.reply(call, begun, [session, msgspec.json.encode(given)])

    async def _begun(self, run: _Run, call: Call, given: Mapping[str, Any]) -> Reply:
        call.check(self.service)
        values = await call.reading(self.service, lambda fetch: self.inputs.values(given, fetch))
        values |= {name: Stream(feed) for name, feed in run.feeds.items()}
        inputs = self.service.workflow.bind(**values)
        session = self._gone_on_with(call)
        headers = [(SESSION, session.id)] if session is not None else []
        return Reply(self._messages(call, inputs, session), headers=headers)  # type: ignore[arg-type]

    def _gone_on_with(self, call: Call) -> Session | None:
        """The session of a request. One that is over is told once: the next request begins another."""
        try:
            return call.session(self.service)
        except NotFound:
            self._session = ""
            self.socket.headers.pop(SESSION, None)
            raise

    async def _messages(
        self, call: Call, inputs: Mapping[str, Any], session: Session | None
    ) -> AsyncGenerator[str | bytes, None]:
        async with aclosing(call.stream(self.service, inputs, session)) as outputs:
            async for value in outputs:
                if isinstance(value, Media):
                    yield _text({"type": "output", "media": value.type, "size_bytes": value.size_bytes})
                    yield value.data
                else:
                    yield _text({"type": "output", "output": value})
        yield Last(_text(done(call)))

    async def _tell(self, run: _Run, call: Call, reply: Reply) -> None:
        said = dict(reply.headers)
        self._session = said.get(SESSION, "")
        started: dict[str, Any] = {"type": "started", "id": said.get("x-request-id", call.id)}
        if self._session:
            started["session"] = self._session
        if "idempotent-replayed" in said:
            started["replayed"] = True
        await self.socket.send_json(started)
        messages: Any = reply.body
        async with aclosing(messages):
            async for message in messages:
                if isinstance(message, Last):
                    self._over(run)
                    run.turn.status = 200
                await self.socket.send(message)

    async def _fail(self, run: _Run, error: Exception) -> None:
        ours = told(error, run.call)
        self._over(run)
        run.turn.status = ours.http_status
        if not self.socket.left:
            await self.socket.send_json({**_error(ours), "id": run.call.id if run.call else ""})

    def _over(self, run: _Run) -> None:
        """The socket is free for the next request: said before the last message goes, which invites it."""
        run.turn.unwatch()
        for feed in run.feeds.values():
            feed.leave()
        if self._run is run:
            self._run = None


def done(call: Call) -> dict[str, Any]:
    """The last word on a request that went well."""
    request = call.request
    assert request is not None  # it ran
    trace = request.trace
    return {
        "type": "done",
        "id": call.id,
        "plan": request.plan,
        "usage": usage(trace),
        "timing_ms": timing_ms(trace, sources=call.caller.timing),
    }


def _task(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    task = asyncio.get_running_loop().create_task(work)
    task.add_done_callback(
        lambda done: done.cancelled() or done.exception()
    )  # seen, if nobody waits any more
    return task


def _stop(value: Any) -> None:
    if isinstance(value, asyncio.Task):
        value.cancel()


def _object(message: str) -> dict[str, Any]:
    data = message.encode()
    check_depth(data)
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise _unclear(f"not a JSON object: {error}", 'begin with {"inputs": {...}}') from None


def _text(value: Any) -> str:
    return encode(value).decode()


def _cancelled() -> Cancelled:
    return Cancelled("the client cancelled the request", help="send it again")


def _error(error: Any) -> dict[str, Any]:
    return {"type": "error", "error": error.as_json()}


def _unclear(seen: str, help: str) -> InputError:
    return InputError(seen, help=help, code="E287")


_END: Any = object()
_NONE: Any = object()  # in place of an increment that could not be had
