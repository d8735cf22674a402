"""The sheets of a document as sections: headings, paragraphs, tables and captions, as their letters stand.

A heading is what the file's own table of contents names, or what is larger or bolder than the text and stands alone.
A table becomes one sentence a row, under its caption; a figure's caption stays. Running heads and page numbers go.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import itertools
import math
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence

from tauten.describe.passages import Block, Section
from tauten.describe.reading_order import Row, columns_of, without_running_heads
from tauten.describe.sheets import Mark, Sheets, Span
from tauten.describe.table_rows import follows, grid, sentences

LARGER = 1.1  # times the text's size is a heading: the smallest step that books use, 9 to 10 points, is 1.11
LARGER_SEEN = 1.3  # boxes around letters in pictures differ by a fifth where all letters have one size
LONGEST_HEADING = 14  # words; what is longer is a paragraph in large letters
APART = 1.35  # times the usual distance of rows begins a paragraph
USUAL_LEADING = 1.25  # distance of rows in letters' heights where a document is too short to tell
WIDE_ROW = 0.6  # of the widest row: a line of a paragraph that another one follows
TORN = 6.0  # letters' heights: a first cell as wide, in the middle of a paragraph, is a line with a wide gap
TOP, MARKED, BOLD = (
    0,
    1,
    50,
)  # levels: the largest letters, the file's own contents, bold letters of the text's size
_CAPTION = re.compile(r"(?P<kind>Table|Tab\.|Figure|Fig\.)\s*\d+[a-z]?\s*[.:–—-]?\s", re.IGNORECASE)
_BULLET = re.compile(r"(?P<sign>[•‣▪●◦·*–—-]|\(?\d{1,2}[.)]|\(?[a-z]\))\s+(?=\S)")
_NUMBERED = re.compile(r"(\d+(?:\.\d+)*)\.?\s+\S")
_ENDS = (".", "!", "?", ":", ";", "”", '"', ")")


def sections_of_sheets(source: str, sheets: Sheets, url: str = "") -> list[Section]:
    """What a document says, by heading; each section's link names the page where it begins."""
    columns = [column for sheet in without_running_heads(sheets.sheets) for column in columns_of(sheet)]
    laid = _Layout(source, url or source, _Letters(columns), sheets.marks)
    for row in (row for column in columns for row in column):
        laid.row(row)
    return laid.done()


class _Letters:
    """How large a document's letters are and how far apart its rows, in the file and in pictures each."""

    def __init__(self, columns: Sequence[Sequence[Row]]) -> None:
        self._body = {seen: _usual_size(_rows(columns, seen)) for seen in (False, True)}
        self._leading = {seen: _usual_leading(columns, seen) for seen in (False, True)}
        rows = [row for column in columns for row in column]
        bold = sum(len(row.text) for row in rows if row.bold)
        self._mostly_bold = 2 * bold > sum(len(row.text) for row in rows)
        large = [row for row in rows if self._is_large(row)]
        self._steps = {
            seen: sorted({_step(row) for row in large if row.seen == seen}, reverse=True)
            for seen in (False, True)
        }

    def _ratio(self, row: Row) -> float:
        return row.size / self._body[row.seen]

    def _is_large(self, row: Row) -> bool:
        return self._ratio(row) >= (LARGER_SEEN if row.seen else LARGER)

    def level(self, row: Row) -> int | None:
        """The level of a heading by its letters; None for what is none."""
        if len(row.cells) > 1 or len(row.text.split()) > LONGEST_HEADING or _CAPTION.match(row.text):
            return None
        if row.text.endswith((".", ",", ";")) or not any(char.isalpha() for char in row.text):
            return None
        if self._is_large(row):
            rank = self._steps[row.seen].index(_step(row))
            return MARKED + rank if rank else TOP
        stands_out = row.bold and not self._mostly_bold and self._ratio(row) > 1 / LARGER
        return BOLD + _depth(row.text) if stands_out else None

    def apart(self, above: Row, row: Row) -> bool:
        """Whether more than the usual distance lies between two rows, or another column."""
        distance = row.middle - above.middle
        return distance < 0 or distance > APART * self._leading[row.seen] * max(above.size, row.size)


