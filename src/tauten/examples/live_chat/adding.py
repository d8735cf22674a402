"""A document comes in: its pages are read, cut, embedded and committed while the chat goes on answering."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re

import msgspec

import tauten as tt
from tauten.describe.passages import Chunk, Document, IndexReport, Section
from tauten.describe.sheets import Sheets
from tauten.describe.stages.chunk import chunk
from tauten.describe.stages.clean import sections_of
from tauten.describe.stages.pages import laid_out, pictures
from tauten.describe.stages.store import add
from tauten.errors import InputError
from tauten.examples.live_chat.library import documents

FORMATS = {"rst": "rst", "md": "markdown", "markdown": "markdown"}
NAME = re.compile(r"[^\x00-\x1f\x7f]{1,200}")  # a label, never a path: any letters, on one line


class Added(msgspec.Struct, frozen=True):
    """What came of it."""

    name: str
    pages: int
    drawn: int  # pages without letters, read from their pictures
    chunks: int
    kept: int  # chunks of the index before, other documents' as well
    total: int  # of the index now


@tt.stage(pure=True)
def sections(
    file: tt.Pdf | tt.Image | tt.Text, name: str, sheets: Sheets, read: list[tt.Page]
) -> list[Section]:
    """What the document says, by heading; raises InputError E222 where it says nothing, or its name is none."""
    if not NAME.fullmatch(name) or not name.strip():
        raise InputError(
            f"{name[:60]!r} is no name for a document", help="give one line of up to 200 letters", code="E222"
        )
    if isinstance(file, tt.Text):
        suffix = name.rpartition(".")[2].lower()
        found = sections_of(Document(name, file.text, FORMATS.get(suffix, "text")))
    else:
        found = laid_out.function(name, sheets, read)
    if not found:
        raise InputError(
            f"{name} says nothing that can be read", help="send a document with text", code="E222"
        )
    return found


@tt.stage(pure=True)
def embedded(chunks: list[Chunk]) -> list[tt.Text]:
    """What is embedded of each chunk: its nearest title and its text; a document of a few letters has none."""
    if not chunks:
        raise InputError("the document says too little", help="send one with a sentence or more", code="E222")
    return [tt.Text(each.embedded) for each in chunks]


@tt.stage(pure=True, inline=True)
def told(name: str, sheets: Sheets, chunks: list[Chunk], report: IndexReport) -> Added:
    """What the caller is told."""
    drawn = sum(sheet.seen for sheet in sheets.sheets)
    return Added(name, len(sheets.sheets), drawn, len(chunks), report.kept, report.chunks)


@tt.workflow(slo=tt.Slo(p95_ms=60_000))
def add_document(file: tt.Pdf | tt.Image | tt.Text, name: str) -> Added:
    """Put a document into the index of the chat: a PDF, a picture of a page, or text (.md, .rst, .txt).

    A document of the same name is replaced.
    """
    sheets = tt.pages(file)
    read = tt.map(tt.ocr, pictures(sheets), concurrency=4)
    pieces = chunk(sections(file, name, sheets, read))
    vectors = tt.map(tt.embed, embedded(pieces), concurrency=64)
    return told(name, sheets, pieces, add(pieces, vectors, documents))
