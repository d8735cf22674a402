"""The HTTP server behind one seam: an ASGI application in, a running server out, whichever server it is."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import socket
import ssl
import stat
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol

from tauten.errors import InputError, MachineError, suggest
from tauten.serve.http.cycle import Asgi
from tauten.serve.http.lifespan import Lifespan
from tauten.serve.http.limits import HttpLimits

ServerName = Literal["thin", "uvicorn", "granian"]
SERVERS: tuple[ServerName, ...] = ("thin", "uvicorn", "granian")
BACKLOG = 2048  # what uvicorn and nginx ask for; the kernel caps it at somaxconn


class Listener(Protocol):
    """One make of server, bound and accepting."""

    @property
    def connections(self) -> int: ...

    async def drain(self, timeout_s: float) -> int: ...

    async def close(self) -> None: ...


class Running:
    """A server that runs, until `close`. Also an async context manager."""

    def __init__(
        self,
        server: str,
        listener: Listener,
        sockets: list[socket.socket],
        addresses: list[Any],
        lifespan: Lifespan,
        uds: Path | None,
    ) -> None:
        self.server = server
        self.addresses = addresses
        self._listener = listener
        self._lifespan = lifespan
        self._uds = uds
        self._sockets = sockets
        self._closed = False

    @property
    def port(self) -> int:
        """The first TCP port; 0 when there are only Unix sockets."""
        return next((address[1] for address in self.addresses if isinstance(address, tuple)), 0)

    @property
    def connections(self) -> int:
        """Open connections."""
        return self._listener.connections

    async def drain(self, timeout_s: float = 30.0) -> int:
        """Stop accepting, finish what runs, end idle connections; returns how many requests the bound cut off."""
        self._unlink()
        return await self._listener.drain(timeout_s)

    async def close(self) -> None:
        """Stop at once; what still runs is cancelled. Closing twice is no error."""
        if self._closed:
            return
        self._closed = True
        self._unlink()
        await self._listener.close()
        for sock in self._sockets:
            sock.close()
        await self._lifespan.stop()

    def _unlink(self) -> None:
        uds, self._uds = self._uds, None
        if uds is not None:
            uds.unlink(missing_ok=True)

    async def __aenter__(self) -> Running:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


async def serve(
    app: Asgi,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    uds: str | os.PathLike[str] | None = None,
    sockets: Sequence[socket.socket] | None = None,
    server: ServerName = "thin",
    limits: HttpLimits | None = None,
    tls: ssl.SSLContext | None = None,
    lifespan: bool = True,
    reuse_port: bool = False,
    backlog: int = BACKLOG,
    root_path: str = "",
) -> Running:
    """Serve an ASGI 3 application on the running loop and return at once.

    `sockets` (bound ones, inherited for instance) win over `uds`, which wins over `host` and `port`.
    With `lifespan` the app's startup runs first and its shutdown last. `limits` hold for "thin"; the other
    servers keep the sizes, and of the rest what they can. Raises MachineError when an address cannot be bound or a server is
    not installed, InputError for a server that does not exist.
    """
    if server not in SERVERS:
        raise InputError(f"no server is called {server!r}", help=suggest(server, SERVERS))
    limits = limits or HttpLimits()
    path = Path(uds) if uds is not None and not sockets else None
    bound = list(sockets) if sockets else [_unix(path)] if path else _tcp(host, port, reuse_port=reuse_port)
    addresses = [sock.getsockname() for sock in bound]
    life = Lifespan(app)
    try:
        if lifespan:
            await life.start()
        listener = await _listen(server, app, bound, limits, tls, life, backlog, root_path)
    except BaseException:
        for sock in bound:
            sock.close()
        await life.stop()
        raise
    return Running(server, listener, bound, addresses, life, path)


async def _listen(
    server: ServerName,
    app: Asgi,
    bound: list[socket.socket],
    limits: HttpLimits,
    tls: ssl.SSLContext | None,
    life: Lifespan,
    backlog: int,
    root_path: str,
) -> Listener:
    if server == "thin":
        from tauten.serve.http import thin

        hub = thin.Hub(app, limits, tls=tls is not None, state=life.state, root_path=root_path)
        return await thin.listen(hub, bound, context=tls, backlog=backlog)
    from tauten.serve.http import others

    start = others.uvicorn if server == "uvicorn" else others.granian
    return await start(others.Setup(life.wrap(app), bound, limits, tls, backlog, root_path))


def _tcp(host: str, port: int, *, reuse_port: bool) -> list[socket.socket]:
    """Listening addresses of a host name: all of them, on one port."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise _cannot(f"{host}:{port}", error) from error
    bound: list[socket.socket] = []
    for family, kind, protocol, _, address in dict.fromkeys(found):
        sock = socket.socket(family, kind, protocol)
        bound.append(sock)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # port 0: the second address takes the port that the first was given
            sock.bind((address[0], port or bound[0].getsockname()[1], *address[2:]))
            sock.setblocking(False)
        except OSError as error:
            for each in bound:
                each.close()
            raise _cannot(f"{host}:{port}", error) from error
    return bound


def _unix(path: Path) -> socket.socket:
    """A Unix socket at `path`, in place of a stale one, readable by its owner and group."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode) and _stale(path):
            path.unlink()
        sock.bind(str(path))
        path.chmod(0o660)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise _cannot(str(path), error) from error
    return sock


def _stale(path: Path) -> bool:
    """Whether nobody answers at a Unix socket any more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
    return False


def _cannot(address: str, error: OSError) -> MachineError:
    return MachineError(
        f"cannot listen on {address}: {error.strerror or error}",
        help="choose another --host or --port, or stop what listens there",
        code="E340",
    )
