"""Conformal intervals: how far the next outcome may lie off, from how far the earlier ones did."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Sequence

from tauten.errors import InputError
from tauten.statistics.rates import tail_of


def conformal_bound(
    scores: Sequence[float], confidence: float, weights: Sequence[float] | None = None
) -> float | None:
    """What the next score stays under with the confidence; None where so few scores cannot say.

    Split conformal prediction: the ceil((n + 1) confidence)-th smallest score. Holds for every n and every
    distribution, on average over the draws, as long as the scores and the next one are exchangeable. Vovk,
    Gammerman and Shafer, Algorithmic Learning in a Random World (2005); Barber, Candes, Ramdas and
    Tibshirani, Annals of Statistics 49 (2021) 486-507, compare it with the jackknife+, which it needs not to
    be here: each score is of a prediction made before its outcome. With `weights` (1 for one that is like
    the next) the loss of coverage is bounded by how unlike the scores are: Barber et al., Annals of
    Statistics 51 (2023) 816-845.

    >>> conformal_bound([3.0, 1.0, 2.0, 5.0, 4.0, 6.0, 8.0, 7.0, 9.0], 0.9)
    9.0
    >>> conformal_bound([1.0] * 8, 0.9) is None
    True
    """
    tail_of(confidence, 1)  # refuses what is no confidence
    shares = [1.0] * len(scores) if weights is None else list(weights)
    if len(shares) != len(scores) or any(not 0.0 <= share <= 1.0 for share in shares):
        raise InputError(
            f"{len(shares)} weights for {len(scores)} scores",
            help="give one for each, from 0 to 1",
            code="E252",
        )
    wanted = confidence * (sum(shares) + 1.0) - 1e-9  # the next score counts as one, and as unbounded
    held = 0.0
    for score, share in sorted(zip(scores, shares, strict=True)):
        held += share
        if held >= wanted:
            return score
    return None


def conformal_interval(
    residuals: Sequence[float], coverage: float = 0.9, weights: Sequence[float] | None = None
) -> tuple[float, float] | None:
    """Between which two values the next residual lies with the coverage; None where so few cannot say.

    Both ends separately where there are enough (n >= 19 for 90 %), so that a bias shifts them; before
    that, symmetric about 0 (n >= 9 for 90 %).

    >>> conformal_interval([0.1 * i for i in range(-9, 10)])
    (-0.9, 0.9)
    >>> conformal_interval([0.5, -0.2, 0.1, 0.1, 0.3, 0.2, 0.4, 0.3, 0.6])
    (-0.6, 0.6)
    """
    end = 1.0 - tail_of(coverage, 2)
    below = conformal_bound([-value for value in residuals], end, weights)
    above = conformal_bound(residuals, end, weights)
    if below is not None and above is not None:
        return -below, above
    around = conformal_bound([abs(value) for value in residuals], coverage, weights)
    return None if around is None else (-around, around)
