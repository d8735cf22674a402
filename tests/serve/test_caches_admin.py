"""Caches of a running server: who may see them, who may empty them, and what that forgets."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import tauten as tt
from serve.kit_asgi import ask, site
from tauten.plan.plan import CachePlan, Plan, StagePlan
from tauten.serve.door import Caller, Door
from tauten.serve.service import Service

CALLS: list[str] = []


@tt.stage(pure=True)
async def work(text: str) -> str:
    CALLS.append(text)
    return text.upper()


@tt.workflow
def flow(text: str) -> str:
    return work(text)


def service(**rules: Any) -> Service:
    assert flow.graph is not None
    return Service(flow, Plan(graph=flow.graph.hash, stages={"work": StagePlan(cache=CachePlan(**rules))}))


def test_only_an_operator_sees_and_empties_caches() -> None:
    async def main() -> None:
        door = Door(identify=lambda _: Caller("me"))
        async with site(service(), door=door, apis=["operations"]) as app:
            assert (await ask(app, "GET", "/v1/admin/caches")).status == 403
            assert (await ask(app, "POST", "/v1/admin/caches/clear", {})).status == 403

    asyncio.run(main())


def test_an_operator_sees_tiers_and_forgets_by_label_tier_and_workflow(
    monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.setenv("TAUTEN_RESULTS", str(tmp_path))
    CALLS.clear()

    async def main() -> None:
        door = Door(identify=lambda _: Caller("me", admin=True))
        async with site(service(tiers=("memory", "disk")), door=door, apis=["native", "operations"]) as app:
            caches = app.site.services["flow"].engine.deployments.caches

            async def asks() -> None:
                done = await ask(app, "POST", "/v1/workflows/flow", {"inputs": {"text": "x"}})
                assert done.json["output"] == "X"
                await caches.behind.settled()

            async def clears(**what: str) -> tuple[int, Any]:
                answer = await ask(app, "POST", "/v1/admin/caches/clear", what)
                return answer.status, answer.json.get("forgotten")

            await asks()
            await asks()
            [shown] = (await ask(app, "GET", "/v1/admin/caches")).json["caches"]
            assert (shown["workflow"], shown["stage"], shown["holds"]) == ("flow", "work", "results")
            assert (shown["hits"], shown["misses"]) == (1, 1)
            assert {name: tier["holdings"]["entries"] for name, tier in shown["tiers"].items()} == {
                "memory": 1,
                "disk": 1,
            }
            assert await clears(tier="memory") == (200, 0)
            await asks()
            assert CALLS == ["x"], "it was on disk"
            assert await clears(label="step:work") == (200, 2)
            await asks()
            assert CALLS == ["x", "x"]
            assert await clears() == (200, 0)
            await asks()
            assert CALLS == ["x"] * 3
            assert await clears(workflow="flow", label="tag:none") == (200, 0)
            assert (await clears(workflow="other"))[0] == 404
            assert (await clears(label="colour:red"))[0] == 400
            assert (await clears(tier="memroy"))[0] == 400
            assert await clears(tier="redis") == (200, 0), "there is such a tier, and this plan has none"

    asyncio.run(main())
