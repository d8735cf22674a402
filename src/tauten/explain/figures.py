"""Figures as a person reads them: rounding that still adds up, money, tokens, the SLO table."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final

from tauten.describe.slo import Slo
from tauten.explain.account import ComparisonRow, SloLine

Percentiles = Mapping[str, Mapping[str, float]]
"""{"wall_ms": {"p50": ..., "p95": ...}, "first_output_ms": {...}}"""

_SPENT_LAST: Final = ("core_seconds", "cents")


def digits_for(total_ms: float) -> int:
    """Decimals worth printing: whole ms from 100 on, else about three figures."""
    return 0 if total_ms >= 100 else 1 if total_ms >= 10 else 2 if total_ms >= 1 else 4


def add_up(values: Sequence[float], total: float, digits: int) -> list[float]:
    """Round each value so that the rounded ones add up to the rounded total (largest remainder).

    >>> add_up([1.4, 1.4, 1.2], 4.0, 0)
    [2.0, 1.0, 1.0]
    """
    unit = 10**digits
    floors = [math.floor(value * unit) for value in values]
    missing = round(round(total, digits) * unit) - sum(floors)  # as the total itself is printed
    order = sorted(range(len(values)), key=lambda i: (floors[i] - values[i] * unit, i))
    for place in range(abs(missing) if values else 0):
        index = order[place % len(order)] if missing > 0 else order[-1 - place % len(order)]
        floors[index] += 1 if missing > 0 else -1
    return [floor / unit for floor in floors]


def ms(value: float, digits: int) -> str:
    """A figure with `digits` decimals; never "-0"."""
    text = f"{value:.{digits}f}"
    return text[1:] if text.startswith("-") and not text.strip("-0.") else text


def figure(value: float) -> str:
    """Three figures, or all of a whole number, with commas from 10,000 on; never an exponent."""
    if abs(value) >= 100:
        return f"{value:.0f}" if abs(value) < 9999.5 else f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-3 else f"{value:.6f}".rstrip("0").rstrip(".") or "0"


def hidden_change(row: ComparisonRow, digits: int) -> str:
    """Work that left the path, or came onto it, still costs: say how much is beside it."""
    sides = [ms(value, digits) for value in (row.a_hidden_ms, row.b_hidden_ms)]
    return f"hidden {sides[0]} -> {sides[1]}" if any(side.strip("0.") for side in sides) else ""


def money(cents: float) -> str:
    """Dollars with as many decimals as are needed to see it."""
    dollars = cents / 100
    if dollars == 0:
        return "$0"
    return f"${dollars:.2f}" if abs(dollars) >= 1 else f"${Decimal(f'{dollars:.2g}'):f}"  # never an exponent


def spent(amounts: Mapping[str, float]) -> str:
    """Tokens, core-seconds, dollars, then whatever else was booked."""
    parts: list[str] = []
    tokens_in, tokens_out = amounts.get("input_tokens", 0), amounts.get("output_tokens", 0)
    cached = amounts.get("cached_tokens", 0)
    if tokens_in or tokens_out:
        reused = f" ({cached:.0f} cached)" if cached else ""
        parts.append(f"{tokens_in:.0f} tokens in{reused}, {tokens_out:.0f} out")
    if "core_seconds" in amounts:
        cores = amounts["core_seconds"]
        parts.append(f"{cores:.2g} core-s" if cores < 99.5 else f"{figure(cores)} core-s")
    if "cents" in amounts:
        parts.append(money(amounts["cents"]))
    known = {"input_tokens", "output_tokens", "cached_tokens", *_SPENT_LAST}
    parts += [f"{_amount(amount)} {unit}" for unit, amount in sorted(amounts.items()) if unit not in known]
    return "   ".join(parts)


def signed(value: float) -> str:
    """A difference: its sign, and four figures or all of a whole number.

    >>> signed(-12345.0), signed(0.0), signed(12.346)
    ('-12,345', '+0', '+12.35')
    """
    return f"{'-' if value < 0 else '+'}{_amount(abs(value))}"


def _amount(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 9999.5 else figure(value)


def slo_table(
    slo: Slo | None,
    percentiles: Percentiles,
    *,
    correct: tuple[int, int] | None = None,
    interval: tuple[float, float] | None = None,
    need_correct: int = 0,
) -> list[SloLine]:
    """The SLO table: p50 and p95 of the recording beside the limits, each limit with a verdict in words.

    A percentile that is infinite fell among requests that failed. `correct` is (right answers, labelled items),
    `interval` its 95 % interval as shares.
    """
    slo = slo or Slo()
    lines = []
    wall, first = percentiles.get("wall_ms", {}), percentiles.get("first_output_ms", {})
    limits = {"p50": slo.p50_ms, "p95": slo.p95_ms, "p99": slo.p99_ms}
    asked: dict[str, float | None] = {at: limit for at, limit in limits.items() if limit is not None}
    if wall:
        lines += [
            _slo_line("answer complete", limit, at, wall) for at, limit in (asked or {"p95": None}).items()
        ]
    if first:
        lines.append(_slo_line("first output", slo.first_output_ms, "p95", first))
    if correct is not None:
        lines.append(_quality_line(correct, interval, need_correct))
    return lines


def _slo_line(name: str, limit: float | None, at: str, seen: Mapping[str, float]) -> SloLine:
    p50, p95 = (_time(seen[key]) if key in seen else "-" for key in ("p50", "p95"))
    if limit is None:
        return SloLine(name, "-", p50, p95)
    if at not in seen:
        return SloLine(name, f"{figure(limit)} ms", p50, p95, f"{at} was not measured")
    met = seen[at] <= limit
    verdict = f"ok at {at}" if met else _missed(seen[at] - limit, at)
    return SloLine(name, f"{figure(limit)} ms", p50, p95, verdict, met)


def _time(value_ms: float) -> str:
    return figure(value_ms) if math.isfinite(value_ms) else "failed"


def _missed(by_ms: float, at: str) -> str:
    if not math.isfinite(by_ms):
        return f"MISSED at {at}: requests failed"
    return f"MISSED by {math.ceil(by_ms) if by_ms >= 10 else figure(by_ms)} ms at {at}"


def _quality_line(correct: tuple[int, int], interval: tuple[float, float] | None, need: int) -> SloLine:
    right, n = correct
    between = f"95 % interval {interval[0]:.2f}-{interval[1]:.2f}" if interval else ""
    met = right >= need if need else None
    verdict = {True: "ok", False: f"MISSED by {need - right}", None: ""}[met]
    return SloLine(
        "correct answers",
        f">= {need}" if need else "-",
        f"{right} of {n}",
        "",
        f"{verdict}  ({between})".strip() if between and verdict else verdict or between,
        met,
    )
