"""Rows as Markdown: a table of the headlines, and each row with all that was measured of it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tauten.explain.figures import figure
from tauten.improve.headlines.row import Cell, Column, Headlines, Line, Row

EMPTY = "Nothing has been measured yet: `tauten bench headlines --write` fills this."

_HEAD = (
    "",
    "published",
    "measured here",
    "naive",
    "zero effort",
    "ours",
    "ours ÷ naive",
    "ours ÷ zero effort",
)


def summary(found: Headlines) -> str:
    """One line for each quantity that stands for its row."""
    if not found.rows:
        return EMPTY
    lines = [_line(_HEAD), _line(["---"] * len(_HEAD))]
    for row in found.rows:
        lines += [_line(each) for each in _summed(row)]
    return "\n".join([*lines, "", *(f"* {row.id}: {_stamped(row)}" for row in found.rows)])


def _summed(row: Row) -> Iterator[Sequence[str]]:
    if row.missing:
        yield row.id, row.claim, f"not measured: {row.missing}", "", "", "", "", ""
    for number, line in enumerate(row.headlines):
        first = (row.id, row.claim) if number == 0 else ("", "")
        cells = [_cell(line.cells.get(name), line.unit) for name in (row.naive, row.zero_effort, row.ours)]
        yield *first, f"{line.case}: {line.what}", *cells, *_ratios(row, line)


def _ratios(row: Row, line: Line) -> tuple[str, str]:
    same = "the same setting" if row.ours == row.zero_effort else _cell(line.to_zero_effort)
    return _cell(line.to_naive), same


def _stamped(row: Row) -> str:
    """Where, when, how often, and who else was there."""
    stamp = row.stamp
    parts = (
        [stamp.machine, stamp.measured_at, f"commit {stamp.commit}" if stamp.commit else ""] if stamp else []
    )
    parts += [f"n = {row.rounds} rounds" if row.rounds else ""]
    if row.others is not None and row.worst is not None:
        parts += [
            f"others had {row.others * 100:.0f} % of the cores (at most {row.worst * 100:.0f} % in a round)"
        ]
    parts += ["a quick look, no evidence" if row.quick else ""]
    return ", ".join(filter(None, parts)) or "without a stamp"


def details(found: Headlines) -> str:
    """Every row: its settings, conditions, all lines with their intervals, quality and notes."""
    if not found.rows:
        return EMPTY
    return "\n\n".join("\n".join(_detailed(row)) for row in found.rows)


def _detailed(row: Row) -> Iterator[str]:
    yield f"### {row.id}: {row.claim}"
    yield ""
    if row.missing:
        yield f"Not measured: {row.missing}."
        yield ""
    columns = [each for each in row.columns if not each.missing]
    if row.lines:
        yield _line(["", *(each.name for each in columns), "ours ÷ naive", "ours ÷ zero effort"])
        yield _line(["---"] * (len(columns) + 3))
        for line in row.lines:
            cells = [_cell(line.cells.get(each.name), line.unit, wide=True) for each in columns]
            yield _line([f"{line.case}: {line.what}", *cells, *_ratios(row, line)])
        yield ""
    yield from _told(row)


def _told(row: Row) -> Iterator[str]:
    for each in row.columns:
        reason = f"; not measured: {each.missing}" if each.missing else ""
        yield f"* **{each.name}**{_part(row, each)}: {each.setup}{reason}."
    yield from (f"* {name}: {text}." for name, text in row.conditions.items())
    yield from (f"* quality: {text}." for text in row.quality)
    yield from (f"* {text}." for text in row.notes)
    yield f"* measured: {_stamped(row)}."


def _part(row: Row, column: Column) -> str:
    """Which of the three settings a column is."""
    parts = {"naive": row.naive, "best zero effort": row.zero_effort, "ours": row.ours}
    found = [part for part, name in parts.items() if name == column.name]
    return f" ({', '.join(found)})" if found else ""


def _cell(cell: Cell | None, unit: str = "", *, wide: bool = False) -> str:
    """A median with its interval; too few values say how many they were.

    >>> _cell(Cell(5.123, 7, 5.0, 5.3), "ms", wide=True)
    '5.12 (5-5.3) ms'
    """
    if cell is None:
        return "-"
    shown = figure(cell.mid)
    if cell.low is not None and cell.high is not None and (wide or not unit):
        shown += f" ({figure(cell.low)}-{figure(cell.high)})"
    elif cell.low is None and not unit:
        shown += f" (n = {cell.n})"
    return f"{shown} {unit}".strip()


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(each.replace('|', '/') for each in cells)} |"
