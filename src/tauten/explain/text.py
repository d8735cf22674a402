"""The screen: an account or a comparison as plain UTF-8 text, readable without colour.

96 columns by default. Below that the waterfall goes first, then the estimates. Printed rows add up to the
printed total; the sources line adds up to it too.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import textwrap
from typing import Final, NamedTuple

from tauten.explain.account import Account, Comparison, ComparisonRow, SloLine, StageRow
from tauten.explain.figures import add_up, digits_for, hidden_change, ms, spent
from tauten.explain.lines import clip, wrapped
from tauten.explain.waterfall import text_bar
from tauten.run.trace import LIKENED
from tauten.run.visits import UNATTRIBUTED

WIDTH: Final = 96
FULL_WIDTH: Final = 90  # narrower, the waterfall goes
BAR_WIDTH: Final = 22
ESTIMATE_WIDTH: Final = 60  # narrower still, the estimates go
NAME_WIDTH: Final = 18  # `question:samples` and `classify x24` fit
ALIKE: Final = 1.05  # times: below, the figure would read 1.0
FOLD_SHARE: Final = 0.01  # rows under 1 % of the wall time are noise on a screen


class Line(NamedTuple):
    """One row before it is laid out."""

    name: str
    ms: float
    estimate: str
    bar: str
    why: str


class _Layout(NamedTuple):
    name: int
    figure: int
    bars: bool
    estimates: bool
    width: int

    def row(self, name: str, figure: str, estimate: str, bar: str, why: str) -> str:
        parts = [f"   {clip(name, self.name):<{self.name}} {figure:>{self.figure}}"]
        if self.estimates:
            parts.append(f" {estimate:>7}")
        if self.bars:
            parts.append(f"  {bar:<{BAR_WIDTH}}")
        return clip(("".join(parts) + f"  {why}").rstrip(), self.width)

    @property
    def left(self) -> int:
        """Columns left for the last column."""
        return self.width - len(self.row("", "0", "0", "x" * BAR_WIDTH if self.bars else "", "x")) + 1


def to_text(account: Account, *, width: int = WIDTH, all_rows: bool = False, bars: bool = True) -> str:
    """The whole screen; `all_rows` unfolds what is under 1 %."""
    parts = [
        _header(account),
        _slo(account.header.slo),
        _caption(account),
        _table(account, width, all_rows, bars),
    ]
    parts += [_first_output(account), _likened(account), _path(account, width)]
    return "\n\n".join(wrapped(part, width) for part in parts if part) + "\n"


def compare_text(comparison: Comparison, *, width: int = WIDTH, all_rows: bool = False) -> str:
    """Two plans side by side: ms A, ms B, difference, then what each change contributes."""
    a, b = comparison.a, comparison.b
    parts = [_header(a), _slo(a.header.slo)]
    if b.header.plan != a.header.plan:
        parts += [_header(b), _slo(b.header.slo)]
    parts += [_requests(comparison), _compare_table(comparison, width, all_rows), _ablation(comparison)]
    return "\n\n".join(wrapped(part, width) for part in parts if part) + "\n"


def _header(account: Account) -> str:
    header = account.header
    requests = f"{header.requests} requests" if header.requests else ""
    run = ", ".join(filter(None, (requests, header.load)))
    plan = f"plan {header.plan}" if header.plan else ""
    return " " + "   ".join(filter(None, (header.workflow, plan, run, header.machine, header.graph)))


def _slo(lines: list[SloLine]) -> str:
    if not lines:
        return ""
    table = [f"   {'SLO':<18} {'limit':>9} {'p50':>9} {'p95':>9}"]
    for line in lines:
        row = f"   {line.name:<18} {line.limit:>9} {line.p50:>9} {line.p95:>9}    {line.verdict}"
        table.append(row.rstrip())
    return "\n".join(table)


def _caption(account: Account) -> str:
    digits = max(1, digits_for(account.wall_ms))
    which = f", {account.header.request}" if account.header.request else ""
    return f" One real request{which}, {ms(account.wall_ms, digits)} ms"


def _table(account: Account, width: int, all_rows: bool, bars: bool) -> str:
    digits = digits_for(account.wall_ms)
    bars = bars and width >= FULL_WIDTH
    shown, folded = _fold(account, all_rows)
    names = [row.title for row in shown] + [UNATTRIBUTED]
    layout = _Layout(min(NAME_WIDTH, max(map(len, names))), 8, bars, width >= ESTIMATE_WIDTH, width)
    total = float(ms(account.wall_ms, digits))
    rest = _rest_lines(account, folded)
    figures = add_up([*(row.exclusive_ms for row in shown), *(line.ms for line in rest)], total, digits)
    stages = zip(shown, figures, strict=False)
    lines = [*(_stage_line(row, account.wall_ms, figure, layout, digits) for row, figure in stages), *rest]
    printed = [
        layout.row(
            line.name, ms(figure, digits) if figure or line.ms else "-", line.estimate, line.bar, line.why
        )
        for line, figure in zip(lines, figures, strict=True)
    ]
    axis = f"{'0 ms':<8}{ms(account.wall_ms, digits) + ' ms':>{BAR_WIDTH - 8}}"
    head = layout.row("stage", "ms", "est.", axis, "of which")
    tail = layout.row(
        "total", ms(total, digits), "", "█ working  ░ waiting", "" if bars else spent(account.spent)
    )
    rule = "   " + "-" * (min(width, WIDTH) - 4)
    below = [_sources(account, total, digits, width)]
    if bars and account.spent:
        below.insert(0, f"   {'spent':<{layout.name}}   {spent(account.spent)}")
    if any(line.bar.count("·") or "hidden" in line.why for line in lines):
        below.insert(
            0, "   · hidden: work beside the path, not in the sum; slack: how much later it could end"
        )
    return "\n".join([head, *printed, rule, tail, *below])


def _fold(account: Account, all_rows: bool) -> tuple[list[StageRow], list[StageRow]]:
    least = account.wall_ms * FOLD_SHARE
    small = [r for r in account.stages if r.exclusive_ms < least and r.off_path_ms < least]
    if all_rows or len(small) < 2:
        return list(account.stages), []
    return [row for row in account.stages if row not in small], small


def _stage_line(row: StageRow, wall_ms: float, figure: float, layout: _Layout, digits: int) -> Line:
    bar = text_bar(row.spans, wall_ms, BAR_WIDTH) if layout.bars else ""
    why = _why(row, figure, digits, layout.left)
    return Line(row.title, row.exclusive_ms, _estimate(row, digits), bar, why)


def _rest_lines(account: Account, folded: list[StageRow]) -> list[Line]:
    lines = []
    if folded:
        names = ", ".join(row.title for row in folded)
        lines.append(
            Line(f"other ({len(folded)})", sum(r.exclusive_ms for r in folded), "", "", clip(names, 34))
        )
    share = account.unattributed_ms / account.wall_ms * 100 if account.wall_ms else 0.0
    where = max(account.unattributed_in, key=account.unattributed_in.__getitem__, default="")
    most = f", most in {where}" if where else ", between stages" if account.unattributed_in else ""
    bar = text_bar(account.unattributed_spans, account.wall_ms, BAR_WIDTH)
    lines.append(Line(UNATTRIBUTED, account.unattributed_ms, "-", bar, f"{share:.1f} %{most}"))
    return lines


def _estimate(row: StageRow, digits: int) -> str:
    if row.estimate is None:
        return "no data" if row.work_ms else "-"
    return ms(row.estimate.mid_ms, digits) + ("!" if row.far_off else " ")


def _why(row: StageRow, figure: float, digits: int, room: int) -> str:
    """The causes, the largest first, then what is hidden and how much slack it has; as many as fit."""
    figures = add_up(list(row.causes.values()), figure, digits)
    parts = [f"{_word(c)} {ms(f, digits)}" for c, f in zip(row.causes, figures, strict=True) if f > 0]
    hidden = float(ms(row.off_path_ms, digits))
    extra = [f"hidden {ms(hidden, digits)}"] if hidden else []
    if row.slack_ms and (hidden or not parts):
        extra.append(f"slack {ms(row.slack_ms, digits)}")
    while parts and len("  ".join([*parts, *extra])) > room:
        parts.pop()
    return "  ".join([*parts, *extra])


def _word(cause: str) -> str:
    return cause.replace("_", " ")


def _sources(account: Account, total: float, digits: int, width: int) -> str:
    names = [n for n in account.sources if n != "outside" or account.sources[n]]
    figures = add_up([account.sources[n] for n in names], total, digits)
    words = {"io": "i/o"}
    parts = [f"{words.get(n, n)} {ms(f, digits)}" for n, f in zip(names, figures, strict=True)]
    line = "   ".join([*parts, f"= {ms(total, digits)}"])
    gap = "   " if len(line) + 3 <= width else "  "
    return "\n   " + gap.join([*parts, f"= {ms(total, digits)}"])


def _first_output(account: Account) -> str:
    if account.first_output_ms is None:
        return ""
    digits = digits_for(account.wall_ms)
    total = float(ms(account.first_output_ms, digits))
    by_source = {n: v for n, v in account.first_output_sources.items() if v}
    figures = add_up(list(by_source.values()), total, digits)
    words = {"io": "i/o"}
    parts = [f"{words.get(n, n)} {ms(f, digits)}" for n, f in zip(by_source, figures, strict=True) if f]
    return f" First output after {ms(total, digits)} ms:  " + "  ".join(parts)


def _likened(account: Account) -> str:
    """What became of looks for questions that mean the same: of each step that made one."""
    said = {key.removesuffix(LIKENED): words for key, words in account.notes.items() if key.endswith(LIKENED)}
    return "\n".join(f" Cache of {step}, by likeness:  {words}" for step, words in said.items())


def _path(account: Account, width: int) -> str:
    if not account.path:
        return ""
    return textwrap.fill(
        " Critical path:  " + " > ".join(account.path), width, subsequent_indent="   ", break_long_words=False
    )


def _requests(comparison: Comparison) -> str:
    def one(name: str, account: Account) -> str:
        which = account.header.request or "one real request"
        digits = max(1, digits_for(account.wall_ms))
        return f" {name}: {which}, {ms(account.wall_ms, digits)} ms"

    return "\n".join([one(comparison.name_a, comparison.a), one(comparison.name_b, comparison.b)])


def _compare_table(comparison: Comparison, width: int, all_rows: bool) -> str:
    a, b = comparison.a, comparison.b
    digits = digits_for(max(a.wall_ms, b.wall_ms))
    left, right = float(ms(a.wall_ms, digits)), float(ms(b.wall_ms, digits))
    rows = comparison.rows if all_rows else _folded(comparison.rows, a.wall_ms, b.wall_ms)
    lefts = add_up([row.a_ms or 0.0 for row in rows], left, digits)
    rights = add_up([row.b_ms or 0.0 for row in rows], right, digits)
    name_width = min(30, max(len(row.stage) for row in rows))

    def line(name: str, old: str, new: str, diff: str) -> str:
        return f"   {clip(name, name_width):<{name_width}}  {old:>14} {new:>14} {diff:>10}"

    heads = [clip(f"{name} ms", 14) for name in (comparison.name_a, comparison.name_b)]
    printed = [line("stage", heads[0], heads[1], "diff")]
    for row, old, new in zip(rows, lefts, rights, strict=True):
        cells = ["-" if row.a_ms is None else ms(old, digits), "-" if row.b_ms is None else ms(new, digits)]
        text = line(row.stage, cells[0], cells[1], _signed(new - old, digits))
        printed.append(f"{text}   {hidden_change(row, digits)}".rstrip())
    printed.append("   " + "-" * (name_width + 42))
    printed.append(line("total", ms(left, digits), ms(right, digits), _signed(right - left, digits)))
    return "\n".join([*printed, *_compare_foot(comparison)])


def _compare_foot(comparison: Comparison) -> list[str]:
    a, b = comparison.a, comparison.b
    lines = []
    if a.wall_ms > 0 and b.wall_ms > 0:
        ratio = a.wall_ms / b.wall_ms
        faster = f"{ratio:.1f} times faster" if ratio >= 1 else f"{1 / ratio:.1f} times slower"
        said = faster if max(ratio, 1 / ratio) >= ALIKE else "as fast"
        lines.append(f"\n   {comparison.name_b} is {said} on these two requests")
    sides = ((comparison.name_a, a), (comparison.name_b, b))
    return lines + [f"   {name}: {spent(side.spent)}" for name, side in sides if side.spent]


def _folded(rows: list[ComparisonRow], wall_a: float, wall_b: float) -> list[ComparisonRow]:
    def small(row: ComparisonRow) -> bool:
        least = (row.a_ms or 0.0) < FOLD_SHARE * wall_a and (row.b_ms or 0.0) < FOLD_SHARE * wall_b
        return least and row.stage != UNATTRIBUTED

    folded = [row for row in rows if small(row)]
    if len(folded) < 2:
        return rows
    old, new = (sum(values) for values in zip(*((r.a_ms or 0.0, r.b_ms or 0.0) for r in folded), strict=True))
    return [*(row for row in rows if not small(row)), ComparisonRow(f"other ({len(folded)})", old, new)]


def _signed(value: float, digits: int) -> str:
    text = f"{value:+.{digits}f}"
    return text[1:] if not text.strip("+-0.") else text


def _ablation(comparison: Comparison) -> str:
    if not comparison.ablation:
        return ""
    width = min(52, max(len(row.change) for row in comparison.ablation))
    lines = [f" {'What each difference contributes':<{width + 6}} {'p50':>9} {'p95':>9}"]
    for place, row in enumerate(comparison.ablation, 1):
        p95 = "-" if row.p95_ms is None else _signed(row.p95_ms, 0)
        text = f"  {place:>2}  {clip(row.change, width):<{width}}   {_signed(row.p50_ms, 0):>9} {p95:>9}   {row.note}"
        lines.append(text.rstrip())
    return "\n".join(lines)
