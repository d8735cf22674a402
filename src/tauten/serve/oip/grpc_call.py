"""One gRPC call at the door: metadata as headers, the client's deadline as the budget, errors as statuses."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc

from tauten.errors import Cancelled, InternalError, TautenError
from tauten.run.oip.messages import SERVICE
from tauten.serve.door import Call, refusal_headers, refusal_id
from tauten.serve.exchange import Exchange, Reply
from tauten.serve.routes import Route
from tauten.serve.safety.discreet import as_ours, told

if TYPE_CHECKING:
    from tauten.serve.app import Site


def route_of(name: str) -> Route:
    """What metrics, logs and the door call a method; probes need no key."""
    probe = name in ("ServerLive", "ServerReady")
    return Route("GRPC", f"/{SERVICE}/{name}", None, _no_reply, f"oip-grpc-{name}", open=probe)


def _no_reply(error: Any) -> Reply:
    raise InternalError("a gRPC method gives no HTTP reply") from error


class Grpc(Exchange):
    """One gRPC call at the door: its metadata are the headers."""

    __slots__ = ("context",)

    def __init__(self, context: Any, path: str) -> None:
        headers = [
            (key.encode("latin-1"), value.encode("latin-1", "replace"))
            for key, value in context.invocation_metadata() or ()
            if isinstance(value, str)
        ]
        scope = {"type": "grpc", "method": "GRPC", "path": path, "headers": headers}
        super().__init__({**scope, "client": client_of(context.peer())}, _nothing, _nothing)
        self.context = context

    def on_leave(self, callback: Callable[[], None]) -> None:
        """The call's task is cancelled when its client leaves, and the work with it."""

    def trailers(self, reply: Reply) -> list[tuple[str, str]]:
        """The trailing metadata of a reply."""
        return self._all(reply.headers)


async def _nothing(*_: Any) -> Any:
    raise InternalError("a gRPC call has no HTTP messages")


def in_words(error: TautenError) -> str:
    """An error as a status or a stream tells it."""
    return f"{error.code} {error.message}" + (f" ({error.help})" if error.help else "")


def client_of(peer: str) -> tuple[str, int]:
    """``ipv4:127.0.0.1:50000`` as an address and a port."""
    kind, _, rest = peer.partition(":")
    address, _, port = rest.rpartition(":")
    if kind not in ("ipv4", "ipv6") or not port.isdigit():
        return (peer, 0)
    return (address.replace("%5B", "").replace("%5D", "").strip("[]"), int(port))


class One:
    """One request on its way through the door: entered, answered or refused, and told to the observers."""

    def __init__(self, site: Site, route: Route, context: Any) -> None:
        self.site = site
        self.route = route
        self.context = context
        self.exchange = Grpc(context, route.path)
        self.call: Call | None = None
        self.problem: BaseException | None = None
        self._began = time.monotonic()  # a loop's own clock may only move in whole milliseconds

    def enter(self) -> Call:
        """Let it in, with what is left of the client's deadline; from here on it is counted, until it is closed."""
        self.site.in_flight += 1
        call = self.call = self.site.door.enter(self.exchange, self.route, {})
        left_s = self.context.time_remaining()
        if left_s is not None:
            call.deadline_ms = min(call.deadline_ms, max(left_s, 0.0) * 1e3)
        return call

    def left(self, error: BaseException) -> None:
        """The client is gone."""
        self.exchange.left = True
        self.problem = error

    def failed(self, error: BaseException) -> str:
        """Keep what went wrong; returns it in words."""
        self.problem = as_ours(error)
        said = told(error, self.call)
        self.exchange.status = said.http_status
        return in_words(said)

    async def abort(self, error: BaseException) -> None:
        """End the call with the error's status; always raises."""
        words = self.failed(error)
        ours = as_ours(error)
        status = grpc.StatusCode[ours.grpc_status]
        metadata = [*self.exchange.extra, *refusal_id(self.exchange), *refusal_headers(ours)]
        if isinstance(ours, Cancelled):
            self.exchange.left = self.exchange.left or self.context.cancelled()
        await self.context.abort(status, words, tuple(metadata))

    def close(self) -> None:
        self.site.in_flight -= 1
        if self.problem is None:
            self.exchange.status = 200
        self.site.finished(self.exchange, self.call, self.problem, time.monotonic() - self._began)
