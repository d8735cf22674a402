"""The thin server: listening sockets, what all connections share, one sweep for their clocks, a bounded drain."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, MutableMapping
from socket import AF_UNIX, socket
from typing import Any

from tauten.serve.http.arrival import ARRIVED, SENT
from tauten.serve.http.connection import Connection
from tauten.serve.http.cycle import Asgi, Cycle, Express
from tauten.serve.http.departure import LEAVING
from tauten.serve.http.inflow import BODY, HEAD
from tauten.serve.http.known import Heads, Known
from tauten.serve.http.limits import HttpLimits
from tauten.serve.http.websocket import WebSocket
from tauten.serve.http.wire import usual_lines

SWEEP_S = 0.5  # the coarseness of housekeeping clocks (10 s and more); requests have timers of their own
CLOSE_S = 1.0  # what cut connections get to say so
POLL_S = 0.01  # how often a drain looks whether it is done
ACCEPTS = 16  # connections a turn of the loop: uvloop takes one a listener, and under load a turn takes milliseconds

log = logging.getLogger("tauten.serve.http.listener")


class Hub:
    """What all connections of a thin server share."""

    def __init__(
        self,
        app: Asgi,
        limits: HttpLimits,
        *,
        tls: bool = False,
        state: MutableMapping[str, Any] | None = None,
        root_path: str = "",
    ) -> None:
        self.app = app
        self.limits = limits
        self.tls = tls
        self.loop = asyncio.get_running_loop()
        self.now = self.loop.time
        self.connections: set[Connection] = set()
        self.running: set[Cycle | WebSocket] = set()
        self.draining = False
        self.requests = 0
        self.refused = 0  # answered with 4xx by the server itself
        self.turned_away = 0  # connections beyond the limit
        self.state = state
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "scheme": "https" if tls else "http",
            "root_path": root_path,
        }
        self.heads = Heads()
        self._usual = b""
        self._stale = 0.0  # when those lines are written anew

    # -- connections --------------------------------------------------------------------------------------

    def admit(self, connection: Connection) -> bool:
        """Whether there is room for one more; those turned away are few and short-lived."""
        crowd = len(self.connections)
        if crowd >= 2 * self.limits.connections:
            connection.transport.abort()
            return True
        self.connections.add(connection)
        if crowd >= self.limits.connections:
            self.turned_away += 1
            return False
        return True

    def forget(self, connection: Connection) -> None:
        """A connection is gone."""
        self.connections.discard(connection)

    def place(self, name: Any) -> tuple[str, int | None] | None:
        """ASGI's `server`: (host, port), or (path, None) of a Unix socket."""
        if isinstance(name, tuple) and len(name) >= 2:
            return (name[0], name[1])
        return (name, None) if isinstance(name, str) and name else None

    def upgrade(self, connection: Connection, scope: MutableMapping[str, Any], rest: bytes) -> WebSocket:
        """Hand a connection over to the WebSocket protocol."""
        socket = WebSocket(self, connection, scope, rest)
        if socket.task is not None:
            self.running.add(socket)
        return socket

    # -- requests -----------------------------------------------------------------------------------------

    def express(self, scope: dict[str, Any]) -> Express | None:
        """The app's quicker way for requests with this head: an app that has one has a method `express`."""
        offer: Callable[[dict[str, Any]], Express | None] | None = getattr(self.app, "express", None)
        return None if offer is None else offer(scope)

    def learned(self, known: Known) -> None:
        """A head was seen twice: where it has a quicker way, its client has that on other connections too."""
        known.express = self.express(known.scope(()))
        if known.express is not None:
            self.heads.keep(known)
        else:
            self.heads.useless(known)

    def start(self, cycle: Cycle, waited_s: float) -> None:
        """Run the app for a request that had waited so long in its socket."""
        self.requests += 1
        self.running.add(cycle)
        scope = cycle.scope
        if scope is not None:
            arrived = time.monotonic() - waited_s
            scope["extensions"] = extensions = {LEAVING: cycle, ARRIVED: arrived}
            if cycle.since:
                extensions[SENT] = max(0.0, arrived - cycle.since)
            if self.state is not None:
                scope["state"] = self.state.copy()  # type: ignore[attr-defined]
        cycle.start(self.app, self.loop)
        if cycle.gone:
            self.loop.call_later(self.limits.departed_s, cycle.stop)

    def departed(self, cycle: Cycle, *, lost: bool) -> None:
        """The client of a request left: tell its watchers, and cancel an app that has none."""
        cycle.depart(lost=lost)
        if cycle.task is not None:
            self.loop.call_later(self.limits.departed_s, cycle.stop)

    def failed(self, error: BaseException) -> None:
        """The app's mistake: logged with its traceback, never shown to the client."""
        log.error("the application failed: %s", error.__class__.__name__, exc_info=error)

    def usual(self) -> bytes:
        """The Date and Server lines, formatted once a second."""
        now = self.now()
        if now >= self._stale:
            second = int(time.time())
            self._usual, self._stale = usual_lines(second), now + 1.0
        return self._usual

    def sweep(self) -> None:
        """Let every connection look at its clocks."""
        now = self.now()
        for connection in tuple(self.connections):
            connection.sweep(now)

    @property
    def at_work(self) -> int:
        """How many requests run; a WebSocket that has any counts as one."""
        return sum(isinstance(each, Cycle) or each.busy for each in self.running)

    @property
    def busy(self) -> bool:
        """Whether a request runs, waits or is being received."""
        return self.at_work > 0 or any(
            each.phase in (HEAD, BODY) or each.current is not None or each.queue for each in self.connections
        )

    def part(self) -> None:
        """Close the WebSockets on which nothing runs: their clients find another server the sooner."""
        for each in tuple(self.running):
            if isinstance(each, WebSocket) and not each.busy:
                each.retire()


