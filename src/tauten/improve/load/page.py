"""The report of a bench: one HTML file without scripts and without requests."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from tauten.explain import chart
from tauten.explain.figures import figure
from tauten.explain.sheet import cells, page, table, wide
from tauten.explain.waterfall import STYLE as COMMON
from tauten.improve.load import plot
from tauten.improve.load.figures import QUANTILES, judged
from tauten.improve.load.result import Bench, Run
from tauten.improve.load.schedule import Load
from tauten.improve.load.screen import CLOSED, to_text

STYLE = COMMON + chart.STYLE + ".tau pre{font:13px/1.4 ui-monospace,monospace;overflow-x:auto}\n"


def to_html(bench: Bench) -> str:
    """The whole page: the curve, the percentiles, a table of all runs, and the screen as it was printed."""
    return page(f"{bench.target}: bench", f'<div class="tau">{_body(bench)}</div>', STYLE)


def _body(bench: Bench) -> str:
    limits = {name: limit for each in judged(bench.slo).values() for name, limit in each.items()}
    charts = {
        "Latency over rate": plot.svg_curve(bench.runs, limits),
        "Latency by percentile": plot.svg_percentiles(bench.runs, limits),
    }
    kind = {"met": "good", "measured": "dim"}.get(bench.answer, "bad")
    why = "".join(f"<p>{escape(each)}</p>" for each in bench.why)
    facts = [bench.api, *_loop(bench.load), bench.machine]
    return "".join(
        [
            f'<h1>{escape(bench.target)}</h1><p class="dim">{escape(" · ".join(filter(None, facts)))}</p>',
            f'<p class="{kind}">{escape(bench.answer)}</p>{why}',
            *(wide(drawn, name) for name, drawn in charts.items() if drawn),
            _table(bench.runs),
            f"<h2>As printed</h2>{wide(f'<pre>{escape(to_text(bench))}</pre>', 'As printed')}",
        ]
    )


def _loop(load: Load) -> list[str]:
    """How requests came; a closed loop has no arrivals and no seed."""
    if load.clients:
        return [f"{load.clients} clients, {CLOSED}"]
    return ["open loop", str(load.arrivals), f"seed {load.seed}"]


def _table(runs: Iterable[Run]) -> str:
    heads = ["plan", "rate/s", "sent", "ok", "failed", "refused", "timed out"]
    heads += [f"p{q * 100:g} ms" for q in QUANTILES] + ["within SLO", "lag p99 ms", "verdict"]
    rows = [f"<tr>{_row(run)}</tr>" for run in runs]
    return wide(table(heads, rows, numbers=range(len(heads))), "Runs")


def _row(run: Run) -> str:
    counts = run.requests
    shown = [run.plan, figure(run.rate_per_s)]
    shown += [str(each) for each in (counts.sent, counts.ok, counts.failed, counts.refused, counts.timed_out)]
    for q in QUANTILES:
        at = run.latency.at(q) if run.latency else None
        shown.append("-" if at is None else "failed" if at.ms is None else figure(at.ms))
    shown.append(f"{run.goodput.share:.1%}" if run.parts else "-")
    shown.append(f"{run.lag.p99_ms:.2f}" if run.lag else "-")
    shown.append("saturated" if run.steady.saturated else run.answer)
    return cells(shown, "n")
