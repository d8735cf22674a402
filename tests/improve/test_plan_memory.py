"""The memory of a plan: its models as they were measured, each once, and the bounds of its caches."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest

from simulate.kit_desk import NAIVE, desk, learned
from tauten.describe.slo import Slo
from tauten.improve.optimizer.memory import caches_of, memory_of, models_of
from tauten.improve.optimizer.pricing import Pricer
from tauten.improve.optimizer.search import Figures
from tauten.improve.simulate.library import Held, Library
from tauten.improve.simulate.machine import Shared
from tauten.plan.caching import RESULTS_BYTES
from tauten.plan.lower import Lowered, lower
from tauten.plan.plan import Batch, CachePlan, Plan

MB = 1_000_000
HELD: dict[str, Held] = {
    "hear": ((1, 40 * MB), (8, 60 * MB)),
    "see": ((1, 20 * MB),),
    "read": ((1, 10 * MB), (4, 11 * MB), (16, 15 * MB)),
    "tell": ((1, 500 * MB), (4, 520 * MB)),
}


def lowered(plan: Plan) -> Lowered:
    assert desk.graph is not None
    return lower(desk.graph, plan)


def known(*but: str) -> Library:
    library = learned(NAIVE)
    for choice in models_of(lowered(NAIVE)).values():
        if choice.model not in but:
            library.add_held(choice, HELD[choice.model])
    return library


ALONE = NAIVE.edit("hear", batch=Batch(max=1)).edit("look", batch=Batch(max=1))


def test_models_add_up_and_batches_and_replicas_count() -> None:
    library = known()
    assert memory_of(library, lowered(ALONE)) == (40 + 20 + 10 + 520) * MB
    wide = ALONE.edit("hear", batch=Batch(max=8)).edit("look", batch=Batch(max=3))
    assert memory_of(library, lowered(wide)) == (60 + 20 + 11 + 520) * MB
    twice = ALONE.edit("hear", replicas=2)
    assert memory_of(library, lowered(twice)) == (2 * 40 + 20 + 10 + 520) * MB


def test_threads_do_not_change_it() -> None:
    assert memory_of(known(), lowered(ALONE.edit("hear", threads=2))) == (40 + 20 + 10 + 520) * MB


def test_one_model_that_nobody_measured_leaves_it_unknown() -> None:
    library = known("read")
    assert memory_of(library, lowered(ALONE)) is None
    assert "memory_bytes" not in Pricer(desk, library, Shared(8), 1.0)(ALONE).values


def test_caches_count_by_their_bounds() -> None:
    assert caches_of(lowered(ALONE)) == 0
    assert caches_of(lowered(ALONE.edit("hear", cache=True))) == RESULTS_BYTES
    both = ALONE.edit("hear", cache="12MB").edit(
        "look", cache=CachePlan(size="3MB", tiers=("memory", "disk"))
    )
    assert caches_of(lowered(both)) == 15 * MB
    assert caches_of(lowered(ALONE.edit("look", cache=CachePlan(tiers=("disk",))))) == 0
    library = known()
    assert memory_of(library, lowered(both)) == (40 + 20 + 10 + 520 + 15) * MB


def test_a_price_says_it_and_a_limit_on_it_counts() -> None:
    found = Pricer(desk, known(), Shared(8), 1.0)(ALONE)
    assert found.values["memory_bytes"] == 590.0 * MB
    slo = Slo(memory_bytes=500 * MB)
    assert found.missed(slo) == pytest.approx(0.18)
    assert found.said(slo) == "memory 590 MB (SLO 500)"
    assert Figures({"cost_cents": 0.31}).said(Slo(cost_cents=0.2)) == "cost 0.31 cents (SLO 0.2)"
    light = Figures({**found.values, "memory_bytes": 400.0 * MB})
    assert light.objective(slo, found) < found.objective(slo, found)


def test_without_a_limit_memory_decides_nothing() -> None:
    one = Figures({"p50_ms": 100.0, "memory_bytes": 4e8})
    other = Figures({"p50_ms": 100.0, "memory_bytes": 8e8})
    assert one.objective(Slo(), one) == other.objective(Slo(), one)