class _Layout:
    """Takes rows in their order and makes sections of them."""

    def __init__(self, source: str, link: str, letters: _Letters, marks: Sequence[Mark]) -> None:
        self._source, self._link, self._letters = source, link, letters
        self._marks = {_plain(mark.title): mark for mark in marks}
        self._sections: list[Section] = []
        self._heads: list[tuple[int, str]] = []
        self._blocks: list[Block] = []
        self._lines: list[str] = []
        self._table: list[Row] = []
        self._bare = False  # nothing stands under the last heading yet
        self._caption = ""  # of the table that should come next, or is being read
        self._sheet = 0  # on which the section begins
        self._above: Row | None = None

    def done(self) -> list[Section]:
        """All sections."""
        self._end_section()
        self._bare_heading()
        return self._sections

    def row(self, row: Row) -> None:
        """Take the next row: of a heading, a table or a paragraph."""
        row = _numbered(row)
        level = self._level(row)
        if level is not None:
            self._heading(row, level)
        elif self._table and follows(row, self._table):
            self._table.append(row)
        elif len(row.cells) > 1 and not self._torn(row):
            self._begin_table(row)
        else:
            self._end_table()
            self._line(row)
        self._above = row

    # -- headings --------------------------------------------------------------------------------------------

    def _level(self, row: Row) -> int | None:
        mark = self._marks.get(_plain(row.text))
        if mark is not None and abs(mark.sheet - row.sheet) <= 1:
            return MARKED + mark.level
        return self._letters.level(row)

    def _heading(self, row: Row, level: int) -> None:
        if self._goes_on(row, level):
            self._heads[-1] = (level, f"{self._heads[-1][1]} {row.text}")
            return
        self._end_section()
        if self._heads and level <= self._heads[-1][0]:
            self._bare_heading()
        self._heads = [head for head in self._heads if head[0] < level] + [(level, row.text)]
        self._bare, self._sheet = True, row.sheet

    def _bare_heading(self) -> None:
        """A heading with nothing under it is said all the same: of slides and posters it is all there is."""
        if self._bare:
            self._blocks.append(Block(self._heads[-1][1]))
            self._keep_section()

    def _goes_on(self, row: Row, level: int) -> bool:
        """Whether a heading is the second line of the one above it."""
        above = self._above
        if above is None or not self._bare or self._lines or self._table or self._caption:
            return False
        same = self._heads[-1][0] == level and above.sheet == row.sheet
        return same and not self._letters.apart(above, row) and not _NUMBERED.match(row.text)

    # -- paragraphs ------------------------------------------------------------------------------------------

    def _line(self, row: Row) -> None:
        if self._lines and not self._continues(row):
            self._end_paragraph()
        if not self._lines:
            self._loose_caption()
            self._turn(row)
        self._lines.append(row.text)

    def _continues(self, row: Row) -> bool:
        """Whether a row belongs to the paragraph above it, maybe in the column or on the page before."""
        above = self._above
        if above is None or _BULLET.match(row.text) or _CAPTION.match(row.text):
            return False
        if row.sheet == above.sheet and row.middle > above.middle:
            return not self._letters.apart(above, row)
        return not self._lines[-1].endswith(_ENDS) and not row.text[:1].isupper()

    def _torn(self, row: Row) -> bool:
        """Whether a row of several cells is a line of the paragraph, set with a wide gap."""
        if not self._lines or _CAPTION.match(self._lines[0]) or not self._continues(row):
            return False
        return row.cells[0].right - row.cells[0].left > TORN * row.size

    def _end_paragraph(self) -> None:
        if not self._lines:
            return
        text, self._lines = _joined(self._lines), []
        caption = _CAPTION.match(text)
        if caption and caption["kind"].lower().startswith("tab"):
            self._keep_section()
            self._caption = text
        else:
            self._blocks.append(Block(_item(text)))

    def _turn(self, row: Row) -> None:
        """What begins on another page is a section of its own there, so that its link names the right page."""
        if self._blocks and row.sheet != self._sheet:
            self._keep_section()
        if not self._blocks:
            self._sheet = row.sheet

    # -- tables ----------------------------------------------------------------------------------------------

    def _begin_table(self, row: Row) -> None:
        self._end_table()
        self._end_paragraph()
        self._turn(row)
        self._table = [row]

    def _end_table(self) -> None:
        """Make sentences of the table; under its caption they are a section of their own."""
        if not self._table:
            return
        self._blocks += [Block(sentence) for sentence in sentences(grid(self._table))]
        self._table = []
        if self._caption:
            self._keep_section()

    def _loose_caption(self) -> None:
        """A caption that no table followed is text like any other."""
        if self._caption:
            self._blocks.append(Block(self._caption))
            self._caption = ""

    # -- sections --------------------------------------------------------------------------------------------

    def _end_section(self) -> None:
        self._end_paragraph()
        self._end_table()
        self._loose_caption()
        self._keep_section()

    def _keep_section(self) -> None:
        if self._blocks:
            titles = [title for _, title in self._heads] or [self._source]
            titles += [self._caption] if self._caption else []
            link = f"{self._link}#page={max(self._sheet, 1)}"
            self._sections.append(Section(self._source, tuple(titles), tuple(self._blocks), url=link))
            self._bare = False
        self._blocks, self._caption = [], ""


