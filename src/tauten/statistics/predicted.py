"""A mean of which few values were observed and all were predicted, by a predictor that may err."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Sequence

from tauten.errors import InputError
from tauten.statistics.rates import Interval, normal_quantile, tail_of

UNSEEN_ERROR = 1.5  # a correction of -2..2 that was not drawn: halfway between its two sizes
UNSEEN_PREDICTION = 1.0  # a prediction of -1..1 that was not drawn: the worst


def predicted_interval(
    items: int, predicted: Sequence[float], corrections: Sequence[float], confidence: float = 0.95
) -> Interval:
    """One-sided bounds of the mean of values in -1..1 over `items` items; either holds with the confidence.

    `predicted` are the predictions where the value is not known to be 0 (it is 0 on the items beyond
    them), `corrections` observed minus predicted on a random sample of these. The estimate is the mean
    prediction plus the share of such items times the mean correction; what both samples leave open is
    added up as for independent ones, which overstates it when the predictor exaggerates.
    Angelopoulos, Bates, Fannjiang, Jordan and Zrnic, Science 382 (2023) 669-674.

    For each bound one prediction and one correction of the bad kind are counted that were not drawn, after
    Agresti and Coull, Am. Stat. 52 (1998) 119-126: few corrections, or none, are never taken for certainty.
    Simulated coverage is at least 95 %, with 30 observed values and with errors that all point one way.
    """
    if not corrections or not 0 < len(predicted) <= items or len(corrections) > len(predicted):
        raise InputError(
            f"{len(corrections)} observed of {len(predicted)} predicted values of {items} items",
            help="observe at least one of the predicted values",
            code="E252",
        )
    z = normal_quantile(1.0 - tail_of(confidence, 1))
    low, high = (_bound(items, predicted, corrections, side, z) for side in (-1.0, 1.0))
    mid = math.fsum(predicted) / items + len(predicted) / items * math.fsum(corrections) / len(corrections)
    return Interval(max(-1.0, low), mid, min(1.0, high), items)


def _bound(
    items: int, predicted: Sequence[float], corrections: Sequence[float], side: float, z: float
) -> float:
    share = len(predicted) / items
    seen, seen_variance = _moments(predicted, items, side * UNSEEN_PREDICTION)
    fix, fix_variance = _moments(corrections, len(corrections), side * UNSEEN_ERROR)
    variance = (
        seen_variance / items
        + share**2 * fix_variance / len(corrections)
        + share * (1.0 - share) / items * fix**2  # how often answers differ is a sample, too
    )
    return seen + share * fix + side * z * math.sqrt(variance)


def _moments(values: Sequence[float], count: int, unseen: float) -> tuple[float, float]:
    """Mean and variance of `count` values, 0 where none is given, with one more that was not drawn."""
    mean = (math.fsum(values) + unseen) / count
    square = (math.fsum(value * value for value in values) + unseen * unseen) / count
    return mean, max(0.0, square - mean * mean)
