"""The plan as a file keeps it: reasons beside settings, what was measured, and what was looked at and not taken."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from tauten.improve.optimizer.outcome import Candidate, Optimized
from tauten.improve.optimizer.pricing import TIMES
from tauten.improve.optimizer.search import Figures, Taken
from tauten.improve.optimizer.undo import Part, standing
from tauten.plan.plan import Plan, Rejected

NAME: Final = "optimized"
REJECTED: Final = 12  # changes that a file names: a reader looks at no more


def written(
    plan: Plan, taken: Sequence[Taken], began: Plan, outcome: Optimized, workflow: str, machine: str
) -> Plan:
    """The chosen plan with its reasons and results. `workflow` is how the plan's file names it, `began` the plan
    from which the changes went out."""
    left = standing(plan, taken, began)
    stages = {
        name: msgspec.structs.replace(stage, why=why_of(name, taken, left) or stage.why)
        for name, stage in plan.stages.items()
    }
    return msgspec.structs.replace(
        plan,
        name=NAME,
        workflow=workflow,
        made_on=machine,
        slo=outcome.slo,
        stages=stages,
        result=result_of(outcome),
        rejected=rejected_of(outcome),
    )


def why_of(stage: str, taken: Sequence[Taken], left: Sequence[set[Part]]) -> str:
    """The changes of a stage of which something is `left` there, each with what simulations say that it brought."""
    told = []
    for each, parts in zip(taken, left, strict=True):
        if any(name == stage for name, *_ in parts):
            told.append(
                f"{each.tried.strategy}: {each.tried.change}{gained(each.tried.before, each.tried.figures)}"
            )
    return "; ".join(dict.fromkeys(told))


def gained(before: Figures | None, after: Figures | None) -> str:
    """`` (p50 -299 ms, p95 -402 ms simulated)``; empty where either is not known."""
    if before is None or after is None:
        return ""
    words = []
    for name in ("p50_ms", "p95_ms"):
        was, now = before.values.get(name, math.inf), after.values.get(name, math.inf)
        if math.isfinite(was) and math.isfinite(now):
            words.append(f"{name.removesuffix('_ms')} {now - was:+.0f} ms")
    return f" ({', '.join(words)} simulated)" if words else ""


def result_of(outcome: Optimized) -> dict[str, Any]:
    """What was measured, by limit: the naive plan, this one with its 95 % interval, and what was foretold."""
    by_name = {candidate.name: candidate for candidate in outcome.candidates}
    naive, chosen = by_name.get("naive"), by_name.get(outcome.chosen)
    if naive is None or chosen is None:
        return {}
    found: dict[str, Any] = {"answer": outcome.answer, "rate_per_s": outcome.rate_per_s}
    for name in TIMES:
        row = _row(name, naive, chosen)
        if row:
            found[name] = row
    return found


def _row(name: str, naive: Candidate, chosen: Candidate) -> dict[str, float]:
    row = {
        "naive": _value(naive, name),
        "now": _value(chosen, name),
        "predicted": chosen.simulated.values.get(name),
    }
    if name in chosen.intervals:
        row |= {"low": chosen.intervals[name].low, "high": chosen.intervals[name].high}
    return {key: round(value, 1) for key, value in row.items() if value is not None and math.isfinite(value)}


def _value(candidate: Candidate, name: str) -> float | None:
    """As measured at the stated rate, else as simulated there."""
    measured = candidate.measured or candidate.simulated
    return measured.values.get(name)


def rejected_of(outcome: Optimized) -> tuple[Rejected, ...]:
    """Changes that were not taken: those that would have gained first, then those that were refused."""
    left = [each for each in outcome.decisions if not each.taken]
    left.sort(key=lambda each: (each.verdict is None, each.simulated is None))
    found = {f"{each.strategy}: {each.change}": each.why for each in left}
    return tuple(Rejected(change, why) for change, why in list(found.items())[:REJECTED])
