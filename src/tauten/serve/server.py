"""A whole server: services, guards, observers, HTTP and gRPC; from its start to its drained end.

The order of a start: listen, so that probes are answered; load and warm up; then ready. The order of an end:
not ready, so that balancers look away; stop accepting connections, and soon requests on those that are open; let
requests finish, up to a bound; then stop them with an error that says so.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import ipaddress
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from tauten.errors import InputError, MachineError, TautenError
from tauten.plan.plan import load_plan
from tauten.run.usage.book import Book, new_book
from tauten.run.usage.budgets import Budgets
from tauten.run.usage.database import open_database
from tauten.run.usage.limits import read_limits
from tauten.run.usage.prices import Prices
from tauten.serve.app import App, Site
from tauten.serve.door import BODY_BYTES, Door
from tauten.serve.grown import follow
from tauten.serve.observe.logs import SAMPLE, Form, Logs
from tauten.serve.observe.metrics import Metrics
from tauten.serve.safety.guard import Guard, is_loopback
from tauten.serve.safety.keys import Keys
from tauten.serve.safety.limits import IN_FLIGHT
from tauten.serve.safety.safe_fetch import safe_fetch
from tauten.serve.service import NotReady, Service

if TYPE_CHECKING:
    from tauten.serve.observe.telemetry import Telemetry
    from tauten.serve.oip.grpc import GrpcServer

DRAIN_S = 30.0  # what Kubernetes and most supervisors wait before they kill
LEAD_S = 2.0  # from not ready to not accepting: balancers hear of it within a second or two
SETTLE_S = 0.25  # from no more connections to no more requests: a long round trip for who just connected
CUT_S = 1.0  # for requests that were stopped to tell their clients
HEADROOM_BYTES = 1024 * 1024  # a body a little too large is refused by its API, in its own words
TIDY_S = 10.0  # how long a session that is over may still be counted, and held
REFRESH_S = 1.0  # how soon a revoked key is refused


@dataclass(frozen=True)
class Settings:
    """How to serve; the flags of `tauten serve`."""

    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int | None = 8001  # None: no gRPC
    keys: Path | None = None
    without_keys: bool = False  # listen to the world without keys: something else guards this server
    origins: tuple[str, ...] = ()
    body_bytes: int = BODY_BYTES
    in_flight: int = IN_FLIGHT
    media_fetch: bool = False
    drain_s: float = DRAIN_S
    lead_s: float = LEAD_S
    server: Literal["thin", "uvicorn", "granian"] = "thin"
    log: Form = "text"
    log_sample: float = SAMPLE
    log_content: bool = False
    timing: bool = False  # Server-Timing for everybody, where there are no keys
    otlp: str = ""
    usage: str = ""  # the place of the book: a file, or a postgresql:// address; empty: none is kept
    prices: tuple[Path, ...] = ()
    budgets: Path | None = None


class Listening(Protocol):
    """A server of one protocol that runs."""

    @property
    def port(self) -> int: ...

    async def drain(self, timeout_s: float) -> int: ...

    async def close(self) -> None: ...


@dataclass
class Server:
    """Everything that one process serves. `plans` are plan files by service, which SIGHUP reads again."""

    services: Sequence[Service]
    settings: Settings = field(default_factory=Settings)
    plans: Mapping[str, Path] = field(default_factory=dict)
    progress: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True)

    def __post_init__(self) -> None:
        check_bind(self.settings)
        settings = self.settings
        self.keys = Keys(settings.keys) if settings.keys is not None else None
        self.guard = Guard(
            self.keys,
            hosts_checked=is_loopback(settings.host),
            timing=settings.timing,
            origins=settings.origins,
            in_flight=settings.in_flight,
        )
        door = Door(
            body_bytes=settings.body_bytes,
            identify=self.guard.identify,
            meet=self.guard.meet,
            fetch=safe_fetch if settings.media_fetch else None,
        )
        self.site = Site(self.services, door)
        self.app = App(self.site)
        self.logs = Logs(settings.log, sample=settings.log_sample, content=settings.log_content)
        self.book = self.site.book = book_of(settings, self._of_usage)
        for service in self.services:
            service.engine.door.book = self.book
        self.metrics = Metrics(self.site)
        self.site.exposition = self.metrics.exposition()
        self.site.observers += [self.metrics, self.logs]
        self.telemetry: Telemetry | None = None
        self.listening: dict[str, Listening] = {}
        self.stopping = asyncio.Event()
        self.forced = asyncio.Event()
        self.cut = 0  # requests that the drain's bound stopped
        self._signals: list[int] = []
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def signal(self) -> int:
        """The last signal that asked for the end; 0 where none did."""
        return self._signals[-1] if self._signals else 0

    # -- the whole life -----------------------------------------------------------------------------------

    async def run(self, announce: Callable[[], None]) -> None:
        """Serve until SIGTERM or SIGINT, then drain. `announce` is called when all is ready."""
        with self._handling_signals():
            try:
                await self.start()
                if not self.stopping.is_set():
                    announce()
                    await self.stopping.wait()
                await self.drain()
            finally:
                await self.close()

    async def start(self) -> None:
        """Listen, load, warm up. Stops early, and then is not ready, when asked to end meanwhile."""
        self.logs.start()
        if self.book is not None:
            self.book.start()
        if self.settings.otlp:
            from tauten.serve.observe.telemetry import Telemetry

            self.telemetry = Telemetry(self.site, self.settings.otlp)
            self.telemetry.start()
            self.site.observers.append(self.telemetry)
        self._background(self.metrics.run())
        self._background(self._refresh())
        self._background(self._tidy())
        self._background(follow(self.services, self.logs.say))
        await self._listen()
        opening = self._background(self._open())
        ended = self._background(self.stopping.wait())
        await asyncio.wait((opening, ended), return_when=asyncio.FIRST_COMPLETED)
        if opening.done():
            await opening
        else:
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
        ended.cancel()

    async def _listen(self) -> None:
        from tauten.serve.http.limits import HttpLimits
        from tauten.serve.http.listener import serve

        settings = self.settings
        limits = HttpLimits(body_bytes=settings.body_bytes + HEADROOM_BYTES)
        self.listening["http"] = await serve(
            self.app,
            host=settings.host,
            port=settings.port,
            server=settings.server,
            limits=limits,
            lifespan=False,
        )
        if settings.grpc_port is not None:
            self.listening["grpc"] = await _grpc(self.site, settings.host, settings.grpc_port)

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        for service in self.services:
            began = loop.time()
            count = len(service.samples) + len(service.made_up)
            self.progress(
                f"loading {service.name}"
                + (f", warming up on {count} sample{'s' if count > 1 else ''}" if count else "")
            )
            await service.open()
            if service.unfit:
                self.progress(f"{service.name} may be cold: a made-up sample failed with {service.unfit}")
            self.progress(
                f"{service.name} is ready after {loop.time() - began:.1f} s, plan {service.plan_id}"
            )
        _keep_what_is_loaded()
        self.logs.say("ready", workflows={each.name: each.plan_id for each in self.services})

    async def drain(self) -> None:
        """End in order: not ready, not accepting, finished; what the bound cuts off is told and counted."""
        self.site.draining = True
        self.logs.say("draining", in_flight=self.site.in_flight, drain_s=self.settings.drain_s)
        lead_s = 0.0 if self.signal == signal.SIGINT else self.settings.lead_s  # nobody balances a terminal
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.forced.wait(), lead_s)
        if self.forced.is_set():
            self._cut_off()
            return
        bound_s = self.settings.drain_s
        ends = [self._background(each.drain(bound_s + CUT_S)) for each in self.listening.values()]
        forced = self._background(self.forced.wait())
        loop = asyncio.get_running_loop()
        closing = loop.call_later(SETTLE_S, self.site.door.closing.set)
        cutting = loop.call_later(bound_s, self._cut_off)
        done = self._background(_all(ends))
        await asyncio.wait((done, forced), return_when=asyncio.FIRST_COMPLETED)
        closing.cancel()
        cutting.cancel()
        forced.cancel()
        if not done.done():
            self._cut_off()
            await asyncio.sleep(0)  # the stopped requests tell their clients, as far as the sockets take it
            done.cancel()
        for end in ends:
            if end.done() and not end.cancelled() and end.exception() is None:
                self.cut += end.result()
        self.logs.say("drained", cut=self.cut)

    def _cut_off(self) -> None:
        """Stop what still runs, with an error that a client can act on."""
        error = NotReady("the server stopped before the answer was whole", help="send it again", code="E415")
        self.site.door.closing.set()
        for service in self.services:
            service.engine.door.draining = True  # nor is anything begun any more for those who are inside
            for opened in list(service.engine.plans.values()):
                for request in list(opened.requests):
                    self.cut += request.count
                    request.fail(error)

    async def close(self) -> None:
        """Stop at once whatever still runs; called at every end."""
        for each in self.listening.values():
            await each.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.site.services.close()
        if self.book is not None:
            await self.book.close()
        gc.unfreeze()
        if self.telemetry is not None:
            await self.telemetry.close()
        await self.logs.close()

    # -- while it runs ------------------------------------------------------------------------------------

    async def _refresh(self) -> None:
        """Take over an edited key file; a broken one changes nothing."""
        while self.keys is not None:
            await asyncio.sleep(REFRESH_S)
            try:
                if self.keys.refresh():
                    self.logs.say("keys", tenants=len(self.keys.tenants))
            except InputError as error:
                self.logs.say("keys refused", code=error.code, message=error.message)

    async def _tidy(self) -> None:
        """Let go of what has expired although nobody asks for it again."""
        while True:
            await asyncio.sleep(TIDY_S)
            self.site.door.sessions.tidy()

    async def reload(self) -> None:
        """Read plan files again and go over to what they say; a plan that does not open changes nothing."""
        if not self.plans:
            self.logs.say("nothing to read again", why="no --plan was given; keys are read when they change")
        for service in self.services:
            path = self.plans.get(service.name)
            if path is None:
                continue
            before = service.plan_id
            try:
                after = await service.swap(load_plan(path))
            except TautenError as error:
                self.logs.say("plan refused", workflow=service.name, code=error.code, message=error.message)
            else:
                _keep_what_is_loaded()
                self.logs.say("plan", workflow=service.name, plan=after, was=before)

    def _of_usage(self, said: str) -> None:
        """The book's thread says something."""
        self.logs.say("usage", message=said)

    def stop(self, number: int = 0) -> None:
        """Ask for the end; asking twice ends at once."""
        self._signals.append(number)
        if self.stopping.is_set():
            self.forced.set()
        self.stopping.set()

    @contextlib.contextmanager
    def _handling_signals(self) -> Any:
        loop = asyncio.get_running_loop()
        handlers: dict[int, Callable[[], object]] = {
            number: functools.partial(self.stop, number) for number in (signal.SIGTERM, signal.SIGINT)
        }
        handlers[signal.SIGHUP] = lambda: self._background(self.reload())
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    def _background(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _keep_what_is_loaded() -> None:
    """Take modules and models out of the collector's sight: each of its full rounds would stop the loop for 10
    to 100 ms to look at what stays anyway."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


async def _all(tasks: Sequence[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


class _Grpc:
    """The gRPC server, ended as the HTTP server is."""

    def __init__(self, server: GrpcServer) -> None:
        self._server = server

    @property
    def port(self) -> int:
        return self._server.port

    async def drain(self, timeout_s: float) -> int:
        await self._server.stop(timeout_s)
        return 0  # what it cuts off was counted when its requests were stopped

    async def close(self) -> None:
        await self._server.stop(0.0)


async def _grpc(site: Site, host: str, port: int) -> _Grpc:
    try:
        from tauten.serve.oip.grpc import serve_grpc
    except ImportError as error:
        raise MachineError(
            f"gRPC is not installed: {error}", help="pip install grpcio, or --grpc-port off", code="E343"
        ) from error
    return _Grpc(await serve_grpc(site, host, port))


def book_of(settings: Settings, say: Callable[[str], None]) -> Book | None:
    """The book that is to be kept, with its prices and budgets; raises InputError for files that say neither."""
    if not settings.usage:
        if settings.budgets is not None:
            raise InputError("--budgets without a book", help="leave out --usage off", code="E260")
        return None
    prices, budgets = Prices(settings.prices), None
    if settings.budgets is not None:
        place = settings.usage
        budgets = Budgets(read_limits(settings.budgets), prices, lambda: open_database(place))
    return new_book(settings.usage, prices, budgets=budgets, say=say)


def check_bind(settings: Settings) -> None:
    """Raise InputError E239 where strangers could ask a server that knows no keys."""
    if settings.keys is not None or settings.without_keys or is_loopback(settings.host):
        return
    try:
        everywhere = not settings.host or ipaddress.ip_address(settings.host).is_unspecified
    except ValueError:
        everywhere = False
    place = "every network of this machine" if everywhere else f"{settings.host!r}"
    raise InputError(
        f"--host {settings.host or '(empty)'} answers to {place}, and there are no API keys",
        help="give --keys FILE (make one: tauten key new NAME), or --host 127.0.0.1",
        code="E239",
    )
