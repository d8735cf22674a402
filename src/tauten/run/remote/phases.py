"""What a call did before its answer began: names resolved, a connection made, a request sent, a first byte read."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import ssl
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

import aiohttp

from tauten.clock import Clock, in_ms


class Phases:
    """Instants of one call, None where it did not come to that."""

    __slots__ = (
        "clock",
        "connect",
        "connected",
        "first_byte",
        "resolve",
        "resolved",
        "reused",
        "sent",
        "tls",
    )

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.resolve: float | None = None
        self.resolved: float | None = None
        self.connect: float | None = None
        self.connected: float | None = None  # TLS included
        self.tls: float | None = None  # when its handshake began
        self.sent: float | None = None  # the request's head
        self.first_byte: float | None = None  # of the answer: its head
        self.reused = False

    def said(self) -> str:
        """As a person reads it: what took how long."""
        if self.reused:
            parts = ["connection reused"]
        else:
            parts = _span("dns", self.resolve, self.resolved)
            begun = self.connect if self.resolved is None else self.resolved
            parts += _span("connect", begun, self.connected if self.tls is None else self.tls)
            parts += _span("tls", self.tls, self.connected)
        return ", ".join(parts + _span("first byte", self.sent, self.first_byte))


def _span(what: str, start: float | None, end: float | None) -> list[str]:
    return [] if start is None or end is None else [f"{what} {in_ms(max(0.0, end - start))} ms"]


_NOW: ContextVar[Phases | None] = ContextVar("tauten_phases", default=None)


class TimedContext(ssl.SSLContext):
    """TLS whose handshakes say when they begin: aiohttp tells only when the whole connection is there."""

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        phases = _NOW.get()
        if phases is not None and phases.tls is None:
            phases.tls = phases.clock()
        return super().wrap_bio(*args, **kwargs)


def timed_tls() -> TimedContext:
    """The system's authorities, names and certificates checked."""
    context = TimedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs()
    return context


def watching() -> aiohttp.TraceConfig:
    """Hooks that fill the `Phases` which a request brings as its `trace_request_ctx`."""
    config = aiohttp.TraceConfig()
    config.on_connection_create_start.append(_begins)
    config.on_dns_resolvehost_start.append(_stamp("resolve"))
    config.on_dns_resolvehost_end.append(_stamp("resolved"))
    config.on_connection_create_end.append(_stamp("connected"))
    config.on_connection_reuseconn.append(_reuses)
    config.on_request_headers_sent.append(_stamp("sent"))
    config.on_request_end.append(_stamp("first_byte"))
    return config


def _phases(context: SimpleNamespace) -> Phases:
    found: Phases = context.trace_request_ctx
    return found


def _stamp(name: str) -> Any:
    async def stamp(session: Any, context: SimpleNamespace, params: Any) -> None:
        phases = _phases(context)
        setattr(phases, name, phases.clock())

    return stamp


async def _begins(session: Any, context: SimpleNamespace, params: Any) -> None:
    phases = _phases(context)
    phases.connect = phases.clock()
    _NOW.set(phases)


async def _reuses(session: Any, context: SimpleNamespace, params: Any) -> None:
    _phases(context).reused = True
