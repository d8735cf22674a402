"""One generation of an index as it lies on disk: its head, its catalogue, its chunks, vectors and words."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from tauten.run.retrieval import generations
from tauten.run.retrieval.chunkfile import Catalogue, ChunkFile, write_chunks
from tauten.run.retrieval.indexes import damaged
from tauten.run.retrieval.lexical import Lexical, words
from tauten.run.retrieval.ranking import IndexSettings
from tauten.run.retrieval.vectors import Vectors

FORMAT = "tauten.index/1"
CATALOGUE, INFO, WORDS = "catalogue.msgpack", "info.json", "words"


class Stored(msgspec.Struct):
    """The head of one generation."""

    format: str = FORMAT
    settings: IndexSettings = msgspec.field(default_factory=IndexSettings)
    next_key: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one generation holds, opened."""

    generation: str
    folder: Path
    stored: Stored
    catalogue: Catalogue
    chunks: ChunkFile
    vectors: Vectors
    lexical: Lexical
    known: dict[int, tuple[str, int, frozenset[str]]] = field(default_factory=dict)

    def facts(self, key: int) -> tuple[str, int, frozenset[str]]:
        """Source, part and stems of the title of a chunk; read once, as most searches meet the same."""
        if key not in self.known:
            chunk = self.chunks.get(key)
            self.known[key] = (chunk.source, chunk.part, frozenset(words(chunk.title)))
        return self.known[key]


def load_snapshot(root: Path) -> Snapshot:
    """Open the newest generation; raises MachineError for one that is damaged."""
    for _ in range(5):  # a writer may sweep the generation between the two reads; it cannot do so often
        name = generations.current(root)
        try:
            return _read(root / name, name)
        except (FileNotFoundError, msgspec.MsgspecError, ValueError, RuntimeError) as error:
            if generations.current(root) == name:
                raise damaged(root, _said(error)) from error
    raise damaged(root, "its generations change faster than they can be read")


def _said(error: Exception) -> str:
    return (
        f"{Path(error.filename or '').name} is missing"
        if isinstance(error, FileNotFoundError)
        else str(error)
    )


def _read(folder: Path, name: str) -> Snapshot:
    stored = check_format(folder)
    catalogue = msgspec.msgpack.decode((folder / CATALOGUE).read_bytes(), type=Catalogue)
    chunks = ChunkFile(folder)
    vectors = Vectors(folder, chunks.keys, stored.settings.dim)
    return Snapshot(name, folder, stored, catalogue, chunks, vectors, Lexical(folder / WORDS))


def check_whole(folder: Path) -> None:
    """Open a generation that nobody sees yet; raises ValueError, RuntimeError or OSError for one that is not whole."""
    _read(folder, folder.name)


def check_format(folder: Path) -> Stored:
    """The head of a generation; raises ValueError for one of another format."""
    stored = msgspec.json.decode((folder / INFO).read_bytes(), type=Stored)
    if stored.format != FORMAT:
        raise ValueError(f"its format is {stored.format}, this version reads {FORMAT}")
    return stored


def write_generation(
    folder: Path, stored: Stored, catalogue: Catalogue, records: list[tuple[int, bytes]]
) -> None:
    """Write all but the vectors and the words; records come in the order of their keys."""
    write_chunks(folder, records)
    (folder / CATALOGUE).write_bytes(msgspec.msgpack.encode(catalogue))
    (folder / INFO).write_bytes(msgspec.json.format(msgspec.json.encode(stored)))
