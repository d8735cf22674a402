"""Rows of a table as sentences, so that each can be found, quoted and understood without the others."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import itertools
from collections.abc import Sequence

from tauten.describe.reading_order import Row

LATER = 0.8  # letters' heights: what begins so much further right begins in a later column
WRAPPED = 1.6  # letters' heights: a cell's next line stands nearer than that, rows of a loose table do not


def follows(row: Row, table: Sequence[Row]) -> bool:
    """Whether a row belongs to the table above it: two cells or more, or a cell that goes on."""
    last = table[-1]
    if row.sheet != last.sheet:
        return len(row.cells) == len(last.cells) > 1
    if len(row.cells) > 1:
        return row.middle > last.middle
    if not _is_near(last, row):
        return False
    return row.left > min(each.left for each in table) + LATER * row.size or _is_loose(table)


def grid(rows: Sequence[Row]) -> list[list[str]]:
    """The cells of rows by column, empty where a row has none; a row that goes on with the one above is part of it."""
    edges = _edges(rows)
    loose = _is_loose(rows[1:])  # what stands under the head may be tighter
    table: list[list[str]] = []
    for place, row in enumerate(rows):
        cells = _by_column(row, edges)
        if place and _is_near(rows[place - 1], row) and (loose or not cells[0]):
            table[-1] = [f"{one} {other}".strip() for one, other in zip(table[-1], cells, strict=True)]
        else:
            table.append(cells)
    return table


def _is_near(above: Row, row: Row) -> bool:
    return above.sheet == row.sheet and 0 < row.middle - above.middle < WRAPPED * max(above.size, row.size)


def _is_loose(rows: Sequence[Row]) -> bool:
    """Whether rows stand apart, so that those near one another are one."""
    return any(not _is_near(above, row) for above, row in itertools.pairwise(rows))


def _edges(rows: Sequence[Row]) -> list[float]:
    """Where columns begin: in the rows with most cells."""
    most = max(len(row.cells) for row in rows)
    full = [row for row in rows if len(row.cells) == most]
    return [min(row.cells[place].left for row in full) for place in range(most)]


def _by_column(row: Row, edges: Sequence[float]) -> list[str]:
    cells = [""] * len(edges)
    for cell in row.cells:
        place = _column((cell.left + cell.right) / 2, edges)
        cells[place] = f"{cells[place]} {cell.text}".strip()
    return cells


def _column(middle: float, edges: Sequence[float]) -> int:
    """The last column that begins before the middle of a cell."""
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
