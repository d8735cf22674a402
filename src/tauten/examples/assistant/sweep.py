"""What repeats are worth: the recording's questions about orders at several shares of repeats, on a virtual clock.

Nothing is measured here but waiting: a lookup takes 400 ms, everything else no time. So the figures say how many
lookups a cache saves, and what the mean wait becomes; what a hit itself costs is measured at the API (`tour.py`).
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from tauten.clock import run_virtual
from tauten.examples.assistant.lookup import order_desk
from tauten.examples.assistant.lookup import recording as questions
from tauten.examples.assistant.orders import LOOKUP_CENTS, Orders
from tauten.examples.assistant.source import use
from tauten.improve.recording import Item
from tauten.plan.plan import Plan
from tauten.run.engine import Engine
from tauten.statistics.percentiles import percentile

SHARES = (0.0, 0.1, 0.2, 0.3, 0.35, 0.4, 0.5)  # the published 30 to 40 %, and what lies around them


class Swept(msgspec.Struct, frozen=True):
    """One recording under one plan."""

    repeats: float
    requests: int
    lookups: int
    mean_ms: float
    p95_ms: float
    saved_cents: float

    @property
    def saved(self) -> float:
        """The share of lookups that nobody had to make."""
        return 1 - self.lookups / self.requests


def sweep(plan: Plan, shares: Sequence[float] = SHARES) -> list[Swept]:
    """Run the questions about orders at each share, in their order and at their times."""
    return [run_virtual(_one(plan, share)) for share in shares]


async def _one(plan: Plan, share: float) -> Swept:
    items, orders = list(questions(repeats=share)), Orders()
    with use(orders):
        async with Engine(clock=asyncio.get_running_loop().time) as engine:
            await engine.open(order_desk, plan)
            began = asyncio.get_running_loop().time()
            waits_s = await asyncio.gather(*(_asked(engine, item, began) for item in items))
    return Swept(
        repeats=share,
        requests=len(items),
        lookups=orders.looked,
        mean_ms=sum(waits_s) / len(waits_s) * 1e3,
        p95_ms=percentile(waits_s, 0.95) * 1e3,
        saved_cents=(len(items) - orders.looked) * LOOKUP_CENTS,
    )


async def _asked(engine: Engine, item: Item, began: float) -> float:
    """Seconds that one question takes, when its time has come."""
    clock = asyncio.get_running_loop().time
    await asyncio.sleep(max(0.0, began + item.at_s - clock()))
    at = clock()
    await engine.run(item.inputs)
    return clock() - at
