"""One endpoint: a model of a provider in a region under a key, with all that is known of its health and limits.

Endpoints are shared by whoever asks the same on one event loop: limits and outages are the provider's, not a plan's.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from typing import NamedTuple

from tauten.clock import Clock
from tauten.run.remote.allowance import Allowance
from tauten.run.remote.circuit import Circuit
from tauten.run.remote.line import HttpLine, Line
from tauten.run.remote.providers import Provider
from tauten.run.remote.room import Room


class Named(NamedTuple):
    """What tells endpoints apart."""

    provider: str
    model: str  # as they call it
    region: str
    key: str  # the name of the credential


class Endpoint:
    """`line` carries its calls; the rest decides whether and when one may go."""

    def __init__(self, provider: Provider, model: str, line: Line, clock: Clock) -> None:
        limits = provider.limits
        self.provider = provider
        self.named = Named(provider.name, model, provider.region, provider.key)
        self.line = line
        self.clock = clock
        self.circuit = Circuit(clock)
        self.room = Room(clock, calls=limits.concurrency)
        self.allowance = Allowance(
            clock,
            requests_per_minute=limits.requests_per_minute,
            tokens_per_minute=limits.tokens_per_minute,
        )

    @property
    def label(self) -> str:
        return f"{self.named.provider}/{self.named.model}"

    def wait_s(self, tokens: float) -> float:
        """Seconds that a call of so many tokens would wait for a limit; of the room only whether it has some."""
        wait_s = self.allowance.wait_s(tokens)
        return wait_s if wait_s or self.room.fits(tokens) else 1e-3


Lines = Callable[[Provider], Line]


def http_line(provider: Provider) -> Line:
    """A pool of connections to a provider; raises MachineError E348 where its key is not set."""
    return HttpLine(provider.url, provider.secret())


class Endpoints:
    """Those of one event loop, each as long as somebody holds it."""

    def __init__(self, lines: Lines = http_line) -> None:
        self._lines = lines
        self._held: dict[Named, tuple[Endpoint, int]] = {}

    def take(self, provider: Provider, model: str, clock: Clock) -> Endpoint:
        """The endpoint, made where it is not there yet."""
        named = Named(provider.name, model, provider.region, provider.key)
        if named in self._held:
            endpoint, holders = self._held[named]
        else:
            endpoint, holders = Endpoint(provider, model, self._lines(provider), clock), 0
        self._held[named] = (endpoint, holders + 1)
        return endpoint

    async def release(self, endpoint: Endpoint) -> None:
        """Let go; the last one closes its connections."""
        held, holders = self._held[endpoint.named]
        if holders > 1:
            self._held[endpoint.named] = (held, holders - 1)
            return
        del self._held[endpoint.named]
        await endpoint.line.close()


_of_loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Endpoints] = weakref.WeakKeyDictionary()


def endpoints() -> Endpoints:
    """Those of the running loop."""
    return _of_loops.setdefault(asyncio.get_running_loop(), Endpoints())
