"""What a cache costs a step: CPU time of a hit on a question and three passages, and how fast media are named.

`python bench/lookups.py`; CPU time of this thread, the least of many rounds. `improve/simulate/lookups.py` has
both figures.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

import tauten as tt
from tauten.run.caching.caches import Caches
from tauten.run.caching.keeper import Keeper
from tauten.run.request import Request

ROUNDS, EACH = 50, 200
MEGABYTE = 1_000_000


class Ask(NamedTuple):
    name: str
    request: Request


async def hit_s() -> float:
    """Seconds of a hit, its name included."""
    place = Caches().take([], "answer", "results", 64 * MEGABYTE)
    assert place is not None
    keeper, ask = Keeper(place, b"space", {"temperature": 0.0}), Ask("answer", Request())
    inputs = {"question": tt.Text("How do I read a file? " * 4), "passages": ["Some words of it. " * 40] * 3}

    async def compute(_: float | None) -> tt.Text:
        return tt.Text("An answer of some words. " * 10)

    best = 1.0
    for _ in range(ROUNDS):
        began = time.thread_time()
        for _ in range(EACH):
            await keeper.value(ask, inputs, None, compute)
        best = min(best, (time.thread_time() - began) / EACH)
        ask.request.trace.rows.clear()
        ask.request.trace.spent.clear()
    return best


def least_s(function: Callable[[], object]) -> float:
    best = 1.0
    for _ in range(ROUNDS):
        began = time.thread_time()
        function()
        best = min(best, time.thread_time() - began)
    return best


def main() -> None:
    from hashlib import sha256

    data = bytes(MEGABYTE)
    print(f"a hit: {asyncio.run(hit_s()) * 1e6:.1f} us")
    print(f"naming media: {1 / least_s(lambda: sha256(data).hexdigest()):.0f} MB/s")


if __name__ == "__main__":
    main()
