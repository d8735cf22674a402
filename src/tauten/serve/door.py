"""What every API shares: who asks, with which budget, under which id; and how work is begun and stopped."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import itertools
import math
import os
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec

from tauten.describe.payload import OPENS_FILES
from tauten.describe.ports import Session
from tauten.errors import Cancelled, InputError, TautenError
from tauten.run.deadline import arm, disarm, stoppable
from tauten.run.opened import Answer
from tauten.run.request import ANY_TIME, Aim, Request
from tauten.serve.exchange import Exchange, Reply
from tauten.serve.kept.flights import Flights
from tauten.serve.kept.sessions import HEADER as SESSION
from tauten.serve.kept.sessions import Sessions
from tauten.serve.routes import NotAllowed, Route
from tauten.serve.safety.safe_fetch import CONNECTIONS, Fetch, Fetches
from tauten.serve.service import NotReady, Service
from tauten.serve.wishes import ID, id_of, number, parent_of, payer_of, whole

T = TypeVar("T")

BODY_BYTES = 32 * 1024 * 1024  # a minute of speech or a few photographs; video goes up with the flag
MAX_DEPTH = 64  # JSON levels: structured outputs need a dozen; code that walks values recurses
_BRACKETS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{\]}]', re.DOTALL)  # possessive: linear time
_PREFIX = os.urandom(4).hex()
_count = itertools.count(1)


class Caller(msgspec.Struct, frozen=True):
    """Who asks: the key's name, its tenant, and what it may have."""

    name: str = ""
    tenant: str = ""
    priority: int = 0  # the highest that it may ask for
    rate_per_s: float = math.inf
    burst: int = 1
    concurrent: int = 0  # requests at a time; 0: no bound of its own
    timing: bool = False  # Server-Timing tells how the server works: opt-in
    admin: bool = False  # may swap plans


ANYONE = Caller()
RETRY_S = 1.0  # for who is told "not ready": servers start and swap in seconds


