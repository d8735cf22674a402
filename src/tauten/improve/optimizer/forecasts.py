"""What was foretold of a plan beside what came, with the interval that past errors give it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from tauten.improve.load.result import Run
from tauten.improve.optimizer.finals import figures_of_run
from tauten.improve.optimizer.outcome import Forecast
from tauten.improve.optimizer.search import Figures
from tauten.plan.ledger import WIDE
from tauten.statistics import Interval

FORETOLD: Final = ("p50_ms", "p95_ms", "first_output_ms")

Foresee = Callable[[str, float], Interval]
"""The 90 % interval of a prediction: (what, value)."""


def wide(what: str, value: float) -> Interval:
    """Before anything was ever foretold."""
    return Interval(value / WIDE, value, value * WIDE, 0)


def forecasts(of: str, told: Figures, run: Run, interval: Foresee) -> list[Forecast]:
    """Each time that was both foretold and measured."""
    seen, found = figures_of_run(run), []
    for what in FORETOLD:
        predicted, measured = told.values.get(what, math.inf), seen.values.get(what, math.inf)
        if 0.0 < predicted < math.inf and 0.0 < measured < math.inf:
            low, _, high, _ = interval(what, predicted)
            found.append(
                Forecast(of=of, what=what, predicted=predicted, low=low, high=high, measured=measured)
            )
    return found
