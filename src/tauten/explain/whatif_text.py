"""What would help, as a screen: at most three changes and the best of them together, then what each step is worth."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tauten.explain.figures import figure
from tauten.explain.lines import clip, wrapped
from tauten.explain.whatif import SHOWN, Change, Moved, Moves, Probed, StepWorth, Together, WhatIf

WIDTH: Final = 96  # columns, as the other screens
NAME: Final = 37  # of a change; `overlap: all that can be side by side` fits
COLUMN: Final = 11  # `-1310 ±120` fits
HEADS: Final = {"p50_ms": "p50", "p95_ms": "p95", "first_output_ms": "first"}
ANSWERS: Final = {"identical": "same bytes", "equivalent": "rounding", "lossy": "not judged"}
FOLD_SHARE: Final = 0.01  # of p50: a step that gains less in half its time is noise on a screen


def whatif_text(shown: WhatIf, *, all_rows: bool = False) -> str:
    """The whole screen; `all_rows` shows every change, every step, and what was not simulated and why."""
    parts = [_head(shown), _now(shown), _changes(shown, all_rows), _steps(shown, all_rows)]
    parts += [probed_text(shown.probed), _untried(shown) if all_rows else ""]
    return "\n\n".join(wrapped(part, WIDTH) for part in parts if part) + "\n"


def load_words(shown: WhatIf) -> str:
    """How the simulated requests came."""
    rate = f"at {shown.rate_per_s:g}/s" if shown.rate_per_s else "one at a time"
    word = "request" if shown.requests == 1 else "requests"
    return f"{shown.schedules} schedules of {shown.requests} {word} {rate}"


def moved_words(moved: Moved | None) -> str:
    """``-299 ±20``; a dash where nothing is known."""
    if moved is None:
        return "-"
    if abs(moved.mid) + moved.half >= 1e4:  # ms: seconds fit a column
        return f"{moved.mid / 1e3:+.1f}s ±{moved.half / 1e3:.1f}"
    digits = 0 if abs(moved.mid) + moved.half >= 10 else 1 if abs(moved.mid) + moved.half >= 1 else 2
    mid = f"{moved.mid:+.{digits}f}"
    return f"{mid if mid.strip('+-0.') else '0'} ±{moved.half:.{digits}f}"


def certainty(shown: WhatIf) -> str:
    """What the intervals know of."""
    scored = max((each.scored for each in shown.changes), default=0)
    among = f"± holds 90 % of {shown.schedules} simulated schedules"
    known = f" and of the errors of {scored} predictions" if scored else ""
    return f"{among}{known}; {shown.record}" if shown.record else among + known


def _head(shown: WhatIf) -> str:
    return " " + "   ".join([shown.workflow, f"plan {shown.plan}", load_words(shown), shown.machine])


def _now(shown: WhatIf) -> str:
    figures = [f"{HEADS[name]} {figure(shown.now[name])} ms" for name in SHOWN if name in shown.now]
    return f" Now, simulated: {', '.join(figures)}" if figures else " Now, simulated: nothing is answered"


def _row(number: str, name: str, cells: Sequence[str], last: str) -> str:
    columns = " ".join(["", *(f"{cell:>{COLUMN}}" for cell in cells)])
    return f"  {number:<4} {clip(name, NAME):<{NAME}}{columns}   {last}".rstrip()


def _changes(shown: WhatIf, all_rows: bool) -> str:
    title = f" What would help (simulated on {shown.recording}; nothing has been changed)"
    best = shown.best()
    lines = [title, _row("", "", [HEADS[name] for name in SHOWN], "answers")]
    lines += [_row(str(each.place), _named(each), _cells(each.moves), _answers(each)) for each in best]
    if shown.together is not None:
        lines.append(_together(shown.together))
    if not best:
        lines = [title, "   none of the changes that were tried gains anything for certain"]
    rest = [each for each in shown.changes if not each.place]
    if all_rows:
        lines += [_row("", _named(each), _cells(each.moves), _answers(each)) for each in rest]
    elif rest:
        lines.append(f"   {len(rest)} more {'change' if len(rest) == 1 else 'changes'} with --all")
    return "\n".join([*lines, f"   {certainty(shown)}"])


def _named(each: Change) -> str:
    return f"{each.strategy}: {each.change}"


def _cells(moves: Moves) -> list[str]:
    return [moved_words(moves.get(name)) for name in SHOWN]


def _answers(each: Change | Together) -> str:
    refused = getattr(each, "failed", 0.0)
    lost = f", {refused * 100:.0f} % would fail" if refused else ""
    return ANSWERS[each.answers] + lost


def _together(both: Together) -> str:
    return _row("", f"{'+'.join(map(str, both.places))} together", _cells(both.moves), _answers(both))


def _steps(shown: WhatIf, all_rows: bool) -> str:
    if not shown.steps:
        return ""
    least = FOLD_SHARE * shown.now.get("p50_ms", 0.0)
    kept = [each for each in shown.steps if all_rows or each.most > least]
    shares = [share for share, _ in shown.steps[0].quicker]
    width = max((len(each.step) for each in kept), default=0)
    heads = [f"{name} -{share * 100:.0f} %" for name in ("p50", "p95") for share in shares]
    lines = [" What each step is worth (simulated: that step alone, in so much less time)"]
    lines.append(f"   {'':<{width}}" + "".join(f"{head:>{COLUMN}}" for head in heads))
    lines += [f"   {each.step:<{width}}" + _worth(each) for each in kept]
    folded = [each.step for each in shown.steps if each not in kept]
    if folded:
        lines.append(f"   nothing, however fast: {', '.join(folded)}")
    return "\n".join(lines)


def _worth(each: StepWorth) -> str:
    cells = [moves.get(name) for name in ("p50_ms", "p95_ms") for _, moves in each.quicker]
    return "".join(f"{'-' if cell is None else _signed(cell.mid):>{COLUMN}}" for cell in cells)


def _signed(value: float) -> str:
    return f"{value:+.0f}" if abs(value) >= 0.5 else "0"


def probed_text(probed: Sequence[Probed]) -> str:
    """Measured beside simulated: ms that a figure moves for each ms that a step is delayed."""
    if not probed:
        return ""
    width = max(len(each.step) for each in probed)
    lines = [" Confirmed by delays on purpose: what a ms of delay costs, and so a ms less would gain"]
    lines.append(f"   {'step':<{width}}  {'delay':>8}  {'of':<13}{'measured':>16}{'simulated':>16}")
    for each in probed:
        cells = [_slope(each.measured), _slope(each.simulated)]
        verdict = "" if each.agree else "   they disagree"
        lines.append(
            f"   {each.step:<{width}}  {each.delay_ms:>5.3g} ms  {HEADS.get(each.what, each.what):<13}"
            + "".join(f"{cell:>16}" for cell in cells)
            + f"   {each.slowed} of {each.slowed + each.plain}{verdict}"
        )
    return "\n".join(lines)


def _slope(moved: Moved) -> str:
    return f"{moved.mid:.2f} ±{moved.half:.2f}"


def _untried(shown: WhatIf) -> str:
    rows = [f"   {each.strategy}: {each.change}: {each.why}" for each in shown.untried]
    rows += [f"   failed: {each}" for each in shown.failures]
    return "\n".join([" Not tried", *rows]) if rows else ""
