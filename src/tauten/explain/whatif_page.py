"""What would help, as a page: the same tables as the screen, every change, and bars for what steps are worth."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Collection, Sequence
from html import escape
from typing import Final

from tauten.explain import calibration, chart
from tauten.explain.calibration import Prediction
from tauten.explain.figures import figure
from tauten.explain.sheet import cells, page, table, wide
from tauten.explain.waterfall import STYLE as COMMON
from tauten.explain.whatif import SHOWN, Change, Moves, StepWorth, Together, WhatIf
from tauten.explain.whatif_text import ANSWERS, HEADS, certainty, load_words, moved_words

STYLE: Final = (
    COMMON
    + chart.STYLE
    + calibration.STYLE
    + ".tau .worth{fill:var(--model)}.tau .worth0{opacity:.45}.tau .worth1{opacity:.7}\n"
)
ROW_PX: Final = 24


def whatif_html(shown: WhatIf, told: Sequence[Prediction] = ()) -> str:
    """The whole page; `told` are earlier predictions that were measured."""
    body = "".join(
        [
            f"<h1>{escape(shown.workflow)}: what would help</h1>",
            f'<p class="dim">{escape(" · ".join([f"plan {shown.plan}", load_words(shown), shown.machine]))}</p>',
            _now(shown),
            _changes(shown),
            _steps(shown.steps),
            _probed(shown),
            calibration.section(told),
            _untried(shown),
        ]
    )
    return page(f"{shown.workflow}: what would help", f'<div class="tau">{body}</div>', STYLE)


def _table(heads: Sequence[str], rows: Sequence[str], numbers: Collection[int] = ()) -> str:
    return table(heads, [f"<tr>{row}</tr>" for row in rows], numbers=numbers)


def _now(shown: WhatIf) -> str:
    figures = [f"{HEADS[name]} {figure(shown.now[name])} ms" for name in SHOWN if name in shown.now]
    return f"<p>Now, simulated: {escape(', '.join(figures))}</p>"


def _changes(shown: WhatIf) -> str:
    best = shown.best()
    rows = [_change(each) for each in best]
    if shown.together is not None:
        rows.append(_together(shown.together))
    rows += [_change(each) for each in shown.changes if not each.place]
    heads = ["", "change", *(f"{HEADS[name]}, ms" for name in SHOWN), "answers", "why"]
    about = f"simulated on {shown.recording}; nothing has been changed"
    tabular = _table(heads, rows, (2, 3, 4)) if rows else "<p>No change was proposed.</p>"
    return (
        f'<h2>What would help</h2><p class="dim">{escape(about)}. {escape(certainty(shown))}.</p>'
        f"{wide(tabular, 'Changes')}"
    )


def _change(each: Change) -> str:
    lost = f", {each.failed * 100:.0f} % would fail" if each.failed else ""
    first = cells([str(each.place) if each.place else "", f"{each.strategy}: {each.change}"])
    return first + _moves(each.moves) + cells([ANSWERS[each.answers] + lost, each.why])


def _together(both: Together) -> str:
    name = f"{'+'.join(map(str, both.places))} together"
    return cells(["", name]) + _moves(both.moves) + cells([ANSWERS[both.answers], ""])


def _moves(moves: Moves) -> str:
    shown = []
    for name in SHOWN:
        moved = moves.get(name)
        kind = "n good" if moved is not None and moved.clear else "n"
        shown.append(cells([moved_words(moved)], kind))
    return "".join(shown)


def _steps(steps: Sequence[StepWorth]) -> str:
    if not steps:
        return ""
    shares = [share for share, _ in steps[0].quicker]
    heads = ["step", *(f"{HEADS[name]} -{share * 100:.0f} %, ms" for name in SHOWN for share in shares)]
    rows = [
        cells([each.step])
        + "".join(cells([moved_words(moves.get(name))], "n") for name in SHOWN for _, moves in each.quicker)
        for each in steps
    ]
    numbers = range(1, len(heads))
    return (
        '<h2>What each step is worth</h2><p class="dim">Simulated: that step alone, in so much less time.</p>'
        f"{_bars(steps)}{wide(_table(heads, rows, numbers), 'What each step is worth')}"
    )


def _bars(steps: Sequence[StepWorth]) -> str:
    """What p50 gains where one step takes half its time; nested, what the smaller shares gain."""
    frame = chart.Frame(width=980, height=ROW_PX * len(steps) + 50, left=180, right=60, top=10)
    gains = [[max(0.0, -_mid(moves)) for _, moves in each.quicker] for each in steps]
    most = max((value for each in gains for value in each), default=0.0)
    if most <= 0.0:
        return ""
    x = chart.across(frame, 0.0, most)
    parts = [chart.tick(frame, x(value), f"{figure(value)} ms") for value in x.ticks()]
    for place, (each, values) in enumerate(zip(steps, gains, strict=True)):
        y = frame.top + ROW_PX * place
        parts.append(
            f'<text class="lane" x="{frame.left - 8}" y="{y + 15}" text-anchor="end">{escape(each.step[:24])}</text>'
        )
        for order in range(len(values) - 1, -1, -1):
            share, about = each.quicker[order][0], f"{figure(values[order])} ms"
            parts.append(
                f'<rect class="worth worth{len(values) - 1 - order}" x="{frame.left}" y="{y + 4}" '
                f'width="{x(values[order]) - frame.left:.1f}" height="{ROW_PX - 8}">'
                f"<title>{escape(each.step)} in {share * 100:.0f} % less time: p50 gains {about}</title></rect>"
            )
    return chart.picture(frame, "What p50 gains where a step takes less time", parts)


def _mid(moves: Moves) -> float:
    moved = moves.get("p50_ms")
    return moved.mid if moved is not None else 0.0


def _probed(shown: WhatIf) -> str:
    if not shown.probed:
        return ""
    rows = [
        cells([each.step])
        + cells([f"{each.delay_ms:.3g}"], "n")
        + cells([HEADS.get(each.what, each.what)])
        + cells([f"{moved.mid:.2f} ±{moved.half:.2f}" for moved in (each.measured, each.simulated)], "n")
        + cells([f"{each.slowed} of {each.slowed + each.plain}"], "n")
        + cells(["" if each.agree else "they disagree"], "" if each.agree else "bad")
        for each in shown.probed
    ]
    heads = ["step", "delay, ms", "of", "measured", "simulated", "delayed", ""]
    return (
        "<h2>Confirmed by delays on purpose</h2>"
        '<p class="dim">What a ms of delay costs, and so a ms less would gain.</p>'
        f"{wide(_table(heads, rows, (1, 3, 4, 5)), 'Delays')}"
    )


def _untried(shown: WhatIf) -> str:
    rows = [cells([each.strategy, each.change, each.why]) for each in shown.untried]
    rows += [cells(["", each, "failed"]) for each in shown.failures]
    if not rows:
        return ""
    return f"<h2>Not tried</h2>{wide(_table(['strategy', 'change', 'why'], rows), 'Not tried')}"
