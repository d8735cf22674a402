"""Targets that live in virtual time, whose latencies are known from theory or to the microsecond."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import Any

from tauten.clock import run_virtual
from tauten.improve.load.target import Response

Main = Callable[[Callable[[], float]], Coroutine[Any, Any, Any]]


def virtually(main: Main) -> Any:
    """Run ``main(clock)`` in virtual time."""

    async def body() -> Any:
        return await main(asyncio.get_running_loop().time)

    return run_virtual(body())


class VirtualTarget:
    """What all targets of these tests share."""

    name, shares_loop = "virtual", False

    async def open(self) -> None:
        return None

    def prepare(self, inputs: Any) -> Any:
        return inputs

    async def send(self, prepared: Any, budget_s: float) -> Response:
        return Response()

    def zombies(self) -> int | None:
        return None

    async def close(self) -> None:
        return None


class Fifo(VirtualTarget):
    """One server, first come first served, the same service time for all: M/D/1 under Poisson arrivals."""

    def __init__(self, clock: Callable[[], float], service_s: float) -> None:
        self.clock, self.service_s = clock, service_s
        self.free = 0.0

    async def send(self, prepared: Any, budget_s: float) -> Response:
        begins = max(self.clock(), self.free)
        self.free = begins + self.service_s
        await asyncio.sleep(self.free - self.clock())
        return Response()


class Pause(VirtualTarget):
    """Answers in 1 ms, one at a time or all at once, but stands still for the first second of every ten."""

    def __init__(self, clock: Callable[[], float], service_s: float = 0.001) -> None:
        self.clock, self.service_s = clock, service_s

    async def send(self, prepared: Any, budget_s: float) -> Response:
        now = self.clock()
        begins = now if now % 10.0 >= 1.0 else now - now % 10.0 + 1.0
        await asyncio.sleep(begins + self.service_s - now)
        return Response()


def md1_wait_cdf(t: float, rate: float, service_s: float) -> float:
    """P(wait <= t) in M/D/1. Erlang (1909); Iversen and Staalhagen, ITC 16 (1999)."""
    load = rate * service_s
    terms = []
    for k in range(math.floor(t / service_s) + 1):
        x = rate * (k * service_s - t)
        terms.append(x**k / math.factorial(k) * math.exp(-x))
    return (1.0 - load) * math.fsum(terms)


def md1_mean_wait(rate: float, service_s: float) -> float:
    """Pollaczek and Khinchine, for a service time without spread."""
    load = rate * service_s
    return load * service_s / (2.0 * (1.0 - load))


def md1_quantile(q: float, rate: float, service_s: float) -> float:
    """The q-quantile of the time in the system."""
    low, high = 0.0, 15.0 * service_s  # beyond, the alternating sum cancels to nothing
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if md1_wait_cdf(middle, rate, service_s) >= q else (middle, high)
    return high + service_s


def md1_capacity(q: float, limit_s: float, service_s: float) -> float:
    """The highest rate at which the q-quantile stays within the limit."""
    low, high = 0.0, 0.95 / service_s
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if md1_quantile(q, middle, service_s) <= limit_s else (low, middle)
    return low
