"""Load on one gateway and on its provider beside it: what the gateway adds, and what it takes of its core."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from bench.ground import processes
from bench.ground.figures import difference
from bench.shortcuts import books
from bench.shortcuts.gateway.servers import Gateway, Start, direct, keep_on
from bench.shortcuts.provider.acts import Act
from bench.shortcuts.provider.running import ROOT, Count, Provider

WHOLE: Final[Act] = {"do": "says", "words": 16, "first_s": 0.002}  # all of it after 2 ms: a small answer
STREAMED: Final[Act] = {**WHOLE, "gap_s": 0.001}  # a word a millisecond: ten times a quick model
APART: Final = 100_000_000  # between the numbers of two runs: no conversation comes twice
PATIENCE_S: Final = 60.0  # beyond the seconds of a run


class LoadFailed(Exception):
    """The client did not come to its end."""


@dataclass(frozen=True)
class Sizes:
    """Seconds and clients of the runs."""

    alone_s: float = 5.0  # of one client: some 1,500 answers, fifteen of them beyond p99
    full_s: float = 5.0
    full_clients: int = 32  # more than a core can serve at once, fewer than where queues are all there is
    long_s: float = 600.0
    long_clients: int = 4


QUICK: Final = Sizes(alone_s=0.5, full_s=0.5, full_clients=8, long_s=12.0, long_clients=2)


class Loads:
    """Runs of load against gateways in front of one provider; the client is on cores of its own."""

    def __init__(
        self, provider: Provider, sizes: Sizes, gateway_cores: Sequence[int], client_cores: Sequence[int]
    ) -> None:
        self.provider, self.sizes = provider, sizes
        self.gateway_cores, self.client_cores = gateway_cores, client_cores
        self._runs = itertools.count()

    async def run(
        self, gateway: Gateway, clients: int, seconds: float, *, stream: bool = False
    ) -> dict[str, Any]:
        """The client's figures."""
        await self.provider.acts(usual=STREAMED if stream else WHOLE)
        command = ["--port", str(gateway.port), "--model", gateway.model, "--clients", str(clients)]
        command += ["--seconds", str(seconds), "--start", str(next(self._runs) * APART)]
        command += [*(["--key", gateway.key] if gateway.key else []), *(["--stream"] if stream else [])]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.shortcuts.gateway.asker", *command),
            cwd=ROOT,
            env=dict(os.environ),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        keep_on([process.pid], self.client_cores)
        try:
            out, err = await asyncio.wait_for(process.communicate(), seconds + PATIENCE_S)
        except TimeoutError as error:
            raise LoadFailed(f"no end after {seconds + PATIENCE_S:.0f} s") from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise LoadFailed(f"the client ended with {process.returncode}: {err.decode()[-200:].strip()}")
        return dict(json.loads(out))

    async def measure(self, start: Start) -> dict[str, Any]:
        """One gateway from its start to its end."""
        async with start(self.provider, self.gateway_cores) as gateway:
            bill = Bill(self, gateway)
            await bill.run(2, self.sizes.alone_s / 5)  # pools fill, and what is cached by then stays
            found = {**await self._added(bill), **await self._full(bill)}
            found["memory_mb"] = processes.pss_mb(gateway.pids())
            return {**found, "gap_tokens": await bill.gap()}

    async def measure_direct(self, start: Start) -> dict[str, Any]:
        """The provider by itself: what all others are compared with, once more as a row."""
        async with start(self.provider, self.gateway_cores) as gateway:
            whole = await self.run(gateway, 1, self.sizes.alone_s)
            streamed = await self.run(gateway, 1, self.sizes.alone_s, stream=True)
        return {**_alone(whole, streamed), "errors": whole["errors"] + streamed["errors"]}

    async def _added(self, bill: Bill) -> dict[str, Any]:
        """One client, beside the provider alone: the same seconds of both, one after the other."""
        seconds = self.sizes.alone_s
        async with direct(self.provider) as bare:
            base = await self.run(bare, 1, seconds), await self.run(bare, 1, seconds, stream=True)
        seen = await bill.run(1, seconds), await bill.run(1, seconds, stream=True)
        mine, theirs = _alone(*seen), _alone(*base)
        added = {f"added_{key}": difference(mine[key], theirs[key]) for key in mine}
        return {**mine, **added, "errors": sum(one["errors"] for one in seen)}

    async def _full(self, bill: Bill) -> dict[str, Any]:
        """As many requests as its core can take; what each costs."""
        with processes.watch(bill.gateway.pids()) as usage:
            found = await bill.run(self.sizes.full_clients, self.sizes.full_s)
        return {
            "rps": found["count"] / found["elapsed_s"],
            "cpu_ms": 1e3 * usage.server_s / max(1, found["answered"]),
            "full_p99_ms": found["p99_ms"],
            "full_errors": found["errors"],
        }


class Bill:
    """What the provider counted for one gateway, to hold against that gateway's book where it has one."""

    def __init__(self, loads: Loads, gateway: Gateway) -> None:
        self.loads, self.gateway = loads, gateway
        self._counted = Count(0, 0, 0)

    async def run(self, clients: int, seconds: float, *, stream: bool = False) -> dict[str, Any]:
        """Load, whose calls go on the bill."""
        provider = self.loads.provider
        before = await provider.quiet()
        found = await self.loads.run(self.gateway, clients, seconds, stream=stream)
        counted = (await provider.quiet()).since(before)
        self._counted = Count(*(sum(pair) for pair in zip(self._counted, counted, strict=True)))
        return found

    async def gap(self) -> int | None:
        """Tokens by which book and provider differ; None where the gateway keeps no book."""
        if not self.gateway.book:
            return None
        rows = await books.settled(self.gateway.book, self._counted.calls)
        return books.gap(rows, ["standin"], [self._counted])


def _alone(whole: dict[str, Any], streamed: dict[str, Any]) -> dict[str, Any]:
    """What one client saw: a whole answer, and the first word of a stream."""
    return {
        "p50_ms": whole["p50_ms"],
        "p99_ms": whole["p99_ms"],
        "first_ms": streamed["first_p50_ms"],
        "first_p99_ms": streamed["first_p99_ms"],
    }