# -- letters -------------------------------------------------------------------------------------------------


def _rows(columns: Iterable[Sequence[Row]], seen: bool) -> list[Row]:
    return [row for column in columns for row in column if row.seen == seen]


def _usual_size(rows: Sequence[Row]) -> float:
    """The size in which most letters stand."""
    if not rows:
        return 1.0
    if rows[0].seen:  # no two boxes have one height: the middle one, by letters
        return statistics.median(row.size for row in rows for _ in range(1 + len(row.text) // 10))
    counts: Counter[float] = Counter()
    for row in rows:
        counts[_step(row)] += len(row.text)
    return max(counts.most_common(1)[0][0], 0.5)


def _usual_leading(columns: Iterable[Sequence[Row]], seen: bool) -> float:
    """The distance of two rows of a paragraph in letters' heights: below wide rows, in the lower middle."""
    pairs = [
        (above, row)
        for column in columns
        for above, row in itertools.pairwise(column)
        if row.seen == seen and row.sheet == above.sheet and row.middle > above.middle
    ]
    widest = max((_width(above) for above, _ in pairs), default=0.0)
    wide = [(above, row) for above, row in pairs if _width(above) >= WIDE_ROW * widest]
    chosen = wide if len(wide) >= 3 else pairs
    found = sorted((row.middle - above.middle) / max(row.size, above.size) for above, row in chosen)
    return found[len(found) * 2 // 5] if len(found) >= 3 else USUAL_LEADING


def _width(row: Row) -> float:
    """Of a row of text; a table's rows are none."""
    return row.cells[0].right - row.cells[0].left if len(row.cells) == 1 else 0.0


def _step(row: Row) -> float:
    """The size to half a point, which a renderer's rounding stays within; of pictures to a quarter of itself."""
    return round(math.log(row.size, 1.25)) if row.seen else round(row.size * 2) / 2


# -- words ---------------------------------------------------------------------------------------------------


_LABEL = re.compile(r"(?:\d+(?:\.\d+)*\.?|[•‣▪●◦·*–—-]|\(?\d{1,2}\)|\(?[a-z]\))")


def _numbered(row: Row) -> Row:
    """A row whose first cell is but a number or a bullet, as one cell."""
    if len(row.cells) != 2 or not _LABEL.fullmatch(row.cells[0].text):
        return row
    one, other = row.cells
    whole = Span(row.text, one.left, one.top, other.right, other.bottom, row.size, one.bold and other.bold)
    return Row((whole,), row.sheet, row.seen)


def _depth(text: str) -> int:
    """How deep a numbered heading is: 2.1 is deeper than 2."""
    found = _NUMBERED.match(text)
    return found[1].count(".") if found else 0


def _plain(text: str) -> str:
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()


def _item(text: str) -> str:
    """A paragraph, with a plain sign where it is an item of a list without numbers."""
    bullet = _BULLET.match(text)
    return f"- {text[bullet.end() :]}" if bullet and bullet["sign"][-1] not in ".)" else text


def _joined(lines: Sequence[str]) -> str:
    """Lines as one text; a word that was parted at the end of a line is whole again."""
    text = lines[0]
    for line in lines[1:]:
        parted = len(text) > 1 and text.endswith("-") and text[-2].isalpha() and line[:1].islower()
        text = f"{text[:-1]}{line}" if parted else f"{text} {line}"
    return " ".join(text.split())
