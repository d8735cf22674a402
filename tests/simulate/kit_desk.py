"""A workflow whose models take told times: run for real on a virtual clock it shows what a simulation should say."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import tauten as tt
from tauten.clock import run_virtual
from tauten.describe.stage import Context, Role, stage
from tauten.improve.simulate.capture import KeepingEngine, capture
from tauten.improve.simulate.library import Library
from tauten.plan.lower import lower
from tauten.plan.plan import Batch, Plan, StagePlan

OWN_S = 0.004  # code of the stage itself

HEAR_MS, SEE_MS, READ_MS, READ_EACH_MS, FIRST_MS, TOKEN_MS, TOKENS = 100.0, 30.0, 4.0, 6.0, 50.0, 5.0, 20


@stage(roles={"model": Role("hear", ("synthetic",), options={"ms_per_batch": HEAR_MS})}, effects="pure")
async def hear(sound: str, ctx: Context) -> str:
    await asyncio.sleep(OWN_S)
    return str(await ctx.infer("model", sound))


@stage(
    roles={
        "see": Role("see", ("synthetic",), options={"ms_per_batch": SEE_MS}),
        "read": Role("read", ("synthetic",), options={"ms_per_batch": READ_MS, "ms_per_item": READ_EACH_MS}),
    },
    effects="pure",
)
async def look(photo: str, ctx: Context) -> list[str]:
    await ctx.infer("see", photo)
    await asyncio.sleep(OWN_S)
    rows = [f"{photo} {number}" for number in range(len(photo))]
    return list(await asyncio.gather(*(ctx.infer("read", row) for row in rows)))


@stage(pure=True)
async def find(words: str, rows: list[str] | None) -> str:
    return f"{words} {rows}"


@stage(
    roles={
        "llm": Role(
            "tell",
            ("synthetic_slots",),
            options={"prefill_ms": FIRST_MS, "ms_per_token": TOKEN_MS, "tokens": TOKENS, "slots": 2},
        )
    },
    effects="pure",
)
async def tell(found: str, ctx: Context) -> AsyncIterator[str]:
    async for chunk in ctx.stream("llm", {"prompt": found}):
        if chunk.text:
            yield chunk.text


@stage(pure=True)
async def reply(found: str, told: tt.Stream[str]) -> AsyncIterator[str]:
    yield found  # at once
    async for piece in told:
        yield piece
    await asyncio.sleep(OWN_S)


@tt.workflow
def desk(sound: str, photo: str | None = None) -> tt.Stream[str]:
    words = hear(sound)
    rows = look(photo)
    found = find(words, rows)
    return reply(found, tell(found))


ITEMS = [
    ("short", {"sound": "a", "photo": "xy"}),
    ("long", {"sound": "b", "photo": "wxyzuv"}),
    ("deaf", {"sound": "c"}),
]


def plan(**stages: StagePlan) -> Plan:
    return Plan(graph=desk.graph.hash, stages=stages)  # type: ignore[union-attr]


ALONE = StagePlan(threads=1)  # a core each
NAIVE = plan(hear=ALONE, look=ALONE, tell=ALONE)
OVERLAP = NAIVE.edit("hear", beside=("look",))
BATCHED = OVERLAP.edit("hear", batch=Batch(max=4)).edit("look", batch=Batch(max=8, wait="off"))


def learned(*plans: Plan, items: Iterable[tuple[str, Any]] = tuple(ITEMS)) -> Library:
    """What the workflow does under some plans, as recorded on a virtual clock."""
    library = Library()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with KeepingEngine(clock=loop.time) as engine:
            for each in plans:
                library.add(await capture(engine, desk, each, items, repeats=2))

    run_virtual(main())
    assert desk.graph is not None
    for each in plans:
        tells = next(step for step in lower(desk.graph, each).steps if step.name == "tell")
        library.add_streams(tells.models["llm"], ((1, 1.0), (2, 1.0)))  # told tokens do not slow one another
    return library
