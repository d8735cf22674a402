"""A server that is told to forget: who asks afterwards shares nothing that was begun before."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from typing import Any

import tauten as tt
from serve.kit_asgi import ask, site
from tauten.plan.plan import CachePlan, Plan, StagePlan
from tauten.serve.door import Caller, Door
from tauten.serve.service import Service

WORLD = {"state": "old"}
GOING: list[asyncio.Event] = []
READ: list[str] = []


@tt.stage(pure=True)
async def look(name: str) -> str:
    """What it read before it was let go on."""
    state = WORLD["state"]
    READ.append(state)
    await GOING[0].wait()
    return f"{name} {state}"


@tt.workflow
def looked(name: str) -> str:
    return look(name)


def test_a_request_after_forgetting_is_computed_for_itself() -> None:
    assert looked.graph is not None
    rules = StagePlan(cache=CachePlan(tags=("world",)))
    service = Service(looked, Plan(graph=looked.graph.hash, stages={"look": rules}))

    async def main() -> None:
        async with asyncio.timeout(30):
            await body()

    async def body() -> None:
        GOING[:], READ[:] = [asyncio.Event()], []
        door = Door(identify=lambda _: Caller("me", admin=True))
        async with site(service, door=door, apis=["native", "operations"]) as app:

            async def asked() -> Any:
                answer = await ask(app, "POST", "/v1/workflows/looked", {"inputs": {"name": "a"}})
                return answer.json["output"]

            before = [asyncio.ensure_future(asked()) for _ in range(2)]
            assert door.flights is not None
            while not READ or not door.flights.joined:
                await asyncio.sleep(0)  # until the first has read, and the second has joined it
            WORLD["state"] = "new"
            done = await ask(app, "POST", "/v1/admin/caches/clear", {"label": "tag:world"})
            assert done.status == 200
            after = asyncio.ensure_future(asked())
            while len(READ) < 2:
                await asyncio.sleep(0)  # until it has read for itself
            GOING[0].set()
            assert await asyncio.gather(*before) == ["a old", "a old"], "they had asked before"
            assert await after == "a new"
            assert await asked() == "a new", "and that was kept"

    asyncio.run(main())
