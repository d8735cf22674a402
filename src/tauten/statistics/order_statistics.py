"""How many values an interval of a percentile needs, and how many independent ones a series is worth."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Sequence

from tauten.statistics.percentiles import percentile_ranks
from tauten.statistics.rates import tail_of


def interval_needs(q: float, confidence: float = 0.95) -> int:
    """The smallest n for which `percentile_ranks` finds two order statistics around the q-quantile.

    >>> interval_needs(0.95), interval_needs(0.99), interval_needs(0.999)
    (72, 368, 3688)
    """
    tail = tail_of(confidence, 2)
    n = max(1, math.ceil(math.log(tail) / math.log(max(q, 1.0 - q)) - 1e-9))
    while percentile_ranks(n, q, confidence) is None:
        n += 1
    return n


def effective_count(values: Sequence[float]) -> float:
    """How many independent values have a mean as sure as this series, in the order it was seen.

    From the spread of the means of about sqrt(n) neighbours (batch means); never more than n. Needs
    batches longer than the memory of the series: a rough figure, for reading and not for gates.
    """
    n = len(values)
    size = math.isqrt(n)
    if size < 4:
        return float(n)
    count = n // size
    means = [math.fsum(values[i * size : (i + 1) * size]) / size for i in range(count)]
    spread, between = _variance(values), _variance(means)
    if between <= 0.0 or spread <= 0.0:
        return float(n)
    return min(float(n), max(1.0, n * spread / (size * between)))


def _variance(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
