"""Bootstraps of paired scores and of paired runs along time."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
import random
from collections.abc import Callable, Hashable, Sequence

from tauten.errors import InputError
from tauten.statistics.percentiles import rank_of
from tauten.statistics.rates import Interval, Sides, normal_cdf, normal_quantile, tail_of


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean, summed exactly."""
    return math.fsum(values) / len(values)


def paired_bootstrap(
    before: Sequence[float],
    after: Sequence[float],
    *,
    confidence: float = 0.95,
    sides: Sides = 2,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = 2000,  # Efron and Tibshirani ask for at least 1000 for BCa ends
    seed: int = 0,
) -> Interval:
    """BCa interval of mean(after - before) over paired items, in the unit of the scores.

    Assumes independent items, or independent `clusters` of items (one speaker, one template), which are
    then drawn whole. Approximate: too narrow when few items differ. Efron, JASA 82 (1987) 171-185.
    """
    _check_pairs(before, after)
    groups: dict[Hashable, tuple[float, int]] = {}
    for place, (old, new) in enumerate(zip(before, after, strict=True)):
        name = clusters[place] if clusters is not None else place
        total, size = groups.get(name, (0.0, 0))
        groups[name] = (total + new - old, size + 1)
    members = list(groups.values())
    point = _ratio(members)
    draw = random.Random(seed)
    means = sorted(_ratio(draw.choices(members, k=len(members))) for _ in range(resamples))
    tail = tail_of(confidence, sides)
    low, high = (_bca_end(means, point, members, share) for share in (tail, 1.0 - tail))
    return Interval(min(low, point), point, max(high, point), len(before))


def _check_pairs(before: Sequence[float], after: Sequence[float]) -> None:
    if len(before) != len(after) or not before:
        raise InputError(
            f"{len(before)} values before and {len(after)} after are not pairs",
            help="give one value before and one after for each item",
            code="E252",
        )


def _ratio(members: Sequence[tuple[float, int]]) -> float:
    return math.fsum(total for total, _ in members) / sum(size for _, size in members)


def _bca_end(means: list[float], point: float, members: list[tuple[float, int]], share: float) -> float:
    below = sum(value < point for value in means) + 0.5 * sum(value == point for value in means)
    bias = normal_quantile(min(max(below / len(means), 1e-6), 1.0 - 1e-6))
    z = bias + normal_quantile(share)
    adjusted = normal_cdf(bias + z / (1.0 - _acceleration(members) * z))
    return means[rank_of(len(means), adjusted) - 1]


def _acceleration(members: list[tuple[float, int]]) -> float:
    """Skew of the estimate from leaving out one member at a time."""
    if len(members) < 3:
        return 0.0
    total, size = math.fsum(t for t, _ in members), sum(s for _, s in members)
    left = [(total - t) / (size - s) for t, s in members]
    centre = mean(left)
    spread = math.fsum((centre - value) ** 2 for value in left)
    return math.fsum((centre - value) ** 3 for value in left) / (6.0 * spread**1.5) if spread > 0 else 0.0


def block_bootstrap(
    before: Sequence[float],
    after: Sequence[float],
    statistic: Callable[[Sequence[float]], float] = mean,
    *,
    block: int = 0,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Interval of statistic(after) - statistic(before) of two runs of one schedule, item by item.

    Whole blocks of neighbours are drawn, the same ones from both runs, so that correlation along time
    and between the runs is kept. Assumes a stationary series and blocks longer than its memory;
    `block` 0 takes 2 n^(1/3). Circular blocks: Politis and Romano (1992), in Exploring the Limits of
    Bootstrap; length: Hall, Horowitz and Jing, Biometrika 82 (1995) 561-574.
    """
    _check_pairs(before, after)
    n = len(before)
    length = min(n, block or math.ceil(2 * n ** (1 / 3)))
    draw = random.Random(seed)
    point = statistic(after) - statistic(before)
    differences = []
    for _ in range(resamples):
        starts = [draw.randrange(n) for _ in range(math.ceil(n / length))]
        places = [(start + step) % n for start in starts for step in range(length)][:n]
        differences.append(statistic([after[i] for i in places]) - statistic([before[i] for i in places]))
    differences.sort()
    tail = tail_of(confidence, 2)
    low, high = (differences[rank_of(resamples, share) - 1] for share in (tail, 1.0 - tail))
    return Interval(min(low, point), point, max(high, point), n)
