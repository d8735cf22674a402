"""Workflows in, ASGI application out: routes of every API, one engine a workflow behind them."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from tauten.clock import real
from tauten.describe.payload import OPENS_FILES
from tauten.errors import InternalError, TautenError
from tauten.run.single import tell
from tauten.serve import apis
from tauten.serve.door import ANYONE, Call, Door, refusal
from tauten.serve.exchange import Exchange, Receive, Reply, Scope, Send, failure
from tauten.serve.http.cycle import Express
from tauten.serve.http.known import VARYING
from tauten.serve.kept.idempotency import HEADER as IDEMPOTENCY_KEY
from tauten.serve.kept.idempotency import Idempotency
from tauten.serve.kept.likened import likened
from tauten.serve.kept.traces import Traces, server_timing
from tauten.serve.routes import Handler, Route, Router
from tauten.serve.safety.discreet import told
from tauten.serve.service import Service, Services
from tauten.serve.socket import Socket

if TYPE_CHECKING:
    from tauten.run.usage.book import Book
    from tauten.serve.oip.express import Rider


class Api(Protocol):
    """What ``apis/`` holds: the class named ``Api`` of each file, or of another package by an entry point.

    One with `roots`, the paths where it begins, has them named to who asks for a path that is not there.
    """

    def __init__(self, site: Site) -> None: ...

    def routes(self) -> list[Route]: ...


class Observer(Protocol):
    """Told of each exchange once it is over: metrics, traces, logs.

    One with a method `answered(riders)` is told by it of those that ran in no task, together, and went well.
    """

    def finished(
        self, exchange: Exchange, call: Call | None, error: BaseException | None, seconds: float
    ) -> None: ...


class Site:
    """What the APIs share: the services and the door."""

    def __init__(self, services: Sequence[Service], door: Door | None = None) -> None:
        self.services = Services(services)
        self.door = door or Door()
        self.traces = Traces()
        self.idempotency = Idempotency()
        self.apis: dict[str, Any] = {}  # by name, once the application has made them
        self.observers: list[Observer] = [self.traces]
        self.draining = False
        self.book: Book | None = None  # of usage, where one is kept
        self.exposition: Callable[[str], tuple[Iterator[bytes], str]] | None = (
            None  # metrics, by Accept header
        )
        self.in_flight = 0  # exchanges and sockets that are open now

    def finished(
        self, exchange: Exchange, call: Call | None, problem: BaseException | None, seconds: float
    ) -> None:
        """An exchange is over: who waits for that is called, and the observers are told."""
        exchange.close()
        for observer in self.observers:
            observer.finished(exchange, call, problem, seconds)
        if problem is not None and exchange.status >= 400:
            problem.__traceback__ = None  # of frames that hold it: each refusal would wait for the collector

    def answered(self, riders: list[Rider]) -> None:
        """Those of one ride were answered as they should: observers that need no more than that are told so."""
        for observer in self.observers:
            told = getattr(observer, "answered", None)
            if told is not None:
                told(riders)
                continue
            for rider in riders:
                call = rider.call()
                try:
                    observer.finished(call.exchange, call, None, rider.seconds)
                except Exception as mistake:  # noqa: BLE001  # the others are to be seen, too
                    tell(mistake)

    def turned_away(self, riders: list[Rider], error: TautenError) -> None:
        """Those were refused before anything was begun, all for one reason."""
        for observer in self.observers:
            told = getattr(observer, "turned_away", None)
            if told is not None:
                told(riders, error)
                continue
            for rider in riders:
                call = rider.refused(error)
                try:
                    observer.finished(call.exchange, call, error, rider.seconds)
                except Exception as mistake:  # noqa: BLE001  # the others are to be seen, too
                    tell(mistake)


PLAIN = frozenset(  # headers that mean the same each time they come; others take the longer way
    (
        *(b"host", b"user-agent", b"accept", b"connection", b"content-type", b"content-length"),
        b"accept-encoding",  # routes that code their answers look at it
        *(b"authorization", b"x-api-key", b"x-tauten-priority"),
        *(b"inference-header-content-length", *VARYING),
    )
)


async def _nothing(*_: Any) -> Any:
    raise InternalError("a head was read from, or written to")


def _broken_off(call: Call | None) -> InternalError:
    """A stream that broke half-way, as its HTTP server hears of it: what a stage said may quote what was asked."""
    return InternalError(
        "an answer broke off half-way",
        help=f"the log says why: request {call.id if call is not None else '?'}",
    )


class App:
    """The ASGI application of a site."""

    def __init__(self, site: Site, *, names: Sequence[str] | None = None) -> None:
        self.site = site
        chosen = apis.names() if names is None else names
        self.apis: dict[str, Any] = {name: apis.find(name)(site) for name in chosen}
        site.apis = self.apis
        self.router = Router(
            (route for api in self.apis.values() for route in api.routes()),
            [path for api in self.apis.values() for path in getattr(api, "roots", ())],
        )

    def express(self, scope: Scope) -> Express | None:
        """What answers requests with exactly this head without a task, where the route has such a way."""
        if any(name not in PLAIN for name, _ in scope["headers"]) or scope["query_string"]:
            return None
        exchange = Exchange(scope, _nothing, _nothing)
        try:
            route, params = self.router.find(exchange.method, exchange.path)
            if route.express is None or self.site.door.meet(exchange) is not None or exchange.extra:
                return None
            return route.express(Call(self.site.door, exchange, route, params, ANYONE))
        except TautenError:  # the request itself will be told
            return None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            await self._lifespan(receive, send)
        if kind not in ("http", "websocket"):
            return
        self.site.in_flight += 1
        files = OPENS_FILES.set(False)  # whatever a request says, no string of it opens one
        try:
            if kind == "http":
                await self._http(Exchange(scope, receive, send))
            else:
                await self._websocket(Socket(scope, receive, send))
        finally:
            OPENS_FILES.reset(files)
            self.site.in_flight -= 1

    async def _http(self, exchange: Exchange) -> None:
        call: Call | None = None
        failed: Callable[[Any], Reply] = failure  # for paths that no API knows
        problem: BaseException | None = None
        try:
            early = self.site.door.meet(exchange)
            if early is not None:
                await exchange.reply(early)
                return
            route, params = self.router.find(exchange.method, exchange.path)
            failed = route.failed
            call = self.site.door.enter(exchange, route, params)
            reply = await self._handled(call)
            if call.request is not None and call.request.trace.notes:
                exchange.extra += likened(call.request.trace)
            if call.caller.timing:
                self._time(call, reply)
            await exchange.reply(reply)
        except asyncio.CancelledError as error:
            problem = error
            raise
        except Exception as error:  # every request gets an answer
            problem = error
            if not exchange.left and not exchange.started:
                await exchange.reply(refusal(exchange, failed, told(error, call)))
            elif not exchange.left:  # the server drops the connection, and logs what it is given
                if isinstance(error, ConnectionResetError):
                    raise
                raise _broken_off(call) from None
        finally:  # uvloop tells its own time in whole milliseconds
            self.site.finished(exchange, call, problem, real() - exchange.arrived)

    def _handled(self, call: Call) -> Awaitable[Reply]:
        """The handler's reply, or an earlier one where an idempotency key asks for it."""
        handler: Handler = call.route.handler
        if IDEMPOTENCY_KEY in call.exchange.headers and call.exchange.method == "POST":
            return self.site.idempotency.reply(call, handler)
        return handler(call)

    @staticmethod
    def _time(call: Call, reply: Reply) -> None:
        """Say where the time went, to a caller that may know."""
        if call.request is not None and isinstance(reply.body, bytes):
            call.exchange.extra.append(("server-timing", server_timing(call.request.trace)))

    async def _websocket(self, socket: Socket) -> None:
        clock = real  # uvloop tells its own time in whole milliseconds
        began = clock()
        call: Call | None = None
        failed: Callable[[Any], Reply] = failure
        problem: BaseException | None = None
        try:
            self.site.door.meet(socket)
            route, params = self.router.find("WEBSOCKET", socket.path)
            failed = route.failed
            call = self.site.door.enter(socket, route, params)
            await route.handler(call)
        except asyncio.CancelledError as error:
            problem = error
            raise
        except Exception as error:  # noqa: BLE001  # every socket gets a closing frame
            problem = error
            ours = told(error, call)
            if socket.accepted:
                await socket.fail(ours)
            else:
                await socket.refuse(refusal(socket, failed, ours))
        finally:
            self.site.finished(socket, call, problem, clock() - began)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        """For servers that start the application: open on start, close on stop."""
        await receive()
        try:
            await self.site.services.open()
        except TautenError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.site.services.close()
        await send({"type": "lifespan.shutdown.complete"})
