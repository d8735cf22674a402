"""Read the documents of a folder: reStructuredText, Markdown and plain text.

documents = ingest("docs/", url="https://docs.example.org/")
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from tauten.describe.passages import Document
from tauten.describe.stage import stage
from tauten.errors import InputError

_FORMATS: dict[str, Literal["rst", "markdown", "text"]] = {
    ".rst": "rst",
    ".md": "markdown",
    ".markdown": "markdown",
    ".txt": "text",
}
MAX_FILE_BYTES = 16 * 1024 * 1024  # 16 MiB of text is some 5,000 pages; more is data, not documentation


def read_documents(
    paths: Iterable[str | Path], *, url: str = "", may_be_none: bool = False
) -> list[Document]:
    """Read files and folders (recursively); raises InputError for a path that is not there or not text, and where
    there are none at all unless that `may_be_none`."""
    documents: list[Document] = []
    for path in map(Path, paths):
        root = path if path.is_dir() else path.parent
        for file in _files(path):
            documents.append(_read(file, file.relative_to(root).as_posix(), url))
    if not documents and not may_be_none:
        raise InputError(
            "no documents were found", help=f"give files that end in {', '.join(_FORMATS)}", code="E222"
        )
    return documents


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.suffix.lower() in _FORMATS and file.is_file())
    if not path.exists():
        raise InputError(f"no file or folder {str(path)!r}", help="check the path", code="E203")
    return [path]


def _read(file: Path, source: str, url: str) -> Document:
    try:
        size = file.stat().st_size
        if size > MAX_FILE_BYTES:
            raise InputError(
                f"{source} has {size} bytes; a document has at most {MAX_FILE_BYTES}",
                help="cut it into parts",
                code="E222",
            )
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{source} is not UTF-8 text (byte {error.start})", help="convert it to UTF-8", code="E222"
        ) from error
    except OSError as error:
        raise InputError(
            f"cannot read {source}: {error.strerror}", help="give a readable file", code="E203"
        ) from error
    page = f"{url.rstrip('/')}/{source.removesuffix('.rst')}.html" if url and source.endswith(".rst") else ""
    link = page or (f"{url.rstrip('/')}/{source}" if url else "")
    return Document(source, text, _FORMATS.get(file.suffix.lower(), "text"), link)


@stage(effects="once")  # tomorrow the same folder holds something else: nothing may keep what it gave
def ingest(folder: str, *, url: str = "") -> list[Document]:
    """Read every document of a folder (or one file). `url` is where readers find the folder on the web."""
    return read_documents([str(folder)], url=url)
