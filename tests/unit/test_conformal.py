"""Conformal intervals hold their share of outcomes, whatever the distribution."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import doctest
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tauten.errors import InputError
from tauten.statistics import conformal
from tauten.statistics.conformal import conformal_bound, conformal_interval

values = st.lists(st.floats(-5, 5), min_size=1, max_size=60)


def test_examples() -> None:
    assert doctest.testmod(conformal).failed == 0


def cauchy(draw: random.Random) -> float:
    return draw.gauss(0, 1) / (abs(draw.gauss(0, 1)) + 1e-9)


def biased(draw: random.Random) -> float:
    return 0.7 + draw.gauss(0, 0.1)


def skewed(draw: random.Random) -> float:
    return draw.expovariate(2.0)


@pytest.mark.parametrize("n", [9, 10, 18, 19, 60])
@pytest.mark.parametrize("law", [cauchy, biased, skewed])
def test_the_next_outcome_lies_inside_as_often_as_it_says(
    law: Callable[[random.Random], float], n: int
) -> None:
    draw, runs, inside = random.Random(7), 1500, 0
    for _ in range(runs):
        found = conformal_interval([law(draw) for _ in range(n)], 0.9)
        assert found is not None
        inside += found[0] <= law(draw) <= found[1]
    assert inside / runs > 0.9 - 3 * (0.9 * 0.1 / runs) ** 0.5


def test_it_is_not_much_wider_than_it_must_be() -> None:
    draw, runs, inside = random.Random(8), 1500, 0
    for _ in range(runs):
        found = conformal_interval([draw.gauss(0, 1) for _ in range(99)], 0.9)
        assert found is not None
        inside += found[0] <= draw.gauss(0, 1) <= found[1]
    assert inside / runs < 0.9 + 1 / 100 + 3 * (0.9 * 0.1 / runs) ** 0.5


def test_a_bias_shifts_the_interval_once_there_are_nineteen() -> None:
    low, high = conformal_interval([0.7 + i / 1000 for i in range(19)]) or (0.0, 0.0)
    assert (low, high) == pytest.approx((0.7, 0.718))
    low, high = conformal_interval([0.7 + i / 1000 for i in range(18)]) or (0.0, 0.0)
    assert (low, high) == pytest.approx((-0.717, 0.717))


@given(values)
@settings(max_examples=60, deadline=None)
def test_weights_of_one_change_nothing(scores: list[float]) -> None:
    assert conformal_bound(scores, 0.9, [1.0] * len(scores)) == conformal_bound(scores, 0.9)


def test_what_weighs_nothing_is_not_there() -> None:
    recent = [float(i) for i in range(9)]
    assert conformal_bound([100.0, *recent], 0.9, [0.0, *[1.0] * 9]) == conformal_bound(recent, 0.9) == 8.0


def test_weights_must_fit() -> None:
    with pytest.raises(InputError, match="E252"):
        conformal_bound([1.0], 0.9, [1.0, 1.0])
    with pytest.raises(InputError, match="E252"):
        conformal_bound([1.0], 0.9, [2.0])
    with pytest.raises(InputError, match="confidence"):
        conformal_bound([1.0], 1.5)