class Thin:
    """A thin server that listens."""

    def __init__(self, hub: Hub, servers: list[asyncio.AbstractServer]) -> None:
        self.hub = hub
        self._servers = servers
        shortest = min(hub.limits.head_s, hub.limits.body_s, hub.limits.idle_s, hub.limits.write_stall_s)
        self._sweep_s = min(SWEEP_S, shortest / 4, hub.limits.linger_s / 4)
        self._timer = hub.loop.call_later(self._sweep_s, self._sweep)

    def _sweep(self) -> None:
        self._timer = self.hub.loop.call_later(self._sweep_s, self._sweep)
        self.hub.sweep()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self.hub.connections)

    def stop_accepting(self) -> None:
        """Close the listening sockets; open connections go on."""
        for server in self._servers:
            server.close()

    async def drain(self, timeout_s: float) -> int:
        """Take nothing new, finish what runs, close the rest; how many requests were cut off at the bound."""
        hub = self.hub
        self.stop_accepting()
        hub.draining = True
        end = hub.now() + timeout_s
        while hub.busy and hub.now() < end:
            hub.part()
            await asyncio.sleep(POLL_S)
        left = hub.at_work
        for connection in tuple(hub.connections):
            connection.retire()
        while hub.connections and not left and hub.now() < end:
            await asyncio.sleep(POLL_S)
        return left

    async def close(self) -> None:
        """Stop at once: tasks are cancelled and awaited, connections cut."""
        hub = self.hub
        hub.draining = True
        self.stop_accepting()
        self._timer.cancel()
        tasks = [each.task for each in hub.running if each.task is not None]
        for connection in tuple(hub.connections):
            connection.transport.abort()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        end = hub.now() + CLOSE_S
        while hub.connections and hub.now() < end:
            await asyncio.sleep(0)


async def listen(hub: Hub, sockets: list[socket], *, context: ssl.SSLContext | None, backlog: int) -> Thin:
    """Serve the hub on bound sockets."""
    loop = hub.loop
    handshake = hub.limits.head_s if context is not None else None
    servers: list[asyncio.AbstractServer] = []
    for sock in [each for one in sockets for each in (one, *(one.dup() for _ in range(ACCEPTS - 1)))]:
        create: Any = loop.create_unix_server if sock.family == AF_UNIX else loop.create_server
        server = await create(
            lambda: Connection(hub), sock=sock, ssl=context, backlog=backlog, ssl_handshake_timeout=handshake
        )
        servers.append(server)
    return Thin(hub, servers)
