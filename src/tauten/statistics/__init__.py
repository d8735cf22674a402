"""Pure maths of gates and intervals: rates, percentiles, paired losses, bootstraps, histograms, rounding.

Shares are 0..1 everywhere (a confidence of 0.95, a loss of 0.01 is one point). Every interval states
what it assumes. `sides=2` puts half of the error in each tail; `sides=1` puts all of it in both, so that
one bound, used alone, holds with the given confidence. Nothing here reads a clock or keeps state; what
is random takes a seed.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from tauten.statistics.bootstrap import block_bootstrap, mean, paired_bootstrap
from tauten.statistics.conformal import conformal_bound, conformal_interval
from tauten.statistics.histogram import Histogram
from tauten.statistics.monitor import Watch
from tauten.statistics.paired import items_needed, loss_interval, loss_p_value, smallest_provable_loss
from tauten.statistics.percentiles import (
    median_interval,
    percentile,
    percentile_interval,
    percentile_ranks,
    queries_needed,
)
from tauten.statistics.predicted import predicted_interval
from tauten.statistics.rates import (
    Interval,
    beta_cdf,
    binomial_cdf,
    clopper_pearson,
    normal_cdf,
    normal_quantile,
    wilson,
)
from tauten.statistics.rounding import round_to_total
from tauten.statistics.selective import Judged, Selected, grid, items_to_prove, needed_items, select
from tauten.statistics.several import holm

__all__ = [
    "Histogram",
    "Interval",
    "Judged",
    "Selected",
    "Watch",
    "beta_cdf",
    "binomial_cdf",
    "block_bootstrap",
    "clopper_pearson",
    "conformal_bound",
    "conformal_interval",
    "grid",
    "holm",
    "items_needed",
    "items_to_prove",
    "loss_interval",
    "loss_p_value",
    "mean",
    "median_interval",
    "needed_items",
    "normal_cdf",
    "normal_quantile",
    "paired_bootstrap",
    "percentile",
    "percentile_interval",
    "percentile_ranks",
    "predicted_interval",
    "queries_needed",
    "round_to_total",
    "select",
    "smallest_provable_loss",
    "wilson",
]
