"""Paired right and wrong: what n items asked twice prove about the loss of a change."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import math
from collections.abc import Callable

from tauten.errors import InputError
from tauten.statistics.rates import (
    Interval,
    Sides,
    binomial_cdf,
    binomial_pmf,
    clopper_pearson,
    first_count,
    normal_quantile,
    tail_of,
)

_NUISANCE = 1e-5  # error kept aside for the rate of good flips; costs 0.0001 points of the bound at n = 60
_BOUND_STEP = 5e-5  # bounds are printed in hundredths of a point
_IGNORED = 1e-10  # mass of counts that is not summed but added to the p-value, so it stays an upper bound


def _score(n: int, bad: int, good: int, margin: float) -> float:
    """Tango's score statistic of loss = margin; large when the items speak for a smaller loss."""
    linear = bad + good - 2 * n * margin + margin * (bad - good)
    root = linear * linear + 8 * n * good * margin * (1 - margin)
    good_rate = max(0.0, -margin, (linear + math.sqrt(max(0.0, root))) / (4 * n))
    variance = n * (2 * good_rate + margin * (1 - margin))
    gap = n * margin - (bad - good)
    if variance <= 1e-12:
        return math.copysign(math.inf, gap) if abs(gap) > 1e-12 else 0.0
    return gap / math.sqrt(variance)


def loss_p_value(n: int, bad: int, good: int, margin: float) -> float:
    """Exact p-value of "the loss is at least `margin`" from n paired items; small means it is less.

    Of the items, `bad` turned from right to wrong and `good` from wrong to right; loss = rate of bad
    minus rate of good. Assumes independent items. Unconditional test that orders the outcomes by Tango's
    score and takes the worst case over the unknown rate of good flips, within its 1 - 1e-5 confidence
    set (whose error is added): false accepts never exceed the level, at any n.
    Tango, Stat. Med. 17 (1998) 891-908; Hsueh, Liu and Chen, Biometrics 57 (2001) 478-483;
    Berger and Boos, JASA 89 (1994) 1012-1016.
    """
    _check_flips(n, bad, good)
    if not -1.0 < margin < 1.0:
        raise InputError(f"margin {margin} is not a share", help="write 0.01 for one point", code="E252")
    rates = _good_rates(n, good)
    low, high = rates.low, min(rates.high, (1.0 - margin) / 2)
    if low > high:
        return _NUISANCE  # no such rate of good flips leaves room for a loss of `margin`
    first = first_count(n, low, _IGNORED)
    most_bad = _region(n, bad, good, margin, first, first_count(n, high, 1.0 - _IGNORED))

    def chance(rate: float) -> float:
        return _region_chance(n, most_bad, first, rate, max(0.0, rate + margin))

    return min(1.0, _maximum(chance, low, high) + _NUISANCE + 2 * _IGNORED)


@functools.lru_cache(maxsize=64)  # a bound asks for the same one at many margins
def _good_rates(n: int, good: int) -> Interval:
    return clopper_pearson(good, n, 1.0 - _NUISANCE)


def _check_flips(n: int, bad: int, good: int) -> None:
    if n < 1 or bad < 0 or good < 0 or bad + good > n:
        raise InputError(
            f"{bad} bad and {good} good flips do not fit into {n} items",
            help="count each item once",
            code="E252",
        )


def _region(n: int, bad: int, good: int, margin: float, first: int, last: int) -> list[int]:
    """For each count of good flips from first to last, the most bad flips that look at least as good."""
    seen = _score(n, bad, good, margin) - 1e-9  # equal outcomes must not be lost to rounding
    most: list[int] = []
    reach = -1
    for count in range(first, last + 1):
        while reach + 1 <= n - count and _score(n, reach + 1, count, margin) >= seen:
            reach += 1
        most.append(reach)
    return most


def _region_chance(n: int, most_bad: list[int], first: int, good_rate: float, bad_rate: float) -> float:
    """Chance of the region: sum over good flips of P(good) P(bad <= most | good).

    The inner distribution function is carried from one term to the next by adding single
    probabilities (all positive, so nothing cancels); recomputing it would cost ten times as much.
    """
    share = min(1.0, bad_rate / (1.0 - good_rate))
    most, trials = most_bad[0], n - first
    inner = binomial_cdf(most, trials, share)
    total = binomial_pmf(first, n, good_rate) * inner
    for good, reach in enumerate(most_bad[1:], first + 1):
        trials = n - good
        inner += share * binomial_pmf(most, trials, share)
        while most < reach:
            most += 1
            inner += binomial_pmf(most, trials, share)
        total += binomial_pmf(good, n, good_rate) * inner
    return total


