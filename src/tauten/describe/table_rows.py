"""Rows of a table as sentences, so that each can be found, quoted and understood without the others."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import statistics
from collections.abc import Sequence

from tauten.describe.reading_order import Row
from tauten.describe.sheets import Span

SAME_EDGE = (
    0.8  # letters' heights that a cell may begin off its column: numbers are often centred or set right
)
WRAPPED = (
    1.6  # letters' heights to the row above: a cell that goes on stands this near, the next row may, too
)


def grid(rows: Sequence[Row]) -> list[list[str]]:
    """The cells of rows by column, empty where a row has none; a row without a first cell goes on with the one above."""
    edges = _edges(rows)
    table: list[list[str]] = []
    above: Row | None = None
    for row in rows:
        cells = [""] * len(edges)
        for cell in row.cells:
            place = _column(cell.left, cell.right, edges)
            cells[place] = f"{cells[place]} {cell.text}".strip()
        if table and not cells[0] and above is not None and row.middle - above.middle < WRAPPED * row.size:
            table[-1] = [f"{one} {other}".strip() for one, other in zip(table[-1], cells, strict=True)]
        else:
            table.append(cells)
        above = row
    return table


def _edges(rows: Sequence[Row]) -> list[float]:
    """Where columns begin: in the rows with most cells."""
    most = max(len(row.cells) for row in rows)
    full = [row for row in rows if len(row.cells) == most]
    return [min(row.cells[place].left for row in full) for place in range(most)]


def _column(left: float, right: float, edges: Sequence[float]) -> int:
    """The last column that begins before the middle of a cell."""
    middle = (left + right) / 2
    return max((place for place, edge in enumerate(edges) if edge <= middle), default=0)


def sentences(table: Sequence[Sequence[str]]) -> list[str]:
    """One sentence a row: "Filter: Interval 200 h, Tool wrench." where the first row names the columns.

    >>> sentences([["Part", "Interval", "Tool"], ["Filter", "200 h", "wrench"]])
    ['Filter: Interval 200 h, Tool wrench.']
    >>> sentences([["Weight", "38 kg"], ["Power", "1450 W"]])
    ['Weight: 38 kg.', 'Power: 1450 W.']
    """
    names = list(table[0]) if _names_columns(table) else []
    return [_sentence(row, names) for row in (table[1:] if names else table) if any(row)]


def _names_columns(table: Sequence[Sequence[str]]) -> bool:
    """Whether the first row is a head: of three columns or more, each named, without a number."""
    head = table[0]
    said = len(head) > 2 and len(table) > 1 and all(head)
    return said and not any(char.isdigit() for cell in head for char in cell)


def _sentence(row: Sequence[str], names: Sequence[str]) -> str:
    first, *rest = row
    if names:
        rest = [f"{name} {cell}" for name, cell in zip(names[1:], rest, strict=True) if cell]
    said = ", ".join(cell for cell in rest if cell)
    text = f"{first}: {said}" if first and said else first or said
    return text if text.endswith((".", "!", "?")) else f"{text}."


def follows(row: Row, table: Sequence[Row]) -> bool:
    """Whether a row belongs to the table above it: two cells or more, or one that goes on in a later column."""
    last = table[-1]
    if row.sheet != last.sheet:
        return len(row.cells) == len(last.cells) > 1
    size = statistics.median(each.size for each in table)
    if len(row.cells) > 1:
        shared = sum(_near(cell.left, row.cells, size) for cell in last.cells)
        return shared > 0 or abs(len(row.cells) - len(last.cells)) <= 1
    near = 0 < row.middle - last.middle < WRAPPED * size
    return near and row.left > last.left + SAME_EDGE * size and len(last.cells) > 1


def _near(left: float, cells: Sequence[Span], size: float) -> bool:
    return any(abs(left - cell.left) <= SAME_EDGE * size for cell in cells)
