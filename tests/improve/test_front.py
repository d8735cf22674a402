"""The Pareto front: nothing on it is dominated, and everything off it is."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tauten.describe.slo import Slo
from tauten.improve.optimizer.front import dominates, front, marked, undominated
from tauten.improve.optimizer.outcome import Candidate
from tauten.improve.optimizer.search import Figures

few = st.integers(0, 4).map(float)  # so that equal and comparable points are common
points = st.integers(1, 4).flatmap(lambda ways: st.lists(st.tuples(*[few] * ways), max_size=12))


def candidate(name: str, p95: float, **more: object) -> Candidate:
    figures = Figures({"p95_ms": p95, "p50_ms": p95 / 2, "core_ms": float(more.pop("core_ms", 1.0))})  # type: ignore[arg-type]
    return Candidate(name=name, plan="", simulated=figures, **more)  # type: ignore[arg-type]


def names(found: list[Candidate]) -> list[str]:
    return [each.name for each in found]


@settings(deadline=None, max_examples=50)  # a machine may be busy
@given(points)
def test_nothing_on_the_front_is_dominated(each: list[tuple[float, ...]]) -> None:
    kept = {place: each[place] for place in undominated(each)}
    assert not any(dominates(other, point) for point in kept.values() for other in each)


@settings(deadline=None, max_examples=50)  # a machine may be busy
@given(points)
def test_everything_off_the_front_is_dominated_by_something_on_it(each: list[tuple[float, ...]]) -> None:
    kept = undominated(each)
    for place in set(range(len(each))) - set(kept):
        assert any(dominates(each[other], each[place]) for other in kept)
    assert bool(kept) == bool(each)


@settings(deadline=None, max_examples=50)  # a machine may be busy
@given(points, st.randoms(use_true_random=False))
def test_the_front_does_not_hang_on_the_order(each: list[tuple[float, ...]], random: object) -> None:
    shuffled = list(each)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert sorted(shuffled[place] for place in undominated(shuffled)) == sorted(
        each[place] for place in undominated(each)
    )


@settings(deadline=None, max_examples=50)  # a machine may be busy
@given(few, few)
def test_nothing_dominates_itself(one: float, other: float) -> None:
    assert not dominates((one, other), (one, other))


def test_quality_memory_and_cost_are_ways_to_be_better() -> None:
    fast = candidate("fast", 100.0, quality_loss=0.01, memory_bytes=300)
    small = candidate("small", 150.0, memory_bytes=100)
    idle = candidate("idle", 150.0, memory_bytes=200, core_ms=0.5)
    worse = candidate("worse", 160.0, memory_bytes=200)
    assert names(front([fast, small, idle, worse])) == ["fast", "small", "idle"]
    assert [each.front for each in marked([fast, worse, small])] == [True, False, True]


def test_the_time_that_the_slo_limits_counts() -> None:
    """p50 alone would keep the second: nobody asked for it."""
    one = Candidate(name="one", plan="", simulated=Figures({"p50_ms": 50.0, "p95_ms": 100.0}))
    other = Candidate(name="other", plan="", simulated=Figures({"p50_ms": 40.0, "p95_ms": 110.0}))
    assert names(front([one, other])) == ["one"]
    assert names(front([one, other], Slo(p50_ms=45.0, p95_ms=105.0))) == ["one", "other"]


def test_unknown_memory_compares_nothing_and_measurements_count_only_together() -> None:
    one = candidate("one", 100.0, memory_bytes=1)
    other = candidate("other", 120.0)
    assert names(front([one, other])) == ["one"]
    measured = Candidate(
        name="other", plan="", simulated=other.simulated, measured=Figures({"p95_ms": 1.0, "core_ms": 1.0})
    )
    assert names(front([one, measured])) == ["one"], "a measured figure against a simulated one says nothing"


def test_a_plan_that_refuses_requests_is_not_better_for_being_quick() -> None:
    calm = candidate("calm", 100.0)
    crowd = Candidate(name="crowd", plan="", simulated=Figures({"p95_ms": 80.0, "core_ms": 1.0}, failed=0.3))
    assert names(front([calm, crowd])) == ["calm", "crowd"]
    assert names(front([calm, candidate("slow", 101.0)])) == ["calm"]
