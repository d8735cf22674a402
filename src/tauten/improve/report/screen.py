"""The screen of an optimisation: plain UTF-8 text of at most 96 columns, readable without colour."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import textwrap
from typing import Final

from tauten.explain.calibration import sentence
from tauten.explain.lines import clip, wrapped
from tauten.improve.optimizer.outcome import Candidate, Decision, Optimized
from tauten.improve.report import summary
from tauten.improve.report.summary import NAMES, shown

WIDTH: Final = 96
MOST: Final = 5  # refusals, flips and reasons shown; more of them do not tell more

Line = list[str]


def to_text(found: Optimized, *, all_rows: bool = False) -> str:
    """The whole screen; `all_rows` shows every refusal and every flip."""
    parts = [
        _header(found),
        _slo(found),
        _missing(found),
        _taken(found),
        _refused(found, all_rows),
        _front(found),
        _belief(found, all_rows),
        _notes(found),
    ]
    return "\n\n".join(wrapped(part, WIDTH) for part in parts if part) + "\n"


def _header(found: Optimized) -> str:
    word = summary.ANSWERS[found.answer]
    lines = [f" {found.workflow}   {word.upper() if found.answer == 'missed' else word}"]
    lines.append(" " + "   ".join(summary.about(found)))
    if found.interrupted:
        lines.append(" There was no time to look at everything: the same command goes on from here.")
    return "\n".join([*lines, *(f"   {why}" for why in found.why)])


def _slo(found: Optimized) -> str:
    rows = [
        [
            row.name,
            "-" if row.limit is None else shown(row.what, row.limit),
            row.naive,
            row.zero_effort,
            row.chosen,
            row.spread,
            row.verdict,
        ]
        for row in summary.rows(found)
    ]
    table = _table(["SLO", "limit", "naive", "zero-effort", "chosen", "interval", ""], rows, left=(0, 6))
    lines = [table]
    if any("~" in cell for row in rows for cell in row):
        lines.append("   ~ simulated only")
    if share := summary.failed(found):
        lines.append(f"   {share:.1%} of the requests failed or were refused")
    return "\n".join([*lines, *_baselines(found)])


def _baselines(found: Optimized) -> list[str]:
    """How many times faster the chosen plan is than each of both."""
    sides = summary.baselines(found)
    names = [what for what in summary.ALWAYS if any(what in each.ratios for each in sides)]
    rows = [
        [
            f"against the {each.name} plan",
            *(summary.times(each.ratios[what]) if what in each.ratios else "-" for what in names),
            each.how,
        ]
        for each in sides
    ]
    heads = ["The chosen plan", *(NAMES[what] for what in names), ""]
    note = [f"   {summary.ALONE}"] if summary.has_alone(found) else []
    return ["", _table(heads, rows, left=(0, len(heads) - 1)), *note] if names else []


def _missing(found: Optimized) -> str:
    """CannotMeet: how far it is, step by step, and what would do."""
    needed = summary.missing(found)
    if not needed or found.answer == "met":
        return ""
    lines = [" What is missing", *(f"   {text}" for text in needed)]
    if found.gap:
        lines += ["", f" {summary.gap_title(found)}"]
        lines += [
            _said(f"   {clip(row.step, 24):<24} {shown('p50_ms', row.ms):>10}  ", summary.gap_why(row))
            for row in found.gap
        ]
    return "\n".join(lines)


def _taken(found: Optimized) -> str:
    each, what = summary.taken(found), summary.headline(found)
    if not each:
        return " Nothing was changed: no proposal gained."
    rows = []
    for place, one in enumerate(each, 1):
        before, after = summary.figures_of(one, what)
        then = summary.outcome(found, one, what)
        rows.append(
            [
                str(place),
                clip(f"{one.strategy}: {one.change}", 46),
                summary.change(what, before, after),
                shown(what, after),
                shown(what, then),
                one.answers,
            ]
        )
    heads = ["", f"Taken ({NAMES[what]})", "predicted", "to", "measured", "answers"]
    said = [f"   {place}  {_reason(one)}" for place, one in enumerate(each, 1) if _reason(one)]
    return "\n".join([_table(heads, rows, left=(0, 1, 5)), *(["", *said] if said else [])])


def _refused(found: Optimized, all_rows: bool) -> str:
    every, what = summary.refused(found), summary.headline(found)
    if not every:
        return ""
    lines = [" Refused"]
    for one in every if all_rows else every[:MOST]:
        lines.append(f"   {one.strategy}: {one.change}{_promise(one, what)}\n     {_reason(one)}")
    if not all_rows and len(every) > MOST:
        lines.append(f"   and {summary.counted(len(every) - MOST, 'other')} (--all shows them)")
    return "\n".join(lines)


def _promise(one: Decision, what: str) -> str:
    before, after = summary.figures_of(one, what)
    return f"   {NAMES[what]} {summary.change(what, before, after)}" if after is not None else ""


def _reason(one: Decision) -> str:
    """The verdict says what the reason only names."""
    if one.verdict is None or str(one.verdict) in one.why:
        return one.why
    return f"{one.verdict}; {one.why}" if one.why else str(one.verdict)


def _front(found: Optimized) -> str:
    plans = summary.front(found)
    if len(plans) < 2:
        return ""
    what = summary.headline(found)
    columns = ["p50_ms", "p95_ms"] if what in ("p50_ms", "p95_ms") else [what, "p50_ms"]
    columns += ["cost_cents", "memory_bytes"]
    known = [name for name in columns if any(summary.value(each, name) is not None for each in plans)]
    heads = ["", "Plans to choose from", *(NAMES[name] for name in known), "right", "may lose", ""]
    rows = [
        [
            "=>" if each.name == found.chosen else "",
            clip(summary.title(each.name), 24),
            *(summary.estimated(each, name) for name in known),
            _right(each),
            summary.points(each.quality_loss) if each.quality_loss else "none",
            "front" if each.front else "",
        ]
        for each in plans
    ]
    table = _table(heads, rows, left=(0, 1, len(heads) - 1))
    return f"{table}\n   => chosen; front: no other is better in one way and no worse in all others"


def _right(each: Candidate) -> str:
    return "-" if each.quality is None else f"{each.quality:.1%}"


def _belief(found: Optimized, all_rows: bool) -> str:
    told = {
        "predictions": sentence(summary.predictions(found)),
        "labels": summary.labels(found),
        "quality": summary.quality(found),
    }
    lines = [" How far to believe it", *(_said(f"   {name:<13}", text) for name, text in told.items())]
    flips = found.verdict.flips if found.verdict is not None else []
    for flip in flips if all_rows else flips[:MOST]:
        word = "worse " if flip.bad else "better"
        lines.append(f"     {word}  {flip.item}   {flip.before:g} -> {flip.after:g}")
    if not all_rows and len(flips) > MOST:
        lines.append(f"     and {len(flips) - MOST} more")
    return "\n".join(lines)


def _notes(found: Optimized) -> str:
    return "\n".join(f" {note}" for note in found.notes)


def _said(head: str, text: str) -> str:
    """Words after what they are about, and under one another."""
    unbroken = text.replace(" %", "\u00a0%")  # a sign alone on the next line reads badly
    lines = textwrap.fill(unbroken, WIDTH, initial_indent=head, subsequent_indent=" " * len(head))
    return lines.replace("\u00a0", " ") or head.rstrip()


def _table(heads: Line, rows: list[Line], *, left: tuple[int, ...] = ()) -> str:
    """Columns as wide as they must be, three blanks in front; figures stand to the right, `left` columns to the left.

    A column without a word in it is left out.
    """
    columns = list(zip(heads, *rows, strict=True))
    used = [
        place for place, column in enumerate(columns) if any(cell not in ("", "-") for cell in column[1:])
    ]
    wide = {place: max(map(len, columns[place])) for place in used}

    def line(row: Line) -> str:
        parts = [f"{row[at]:<{wide[at]}}" if at in left else f"{row[at]:>{wide[at]}}" for at in used]
        return f"   {'  '.join(parts)}".rstrip()

    return "\n".join(map(line, [heads, *rows]))
