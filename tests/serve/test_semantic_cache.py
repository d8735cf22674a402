"""A cache by likeness in a server: what clients are told, what operators see, what Prometheus counts."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tauten as tt
from kit.likeness import ALIKE, ASKED, OTHER, proved, without_model
from serve.kit_asgi import Answered, ask, site
from serve.test_metrics import measured, scraped, value
from tauten.plan.plan import CachePlan, Plan, SemanticPlan, StagePlan
from tauten.serve.app import App
from tauten.serve.door import Caller, Door
from tauten.serve.service import Service

CALLS: list[str] = []
RULES = SemanticPlan(gate="ours")


@tt.stage(pure=True)
async def reply(question: tt.Text) -> str:
    CALLS.append(question.text)
    return "so" if "password" in question.text else question.text


@tt.workflow
def desk(question: tt.Text) -> str:
    return reply(question)


@pytest.fixture(autouse=True)
def no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    CALLS.clear()
    with without_model(monkeypatch, tmp_path):
        yield


def service() -> Service:
    assert desk.graph is not None
    rules = CachePlan(tiers=("memory", "semantic"), semantic=RULES)
    return Service(desk, Plan(graph=desk.graph.hash, stages={"reply": StagePlan(cache=rules)}))


def never_drawn(app: App) -> Any:
    caches = app.site.services["desk"].engine.deployments.caches
    [tier] = caches.likes.every()
    tier._draw = lambda: 0.999  # type: ignore[attr-defined]
    return caches


async def asks(app: App, text: str) -> Answered:
    answer = await ask(app, "POST", "/v1/workflows/desk", {"inputs": {"question": text}})
    await app.site.services["desk"].engine.deployments.caches.settled()
    return answer


def test_a_client_is_told_of_an_answer_to_another_question_and_of_no_other() -> None:
    proved("desk", "reply", RULES)

    async def main() -> None:
        async with site(service(), apis=["native"]) as app:
            never_drawn(app)
            first, same, alike, trap = [await asks(app, text) for text in (ASKED, ASKED, ALIKE, OTHER)]
            assert [each.json["output"] for each in (first, same, alike, trap)] == ["so", "so", "so", OTHER]
            assert CALLS == [ASKED, OTHER]
            told = alike.headers["x-tauten-cache"]
            assert told.startswith("reply=semantic; score=0.9")
            assert "bound=0.0" in told
            assert not any("x-tauten-cache" in each.headers for each in (first, same, trap))

    asyncio.run(main())


def test_operators_see_the_tier_and_its_gate() -> None:
    proved("desk", "reply", RULES)

    async def main() -> None:
        door = Door(identify=lambda _: Caller("me", admin=True))
        async with site(service(), door=door, apis=["native", "operations"]) as app:
            never_drawn(app)
            seen = (await ask(app, "GET", "/v1/admin/caches")).json
            [gate] = [each for each in seen["gates"] if each["gate"] == "ours"]
            assert "minilm-l6-v2" in gate["about"]
            [scope] = gate["scopes"]
            assert (scope["open"], scope["epsilon"], scope["taken"]) == (True, 0.02, 0)
            [cache] = seen["caches"]
            assert set(cache["tiers"]) == {"memory", "semantic"}
            assert cache["tiers"]["semantic"]["hits"] == 0
            cleared = await ask(app, "POST", "/v1/admin/caches/clear", {"tier": "semantic"})
            assert cleared.status == 200

    asyncio.run(main())


def test_prometheus_counts_hits_and_says_how_the_gate_stands() -> None:
    gate = proved("desk", "reply", RULES)

    async def main() -> None:
        async with site(service(), apis=["native", "operations"]) as app:
            measured(app)
            never_drawn(app)
            for text in (ASKED, ALIKE, OTHER):
                await asks(app, text)
            shown = scraped(app)
            at = {"gate": "ours", "scope": "/"}
            assert value(shown, "tauten_gate_open", **at) == 1.0
            assert value(shown, "tauten_gate_taken_total", **at) == 1.0
            assert value(shown, "tauten_gate_verified_total", **at) == 0.0
            assert value(shown, "tauten_gate_verified_wrong_total", **at) == 0.0
            assert 0.0 < value(shown, "tauten_gate_bound", **at) <= 0.02
            assert value(shown, "tauten_gate_epsilon", **at) == 0.02
            assert value(shown, "tauten_gate_learned", gate="ours") == 0.0
            tier = {"workflow": "desk", "stage": "reply", "holds": "results", "tier": "semantic"}
            assert value(shown, "tauten_cache_tier_hits_total", **tier) == 1.0
            assert value(shown, "tauten_cache_tier_events_total", **tier, event="refused_by_check") >= 1.0
            while gate.opens():
                gate.observe(0.99, False)
            shown = scraped(app)
            assert value(shown, "tauten_gate_open", **at) == 0.0
            assert value(shown, "tauten_gate_verified_wrong_total", **at) > 1.0

    asyncio.run(main())
