"""Documents of pages: what a PDF's letters say, and pictures of the pages whose letters are not in the file.

sheets = pages(file)
read = tt.map(ocr, pictures(sheets))
sections = laid_out("guide.pdf", sheets, read)
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import msgspec

from tauten.describe.layout import sections_of_sheets
from tauten.describe.passages import Section
from tauten.describe.payload import Image, Pdf, Text
from tauten.describe.sheets import Sheet, Sheets, Span
from tauten.describe.stage import Context, stage
from tauten.describe.view import View
from tauten.errors import StageError

WIDTH = 595.0  # points that a picture of a page is taken to be wide: A4, so that its letters have usual sizes


class Lines(Protocol):
    """What reads a picture gives: `ocr` does. Boxes are four corners from the top left, in pixels."""

    @property
    def lines(self) -> Sequence[Any]: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...


@stage(pure=True, views={"file": View("pages", {"max_pages": 300, "max_seconds": 60.0})})
async def pages(
    ctx: Context, file: Pdf | Image | Text, *, max_pages: int = 300, max_seconds: float = 60.0
) -> Sheets:
    """Read the pages of a document: letters with their places, and a picture of each page that has none in the file.

    A picture is one page; a text has none. Both settings belong to the `pages` view and take effect while decoding.
    Raises MediaError for a PDF that is damaged (E216), locked (E220) or beyond the limits (E215).
    """
    if isinstance(file, Sheets):  # the view stands in for the payload
        return file
    if isinstance(file, Image):
        return Sheets((Sheet(1, WIDTH, WIDTH, picture=file.data),), file.hash)
    return Sheets()


@stage(pure=True)
def pictures(sheets: Sheets) -> list[Image]:
    """The pages that must be read from their pictures, in order."""
    return [Image(sheet.picture) for sheet in sheets.sheets if sheet.seen]


@stage(pure=True)
def laid_out(source: str, sheets: Sheets, read: list[Any]) -> list[Section]:
    """Sections of a document of pages: columns in order, headings, tables as sentences, captions.

    `read` is what was read from its `pictures`. Each section's link is the source with the page where it begins.
    """
    return sections_of_sheets(str(source), with_lines(sheets, read))


def with_lines(sheets: Sheets, read: Sequence[Lines]) -> Sheets:
    """The sheets with what was read from their pictures; raises StageError where there are fewer or more readings."""
    seen = sum(sheet.seen for sheet in sheets.sheets)
    if seen != len(read):
        raise StageError(
            f"{len(read)} readings were given of {seen} pictures of pages",
            help='read each with tt.map(tt.ocr, pictures(sheets)), without errors="drop"',
        )
    readings = iter(read)
    filled = [_read(sheet, next(readings)) if sheet.seen else sheet for sheet in sheets.sheets]
    return msgspec.structs.replace(sheets, sheets=tuple(filled))


def _read(sheet: Sheet, lines: Lines) -> Sheet:
    scale = sheet.width / max(lines.width, 1)
    spans = tuple(_spans(lines, scale))
    return msgspec.structs.replace(sheet, height=max(lines.height, 1) * scale, spans=spans)


def _spans(lines: Lines, scale: float) -> Iterator[Span]:
    """Lines of a picture in points."""
    for line in lines.lines:
        across, down = ([corner[axis] * scale for corner in line.box] for axis in (0, 1))
        if line.text.strip() and max(down) > min(down):
            yield Span(
                line.text.strip(), min(across), min(down), max(across), max(down), max(down) - min(down)
            )
