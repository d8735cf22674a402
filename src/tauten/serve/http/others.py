"""Servers of another make behind the same seam: uvicorn, and granian where it is installed."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
import ssl
from abc import ABC, abstractmethod
from collections.abc import Iterator
from socket import AF_INET, AF_INET6, socket
from typing import TYPE_CHECKING, Any, NamedTuple

from tauten.errors import InputError, MachineError
from tauten.serve.http.bounded import bounded
from tauten.serve.http.cycle import Asgi
from tauten.serve.http.limits import HttpLimits
from tauten.serve.http.under_way import UNDER_WAY, UnderWay
from tauten.serve.http.wire import SERVER, refusal

if TYPE_CHECKING:
    from uvicorn import Server

POLL_S = 0.005  # how often a server without events of its own is looked at
GRANIAN_BUFFER_BYTES = 8192  # it takes no smaller one
CLOSE_S = 1.0  # what a server gets to stop by itself before its task is cancelled


class Setup(NamedTuple):
    """What a server is started with."""

    app: Asgi
    sockets: list[socket]
    limits: HttpLimits
    tls: ssl.SSLContext | None
    backlog: int
    root_path: str


class InTask(ABC):
    """A server that runs in a task of this loop."""

    def __init__(self, server: Any, task: asyncio.Task[None]) -> None:
        self._server = server
        self._task = task

    @property
    @abstractmethod
    def connections(self) -> int:
        """How many connections are open."""

    async def drain(self, timeout_s: float) -> int:
        """The server's own graceful shutdown, bounded; how many tasks were cut off."""
        if not self._task.done():
            self._stop()
            await asyncio.wait((self._task,), timeout=timeout_s)
        return 0 if self._task.done() else self._unfinished()

    async def close(self) -> None:
        """Stop, within a moment."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    @abstractmethod
    def _stop(self) -> None:
        """Ask it to finish what runs and end."""

    @abstractmethod
    def _unfinished(self) -> int:
        """How many tasks still run."""


async def uvicorn(setup: Setup) -> Uvicorn:
    """Start uvicorn on bound sockets; it leaves signals, logs and the lifespan to us."""
    try:
        import uvicorn as package
    except ImportError as error:
        raise missing("uvicorn") from error

    limits = setup.limits

    class Quiet(package.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # signals belong to the caller

    config = package.Config(
        bounded(setup.app, limits),
        http=_protocol(limits),
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        headers=[("server", "tauten")],
        proxy_headers=False,
        backlog=setup.backlog,
        root_path=setup.root_path,
        limit_concurrency=limits.connections,
        timeout_keep_alive=int(limits.idle_s) or 1,
        ws=_websocket(),
        ws_max_size=limits.websocket_bytes,
        ws_ping_interval=limits.websocket_ping_s,
        ws_ping_timeout=limits.websocket_pong_s,
    )
    config.load()
    config.ssl = setup.tls
    server = Quiet(config)
    task = asyncio.get_running_loop().create_task(server.serve(sockets=setup.sockets))
    while not server.started:
        if task.done():
            raise MachineError("uvicorn did not start", help="see its log", code="E345") from task.exception()
        await asyncio.sleep(POLL_S)
    return Uvicorn(server, task)


def _protocol(limits: HttpLimits) -> type[asyncio.Protocol]:
    """uvicorn's HTTP protocol with a bound for heads that do not end; it holds any amount of them."""
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    class Bounded(HttpToolsProtocol):
        _unfinished = 0  # bytes since the last whole head, while one is being read
        _in_head = True
        _refused = False

        def on_message_begin(self) -> None:
            self._in_head = True
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._in_head = False
            super().on_headers_complete()

        def on_header(self, name: bytes, value: bytes) -> None:
            if self._in_head:  # else a trailer, which would stand among the headers
                super().on_header(name, value)

        def data_received(self, data: bytes) -> None:
            if self._refused or self.transport.is_closing():
                return  # read and dropped: closed upon it, the connection would be reset before the answer is read
            super().data_received(data)
            self._unfinished = self._unfinished + len(data) if self._in_head else 0
            if self._unfinished > limits.header_bytes and not self.transport.is_closing():
                self._refused = True
                self.transport.write(refusal(431, "the head is too large", SERVER))
                self.loop.call_later(limits.linger_s, self.transport.close)

    return Bounded