class Call:
    """One request as an API handles it: the exchange, the caller and the budget."""

    __slots__ = (
        "caller",
        "deadline_ms",
        "door",
        "error",
        "exchange",
        "id",
        "late",
        "params",
        "parent",
        "payer",
        "prepared",
        "priority",
        "request",
        "route",
        "service",
        "spent_s",
        "timed",
    )

    def __init__(
        self, door: Door, exchange: Exchange, route: Route, params: dict[str, str], caller: Caller
    ) -> None:
        self.door = door
        self.late = door.closing.is_set()  # it came while the server drains: no work is begun for it
        self.exchange = exchange
        self.route = route
        self.params = params
        self.caller = caller
        headers = exchange.headers
        self._read(headers)
        self.payer = payer_of(headers, caller.name)
        self.id = id_of(headers.get("x-request-id", "")) or new_id()
        self.spent_s = 0.0  # by earlier requests to the engine for the same call
        self.priority = whole(headers, "x-tauten-priority", 0)
        self.request: Request | None = None  # what runs for it, once it runs
        self.prepared: Request | None = None  # which has been read, and is to be begun
        self.service: Service | None = None  # that it is for, once it is known
        self.error: BaseException | None = None  # what ended the work, told inside a stream or not

    def _read(self, headers: Mapping[str, str]) -> None:
        """What of a request's head is likely to be its own."""
        self.deadline_ms = number(headers, "x-tauten-deadline-ms", math.inf)
        self.timed = self.deadline_ms < math.inf  # what is wanted; a client's own timeout does not say it
        self.parent = parent_of(headers.get("traceparent", ""))

    def told(self, given: Iterable[tuple[bytes, bytes]]) -> Call:
        """One more request, whose head differs in these; raises InputError as the first would have."""
        headers = {name.decode("ascii"): value.decode("ascii") for name, value in given}
        new = self.again(self.exchange, id_of(headers.get("x-request-id", "")))
        new._read(headers)
        return new

    def again(self, exchange: Exchange, id: str) -> Call:
        """One more request with the same head, and so with the same wishes."""
        new = Call.__new__(Call)
        new.door, new.route, new.params, new.caller = self.door, self.route, self.params, self.caller
        new.deadline_ms, new.timed, new.priority = self.deadline_ms, self.timed, self.priority
        new.exchange, new.parent, new.spent_s, new.late = exchange, self.parent, 0.0, self.late
        new.id, new.payer = id, self.payer
        new.request = new.prepared = new.service = new.error = None
        return new

    # -- what came ----------------------------------------------------------------------------------------

    async def body(self) -> bytes:
        return await self.exchange.body(self.door.body_bytes)

    async def plain(self) -> bytes:
        """The body of a path that takes it as it is; raises InputError E299 for one that is compressed."""
        coding = self.exchange.headers.get("content-encoding", "identity")
        if coding.lower() not in ("", "identity"):
            raise InputError(
                f"content-encoding {coding[:40]!r} on a path that takes bodies as they are",
                help="send the body uncompressed; /v2/models/NAME/infer takes gzip and deflate",
                code="E299",
            )
        return await self.body()

    async def read(self, kind: type[T]) -> T:
        """The body as JSON of a type; raises InputError E290 with the place of what is wrong."""
        body = await self.plain()
        check_depth(body)
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InputError(
                f"the body is not what this path takes: {error}", help="see /openapi.json", code="E290"
            ) from None

    # -- running ------------------------------------------------------------------------------------------

    def budget_ms(self, service: Service) -> float:
        """From its first byte to its deadline. One that was named counts from there, an SLO from the last byte, which a
        client's own timeout only brings forward."""
        if self.timed:
            return self.deadline_ms
        return min(self.deadline_ms, (service.budget_s + self.exchange.sent_s) * 1e3)

    def _aim(self, service: Service) -> Aim:
        return ANY_TIME if self.timed else service.aim.less(self.spent_s)

    def check(self, service: Service) -> None:
        """Raise where no work can be begun for it: it came while the server drains, or the service is not ready."""
        if self.late:
            raise draining()
        service.check()

    def knock(self, service: Service, inputs: Mapping[str, Any] | None = None) -> None:
        """Refuse now, before a body is decoded and anything is begun, what would be too late.

        Not where an identical request may be running: its answer may come in time for this one as well. `inputs`
        are those that decide it; without them each request that may share for its service counts as one of those.
        """
        self.service = service
        self.check(service)
        shares = service.shareable if inputs is None else service.shares(inputs)
        if self.door.flights is None or not shares:
            try:
                service.engine.knock(
                    deadline_ms=self.budget_ms(service) - self.exchange.sent_s * 1e3,
                    aim=self._aim(service),
                    priority=min(self.priority, self.caller.priority),
                    tenant=self.caller.tenant,
                    lag_s=self.exchange.lag_s,
                )
            except TautenError:
                self._turned_away(service)
                raise

    def _turned_away(self, service: Service) -> None:
        """Have it booked that it was refused here, before there was a request."""
        book = service.engine.door.book
        if book is not None:
            book.turned_away(self.id, self.caller.tenant, self.payer, service.workflow.name)

    def begin(self, service: Service, session: Session | None = None) -> Request:
        """The engine's request of this call: one deadline, the caller's tenant, stopped when the client leaves."""
        request, self.prepared = self.prepared or self._request(service), None
        request.session = session
        return request

    def _request(self, service: Service) -> Request:
        self.service = service
        self.check(service)
        exchange, budget_ms = self.exchange, self.budget_ms(service)
        if exchange.lag_s:
            left_s = budget_ms / 1e3 - exchange.sent_s
            try:
                service.engine.door.knock(None, self.priority, left_s, exchange.lag_s)
            except TautenError:
                self._turned_away(service)
                raise
        request = self.request = service.engine.request(
            deadline_ms=budget_ms,
            session=None,  # which is told later
            id=self.id,
            tenant=self.caller.tenant,
            priority=min(self.priority, self.caller.priority),
            aim=self._aim(service),
            **exchange.since_arrival(),
        )
        request.payer = self.payer
        exchange.on_leave(lambda: request.fail(client_left()))
        return request

    async def reading(self, service: Service, work: Callable[[Fetch | None], Awaitable[T]]) -> T:
        """Read what takes long, as media do, within the request's deadline and while its client is there.

        `work` is given what brings media by their addresses, or None.
        """
        door, before = self.door, self.service
        request = self.prepared = self._request(service)
        named = self.deadline_ms < math.inf
        fetch = door.fetch and Fetches(request, door.fetch, door.connections, named=named)
        arm(request)
        try:
            value: T = await stoppable(request, work(fetch))
            return value
        except BaseException:
            request.trace.end = request.clock()
            if request.failure is None:  # it was wrong, and nothing was begun
                self.request, self.service = None, before
            raise
        finally:
            disarm(request)
            request.read()

    def session(self, service: Service) -> Session | None:
        """The session that `x-tauten-session` names; a new one where the workflow takes one and none is named.

        The reply names it. Raises NotFound for a session that the caller's tenant does not have.
        """
        if not service.workflow.session:
            return None
        sessions = self.door.sessions
        session = sessions.open(self.caller.tenant, self.exchange.headers.get(SESSION, ""))
        self.exchange.on_close(lambda: sessions.rest(session))
        self.exchange.extra.append((SESSION, session.id))
        return session

    def _plan(self, service: Service, session: Session | None) -> str:
        return self.door.sessions.plan(session, service) if session else service.engine.draw()

    async def answer(
        self,
        service: Service,
        inputs: Mapping[str, Any],
        session: Session | None = None,
        *,
        share: bool = True,
    ) -> Answer:
        """Run a workflow to its end, or share the answer of an identical request that runs now.

        `share` False where its API knows why it is not what the others get.
        """
        request = self.begin(service, session)
        plan = request.plan = self._plan(service, session)

        async def run(
            request: Request,
        ) -> Answer:  # looks at the plans when it begins: a flight has a task of its own
            return await service.engine.run(inputs, plan=_open(service, plan), request=request)

        flights = self._flights(service, inputs, plan) if share and session is None else None
        try:
            if flights is None or not flights.worth(service.name):
                answer = await service.engine.run(inputs, plan=_open(service, plan), request=request)
            else:
                key = (service.name, plan, self.caller.tenant)
                answer = await flights.answer(key, inputs, request, run)
        except BaseException as error:
            self.error = error
            _book_shared(service, request, whole=False)
            raise
        _book_shared(service, request, whole=True)
        if flights is not None and "flight" not in request.trace.notes:
            flights.learn(service.name, answer.trace)
        return answer

    async def stream(
        self,
        service: Service,
        inputs: Mapping[str, Any],
        session: Session | None = None,
        *,
        share: bool = True,
    ) -> AsyncGenerator[Any, None]:
        """A workflow's increments as they come; leaving the loop stops the work."""
        request = self.begin(service, session)
        plan = request.plan = self._plan(service, session)

        def run(request: Request) -> AsyncGenerator[Any, None]:
            return service.engine.stream(inputs, plan=_open(service, plan), request=request)

        flights = self._flights(service, inputs, plan) if share and session is None else None
        key = (service.name, plan, self.caller.tenant)
        source = run(request) if flights is None else flights.stream(key, inputs, request, run)
        whole = False
        async with aclosing(source) as values:
            try:
                async for value in values:
                    given = request.clock()
                    yield value
                    request.trace.rows.append(("", "client", given, request.clock()))
                whole = True
            except GeneratorExit:
                raise  # the reader has what it wanted, or has left: the exchange knows which
            except BaseException as error:
                self.error = error
                raise
            finally:
                _book_shared(service, request, whole=whole)

    def _flights(self, service: Service, inputs: Mapping[str, Any], plan: str) -> Flights | None:
        return self.door.flights if service.shares(inputs, plan) else None


