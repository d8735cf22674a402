"""The codec `pages`: PDF to sheets, with the letters of each and, of those without letters, a picture.

PDFium reads (BSD-3-Clause and Apache-2.0, by pypdfium2). It is not made for threads: one document at a time. What no
bound on pages, letters, pixels and seconds catches, a process does: `decode = "process"` for documents of strangers.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from time import monotonic
from typing import Any, ClassVar, NamedTuple

from tauten.describe.payload import Image, Payload, Pdf
from tauten.describe.sheets import Mark, Sheet, Sheets, Span
from tauten.errors import MachineError, MediaError
from tauten.run.decode.media import check_pixels, checked_params, damaged, decoding

MAX_PAGES = 300  # a long manual; beyond it a minute does not suffice on one core
MAX_SECONDS = 60.0  # some 20 ms a page of text and 200 ms a page that is drawn
MAX_LETTERS = 3_000_000  # of all pages: three letters in four of the longest novels
MAX_PICTURE_BYTES = 128 * 1024 * 1024  # of all pages that are drawn: some three hundred scans
DPI = 150  # letters of ten points are 21 pixels high: readers of pictures want 15 or more
LONGEST_SIDE_PX = 2000  # of a drawn page: what reads it reduces larger ones to that
LEAST_LETTERS = 8  # fewer are a page number or a stamp on a page that is a picture
MOST_UNREADABLE = 0.3  # share of letters without a name; beyond it a page is read from its picture
SCANNED = 0.5  # of a page under one picture, with fewer letters than a paragraph: a scan with a stamp
STAMPED = 200  # letters: what a stamp or a running head has at most
LARGEST = 144_000.0  # points a side: ten times what the format allows, and still a number to reckon with
MOST_MARKS = 5_000  # entries of a table of contents
DEEPEST = 6  # levels of it, as headings have
GAP = 1.0  # letters' heights between two spans of a row: what is nearer is one text
BOLD = 600  # from this weight on letters are bold
_LIGATURES = {
    0xFB00: "ff",
    0xFB01: "fi",
    0xFB02: "fl",
    0xFB03: "ffi",
    0xFB04: "ffl",
    0xFB05: "st",
    0xFB06: "st",
}
_HYPHENS = frozenset({0x02, 0xAD, 0xFFFE})  # at the end of a line, as PDFium tells them
_ENDS_LINE = frozenset({0x0A, 0x0D})
_SPACES = frozenset({0x20, 0xA0, 0x09})
_one_at_a_time = threading.Lock()


class PagesCodec:
    """Decodes a PDF to `Sheets`. `max_pages` and `max_seconds` bound the whole, `dpi` is that of drawn pages."""

    name: ClassVar[str] = "pages"
    param_keys: ClassVar[Mapping[str, type]] = {"max_pages": int, "max_seconds": float, "dpi": int}

    def accepts(self, payload: Payload) -> bool:
        return isinstance(payload, Pdf)

    def decode(self, data: bytes, media_type: str, params: Mapping[str, Any], name: str) -> Sheets:
        """Raises MediaError: E215 over the limits, E216 damaged, E220 locked; MachineError E320 without PDFium."""
        low = {"max_pages": 1, "max_seconds": 0.001, "dpi": 36}
        wish = checked_params(self.name, params, self.param_keys, low)
        _import()
        with decoding("PDF"), _one_at_a_time, closing(_opened(data)) as document:
            return _Reading(document, wish).whole(name)


def _import() -> Any:
    try:
        import pypdfium2
    except ImportError as error:
        raise MachineError(
            "no decoder is installed for PDF",
            help="pip install 'tauten[local]' adds pypdfium2",
            code="E320",
        ) from error
    return pypdfium2


def _opened(data: bytes) -> Any:
    pdfium = _import()
    try:
        return pdfium.PdfDocument(data)
    except pdfium.PdfiumError as error:
        raw = pdfium.raw
        if error.err_code in (raw.FPDF_ERR_PASSWORD, raw.FPDF_ERR_SECURITY):
            raise MediaError(
                "a PDF that asks for a password", help="save it without one", code="E220"
            ) from error
        raise damaged("PDF", "it has no pages that can be read") from error


class _Reading:
    """One document on its way, and what it may still take."""

    def __init__(self, document: Any, wish: Mapping[str, Any]) -> None:
        self._document = document
        self._pages = len(document)
        self._seconds = wish.get("max_seconds", MAX_SECONDS)
        self._dpi = wish.get("dpi", DPI)
        self._ends = monotonic() + self._seconds
        self._letters = self._picture_bytes = 0
        _check(
            self._pages, wish.get("max_pages", MAX_PAGES), "pages", "raise `max_pages`, or cut it into parts"
        )

    def whole(self, name: str) -> Sheets:
        sheets = tuple(self._sheet(place) for place in range(self._pages))
        return Sheets(sheets, name, tuple(_marks(self._document)))

    def _sheet(self, place: int) -> Sheet:
        self._check_time()
        with closing(self._document[place]) as page, closing(page.get_textpage()) as text:
            frame = _Frame.of(page)
            count = text.count_chars()
            self._letters += count
            _check(self._letters, MAX_LETTERS, "letters", "cut it into parts")
            letters = list(_letters(text.raw, count, frame))
            spans = tuple(_spans(text.raw, letters))
            if not _is_picture(letters, _drawn_share(page, frame)):
                return Sheet(place + 1, frame.width, frame.height, spans)
            return Sheet(place + 1, frame.width, frame.height, picture=self._drawn(page, frame))

    def _drawn(self, page: Any, frame: _Frame) -> bytes:
        self._check_time()
        scale = min(self._dpi / 72, LONGEST_SIDE_PX / max(frame.width, frame.height))
        with closing(page.render(scale=scale, rev_byteorder=True, may_draw_forms=False)) as bitmap:
            picture = Image.from_array(bitmap.to_numpy()).data
        self._picture_bytes += len(picture)
        _check(self._picture_bytes, MAX_PICTURE_BYTES, "bytes of drawn pages", "cut it into parts")
        return picture

    def _check_time(self) -> None:
        if monotonic() > self._ends:
            raise MediaError(
                f"a PDF of {self._pages} pages is not read after {self._seconds:g} s",
                help="cut it into parts, or raise `max_seconds` in the plan",
                code="E215",
            )


def _check(seen: int, most: int, what: str, help: str) -> None:
    if seen > most:
        raise MediaError(f"a PDF of {seen} {what}; at most {most} are read", help=help, code="E215")


# -- letters -------------------------------------------------------------------------------------------------


class _Frame(NamedTuple):
    """The part of the plane that a page shows, and how it is turned."""

    left: float
    bottom: float
    wide: float
    high: float
    turn: int

    @classmethod
    def of(cls, page: Any) -> _Frame:
        left, bottom, right, top = page.get_bbox()
        wide, high = right - left, top - bottom
        if not (1 <= wide <= LARGEST and 1 <= high <= LARGEST):
            raise damaged("PDF", f"a page of {wide:g} by {high:g} points")
        return cls(left, bottom, wide, high, page.get_rotation() % 360)

    @property
    def width(self) -> float:
        return self.high if self.turn in (90, 270) else self.wide

    @property
    def height(self) -> float:
        return self.wide if self.turn in (90, 270) else self.high

    def box(self, left: float, bottom: float, right: float, top: float) -> tuple[float, float, float, float]:
        """A box of the page's own plane as it is seen: left, top, right, bottom from the top left corner."""
        x0, x1 = left - self.left, right - self.left
        y0, y1 = bottom - self.bottom, top - self.bottom
        if self.turn == 90:
            return y0, x0, y1, x1
        if self.turn == 180:
            return self.wide - x1, y0, self.wide - x0, y1
        if self.turn == 270:
            return self.high - y1, self.wide - x1, self.high - y0, self.wide - x0
        return x0, self.high - y1, x1, self.high - y0


