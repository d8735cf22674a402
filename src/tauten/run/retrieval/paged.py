"""PDF and pictures of pages as sections, for indexes that are built outside a workflow."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tauten.describe.layout import sections_of_sheets
from tauten.describe.passages import Section
from tauten.describe.payload import Image, Pdf, sniff
from tauten.describe.stages.ocr import ocr
from tauten.describe.stages.pages import pages, pictures, with_lines
from tauten.errors import InputError, MediaError

PDF = ".pdf"
PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"})


def parted(paths: Iterable[str | Path]) -> tuple[list[tuple[Path, str]], list[Path]]:
    """Files of pages with what they are called, and the paths that may hold text besides.

    Of a folder its PDFs; a picture only where it is named itself, since folders of documents hold drawings, too.
    """
    paged: list[tuple[Path, str]] = []
    rest: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            rest.append(path)
            found = (file for file in path.rglob("*") if file.suffix.lower() == PDF and file.is_file())
            paged += [(file, file.relative_to(path).as_posix()) for file in sorted(found)]
        elif path.suffix.lower() in {PDF, *PICTURES} and path.exists():
            paged.append((path, path.name))
        else:
            rest.append(path)
    return paged, rest


def read_paged(files: Iterable[tuple[Path, str]], *, url: str = "") -> Iterator[Section]:
    """Read files of pages one after another; those without letters by the models that `ocr` has by default.

    Raises InputError E222 for one that says nothing, MediaError for one that cannot be read.
    """
    for file, source in files:
        link = f"{url.rstrip('/')}/{source}" if url else ""
        try:
            found = sections_of_sheets(source, _sheets(file), link)
        except MediaError as error:
            error.where = error.where or source
            raise
        if not found:
            raise InputError(f"{source} says nothing that can be read", help="leave it out", code="E222")
        yield from found


def _sheets(file: Path) -> Any:
    with open(file, "rb") as opened:
        kind = Pdf if sniff(opened.read(16)) == "application/pdf" else Image
    sheets = pages(kind(file))
    return with_lines(sheets, [ocr(picture) for picture in pictures(sheets)])
