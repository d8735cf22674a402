"""The report: one HTML file without scripts and without requests, for a browser or a mail.

Every name is escaped: stages and notes may hold anything. The same fragment is shown in notebooks.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from tauten.explain import calibration, chart
from tauten.explain.account import SOURCE_NAMES, Account, Comparison, StageRow
from tauten.explain.calibration import Prediction
from tauten.explain.figures import add_up, digits_for, hidden_change, ms, spent
from tauten.explain.sheet import cells, page, table, wide
from tauten.explain.waterfall import STYLE, patterns, svg, swatch
from tauten.run.trace import SOURCES
from tauten.run.visits import UNATTRIBUTED

PAGE_BARS: Final = 840  # about 130 bytes each: a page stays under 150 kB
NOTEBOOK_BARS: Final = 220  # an output cell stays under 60 kB, and a notebook holds many


def to_html(shown: Account | Comparison, told: Sequence[Prediction] = ()) -> str:
    """The whole page; `told` are earlier predictions that were measured."""
    name = shown.a.header.workflow if isinstance(shown, Comparison) else shown.header.workflow
    record = f'<div class="tau">{calibration.section(told)}</div>' if told else ""
    style = STYLE + chart.STYLE + calibration.STYLE if told else STYLE
    return page(f"{name or 'Tauten'}: explain", _body(shown, PAGE_BARS) + record, style)


def fragment(shown: Account | Comparison) -> str:
    """The same inside one element, with its own scoped style."""
    return f"<style>{STYLE}</style>{_body(shown, NOTEBOOK_BARS)}"


def _body(shown: Account | Comparison, most_bars: int) -> str:
    inner = (
        _comparison(shown, most_bars // 2) if isinstance(shown, Comparison) else _account(shown, most_bars)
    )
    return f'<div class="tau">{patterns()}{inner}</div>'


def _account(account: Account, most_bars: int) -> str:
    return "".join(
        [
            _header(account),
            _slo(account),
            f"<h2>One real request{_which(account)}, {ms(account.wall_ms, max(1, digits_for(account.wall_ms)))} ms</h2>",
            wide(svg(account, most_bars=most_bars), "Waterfall"),
            legend([account]),
            _stages(account),
            _sources(account),
            _foot(account),
        ]
    )


def _comparison(comparison: Comparison, most_bars: int) -> str:
    sides = [(comparison.name_a, comparison.a), (comparison.name_b, comparison.b)]
    scale = max(account.wall_ms for _, account in sides)
    parts = [
        _header(comparison.a),
        f"<h2>Side by side</h2>{differences(comparison)}",
        _ablation(comparison),
    ]
    for name, account in sides:
        parts.append(
            f"<h2>{escape(name)}: {ms(account.wall_ms, max(1, digits_for(account.wall_ms)))} ms{_which(account)}</h2>"
        )
        parts.append(_slo(account))
        waterfall = svg(account, scale_ms=scale, title=f"Waterfall of plan {name}", most_bars=most_bars)
        parts.append(wide(waterfall, f"Waterfall of plan {name}"))
    parts.append(legend([account for _, account in sides]))
    for name, account in sides:
        parts.append(
            f"<h2>{escape(name)}, stage by stage</h2>{_stages(account)}{_sources(account)}{_foot(account)}"
        )
    return "".join(parts)


def _which(account: Account) -> str:
    return f", {escape(account.header.request)}" if account.header.request else ""


def _header(account: Account) -> str:
    header = account.header
    requests = f"{header.requests} requests" if header.requests else ""
    plan = f"plan {header.plan}" if header.plan else ""
    facts = [plan, ", ".join(filter(None, (requests, header.load))), header.machine, header.graph]
    about = " · ".join(escape(fact) for fact in facts if fact)
    return f'<h1>{escape(header.workflow or "workflow")}</h1><p class="dim">{about}</p>'


def _slo(account: Account) -> str:
    rows = []
    for line in account.header.slo:
        kind = {True: "good", False: "bad", None: "dim"}[line.met]
        verdict = f'<td class="{kind}">{escape(line.verdict)}</td>'
        rows.append(f"<tr>{cells([line.name])}{cells([line.limit, line.p50, line.p95], 'n')}{verdict}</tr>")
    if not rows:
        return ""
    return wide(table(["SLO", "limit", "p50", "p95", ""], rows, numbers=(1, 2, 3)), "SLO")


def _stages(account: Account) -> str:
    digits = digits_for(account.wall_ms)
    total = float(ms(account.wall_ms, digits))
    values = [row.exclusive_ms for row in account.stages]
    figures = add_up([*values, account.unattributed_ms], total, digits)
    rows = [_stage(row, figure, digits) for row, figure in zip(account.stages, figures, strict=False)]
    where = ", ".join(
        f"{stage or 'between stages'} {ms(v, 2)}" for stage, v in list(account.unattributed_in.items())[:4]
    )
    last = cells([UNATTRIBUTED]) + cells([ms(figures[-1], digits), "", "", ""], "n") + cells([where])
    rows.append(f"<tr>{last}</tr>")
    end = cells(["total"]) + cells([ms(total, digits), "", "", ""], "n") + cells([spent(account.spent)])
    rows.append(f'<tr class="total">{end}</tr>')
    heads = ["stage", "ms on path", "estimate", "hidden", "slack", "of which"]
    return wide(table(heads, rows, numbers=(1, 2, 3, 4)), "Stages")


def _stage(row: StageRow, figure: float, digits: int) -> str:
    estimate = "no data" if row.estimate is None else ms(row.estimate.mid_ms, digits)
    if row.estimate is not None and row.estimate.low_ms is not None and row.estimate.high_ms is not None:
        estimate += f" ({ms(row.estimate.low_ms, digits)} to {ms(row.estimate.high_ms, digits)})"
    kind = "n bad" if row.far_off else "n"
    figures = add_up(list(row.causes.values()), figure, digits)
    causes = "".join(
        f'<span class="cause">{swatch(cause)}{escape(cause.replace("_", " "))} {ms(value, digits)}</span>'
        for cause, value in zip(row.causes, figures, strict=True)
        if value
    )
    hidden = ms(row.off_path_ms, digits) if row.off_path_ms else ""
    slack = ms(row.slack_ms, digits) if row.slack_ms else ""
    return (
        f"<tr>{cells([row.title])}{cells([ms(figure, digits)], 'n')}"
        f"{cells([estimate + ('!' if row.far_off else '')], kind)}{cells([hidden, slack], 'n')}<td>{causes}</td></tr>"
    )


def _sources(account: Account) -> str:
    digits = digits_for(account.wall_ms)
    names = [name for name, value in account.sources.items() if name != "outside" or value]
    total = float(ms(account.wall_ms, digits))
    figures = add_up([account.sources[name] for name in names], total, digits)
    parts = [
        f"{'i/o' if name == 'io' else name} <b>{ms(v, digits)}</b>"
        for name, v in zip(names, figures, strict=True)
    ]
    return f"<p>{' &nbsp; '.join(parts)} &nbsp; = {ms(total, digits)} ms</p>"


def _foot(account: Account) -> str:
    parts = []
    if account.first_output_ms is not None:
        parts.append(
            f"First output after {ms(account.first_output_ms, max(1, digits_for(account.wall_ms)))} ms."
        )
    if account.path:
        parts.append(f"Critical path: {escape(' → '.join(account.path))}.")
    parts += [f"{escape(key)}: {escape(value)}." for key, value in account.notes.items()]
    return f'<p class="dim">{" ".join(parts)}</p>' if parts else ""


def legend(accounts: Iterable[Account]) -> str:
    """Causes by source: a hue is a source, a texture a cause."""
    seen = {span.cause for account in accounts for row in account.stages for span in row.spans}
    groups = []
    for source in SOURCE_NAMES[:-1]:
        causes = sorted(cause for cause in seen if SOURCES.get(cause) == source)
        samples = "".join(
            f'<span class="cause">{swatch(cause)}{cause.replace("_", " ")}</span>' for cause in causes
        )
        groups += [f"{'i/o' if source == 'io' else source}: {samples}"] if causes else []
    rest = f"{swatch(UNATTRIBUTED)}unattributed · pale: hidden behind the path · line: critical path"
    return f'<p class="dim">{" · ".join([*groups, rest])}</p>'


def differences(comparison: Comparison) -> str:
    """The table of both plans, stage by stage."""
    a, b = comparison.a, comparison.b
    digits = digits_for(max(a.wall_ms, b.wall_ms))
    left = add_up([row.a_ms or 0.0 for row in comparison.rows], float(ms(a.wall_ms, digits)), digits)
    right = add_up([row.b_ms or 0.0 for row in comparison.rows], float(ms(b.wall_ms, digits)), digits)
    rows = []
    for row, old, new in zip(comparison.rows, left, right, strict=True):
        sides = ["-" if row.a_ms is None else ms(old, digits), "-" if row.b_ms is None else ms(new, digits)]
        figures = cells([*sides, f"{new - old:+.{digits}f}"], "n")
        beside = cells([hidden_change(row, digits)], "dim")
        rows.append(f"<tr>{cells([row.stage])}{figures}{beside}</tr>")
    totals = [ms(a.wall_ms, digits), ms(b.wall_ms, digits), f"{b.wall_ms - a.wall_ms:+.{digits}f}"]
    rows.append(f'<tr class="total">{cells(["total"])}{cells(totals, "n")}<td></td></tr>')
    heads = ["stage", f"{comparison.name_a} ms", f"{comparison.name_b} ms", "diff", ""]
    return wide(table(heads, rows, numbers=(1, 2, 3)), "Side by side")


def _ablation(comparison: Comparison) -> str:
    rows = []
    for row in comparison.ablation:
        p95 = "-" if row.p95_ms is None else f"{row.p95_ms:+.0f}"
        rows.append(
            f"<tr>{cells([row.change])}{cells([f'{row.p50_ms:+.0f}', p95], 'n')}{cells([row.note])}</tr>"
        )
    changes = wide(table(["change", "p50 ms", "p95 ms", ""], rows, numbers=(1, 2)), "Differences")
    return f"<h2>What each difference contributes</h2>{changes}" if rows else ""
