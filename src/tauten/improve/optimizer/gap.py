"""What keeps a plan from its SLO, step by step: where one simulated request spends its time that is as slow as the
limit means.

The request at the limit's quantile is played again, and the walk back along its critical path says who owned each
instant of it, waiting included. What runs beside the path is not in the way, so it is not told.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from tauten.describe.slo import Slo
from tauten.improve.load.figures import quantile_of
from tauten.improve.optimizer.outcome import GapRow
from tauten.improve.optimizer.pricing import TIMES, Pricer
from tauten.improve.optimizer.search import Figures, Tried
from tauten.plan.plan import Plan
from tauten.run.attribution import Segment, attribute, attribute_first_output
from tauten.run.trace import WAITING, Trace
from tauten.run.visits import base_name

LEAST_MS: Final = 1.0  # of a step: below, nobody can do anything about it
ENGINE: Final = "(engine)"  # what is between the steps
USUAL: Final = "p95_ms"  # where the SLO limits no time


class Gap(NamedTuple):
    """The limit that a plan is told against, and its steps, the longest first."""

    what: str = ""
    rows: Sequence[GapRow] = ()


def gap_of(pricer: Pricer, plan: Plan, slo: Slo, figures: Figures, tried: Iterable[Tried]) -> Gap:
    """Of the limit that `figures` are furthest beyond; each step with the last reason why it was not made shorter."""
    what = worst_limit(slo, figures)
    trace = slow_request(pricer, plan, what)
    if trace is None:
        return Gap(what)
    first = what == "first_output_ms"
    segments = attribute_first_output(trace) if first else attribute(trace).segments
    return Gap(what, rows_of(segments, list(tried)))


def worst_limit(slo: Slo, figures: Figures) -> str:
    """The time that is furthest beyond its limit, or nearest to it; p95 where none is limited.

    >>> worst_limit(Slo(p95_ms=100.0, first_output_ms=10.0), Figures({"p95_ms": 120.0, "first_output_ms": 30.0}))
    'first_output_ms'
    """
    limits = {name: limit for name, limit in slo.limits().items() if name in TIMES}
    return max(limits, key=lambda name: figures.values.get(name, 0.0) / limits[name], default=USUAL)


def slow_request(pricer: Pricer, plan: Plan, what: str) -> Trace | None:
    """The trace of the simulated request at a limit's quantile; None where none was answered."""
    traces: list[Trace] = []
    found = pricer.simulate(plan, pricer.rate, traces=traces)
    answered = [
        (each.first_s if what == "first_output_ms" else each.seconds, place)
        for place, each in enumerate(found.done)
        if not each.error
    ]
    if not answered:
        return None
    rank = math.ceil(quantile_of(what) * len(answered)) - 1
    return traces[sorted(answered)[max(0, rank)][1]]


def rows_of(segments: Iterable[Segment], tried: Sequence[Tried]) -> list[GapRow]:
    """Time on the path by step, members of a map together; they add up to the whole, but for what is too short."""
    whole: dict[str, float] = {}
    waits: dict[str, float] = {}
    for start, end, visit, cause in segments:
        step = base_name(visit) or ENGINE
        whole[step] = whole.get(step, 0.0) + end - start
        if cause in WAITING:
            waits[step] = waits.get(step, 0.0) + end - start
    rows = [
        GapRow(step, seconds * 1e3, _why(step, tried), waits.get(step, 0.0) * 1e3)
        for step, seconds in whole.items()
        if seconds * 1e3 >= LEAST_MS
    ]
    return sorted(rows, key=lambda row: -row.ms)


def _why(step: str, tried: Sequence[Tried]) -> str:
    reasons = [each.why for each in tried if not each.taken and _about(each.change, step)]
    return reasons[-1] if reasons else ""


def _about(change: str, step: str) -> bool:
    """Whether a change, in words, is one of a step, and not of another whose name begins like it.

    >>> _about("ocr.detect on 2 threads", "ocr"), _about("ocr: limit = 640", "ocr"), _about("ocr2 cached", "ocr")
    (True, True, False)
    """
    return change == step or (change.startswith(step) and change[len(step)] in " .:,")