def _websocket() -> type[asyncio.Protocol]:
    """uvicorn's WebSocket, whose requests end before it does; its own cuts them off when it drains."""
    from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

    class Patient(WebSocketsSansIOProtocol):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.under_way = UnderWay()

        async def run_asgi(self) -> None:
            extensions: Any = self.scope["extensions"]
            extensions[UNDER_WAY] = self.under_way
            await super().run_asgi()

        def shutdown(self) -> None:
            if self.under_way.count or not self.queue.empty():
                if not self.transport.is_closing():
                    self.loop.call_later(POLL_S, self.shutdown)
            else:
                super().shutdown()

    return Patient


class Uvicorn(InTask):
    """A uvicorn."""

    _server: Server

    @property
    def connections(self) -> int:
        return len(self._server.server_state.connections)

    def _stop(self) -> None:
        self._server.should_exit = True

    def _unfinished(self) -> int:
        return len(self._server.server_state.tasks)

    async def close(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        tasks = list(self._server.server_state.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.wait((self._task,), timeout=CLOSE_S)
        for connection in list(self._server.server_state.connections):
            transport: Any = getattr(connection, "transport", None)
            if transport is not None:
                transport.abort()
        await super().close()


async def granian(setup: Setup) -> Granian:
    """Start granian, embedded in this loop. It binds for itself, so the sockets are given up first."""
    try:
        from granian.constants import Interfaces  # type: ignore[import-not-found]
        from granian.http import HTTP1Settings, HTTP2Settings  # type: ignore[import-not-found]
        from granian.server.embed import Server as Embedded  # type: ignore[import-not-found]
    except ImportError as error:
        raise missing("granian") from error
    sockets = setup.sockets
    if setup.tls is not None or len(sockets) != 1 or sockets[0].family not in (AF_INET, AF_INET6):
        raise InputError(
            "granian serves one TCP address without TLS here",
            help="use server='thin' for TLS, Unix sockets and inherited sockets",
        )
    limits = setup.limits
    host, port = sockets[0].getsockname()[:2]
    sockets[0].close()
    server = Embedded(
        bounded(setup.app, limits),
        address=host,
        port=port,
        interface=Interfaces.ASGINL,
        backlog=max(setup.backlog, 128),
        backpressure=limits.connections,
        http1_settings=HTTP1Settings(
            header_read_timeout=round(limits.idle_s * 1e3),  # one clock for heads and idleness
            max_buffer_size=max(limits.header_bytes, GRANIAN_BUFFER_BYTES),
        ),
        http2_settings=HTTP2Settings(max_headers_size=limits.header_bytes),
        url_path_prefix=setup.root_path or None,
        log_enabled=False,  # the application has logs of its own
        websockets=True,
    )
    task = asyncio.get_running_loop().create_task(server.serve())
    for _ in range(int(CLOSE_S / POLL_S)):
        await asyncio.sleep(POLL_S)
        if task.done():
            raise MachineError("granian did not start", help="see its log", code="E345") from task.exception()
        if await _answers(host, port):
            return Granian(server, task)
    server.stop()
    raise MachineError("granian did not listen in time", help="see its log", code="E345")


async def _answers(host: str, port: int) -> bool:
    """Whether somebody accepts at an address."""
    try:
        _, writer = await asyncio.open_connection(host, port)
    except ConnectionRefusedError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


class Granian(InTask):
    """An embedded granian."""

    @property
    def connections(self) -> int:
        """granian does not tell."""
        return 0

    def _stop(self) -> None:
        self._server.stop()

    def _unfinished(self) -> int:
        """granian does not tell this either."""
        return 1

    async def close(self) -> None:
        await self.drain(CLOSE_S)
        await super().close()


def missing(name: str) -> MachineError:
    """A server that was asked for and is not installed."""
    return MachineError(
        f"the server {name!r} is not installed",
        help=f"pip install {name}, or use --server thin (or server='thin')",
        code="E343",
    )
