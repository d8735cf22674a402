"""What a run takes is a line with the spread that was measured around it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import random

import pytest

from tauten.improve.simulate.costs import KEPT, Cost, StreamCost, drawn, fitted, thinned


def test_a_line_is_found_again() -> None:
    cost = fitted([(weight, 0.002 + 0.0005 * weight) for weight in (1.0, 2.0, 8.0, 32.0)])
    assert (cost.fixed_s, cost.slope_s) == pytest.approx((0.002, 0.0005))
    assert cost.line(16.0) == pytest.approx(0.010)
    assert cost.drawn(16.0, 0.9) == pytest.approx(0.010)


def test_short_runs_count_as_much_as_long_ones() -> None:
    draws = random.Random(3)
    runs = [
        (weight, (0.001 + 0.01 * weight) * draws.uniform(0.9, 1.1))
        for weight in (0.1, 100.0)
        for _ in range(300)
    ]
    assert fitted(runs).line(0.1) == pytest.approx(0.002, rel=0.03)


@pytest.mark.parametrize("runs", [[(4.0, 0.01), (4.0, 0.02)], [(1.0, 0.02), (8.0, 0.01)]])
def test_one_weight_or_a_falling_line_is_all_fixed(runs: list[tuple[float, float]]) -> None:
    cost = fitted(runs)
    assert cost.slope_s == 0.0
    assert 0.01 < cost.line(1.0) < 0.02


def test_nothing_costs_less_than_nothing() -> None:
    cost = fitted([(1.0, 0.001), (10.0, 0.1), (20.0, 0.21)])
    assert cost.fixed_s >= 0.0
    assert cost.line(0.0) > 0.0


def test_without_a_run_there_is_no_cost() -> None:
    with pytest.raises(ValueError, match="no run"):
        fitted([])


def test_the_spread_is_what_was_measured() -> None:
    draws = random.Random(5)
    runs = [(1.0, 0.01 * draws.lognormvariate(0.0, 0.5)) for _ in range(2000)]
    cost = fitted(runs)
    assert len(cost.ratios) == KEPT
    again = sorted(cost.drawn(1.0, draws.random()) for _ in range(20_000))
    ordered = sorted(seconds for _, seconds in runs)
    for share in (0.05, 0.5, 0.95):
        assert again[int(share * len(again))] == pytest.approx(ordered[int(share * len(ordered))], rel=0.05)


def test_equal_runs_say_how_noisy_the_machine_is() -> None:
    cost = fitted([(1.0, 0.01), (1.0, 0.03)], noise=[0.9, 1.0, 1.1])
    assert cost.ratios == (0.9, 1.0, 1.1)


def test_draws_lie_between_what_was_seen() -> None:
    assert [drawn((1.0, 2.0, 4.0), at) for at in (0.0, 0.25, 0.5, 0.75, 1.0)] == [1.0, 1.5, 2.0, 3.0, 4.0]
    assert thinned([float(n) for n in range(1001)])[::50] == (0.0, 500.0, 1000.0)


def test_streams_together_are_slower_by_what_was_measured() -> None:
    cost = StreamCost(Cost(0.1), 0.02, together=((1, 1.0), (4, 1.6), (8, 2.4)))
    assert [cost.slowed(n) for n in (1, 2, 4, 6, 8)] == pytest.approx([1.0, 1.2, 1.6, 2.0, 2.4])
    assert cost.slowed(16) == pytest.approx(4.8), "beyond what was seen the engine is full"
