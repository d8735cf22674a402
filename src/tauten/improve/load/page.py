"""The report of a bench: one HTML file without scripts and without requests."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from html import escape

from tauten.explain.waterfall import STYLE as COMMON
from tauten.improve.load import plot
from tauten.improve.load.figures import QUANTILES, judged
from tauten.improve.load.result import Bench, Run
from tauten.improve.load.schedule import Load
from tauten.improve.load.screen import CLOSED, figure, to_text

STYLE = COMMON + plot.STYLE + ".tau pre{font:13px/1.4 ui-monospace,monospace;overflow-x:auto}\n"


def to_html(bench: Bench) -> str:
    """The whole page: the curve, the percentiles, a table of all runs, and the screen as it was printed."""
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<title>{escape(bench.target)}: bench</title><style>{STYLE}</style></head>"
        f'<body><div class="tau">{_body(bench)}</div></body></html>\n'
    )


def _body(bench: Bench) -> str:
    limits = {name: limit for each in judged(bench.slo).values() for name, limit in each.items()}
    charts = [plot.svg_curve(bench.runs, limits), plot.svg_percentiles(bench.runs, limits)]
    kind = {"met": "good", "measured": "dim"}.get(bench.answer, "bad")
    why = "".join(f"<p>{escape(each)}</p>" for each in bench.why)
    facts = [bench.api, *_loop(bench.load), bench.machine]
    return "".join(
        [
            f'<h1>{escape(bench.target)}</h1><p class="dim">{escape(" · ".join(filter(None, facts)))}</p>',
            f'<p class="{kind}">{escape(bench.answer)}</p>{why}',
            *(f'<div class="wide">{chart}</div>' for chart in charts if chart),
            _table(bench.runs),
            f'<h2>As printed</h2><div class="wide"><pre>{escape(to_text(bench))}</pre></div>',
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
    rows = "".join(f"<tr>{_row(run)}</tr>" for run in runs)
    head = "".join(f'<th class="n">{escape(name)}</th>' for name in heads)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _row(run: Run) -> str:
    counts = run.requests
    cells = [run.plan, figure(run.rate_per_s)]
    cells += [str(each) for each in (counts.sent, counts.ok, counts.failed, counts.refused, counts.timed_out)]
    for q in QUANTILES:
        at = run.latency.at(q) if run.latency else None
        cells.append("-" if at is None else "failed" if at.ms is None else figure(at.ms))
    cells.append(f"{run.goodput.share:.1%}" if run.parts else "-")
    cells.append(f"{run.lag.p99_ms:.2f}" if run.lag else "-")
    cells.append("saturated" if run.steady.saturated else run.answer)
    return "".join(f'<td class="n">{escape(cell)}</td>' for cell in cells)
