"""Handbooks as files: PDF with letters, PDF of scans, pictures of pages, and marked-up or plain text."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import io
import random
from collections.abc import Callable
from importlib import resources
from typing import TYPE_CHECKING, Any

from tauten.describe.payload import Image, Payload, Pdf, Text
from tauten.examples.live_chat.handbook import Figure, Handbook, Heading, Paragraph, Part, Table, Title
from tauten.examples.live_chat.pdf_writer import as_pdf, scanned, width_of
from tauten.examples.live_chat.typeset import HIGH, WIDE, Page, Set, typeset

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

DPI = 120  # of scans: what office machines make by default lies between 100 and 200
FONT = "DejaVuSansMono.ttf"
ADVANCE = 0.602  # of its letters, in letters' heights
QUALITY = 70  # of JPEG: some 150 kB a page
SIZES = {"columns": 9.0, "scan": 9.0, "picture": 9.0}


def files(handbook: Handbook) -> list[tuple[str, Payload]]:
    """A handbook as it would be sent: (name, content); of pictures one file a page."""
    form, names = handbook.form, file_names(handbook)
    if form in _WRITTEN:
        return [(names[0], Text(_WRITTEN[form](handbook.parts)))]
    pages = _set(handbook)
    if form in ("pdf", "columns"):
        return [(names[0], Pdf(as_pdf(pages, marks=form == "columns")))]
    pictures = _pictures(pages, handbook.slug)
    if form == "scan":
        return [(names[0], Pdf(scanned([_jpeg(picture) for picture in pictures], pages.title)))]
    return [(name, Image(_png(picture))) for name, picture in zip(names, pictures, strict=True)]


def file_names(handbook: Handbook) -> list[str]:
    """What its files are called; nothing is drawn for that."""
    if handbook.form != "picture":
        return [f"{handbook.slug}.{handbook.form if handbook.form in _WRITTEN else 'pdf'}"]
    return [f"{handbook.slug}-{number}.png" for number in range(1, len(_set(handbook).pages) + 1)]


def _set(handbook: Handbook) -> Set:
    measure = width_of if handbook.form in ("pdf", "columns") else _width
    columns = 2 if handbook.form == "columns" else 1
    return typeset(handbook.parts, measure, columns=columns, size=SIZES.get(handbook.form, 10.0))


# -- pictures ------------------------------------------------------------------------------------------------


def _width(text: str, size: float, bold: bool = False) -> float:
    return len(text) * ADVANCE * size


def _pictures(pages: Set, seed: str) -> list[Picture]:
    return [_picture(page, random.Random(f"{seed}/{place}")) for place, page in enumerate(pages.pages)]


def _picture(page: Page, rng: random.Random) -> Picture:
    """A page as a scanner sees it: grey paper, a little askew."""
    from PIL import Image as Pillow
    from PIL import ImageDraw

    scale = DPI / 72
    paper = rng.randrange(238, 252)
    picture = Pillow.new("L", (round(WIDE * scale), round(HIGH * scale)), paper)
    draw = ImageDraw.Draw(picture)
    for line in page.lines:
        place = (line.x * scale, line.y * scale)
        draw.text(place, line.text, fill=rng.randrange(10, 40), font=_face(line.size * scale), anchor="ls")
    for x, y, wide, high in page.frames:
        draw.rectangle([x * scale, y * scale, (x + wide) * scale, (y + high) * scale], outline=60, width=2)
    return picture.rotate(rng.uniform(-0.4, 0.4), Pillow.Resampling.BICUBIC, fillcolor=paper)


@functools.lru_cache(maxsize=16)
def _face(size: float) -> Any:
    from PIL import ImageFont

    folder = resources.files("tauten.examples.help_desk").joinpath("fonts")
    return ImageFont.truetype(io.BytesIO(folder.joinpath(FONT).read_bytes()), size)


def _jpeg(picture: Picture) -> tuple[bytes, int, int]:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue(), picture.width, picture.height


def _png(picture: Picture) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


# -- text ----------------------------------------------------------------------------------------------------


def _markdown(parts: tuple[Part, ...]) -> str:
    heads = {Title: "# {}", Heading: "## {}"}
    return _text(parts, lambda part: heads[part.__class__].format(part.text), "* ")


def _rst(parts: tuple[Part, ...]) -> str:
    rules = {Title: "=", Heading: "-"}
    return _text(parts, lambda part: f"{part.text}\n{rules[part.__class__] * len(part.text)}", "* ")


def _plain(parts: tuple[Part, ...]) -> str:
    return _text(parts, lambda part: part.text, "- ")


def _text(parts: tuple[Part, ...], head: Any, bullet: str) -> str:
    blocks = []
    for part in parts:
        if isinstance(part, Title | Heading):
            blocks.append(head(part))
        elif isinstance(part, Paragraph):
            blocks.append(part.text)
        elif isinstance(part, Figure):
            blocks.append(part.caption)
        else:
            blocks += [f"{part.caption}.", "\n".join(f"{bullet}{row}" for row in _rows(part))]
    return "\n\n".join(blocks) + "\n"


def _rows(table: Table) -> list[str]:
    """Rows as sentences, as a person writes them into a list."""
    if len(table.rows[0]) == 2:
        return [f"{name}: {value}." for name, value in table.rows]
    head, *rows = table.rows
    return [
        f"{row[0]}: "
        + ", ".join(f"{name} {cell}" for name, cell in zip(head[1:], row[1:], strict=True))
        + "."
        for row in rows
    ]


_WRITTEN: dict[str, Callable[[tuple[Part, ...]], str]] = {"md": _markdown, "rst": _rst, "txt": _plain}
