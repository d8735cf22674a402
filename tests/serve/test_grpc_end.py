"""The end of a gRPC server whose library waits for a call that nobody has."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from tauten.clock import run_virtual
from tauten.serve.oip.grpc import QUIET_S, GrpcServer


class Library:
    """A server that takes so long to stop unless it is told not to wait."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.stops: list[float | None] = []

    async def stop(self, grace: float | None) -> None:
        self.stops.append(grace)
        if grace is not None:
            await asyncio.sleep(min(grace, self.seconds))


def stopped(library: Library, inside_s: float = 0.0) -> float:
    """How long the end took, where a request was inside for so long."""
    site = SimpleNamespace(in_flight=1 if inside_s else 0)
    server = GrpcServer.__new__(GrpcServer)
    server.site, server._server = site, library  # type: ignore[assignment]

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        if inside_s:
            loop.call_later(inside_s, setattr, site, "in_flight", 0)
        await server.stop(30.0)
        return loop.time()

    return float(run_virtual(main()))


def test_a_call_that_nobody_has_is_not_waited_for() -> None:
    library = Library(seconds=1e9)
    assert stopped(library) == 2 * QUIET_S
    assert library.stops == [30.0, None]


def test_who_is_inside_has_all_the_time_there_is() -> None:
    library = Library(seconds=1e9)
    assert 10.0 < stopped(library, inside_s=10.0) <= 10.0 + 3 * QUIET_S
    library = Library(seconds=1e9)
    assert stopped(library, inside_s=60.0) == 30.0
    assert library.stops == [30.0]


def test_a_library_that_ends_by_itself_is_told_nothing_more() -> None:
    library = Library(seconds=0.1)
    assert stopped(library) == 0.1
    assert library.stops == [30.0]
