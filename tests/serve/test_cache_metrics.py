"""Caches on `/metrics`: what hit, what did not, what they hold."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from serve.kit_asgi import site
from serve.kit_onnx import linear
from serve.test_metrics import flow, measured, scraped, value
from tauten.errors import PlanError
from tauten.plan.plan import Plan, StagePlan
from tauten.serve.service import Service
from tauten.serve.tensor_model import STAGE, tensor_model


def test_a_cache_shows_what_it_did_and_holds() -> None:
    assert flow.graph is not None
    [stage] = flow.graph.stages
    plan = Plan(graph=flow.graph.hash, stages={stage: StagePlan(cache="1MB")})

    async def main() -> None:
        async with site(Service(flow, plan), apis=["operations"]) as app:
            measured(app)
            engine = app.site.services["flow"].engine
            for text in ("a", "a", "a", "b"):
                await engine.run(flow.bind(text))
            shown = scraped(app)
            labels = {"workflow": "flow", "stage": stage, "holds": "results"}

            def of(name: str) -> float:
                return value(shown, f"tauten_cache_{name}", **labels)

            assert [of(name) for name in ("hits_total", "misses_total", "passed_total")] == [2, 2, 0]
            assert [of(name) for name in ("entries", "bound_bytes", "evictions_total")] == [2, 1e6, 0]
            assert of("bytes") > 800
            assert of("saved_seconds_total") >= 0.0

    asyncio.run(main())


def test_without_caches_there_are_no_series() -> None:
    async def main() -> None:
        async with site(Service(flow), apis=["operations"]) as app:
            measured(app)
            assert not [name for name, _ in scraped(app) if name.startswith("tauten_cache")]

    asyncio.run(main())


def test_a_raw_model_has_none(tmp_path: Path) -> None:
    async def main() -> None:
        plan = Plan(stages={STAGE: StagePlan(cache=True)})
        service = tensor_model(linear(tmp_path), name="mine", plan=plan)
        with pytest.raises(PlanError, match="raw model") as refused:
            await service.open()
        assert refused.value.code == "E133"
        await service.close()
        service = tensor_model(linear(tmp_path), name="mine")
        await service.open()
        with pytest.raises(PlanError, match="raw model"):
            await service.swap(plan)
        assert service.ready
        await service.close()

    asyncio.run(main())