def _maximum(function: Callable[[float], float], low: float, high: float) -> float:
    """The largest value on [low, high]: a grid, then finer grids around its best point."""
    best = 0.0
    for cells in (24, 6, 6):  # the function is a smooth polynomial; 24 cells separate its few humps
        step = (high - low) / cells
        values = [function(low + step * cell) for cell in range(cells + 1)]
        top = max(range(cells + 1), key=values.__getitem__)
        best = max(best, values[top])
        low, high = max(low, low + step * (top - 1)), min(high, low + step * (top + 1))
    return best


def loss_interval(n: int, bad: int, good: int, confidence: float = 0.95, sides: Sides = 1) -> Interval:
    """Exact interval of the loss (rate of bad minus rate of good flips): `loss_p_value` inverted.

    One-sided by default: either bound alone holds with the confidence. Accurate to 0.0001 (0.01 points),
    rounded outwards.
    """
    _check_flips(n, bad, good)
    tail, loss = tail_of(confidence, sides), (bad - good) / n
    high = 1.0 if bad == n else _loss_bound(n, bad, good, tail)
    low = -1.0 if good == n else -_loss_bound(n, good, bad, tail)
    return Interval(min(low, loss), loss, max(high, loss), n)


def _loss_bound(n: int, bad: int, good: int, tail: float) -> float:
    """Upper end: where the p-value falls to `tail`, found by the Illinois rule on the normal scale."""
    goal = normal_quantile(tail)

    def gap(margin: float) -> float:
        p = loss_p_value(n, bad, good, margin)
        return normal_quantile(min(max(p, 1e-12), 1.0 - 1e-12)) - goal

    low, step = max((bad - good) / n, -1.0 + 1e-9), 2.0 / n
    gap_low = gap(low)
    while low + step < 1.0 and (gap_step := gap(low + step)) > 0:
        low, gap_low, step = low + step, gap_step, 2 * step
    high = min(low + step, 1.0 - 1e-9)
    gap_high, moved = min(gap(high), -1e-9), 0
    while high - low > _BOUND_STEP:
        middle = low + (high - low) * min(max(gap_low / (gap_low - gap_high), 0.01), 0.99)
        at = gap(middle)
        if at > 0:
            low, gap_low, gap_high, moved = middle, at, gap_high / (2 if moved > 0 else 1), 1
        else:
            high, gap_high, gap_low, moved = middle, min(at, -1e-9), gap_low / (2 if moved < 0 else 1), -1
    return high


def smallest_provable_loss(n: int, bad: int = 0, confidence: float = 0.95) -> float:
    """The smallest loss that n items can rule out when `bad` of them turned wrong and none turned right.

    The one-sided exact bound of the flip rate, as a share: n=60 gives 0.0487, n=299 gives 0.0100.
    With bad=0 it is 1 - (1 - confidence)^(1/n), about 3/n. It bounds any loss from above, for
    loss = bad rate - good rate <= bad rate.
    """
    return clopper_pearson(bad, n, confidence, sides=1).high


def items_needed(
    margin: float,
    *,
    discordance: float = 0.0,
    loss: float = 0.0,
    confidence: float = 0.95,
    power: float = 0.8,
) -> int:
    """How many paired items prove, with probability `power`, that a loss is below `margin`.

    `discordance` is the share of items that flip either way, `loss` the true loss (bad minus good).
    The larger of the count without any flip (exact) and the normal approximation of the paired test
    with room for two flips more; a plan, not a promise. Connor, Biometrics 43 (1987) 207-211.
    """
    gap = abs(margin - loss)
    if not 0.0 < margin < 1.0 or gap < 1e-9:
        raise InputError(
            f"no number of items shows a loss of {loss} to be below {margin}",
            help="give a margin between 0 and 1 that differs from the loss",
            code="E252",
        )
    tail = tail_of(confidence, 1)
    flawless = math.ceil(math.log(tail) / math.log1p(-margin) - 1e-9)
    z = normal_quantile(1.0 - tail) + normal_quantile(power)
    variance = max(0.0, max(discordance, abs(loss)) - loss * loss)
    approximate = z * z * variance / gap**2
    if approximate > 0:
        approximate += 2.0 / gap  # flips are whole and the test is exact; simulated power is then 0.75-0.85
    return max(flawless, math.ceil(approximate - 1e-9))