class Door:
    """Lets requests in."""

    def __init__(
        self,
        *,
        body_bytes: int = BODY_BYTES,
        identify: Callable[[Exchange], Caller] | None = None,
        meet: Callable[[Exchange], Reply | None] | None = None,
        fetch: Fetch | None = None,
        share: bool = True,
    ) -> None:
        self.body_bytes = body_bytes
        self.sessions = Sessions()
        self.flights = Flights() if share else None
        self._identify = identify  # raises Unauthorized or Overloaded; None: everybody may come in
        self._meet = meet
        self.fetch = fetch  # brings media that a request names by address; None: media are not fetched
        self.connections = asyncio.Semaphore(CONNECTIONS)  # by which it does
        self.closing = asyncio.Event()  # whoever comes from then on finds it shut; what is inside goes on

    def meet(self, exchange: Exchange) -> Reply | None:
        """Before any route: answers a browser's preflight; raises where the page or host is a stranger's."""
        return None if self._meet is None else self._meet(exchange)

    def enter(self, exchange: Exchange, route: Route, params: dict[str, str]) -> Call:
        """Check who asks and what for; raises the errors of bad headers and missing keys."""
        caller = self.identify(exchange, route)
        OPENS_FILES.set(False)  # from here on no string opens a file, whichever API it came by
        call = Call(self, exchange, route, params, caller)
        exchange.extra.append(("x-request-id", call.id))
        return call

    def identify(self, exchange: Exchange, route: Route) -> Caller:
        """Who asks, counted in until the exchange is over; raises Unauthorized or Overloaded."""
        return ANYONE if route.open or self._identify is None else self._identify(exchange)


