"""Set pages as PDF: text in Helvetica, which every reader has, a table of contents, or one picture a page."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Sequence

from tauten.examples.live_chat.typeset import HIGH, WIDE, Line, Page, Set

# Widths of Helvetica's letters from the space on, in thousandths of its size, as Adobe's metrics for the font give them.
_WIDTHS = [
    *(278, 278, 355, 556, 556, 889, 667, 191, 333, 333, 389, 584, 278, 333, 278, 278),
    *(556, 556, 556, 556, 556, 556, 556, 556, 556, 556, 278, 278, 584, 584, 584, 556),
    *(1015, 667, 667, 722, 722, 667, 611, 778, 722, 278, 500, 667, 556, 833, 722, 778),
    *(667, 778, 722, 667, 611, 722, 667, 944, 667, 667, 611, 278, 278, 278, 469, 556),
    *(333, 556, 556, 500, 556, 556, 278, 556, 556, 222, 222, 500, 222, 833, 556, 556),
    *(556, 556, 333, 500, 278, 556, 500, 722, 500, 500, 500, 334, 260, 334, 584),
]
_WIDEST = 1015
_BOLD = 1.07  # bold letters are wider by about this


def width_of(text: str, size: float, bold: bool = False) -> float:
    """The width of a text in points."""
    places = (ord(char) - 32 for char in text)
    total = sum(_WIDTHS[place] if 0 <= place < len(_WIDTHS) else _WIDEST for place in places)
    return total * size / 1000 * (_BOLD if bold else 1.0)


def as_pdf(pages: Set, *, marks: bool = False) -> bytes:
    """The file; with `marks` it carries its table of contents."""
    file = _File()
    fonts = [file.add(_font("Helvetica")), file.add(_font("Helvetica-Bold"))]
    resources = f"/Font << /F1 {fonts[0]} 0 R /F2 {fonts[1]} 0 R >>"
    kids = [file.page(resources, _content(page)) for page in pages.pages]
    return file.whole(kids, pages.marks if marks else [], pages.title)


def scanned(pictures: Sequence[tuple[bytes, int, int]], title: str) -> bytes:
    """A file of JPEG pictures (bytes, width, height), one a page, without a letter of text."""
    file = _File()
    kids = []
    for data, wide, high in pictures:
        head = (
            f"/Type /XObject /Subtype /Image /Width {wide} /Height {high} /ColorSpace /DeviceGray "
            "/BitsPerComponent 8 /Filter /DCTDecode"
        )
        picture = file.stream(head, data)
        drawn = f"q {WIDE:g} 0 0 {HIGH:g} 0 0 cm /Im0 Do Q".encode()
        kids.append(file.page(f"/XObject << /Im0 {picture} 0 R >>", drawn))
    return file.whole(kids, [], title)


def _font(name: str) -> bytes:
    return f"<< /Type /Font /Subtype /Type1 /BaseFont /{name} /Encoding /WinAnsiEncoding >>".encode()


def _content(page: Page) -> bytes:
    drawn = [_shown(line) for line in page.lines]
    drawn += [f"{x:.1f} {HIGH - y - high:.1f} {wide:.1f} {high:.1f} re S" for x, y, wide, high in page.frames]
    return "\n".join(drawn).encode("cp1252", "replace")


def _shown(line: Line) -> str:
    font = "/F2" if line.bold else "/F1"
    return f"BT {font} {line.size:g} Tf {line.x:.2f} {HIGH - line.y:.2f} Td ({escaped(line.text)}) Tj ET"


def escaped(text: str) -> str:
    """A text as PDF writes strings."""
    return text.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")


class _File:
    """Objects by number, from 1; the first two are the catalogue and the tree of pages."""

    def __init__(self) -> None:
        self._objects: list[bytes] = [b"", b""]

    def add(self, body: bytes) -> int:
        self._objects.append(body)
        return len(self._objects)

    def stream(self, head: str, data: bytes) -> int:
        return self.add(f"<< {head} /Length {len(data)} >>\nstream\n".encode() + data + b"\nendstream")

    def page(self, resources: str, content: bytes) -> int:
        drawn = self.stream("", content)
        return self.add(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {WIDE:g} {HIGH:g}] "
            f"/Resources << {resources} >> /Contents {drawn} 0 R >>".encode()
        )

    def whole(self, kids: Sequence[int], marks: Sequence[tuple[str, int]], title: str) -> bytes:
        outlines = self._outlines(kids, marks) if marks else 0
        info = self.add(f"<< /Title ({escaped(title)}) >>".encode("cp1252", "replace"))
        more = f" /Outlines {outlines} 0 R" if outlines else ""
        self._objects[0] = f"<< /Type /Catalog /Pages 2 0 R{more} >>".encode()
        named = " ".join(f"{kid} 0 R" for kid in kids)
        self._objects[1] = f"<< /Type /Pages /Kids [{named}] /Count {len(kids)} >>".encode()
        return self._written(info)

    def _outlines(self, kids: Sequence[int], marks: Sequence[tuple[str, int]]) -> int:
        first = len(self._objects) + 1
        root = first + len(marks)
        for place, (text, page) in enumerate(marks):
            links = f"/Prev {first + place - 1} 0 R " if place else ""
            links += f"/Next {first + place + 1} 0 R " if place + 1 < len(marks) else ""
            self.add(
                f"<< /Title ({escaped(text)}) /Parent {root} 0 R {links}/Dest [{kids[page]} 0 R /Fit] >>".encode(
                    "cp1252", "replace"
                )
            )
        last = root - 1
        return self.add(
            f"<< /Type /Outlines /First {first} 0 R /Last {last} 0 R /Count {len(marks)} >>".encode()
        )

    def _written(self, info: int) -> bytes:
        out = bytearray(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")
        places = []
        for number, body in enumerate(self._objects, 1):
            places.append(len(out))
            out += f"{number} 0 obj\n".encode() + body + b"\nendobj\n"
        start = len(out)
        out += f"xref\n0 {len(places) + 1}\n0000000000 65535 f \n".encode()
        out += b"".join(f"{place:010d} 00000 n \n".encode() for place in places)
        out += f"trailer\n<< /Size {len(places) + 1} /Root 1 0 R /Info {info} 0 R >>\nstartxref\n{start}\n%%EOF\n".encode()
        return bytes(out)
