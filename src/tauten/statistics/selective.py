"""A threshold above which few are wrong: proved for those that pass it, not for all that came."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from tauten.errors import InputError
from tauten.statistics.percentiles import queries_needed
from tauten.statistics.rates import binomial_cdf, clopper_pearson, tail_of

STEPS = 20  # thresholds of a grid: each lets in a twentieth more of the traffic, finer gains hardly anything
ROOM = 1.5  # times the needed items above the strictest threshold: half as many more, so that an error or two fit
MANY = 10_000_000  # labels that nobody will ever have


class Judged(NamedTuple):
    """One candidate for a shortcut, and whether the shortcut would have been wrong."""

    score: float
    wrong: bool


class Selected(NamedTuple):
    """What labelled items prove of shortcuts at a threshold.

    `threshold` None: nothing is proved, and no shortcut may be taken. `n` and `wrong` count the items at or above
    the threshold, or above the strictest one where that failed; `bound` is the upper bound of P(wrong | taken) there.
    `needed`: items above it, none of them wrong, that would prove it; `share` of all items would take the shortcut.
    """

    threshold: float | None
    n: int
    wrong: int
    bound: float
    needed: int
    share: float


def needed_items(epsilon: float, eta: float, wrong: int = 0) -> int:
    """How many shortcuts must have been looked at so that `wrong` of them still prove a rate of at most epsilon.

    >>> [needed_items(epsilon, 0.05) for epsilon in (0.05, 0.02, 0.01)]
    [59, 149, 299]
    """
    check_levels(epsilon, eta)
    return queries_needed(1.0 - epsilon, wrong, 1.0 - eta)


def items_to_prove(rate: float, epsilon: float, eta: float) -> int | None:
    """How many shortcuts must be looked at where a share `rate` of them is wrong; None where no number would do.

    >>> items_to_prove(0.0, 0.02, 0.05), items_to_prove(0.02, 0.02, 0.05)
    (149, None)
    """
    check_levels(epsilon, eta)
    if rate >= epsilon:
        return None
    low, high = 0, needed_items(epsilon, eta)
    while not _proves(high, math.ceil(rate * high - 1e-9), epsilon, eta):
        low, high = high, 2 * high
        if high > MANY:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        shown = _proves(middle, math.ceil(rate * middle - 1e-9), epsilon, eta)
        low, high = (low, middle) if shown else (middle, high)
    return high


def grid(
    scores: Sequence[float], labelled: int, epsilon: float, eta: float, steps: int = STEPS
) -> list[float]:
    """Thresholds to test, the strictest first, from scores alone: of other traffic than the labelled items.

    The strictest lets so many pass that `labelled` items probably suffice there; the others go down to all of the
    traffic in equal shares. Empty where `labelled` items cannot suffice anywhere. Scores that are not finite are no
    thresholds.
    """
    ordered = sorted(filter(math.isfinite, scores), reverse=True)
    first = ROOM * needed_items(epsilon, eta) / labelled if labelled else math.inf
    if not ordered or first > ROOM:
        return []
    first = min(1.0, first)
    shares = [first + (1.0 - first) * step / max(1, steps - 1) for step in range(steps)]
    places = [min(len(ordered), max(1, math.ceil(share * len(ordered) - 1e-9))) for share in shares]
    return list(dict.fromkeys(ordered[place - 1] for place in places))


def select(items: Sequence[Judged], thresholds: Sequence[float], epsilon: float, eta: float) -> Selected:
    """The lowest threshold at which P(wrong | score >= threshold) <= epsilon is proved at level eta.

    Learn then Test with fixed-sequence testing: the thresholds are tried in their order, each by the exact binomial
    test at level eta, until one fails; the last that passed is taken. As the order does not depend on the items,
    the first threshold at which the claim is false is a fixed one, and the result is wrong only if that one passes:
    with chance at most eta, for any joint law of score and error, monotone or not. Items must be independent draws
    from the traffic that the threshold will meet, and `thresholds` chosen without their labels (`grid`).
    Angelopoulos, Bates, Candes, Jordan and Lei, Learn then Test, Ann. Appl. Stat. 19 (2025), arXiv:2110.01052; the
    binomial tail as in Geifman and El-Yaniv, Selective Classification for Deep Neural Networks (NeurIPS 2017).
    """
    check_levels(epsilon, eta)
    if any(later >= earlier for earlier, later in pairwise(thresholds)):
        raise InputError("thresholds that do not fall", help="give the strictest first", code="E252")
    needed, best = needed_items(epsilon, eta), None
    above = _Above(items)
    for threshold in thresholds:
        n, wrong = above.count(threshold)
        if not _proves(n, wrong, epsilon, eta):
            break
        best = threshold
    at = best if best is not None else (thresholds[0] if thresholds else math.inf)
    n, wrong = above.count(at)
    bound = clopper_pearson(wrong, n, 1.0 - eta, 1).high if n else 1.0
    return Selected(best, n, wrong, bound, needed, n / len(items) if items else 0.0)


def surely_worse(n: int, wrong: int, epsilon: float, eta: float) -> bool:
    """Whether so many wrong ones of n prove, at level eta, a rate above epsilon."""
    check_levels(epsilon, eta)
    return n > 0 and 1.0 - binomial_cdf(wrong - 1, n, epsilon) <= eta


def check_levels(epsilon: float, eta: float) -> None:
    """Raise InputError for a rate or an error level that is none."""
    tail_of(epsilon, 1)
    tail_of(eta, 1)


def _proves(n: int, wrong: int, epsilon: float, eta: float) -> bool:
    return n > 0 and binomial_cdf(wrong, n, epsilon) <= eta


class _Above:
    """How many items lie at or above a threshold, and how many of those are wrong."""

    def __init__(self, items: Sequence[Judged]) -> None:
        ordered = sorted(items)
        self._scores = [each.score for each in ordered]
        self._wrong = [0, *accumulate(int(each.wrong) for each in ordered)]

    def count(self, threshold: float) -> tuple[int, int]:
        below = bisect_left(self._scores, threshold)
        return len(self._scores) - below, self._wrong[-1] - self._wrong[below]