def new_id() -> str:
    """An id for a request that brought none: unlike any other of this process, and likely of any."""
    return f"{_PREFIX}{next(_count):08x}"


def check_depth(body: bytes) -> None:
    """Raise InputError E268 for JSON nested deeper than anybody means it; flat bodies cost two counts."""
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return
    depth = 0
    for match in _BRACKETS.finditer(body):
        token = match[0]
        if token in (b"[", b"{"):
            depth += 1
            if depth > MAX_DEPTH:
                raise InputError(
                    f"JSON nested deeper than {MAX_DEPTH} levels", help="send flatter JSON", code="E268"
                )
        elif token in (b"]", b"}"):
            depth -= 1


def refusal(exchange: Exchange, failed: Callable[[Any], Reply], error: TautenError) -> Reply:
    """An error as a reply in the API's own form, with an id and what the standards ask beside a status."""
    exchange.extra += [*refusal_id(exchange), *refusal_headers(error)]
    return failed(error)


def refusal_id(exchange: Exchange) -> list[tuple[str, str]]:
    """The id of what was refused before it got one: the client's where that is one; none where it has one."""
    if any(name == "x-request-id" for name, _ in exchange.extra):
        return []
    given = exchange.headers.get("x-request-id", "")
    return [("x-request-id", given if ID.fullmatch(given) else new_id())]


def refusal_headers(error: TautenError) -> list[tuple[str, str]]:
    """What the standards ask beside a status: when to come back, how to say who one is, which methods there are."""
    if error.http_status == 401:
        return [("www-authenticate", 'Bearer realm="tauten"')]
    if isinstance(error, NotAllowed):
        return [("allow", ", ".join(sorted(error.allow)))]
    wait_s = getattr(error, "retry_after_s", None)
    if not wait_s and error.http_status in (429, 503) and error.code != "E451":
        wait_s = RETRY_S
    final = [("x-should-retry", "false")] if error.code == "E451" else []  # a budget: not before it renews
    if not wait_s or not math.isfinite(wait_s):
        return final
    told = [("retry-after", str(max(1, math.ceil(wait_s)))), ("retry-after-ms", str(math.ceil(wait_s * 1e3)))]
    return told + final


def _open(service: Service, plan: str) -> str:
    """The plan, unless a swap has closed it since it was drawn."""
    return plan if plan in service.engine.plans else ""


def _book_shared(service: Service, request: Request, *, whole: bool) -> None:
    """Book a request that had another's computation: its own never went through the engine."""
    book = service.engine.door.book
    if book is not None and "flight" in request.trace.notes:
        book.shared(service.workflow.name, request, whole=whole)


def draining() -> NotReady:
    """Why no work is begun for who comes while the server drains."""
    return NotReady("the server is draining", help="send it to another server", retry_after_s=RETRY_S)


def client_left() -> Cancelled:
    """Why work stops whose client is gone."""
    return Cancelled("the client left", help="its work was stopped; send the request again")