class _Letter(NamedTuple):
    """One letter: its place in the file's order, what it is ("" is one that the file does not name), its box."""

    place: int
    text: str
    left: float = 0.0
    top: float = 0.0
    right: float = 0.0
    bottom: float = 0.0

    @property
    def size(self) -> float:
        return self.bottom - self.top


def _letters(text: Any, count: int, frame: _Frame) -> Iterator[_Letter]:
    """The letters of a page that it shows; ends of lines and spaces as well, without boxes."""
    from pypdfium2 import raw

    rect = raw.FS_RECTF()
    for place in range(count):
        code = raw.FPDFText_GetUnicode(text, place)
        if code in _ENDS_LINE:
            yield _Letter(place, "\n")
            continue
        if code in _SPACES:
            yield _Letter(place, " ")
            continue
        if not raw.FPDFText_GetLooseCharBox(text, place, rect):
            continue
        box = frame.box(rect.left, rect.bottom, rect.right, rect.top)
        shown = box[2] > 0 and box[0] < frame.width and box[3] > 0 and box[1] < frame.height
        if shown and 0.5 < box[3] - box[1] <= 2 * frame.height:  # what is smaller or larger nobody reads
            unmapped = raw.FPDFText_HasUnicodeMapError(text, place) == 1
            yield _Letter(place, "" if unmapped else _character(code), *box)


