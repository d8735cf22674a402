"""What every router of the shelf keeps to."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tauten.run.contracts import Ask, Candidate, Evidence, Outcome, Router, find, names

routers = pytest.mark.parametrize("name", names("routers"))
seconds = st.floats(0, 30)

candidates = st.lists(
    st.builds(
        Candidate,
        name=st.sampled_from([f"n{number}" for number in range(8)]),
        wait_s=seconds,
        first_s=seconds,
        total_s=seconds,
        cost_per_token=st.none() | st.floats(0, 1),
        load=st.floats(0, 10),
        outstanding=st.integers(0, 50),
        healthy=st.booleans(),
        local=st.booleans(),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda each: each.name,
)
asks = st.builds(
    Ask,
    at=seconds,
    key=st.sampled_from(["", "ann", "bob"]),
    prefix=st.sampled_from(["", "You are", "Once upon"]),
    priority=st.integers(-8, 8),
    tokens=st.floats(0, 1000),
    first_left_s=seconds | st.just(math.inf),
    left_s=st.floats(-1, 30) | st.just(math.inf),
)


def made(name: str, seed: int = 0, *, opens: bool = False) -> Router:
    router: Router = find("routers", name)({}, seed=seed, allows=lambda score, tenant, category: opens)
    return router


def test_the_shelf_holds_what_the_docs_say() -> None:
    assert set(names("routers")) >= set(
        "cascade cost hybrid latency order prefix retrieval_first spill sticky usage".split()
    )


@routers
@settings(max_examples=60, deadline=None)
@given(ask=asks, there=candidates)
def test_it_gives_an_order_of_what_there_is_and_says_why(name: str, ask: Ask, there: list[Candidate]) -> None:
    route = made(name).route(ask, there)
    assert 1 <= len(route.order) == len(set(route.order))
    assert set(route.order) <= {each.name for each in there}
    assert route.order[0] in route.why


@routers
@settings(max_examples=60, deadline=None)
@given(ask=asks, there=candidates)
def test_the_ill_come_last_or_not_at_all(name: str, ask: Ask, there: list[Candidate]) -> None:
    router = made(name)
    well = {each.name for each in there if each.healthy}
    first = router.route(ask, there).order[0]
    if router.judges:  # the last one answers where no shortcut does, well or ill
        assert first in well | {there[-1].name}
    elif well:
        assert first in well


@routers
@settings(max_examples=30, deadline=None)
@given(
    steps=st.lists(st.tuples(asks, candidates, seconds, st.booleans()), min_size=1, max_size=12),
    seed=st.integers(0, 3),
)
def test_the_same_seed_makes_the_same_choices(
    name: str, steps: list[tuple[Ask, list[Candidate], float, bool]], seed: int
) -> None:
    def choices() -> list[tuple[str, ...]]:
        router, found = made(name, seed), []
        for ask, there, took_s, failed in steps:
            order = router.route(ask, there).order
            found.append(order)
            router.ended(ask, order[0], Outcome(took_s, failed=failed, tokens=10.0), ask.at + took_s)
        return found

    assert choices() == choices()


@routers
def test_one_that_judges_lets_nothing_pass_that_the_gate_does_not(name: str) -> None:
    shut, open_ = made(name), made(name, opens=True)
    ask = Ask()
    if not shut.judges:
        return
    for score in (-math.inf, 0.0, 1.0, math.inf):
        assert not shut.accepts(ask, Evidence(score)).stands
        assert open_.accepts(ask, Evidence(score)).stands
    without: Router = find("routers", name)({})
    assert not without.accepts(ask, Evidence(1.0)).stands
    assert shut.accepts(ask, Evidence(0.5)).why


@routers
def test_options_have_types_and_defaults(name: str) -> None:
    kind = find("routers", name)
    assert all(isinstance(wanted, type) for wanted in kind.option_keys.values())
    values = {float: 0.5, int: 3, dict: {}, bool: True}
    kind({key: values[wanted] for key, wanted in kind.option_keys.items()}, seed=1)
