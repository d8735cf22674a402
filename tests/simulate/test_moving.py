"""Models that live from memory slow one another in simulations, as far as their bytes take of their time."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest

from simulate.kit_desk import HEAR_MS, NAIVE, OVERLAP, OWN_S, SEE_MS, TOKEN_MS, desk, learned
from tauten.improve.simulate.costs import Cost, Moving, StreamCost
from tauten.improve.simulate.library import Library
from tauten.improve.simulate.machine import Shared
from tauten.improve.simulate.simulator import Simulator
from tauten.plan.lower import lower
from tauten.plan.plan import ModelChoice, Plan

CROWDED = Shared(cores=8, crowded=2.0)


def choice(step: str, role: str, plan: Plan = NAIVE) -> ModelChoice:
    assert desk.graph is not None
    return {each.name: each for each in lower(desk.graph, plan).steps}[step].models[role]


def taught(**seconds: float) -> Library:
    """The desk, whose models move bytes for so many seconds of a run; `token` of a token."""
    library = learned(NAIVE)
    roles = {"hear": ("hear", "model"), "see": ("look", "see"), "token": ("tell", "llm")}
    for name, moving_s in seconds.items():
        library.add_moving(choice(*roles[name]), Moving(1.0, moving_s))
    return library


def alone_s(library: Library, plan: Plan, shared: Shared) -> float:
    return Simulator(desk, library, shared).run(plan, [(0.0, "long")]).done[0].seconds


def test_the_share_is_of_the_time_that_was_measured() -> None:
    library = taught(hear=0.05, see=1.0, token=TOKEN_MS / 4e3)
    hear, see = library.cost(choice("hear", "model")), library.cost(choice("look", "see"))
    tell = library.cost(choice("tell", "llm"))
    assert isinstance(hear, Cost)
    assert isinstance(see, Cost)
    assert isinstance(tell, StreamCost)
    assert hear.memory == pytest.approx(0.05 / (HEAR_MS / 1e3), rel=0.01)
    assert see.memory == 1.0, "more than it takes it cannot move"
    assert tell.memory == pytest.approx(0.25, rel=0.02)
    assert 0.0 < tell.first.memory < 0.05, "a prompt is read in one go, each token reads all weights"


def test_runs_that_come_later_change_the_share() -> None:
    library = taught(hear=0.05)
    library.add_runs(choice("hear", "model"), [(1.0, 0.2)] * 50)
    found = library.cost(choice("hear", "model"))
    assert isinstance(found, Cost)
    assert found.memory == pytest.approx(0.05 / found.line(1.0))
    assert found.memory < 0.3


def test_where_nothing_is_told_of_bytes_nothing_changes() -> None:
    library = learned(NAIVE)
    for each in library.costs.values():
        assert (each.memory if isinstance(each, Cost) else each.first.memory + each.memory) == 0.0
    told = [alone_s(library, OVERLAP, shared) for shared in (CROWDED, Shared(cores=8))]
    assert told[0] == told[1]


def test_two_that_move_bytes_side_by_side_are_slower_than_two_that_compute() -> None:
    """Hearing and seeing at once, each for all its time: twice as long while both run."""
    still, moving = learned(NAIVE), taught(hear=HEAR_MS / 1e3, see=SEE_MS / 1e3)
    calm = alone_s(still, OVERLAP, CROWDED)
    crowd = alone_s(moving, OVERLAP, CROWDED)
    together_s = SEE_MS / 1e3 - OWN_S  # seeing begins before hearing does
    assert crowd - calm == pytest.approx(together_s, rel=0.02), "hearing loses what seeing was there for"
    one_by_one = alone_s(moving, NAIVE, CROWDED)
    assert one_by_one == pytest.approx(alone_s(still, NAIVE, CROWDED)), "nobody is beside them"


def test_one_beside_another_that_only_computes_loses_nothing() -> None:
    half = taught(hear=HEAR_MS / 1e3)
    assert alone_s(half, OVERLAP, CROWDED) == pytest.approx(alone_s(learned(NAIVE), OVERLAP, CROWDED))