def _character(code: int) -> str:
    """A code as text; empty where the file gives a letter no name."""
    if code in _HYPHENS:
        return "-"
    if code in _LIGATURES:
        return _LIGATURES[code]
    nameless = code < 0x20 or 0xD800 <= code < 0xE000 or 0xE000 <= code < 0xF900 or code >= 0xF0000
    return "" if nameless or code == 0xFFFD else chr(code)


def _is_picture(letters: list[_Letter], drawn: float) -> bool:
    """Whether a page must be read from its picture: it shows something, and the file names too little of it."""
    marks = [letter for letter in letters if letter.size > 0]
    named = sum(bool(letter.text) for letter in marks)
    if named >= LEAST_LETTERS and len(marks) - named <= MOST_UNREADABLE * len(marks):
        return drawn >= SCANNED and named < STAMPED
    return drawn > 0


def _spans(text: Any, letters: list[_Letter]) -> Iterator[Span]:
    """Runs of letters side by side."""
    run: list[_Letter] = []
    held = False  # a space is pending
    said = ""
    for letter in letters:
        if letter.text == "\n" or (run and letter.size > 0 and not _beside(run[-1], letter)):
            if run:
                yield _span(text, said, run)
            run, said, held = [], "", False
        if letter.size > 0:
            said += f" {letter.text}" if held and run else letter.text
            run.append(letter)
            held = False
        elif letter.text == " ":
            held = True
    if run:
        yield _span(text, said, run)


def _beside(one: _Letter, other: _Letter) -> bool:
    size = max(one.size, other.size)
    middle = abs((one.top + one.bottom) - (other.top + other.bottom)) / 2
    return middle < size / 2 and -size / 2 <= other.left - one.right <= GAP * size


def _span(text: Any, said: str, run: list[_Letter]) -> Span:
    size = sorted(letter.size for letter in run)[len(run) // 2]
    bold = _is_bold(text, run[0].place) and _is_bold(text, run[-1].place)
    left, right = min(each.left for each in run), max(each.right for each in run)
    top, bottom = min(each.top for each in run), max(each.bottom for each in run)
    return Span(said.strip(), left, top, right, bottom, size, bold)


def _is_bold(text: Any, place: int) -> bool:
    """By the letter's weight, or by the name of its font."""
    import ctypes

    from pypdfium2 import raw

    if raw.FPDFText_GetFontWeight(text, place) >= BOLD:
        return True
    name, flags = ctypes.create_string_buffer(128), ctypes.c_int()
    size = raw.FPDFText_GetFontInfo(text, place, name, len(name), flags)
    return 0 < size <= len(name) and b"bold" in name.value.lower()


# -- the rest of a page, and of the file ---------------------------------------------------------------------


def _drawn_share(page: Any, frame: _Frame) -> float:
    """The share of a page that its largest picture covers; a little where it shows anything else, 0 for nothing.

    Pictures beyond the bounds are refused before they are decoded.
    """
    from pypdfium2 import raw

    share = 0.0
    for thing in page.get_objects(max_depth=4):
        share = max(share, 0.001)
        if thing.type == raw.FPDF_PAGEOBJ_IMAGE:
            wide, high = thing.get_px_size()
            check_pixels(max(wide, 1), max(high, 1), "a picture in a PDF")
            left, bottom, right, top = thing.get_bounds()
            share = max(share, (right - left) * (top - bottom) / (frame.wide * frame.high))
    return share


def _marks(document: Any) -> Iterator[Mark]:
    """The file's own table of contents."""
    for count, each in enumerate(document.get_toc(max_depth=DEEPEST)):
        if count >= MOST_MARKS:
            return
        target = each.get_dest()
        place = target.get_index() if target is not None else None
        title = " ".join(each.get_title().split())
        if place is not None and title:
            yield Mark(each.level, title, place + 1)
