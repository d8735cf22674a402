"""What the books say, as a page: the totals, and a line for each thing that was added up by."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from tauten.explain.sheet import cells, page, table, wide
from tauten.explain.waterfall import STYLE
from tauten.run.usage.report import Report, Usage
from tauten.run.usage.row import COUNTED_UNITS, FRACTIONS

_STYLE: Final = STYLE + ".tau .share{fill:var(--model)}\n"
_BAR_PX: Final = 120
MOST: Final = 2000  # lines of a page: some 300 kB; all of them are in --csv and --json


def usage_page(report: Report) -> str:
    """The whole page."""
    total = report.total
    ends = (("from", report.since), ("up to", report.until))
    span = " ".join(f"{word} {at}" for word, at in ends if at) or "all that is booked"
    said = f"{total.requests:,} requests, {total.calls:,} calls to providers, {total.cost}"
    units = [unit for unit in COUNTED_UNITS if total.units.get(unit)]
    body = "".join(
        [
            "<h1>Usage</h1>",
            f'<p class="dim">{escape(span)}</p><p>{escape(said)}</p>',
            _unpriced(total),
            wide(_table(report, units), "Usage"),
            _left_out(report),
        ]
    )
    return page("Usage", f'<div class="tau">{body}</div>', _STYLE)


def _unpriced(total: Usage) -> str:
    if not total.unpriced:
        return ""
    return f"<p>{total.unpriced:,} calls and steps have no known price; sums with them say “at least”.</p>"


def _table(report: Report, units: Sequence[str]) -> str:
    heads = [
        *report.by,
        "requests",
        "calls",
        "cost",
        "share of cost",
        *(unit.replace("_", " ") for unit in units),
    ]
    numbers = [place for place in range(len(report.by), len(heads)) if heads[place] != "share of cost"]
    rows = [f"<tr>{_line(line, report.total, units)}</tr>" for line in report.lines[:MOST]]
    return table(heads, rows, numbers=numbers)


def _line(line: Usage, total: Usage, units: Sequence[str]) -> str:
    figures = [f"{line.requests:,}", f"{line.calls:,}", str(line.cost)]
    amounts = [f"{line.units.get(unit, 0):,.{2 if unit in FRACTIONS else 0}f}" for unit in units]
    names = cells(name or "-" for name in line.by.values())
    return f"{names}{cells(figures, 'n')}<td>{_bar(line, total)}</td>{cells(amounts, 'n')}"


def _bar(line: Usage, total: Usage) -> str:
    """Its part of the known cost, as a bar that a reader's software is told in words."""
    share = line.nano / total.nano if total.nano else 0.0
    said = f"{share * 100:.1f} %"
    width = max(1.0, share * _BAR_PX) if share else 0.0
    return (
        f'<svg width="{_BAR_PX}" height="10" role="img" aria-label="{said}">'
        f'<rect class="share" width="{width:.1f}" height="10"/></svg> {said}'
    )


def _left_out(report: Report) -> str:
    more = len(report.lines) - MOST
    return f"<p>{more:,} more lines are not shown; --csv has all.</p>" if more > 0 else ""
