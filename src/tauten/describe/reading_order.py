"""The order in which a sheet is read: columns one after another, rows from the top, parts of a row from the left.

Columns are found by their gutter: a line from top to bottom that wide runs of letters end before and begin behind. What
crosses it, a title or a wide table, is read where it stands. Narrow runs side by side are a table's cells.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from tauten.describe.sheets import Sheet, Span

SAME_ROW = 0.5  # spans whose middles differ by less than half a letter's height stand in one row
CELL_GAP = 1.0  # letters' heights between two cells; between words, justified ones included, it is less
COLUMN_WIDTH = 14.0  # letters' heights, some 30 letters: columns of text are wider, cells of a table seldom
MOST_STARTS = 256  # places where spans begin that are looked at as a gutter: no page has half as many
COLUMN_ROWS = 3  # on either side: fewer say nothing about columns
MOST_CROSSING = 0.4  # share of a sheet's spans that may cross a gutter: titles, tables, pictures' captions
MARGIN = 0.09  # of the height, above and below: where running heads and page numbers stand
_NUMBER = re.compile(r"[-–—\s]*(?:page|p\.)?\s*\d+(?:\s*(?:/|of)\s*\d+)?[-–—\s]*", re.IGNORECASE)


class Row(msgspec.Struct, frozen=True):
    """What stands in one row of a column: its cells from the left, mostly one."""

    cells: tuple[Span, ...]
    sheet: int
    seen: bool = False  # read from a picture: its heights are rough

    @property
    def text(self) -> str:
        return " ".join(cell.text for cell in self.cells)

    @property
    def left(self) -> float:
        return self.cells[0].left

    @property
    def middle(self) -> float:
        return self.cells[0].middle

    @property
    def size(self) -> float:
        return max(cell.size for cell in self.cells)

    @property
    def bold(self) -> bool:
        return all(cell.bold for cell in self.cells)


def columns_of(sheet: Sheet) -> list[list[Row]]:
    """The rows of a sheet, by column, in the order in which they are read."""
    parts = _parts([span for span in sheet.spans if span.text.strip()])
    return [[Row(cells, sheet.number, sheet.seen) for cells in rows_of(part)] for part in parts if part]


# -- columns -------------------------------------------------------------------------------------------------


def _parts(spans: Sequence[Span]) -> list[list[Span]]:
    """Spans in parts that are read one after another."""
    gutter = _gutter(spans)
    if gutter is None:
        return [list(spans)]
    parts: list[list[Span]] = []
    band: list[Span] = []
    wide: list[Span] = []
    for span in sorted(spans, key=lambda each: each.middle):
        if span.left < gutter < span.right:
            parts += _sides(band, gutter)
            band = []
            wide.append(span)
            continue
        if wide:
            parts.append(wide)
            wide = []
        band.append(span)
    return [*parts, *_sides(band, gutter), wide]


def _sides(band: list[Span], gutter: float) -> list[list[Span]]:
    """What stands left of a gutter, then what stands right of it; each may have columns of its own."""
    left = [span for span in band if span.right <= gutter]
    right = [span for span in band if span.left >= gutter]
    if not left or not right:
        return [band] if band else []
    return _parts(left) + _parts(right)


def _gutter(spans: Sequence[Span]) -> float | None:
    """The line that parts columns, by the number of spans on either side; None where there is none."""
    if len(spans) < 2 * COLUMN_ROWS:
        return None
    size = statistics.median(span.size for span in spans)
    found: list[tuple[int, float]] = []
    starts = sorted(_starts(spans, size), key=lambda each: -each[1])[:MOST_STARTS]
    for start, count in starts:
        if count < COLUMN_ROWS:
            break
        line = start - size / 2
        left = [span for span in spans if span.right <= line]
        right = [span for span in spans if span.left >= line]
        crossing = len(spans) - len(left) - len(right)
        if crossing <= MOST_CROSSING * len(spans) and _side_by_side(left, right):
            found.append((min(len(left), len(right)) - crossing, line))
    return max(found)[1] if found else None


def _starts(spans: Sequence[Span], size: float) -> Iterator[tuple[float, int]]:
    """Where spans begin, to a letter's height, and how many do."""
    edges: dict[int, list[float]] = {}
    for span in spans:
        edges.setdefault(round(span.left / size), []).append(span.left)
    for lefts in edges.values():
        yield min(lefts), len(lefts)


def _side_by_side(left: Sequence[Span], right: Sequence[Span]) -> bool:
    """Whether both are columns of text, and beside one another."""
    if min(len(left), len(right)) < COLUMN_ROWS or not (_is_wide(left) and _is_wide(right)):
        return False
    top = max(min(span.top for span in side) for side in (left, right))
    bottom = min(max(span.bottom for span in side) for side in (left, right))
    return bottom - top >= COLUMN_ROWS * statistics.median(span.size for span in left)


def _is_wide(side: Sequence[Span]) -> bool:
    """Whether rows as wide as a column's begin at the left edge; tables may stand among them."""
    edge = min(span.left for span in side)
    wide = (
        span.left - edge < span.size and span.right - span.left >= COLUMN_WIDTH * span.size for span in side
    )
    return sum(wide) >= COLUMN_ROWS


# -- rows ----------------------------------------------------------------------------------------------------


def rows_of(spans: Iterable[Span]) -> list[tuple[Span, ...]]:
    """Spans by row from the top; in each row from the left, those apart by no more than a word's gap joined."""
    rows: list[list[Span]] = []
    least = 0.0  # the height of the row's smallest letters
    for span in sorted(spans, key=lambda each: each.middle):
        if rows and span.middle - rows[-1][0].middle < SAME_ROW * min(least, span.size):
            rows[-1].append(span)
            least = min(least, span.size)
        else:
            rows.append([span])
            least = span.size
    return [tuple(_cells(sorted(row, key=lambda each: each.left))) for row in rows]


def _cells(row: list[Span]) -> Iterator[Span]:
    held = row[0]
    for span in row[1:]:
        if span.left - held.right > CELL_GAP * max(held.size, span.size):
            yield held
            held = span
        else:
            held = _joined(held, span)
    yield held


def _joined(one: Span, other: Span) -> Span:
    return Span(
        f"{one.text} {other.text}",
        one.left,
        min(one.top, other.top),
        max(one.right, other.right),
        max(one.bottom, other.bottom),
        max(one.size, other.size),
        one.bold and other.bold,
    )


# -- what stands on every page -------------------------------------------------------------------------------


def without_running_heads(sheets: Sequence[Sheet]) -> list[Sheet]:
    """The sheets without what is in their margins again and again, numbers aside, and without page numbers."""
    again = _again(sheets)

    def runs(sheet: Sheet, span: Span) -> bool:
        return _in_margin(sheet, span) and (_key(span) in again or bool(_NUMBER.fullmatch(span.text)))

    return [
        msgspec.structs.replace(sheet, spans=tuple(span for span in sheet.spans if not runs(sheet, span)))
        for sheet in sheets
    ]


def _again(sheets: Sequence[Sheet]) -> set[str]:
    counts = Counter(
        key for sheet in sheets for key in {_key(span) for span in sheet.spans if _in_margin(sheet, span)}
    )
    return {key for key, count in counts.items() if count >= 2 and (count >= 3 or 2 * count >= len(sheets))}


def _in_margin(sheet: Sheet, span: Span) -> bool:
    return not MARGIN * sheet.height <= span.middle <= (1 - MARGIN) * sheet.height


def _key(span: Span) -> str:
    return re.sub(r"\d+", "#", " ".join(span.text.casefold().split()))
