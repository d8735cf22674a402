"""Handbooks set on pages: lines with their places, for whatever draws them. In one column or two, tables in columns of
their own, a running head and a number on every page."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from tauten.examples.live_chat.handbook import Figure, Heading, Paragraph, Part, Table, Title

WIDE, HIGH = 595.0, 842.0  # A4, in points
EDGE = 56.0
GUTTER = 24.0
LEADING = 1.3  # letters' heights from one line to the next
HEAD_Y, FOOT_Y = 36.0, 812.0
FIGURE_HIGH = 46.0

Measure = Callable[[str, float, bool], float]
"""The width of a text, in points, given its size and whether it is bold."""


@dataclass(slots=True)
class Line:
    """A text on a page; `x` is its left edge, `y` the foot of its letters, from the top."""

    text: str
    x: float
    y: float
    size: float
    bold: bool = False


@dataclass(slots=True)
class Page:
    """What stands on one page: lines, and frames of figures as (x, y, width, height) from the top."""

    lines: list[Line] = field(default_factory=list)
    frames: list[tuple[float, float, float, float]] = field(default_factory=list)


@dataclass(slots=True)
class Set:
    """A whole handbook: its pages, and its headings with the pages they stand on, from 0."""

    title: str
    pages: list[Page]
    marks: list[tuple[str, int]]


def typeset(parts: Sequence[Part], measure: Measure, *, columns: int = 1, size: float = 10.0) -> Set:
    """Set the parts of a handbook."""
    setter = _Setter(measure, columns, size)
    for part in parts:
        setter.part(part)
    title = next((part.text for part in parts if isinstance(part, Title)), "")
    for number, page in enumerate(setter.pages, 1):
        page.lines.append(Line(f"{title} handbook", EDGE, HEAD_Y, 8.0))
        page.lines.append(Line(str(number), WIDE / 2, FOOT_Y, 8.0))
    return Set(title, setter.pages, setter.marks)


class _Setter:
    """Where the next line goes."""

    def __init__(self, measure: Measure, columns: int, size: float) -> None:
        self._measure, self._columns, self._size = measure, columns, size
        self.pages = [Page()]
        self.marks: list[tuple[str, int]] = []
        self._column, self._y = 0, EDGE + 12.0
        self._top = self._y  # of the columns on this page
        self._width = (WIDE - 2 * EDGE - GUTTER * (columns - 1)) / columns

    @property
    def _x(self) -> float:
        return EDGE + self._column * (self._width + GUTTER)

    def part(self, part: Part) -> None:
        """Set one part below the one before."""
        if isinstance(part, Title):
            self._text(part.text, 2 * self._size, bold=True, width=WIDE - 2 * EDGE)
            self._top = self._y = self._y + self._size
        elif isinstance(part, Heading):
            self._room(6 * self._size)
            self._y += self._size
            self.marks.append((part.text, len(self.pages) - 1))
            self._text(part.text, 1.4 * self._size, bold=True)
        elif isinstance(part, Paragraph):
            self._text(part.text, self._size)
        elif isinstance(part, Table):
            self._table(part)
        elif isinstance(part, Figure):
            self._figure(part)

    def _text(self, text: str, size: float, *, bold: bool = False, width: float = 0.0) -> None:
        for line in self._wrapped(text, size, width or self._width, bold):
            self._room(size * LEADING)
            self._y += size * LEADING
            self.pages[-1].lines.append(Line(line, self._x, self._y, size, bold))
        self._y += 0.6 * size

    def _table(self, table: Table) -> None:
        self._room((2 + len(table.rows)) * LEADING * self._size)
        self._text(table.caption, self._size)
        widths = self._widths(table)
        starts = [self._x + sum(widths[:place]) for place in range(len(widths))]
        for row in table.rows:
            cells = [
                list(self._wrapped(cell, self._size, wide - 2 * self._size))
                for cell, wide in zip(row, widths, strict=True)
            ]
            height = max(map(len, cells)) * LEADING * self._size
            self._room(height)
            for place, lines in enumerate(cells):
                for number, line in enumerate(lines, 1):
                    y = self._y + number * LEADING * self._size
                    self.pages[-1].lines.append(Line(line, starts[place], y, self._size))
            self._y += height + 0.5 * self._size
        self._y += self._size

    def _widths(self, table: Table) -> list[float]:
        """Of its columns: as their longest cells ask for, all together as wide as the column of text."""
        asked = [
            max(self._measure(cell, self._size, False) for cell in column) + 2 * self._size
            for column in zip(*table.rows, strict=True)
        ]
        return [each * self._width / sum(asked) for each in asked]

    def _figure(self, figure: Figure) -> None:
        self._room(FIGURE_HIGH + 4 * self._size)
        self.pages[-1].frames.append((self._x, self._y + 4.0, self._width / 2, FIGURE_HIGH))
        self._y += FIGURE_HIGH + self._size
        self._text(figure.caption, self._size)

    def _room(self, height: float) -> None:
        """Go over to the next column or page where there is no room."""
        if self._y + height <= HIGH - EDGE:
            return
        if self._column + 1 < self._columns:
            self._column += 1
            self._y = self._top
            return
        self.pages.append(Page())
        self._column, self._y = 0, EDGE + 12.0
        self._top = self._y

    def _wrapped(self, text: str, size: float, width: float, bold: bool = False) -> Iterator[str]:
        held = ""
        for word in text.split():
            longer = f"{held} {word}".strip()
            if held and self._measure(longer, size, bold) > width:
                yield held
                held = word
            else:
                held = longer
        yield held
