"""Pure arithmetic of the comparison: arrivals, percentiles, medians over rounds, who is first."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

PERCENTILES = (50, 90, 95, 99)


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Arrival times in [0, seconds) of a Poisson process, all of them before the first is sent."""
    draw, now, arrivals = random.Random(seed).expovariate, 0.0, []
    while (now := now + draw(rate)) < seconds:
        arrivals.append(now)
    return arrivals


def percentile(ordered: Sequence[float], percent: float) -> float | None:
    """Nearest rank of values in order; None if there is none or it is infinite (a failure)."""
    if not ordered:
        return None
    value = ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]
    return value if math.isfinite(value) else None


def latencies(seconds: Iterable[float], failures: int = 0) -> dict[str, Any]:
    """Percentiles in ms; failures count as latencies without end, so they push the tail out."""
    ordered = sorted([*seconds, *[math.inf] * failures])
    found: dict[str, Any] = {"count": len(ordered) - failures, "errors": failures}
    for percent in PERCENTILES:
        found[f"p{percent}_ms"] = _ms(percentile(ordered, percent))
    found["max_ms"] = _ms(percentile(ordered, 100))
    return found


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 4)


def spread(values: Iterable[float | None]) -> dict[str, Any] | None:
    """Median with the lowest and the highest of the rounds that have a figure."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {"median": statistics.median(known), "low": min(known), "high": max(known), "rounds": len(known)}


def merge(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One figure per numeric key from the points of several rounds, with its spread."""
    keys = dict.fromkeys(key for point in rounds for key in point)
    merged: dict[str, Any] = {}
    for key in keys:
        values = [point.get(key) for point in rounds]
        if any(isinstance(value, bool) for value in values):
            merged[key] = sum(value is True for value in values)
        elif all(value is None or isinstance(value, int | float) for value in values):
            merged[key] = spread(values)
    return merged


def median(merged: Mapping[str, Any] | None, key: str) -> float | None:
    """The median of `key` in a merged point, None where there is none."""
    found = (merged or {}).get(key)
    return found["median"] if isinstance(found, dict) else None


def difference(value: float | None, base: float | None) -> float | None:
    return None if value is None or base is None else value - base


def ratio(value: float | None, base: float | None) -> float | None:
    return None if value is None or not base else value / base


def ranks(values: Mapping[str, float | None], higher_is_better: bool) -> dict[str, int]:
    """Place of each row in a column, 1 the best; rows without a figure have no place."""
    known = [value for value in values.values() if value is not None]
    better = sorted(known, reverse=higher_is_better)
    return {name: better.index(value) + 1 for name, value in values.items() if value is not None}


def order(rows: Sequence[Any], seed: int, round_number: int) -> list[Any]:
    """The rows in the order of this round: random, the same for the same seed."""
    shuffled = list(rows)
    random.Random(f"{seed}/{round_number}").shuffle(shuffled)
    return shuffled


def send_lag_high(lag_p99_ms: float | None, p50_ms: float | None, client_share: float) -> bool:
    """The open-loop rule: void if the generator was late by over 1 % of the median or used over 70 % of a core."""
    late = lag_p99_ms is not None and p50_ms is not None and lag_p99_ms > p50_ms / 100
    return late or client_share > 0.7
