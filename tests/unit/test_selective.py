"""A threshold that is let through keeps its promise in all but a share eta of worlds, whatever the law of errors."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import doctest
import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tauten.errors import InputError
from tauten.statistics import selective
from tauten.statistics.rates import binomial_cdf, first_count
from tauten.statistics.selective import (
    Judged,
    grid,
    items_to_prove,
    needed_items,
    select,
    surely_worse,
)

EPSILON, ETA = 0.02, 0.05
Law = Callable[[float], float]  # score -> chance to be wrong

THRESHOLDS = [0.96, 0.93, 0.9, 0.88, 0.86, 0.8, 0.7, 0.5, 0.0]


def falling(score: float) -> float:
    """The surer, the better; 2 % among those above 0.867."""
    return 0.3 * (1.0 - score)


def hidden(score: float) -> float:
    """Scores that lie: just below the best ones everything is bad, further down all is well."""
    return 0.3 if 0.9 <= score < 0.96 else 0.0


def flat(score: float) -> float:
    """Scores that say nothing, and a rate just above the promise."""
    return 0.021


def risk(law: Law, threshold: float, steps: int = 2000) -> float:
    """P(wrong | score >= threshold) of uniform scores, by the midpoint rule."""
    points = [threshold + (1.0 - threshold) * (step + 0.5) / steps for step in range(steps)]
    return sum(law(point) for point in points) / steps


def world(law: Law, n: int, draw: random.Random) -> list[Judged]:
    scores = [draw.random() for _ in range(n)]
    return [Judged(score, draw.random() < law(score)) for score in scores]


def broken(law: Law, n: int, worlds: int, seed: int) -> tuple[int, int]:
    """In how many worlds the threshold that was let through breaks the promise, and in how many there is one."""
    draw, false, some = random.Random(seed), 0, 0
    bad = {threshold for threshold in THRESHOLDS if risk(law, threshold) > EPSILON}
    for _ in range(worlds):
        found = select(world(law, n, draw), THRESHOLDS, EPSILON, ETA).threshold
        false += found in bad
        some += found is not None
    return false, some


def test_examples() -> None:
    assert doctest.testmod(selective).failed == 0


@pytest.mark.parametrize("law", [falling, hidden, flat])
@pytest.mark.parametrize("n", [300, 4000])
def test_the_promise_is_broken_in_no_more_worlds_than_it_says(law: Law, n: int) -> None:
    worlds = 250 if n < 1000 else 100
    false, _ = broken(law, n, worlds, seed=11)
    assert false <= first_count(worlds, ETA, 0.9999)


@pytest.mark.slow
@pytest.mark.parametrize("law", [falling, hidden, flat])
@pytest.mark.parametrize("n", [200, 3000])
def test_the_promise_holds_in_many_worlds(law: Law, n: int) -> None:
    worlds = 2000
    false, _ = broken(law, n, worlds, seed=12)
    assert false <= first_count(worlds, ETA, 0.9999)


def test_a_threshold_by_the_rate_that_was_seen_breaks_it() -> None:
    """What everyone does, to show that the worlds are hard enough to tell."""
    draw, worlds, false = random.Random(13), 200, 0
    for _ in range(worlds):
        items = world(falling, 300, draw)
        passing = [
            threshold
            for threshold in THRESHOLDS
            if (above := [each for each in items if each.score >= threshold])
            and sum(each.wrong for each in above) / len(above) <= EPSILON
        ]
        false += bool(passing) and risk(falling, min(passing)) > EPSILON
    assert false > first_count(worlds, ETA, 0.9999)


def test_with_enough_items_it_finds_most_of_what_there_is() -> None:
    draw = random.Random(14)
    found = [select(world(falling, 20_000, draw), THRESHOLDS, EPSILON, ETA).threshold for _ in range(21)]
    assert sorted(1.0 if each is None else each for each in found)[10] in (0.9, 0.88)
    assert risk(falling, 0.88) < EPSILON < risk(falling, 0.86)


def test_nothing_wrong_opens_at_the_number_of_the_books() -> None:
    items = [Judged(0.9, False)] * 148
    assert select(items, [0.5], 0.02, 0.05).threshold is None
    found = select([*items, Judged(0.9, False)], [0.5], 0.02, 0.05)
    assert (found.threshold, found.n, found.wrong, found.needed, found.share) == (0.5, 149, 0, 149, 1.0)
    assert found.bound <= 0.02


def test_it_stops_at_the_first_threshold_that_fails() -> None:
    items = [Judged(0.9, False)] * 300 + [Judged(0.7, True)] * 30 + [Judged(0.5, False)] * 9000
    found = select(items, [0.8, 0.6, 0.4], 0.02, 0.05)
    assert (found.threshold, found.n, found.wrong) == (0.8, 300, 0)
    assert select(items, [0.4], 0.02, 0.05).threshold == 0.4


@given(st.integers(0, 40), st.sampled_from([0.005, 0.02, 0.1]), st.sampled_from([0.01, 0.05, 0.2]))
def test_the_needed_items_are_the_fewest(wrong: int, epsilon: float, eta: float) -> None:
    n = needed_items(epsilon, eta, wrong)
    assert binomial_cdf(wrong, n, epsilon) <= eta < binomial_cdf(wrong, n - 1, epsilon)


def test_more_errors_need_more_items_and_too_many_need_them_all() -> None:
    needed = [items_to_prove(rate, 0.02, 0.05) for rate in (0.0, 0.005, 0.01, 0.015)]
    assert needed == sorted(needed, key=lambda n: n or 0)
    assert None not in needed
    assert items_to_prove(0.03, 0.02, 0.05) is None


def test_a_grid_lets_in_enough_first_and_everyone_last() -> None:
    scores = [number / 1000 for number in range(1000)]
    found = grid(scores, 1000, 0.02, 0.05)
    assert found == sorted(found, reverse=True)
    above = [sum(score >= threshold for score in scores) for threshold in found]
    assert above[0] >= 1.5 * needed_items(0.02, 0.05) - 1
    assert above[-1] == 1000
    assert grid(scores, 100, 0.02, 0.05) == []
    assert grid([], 1000, 0.02, 0.05) == []
    assert grid(scores, 160, 0.02, 0.05) == [0.0]
    assert grid([-math.inf, *scores, math.nan, math.inf], 1000, 0.02, 0.05) == found, "no thresholds"


def test_what_is_surely_worse() -> None:
    assert surely_worse(100, 8, 0.02, 0.05)
    assert not surely_worse(100, 3, 0.02, 0.05)
    assert not surely_worse(0, 0, 0.02, 0.05)


def test_what_no_threshold_can_be_made_of() -> None:
    with pytest.raises(InputError, match="do not fall"):
        select([], [0.5, 0.5], 0.02, 0.05)
    with pytest.raises(InputError, match="confidence"):
        select([], [0.5], 0.0, 0.05)
    empty = select([], [0.5], 0.02, 0.05)
    assert (empty.threshold, empty.n, empty.bound) == (None, 0, 1.0)
