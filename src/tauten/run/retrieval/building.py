"""Build an index of documents: clean, chunk, embed what is new, commit once."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tauten.describe.passages import Chunk, Document, IndexReport, Section
from tauten.describe.stages.chunk import chunks_of
from tauten.describe.stages.clean import sections_of
from tauten.errors import InputError
from tauten.run.retrieval import generations
from tauten.run.retrieval.index import Index
from tauten.run.retrieval.indexes import locate
from tauten.run.retrieval.ranking import IndexSettings

Embed = Callable[[list[str]], NDArray[np.float32]]
Progress = Callable[[int, int], None]

_BATCH = 32  # texts embedded at once: enough to fill two cores, small enough for a smooth progress bar
_PART_BYTES = 900_000  # a file of vectors stays below a megabyte, as repositories like it


def build(
    index: Index | str | Path,
    documents: Iterable[Document],
    embed: Embed,
    progress: Progress | None = None,
    *,
    settings: IndexSettings | None = None,
    known: KnownVectors | None = None,
    sections: Iterable[Section] = (),
    prune: bool = True,
) -> IndexReport:
    """Make an index hold these documents; only chunks that it does not hold are embedded.

    With `prune`, sources that are not among the documents are removed. The index is made when it is not
    there. `known` has vectors that were made before. `progress(done, total)` counts the chunks to embed.
    `sections` are of documents that were read already.
    """
    opened = index if isinstance(index, Index) else _open_or_create(index, settings)
    read = (section for document in documents for section in sections_of(document))
    chunks = chunks_of(itertools.chain(read, sections))
    fresh = opened.missing(chunks)
    vectors = _vectors(fresh, embed, opened.settings, known, progress)
    sources = None if prune else sorted({chunk.source for chunk in chunks})
    return opened.replace(chunks, vectors, sources, of=fresh)


def settings_of(index: str | Path) -> IndexSettings | None:
    """What an index was built with; None where there is none yet."""
    return Index.open(index).settings if generations.current(locate(index)) else None


def _open_or_create(index: str | Path, settings: IndexSettings | None) -> Index:
    if not generations.current(locate(index)):
        return Index.create(index, settings)
    opened = Index.open(index)
    if settings is not None and settings.model != opened.settings.model:
        raise InputError(
            f"index {opened.name!r} was built with {opened.settings.model}, not {settings.model}",
            help=f"remove it first: tauten index rm {index}",
            code="E221",
        )
    return opened


def _vectors(
    chunks: Sequence[Chunk],
    embed: Embed,
    settings: IndexSettings,
    known: KnownVectors | None,
    progress: Progress | None,
) -> NDArray[np.float32]:
    """Vectors in the order of the chunks; unknown ones are embedded in batches of similar length."""
    vectors = np.zeros((len(chunks), settings.dim), np.float32)
    usable = known if known is not None and known.model == settings.model else None
    order: list[int] = []
    for number, chunk in enumerate(chunks):
        row = usable.get(chunk.id) if usable else None
        if row is None:
            order.append(number)
        else:
            vectors[number] = row
    order.sort(key=lambda number: -len(chunks[number].embedded))
    for start in range(0, len(order), _BATCH):
        batch = order[start : start + _BATCH]
        made = embed([chunks[number].embedded for number in batch])
        if made.shape[1] != settings.dim:
            raise InputError(
                f"{settings.model} makes vectors of {made.shape[1]} numbers, the index holds such of {settings.dim}",
                help=f"remove the index, and build it with dim = {made.shape[1]} in its settings",
                code="E221",
            )
        vectors[batch] = made
        if progress:
            progress(start + len(batch), len(order))
    return vectors


class KnownVectors:
    """Vectors that travel with documents, by chunk id, in 8 bits a number (cosines move by under 0.005).

    A folder of ``<model>.<n>.npy`` files. A chunk whose text changed has another id and is embedded anew,
    so that a stale file costs time, never a wrong result.
    """

    def __init__(self, folder: Path, model: str = "minilm-l6-v2") -> None:
        self.model = model
        parts = [np.load(file, allow_pickle=False) for file in sorted(folder.glob(f"{model}.*.npy"))]
        self._rows = np.concatenate(parts) if parts else np.zeros(0, _row(0))
        self._places = {name.decode(): place for place, name in enumerate(self._rows["id"])}

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, chunk_id: str) -> NDArray[np.float32] | None:
        """The vector of a chunk, or None."""
        place = self._places.get(chunk_id)
        if place is None:
            return None
        row = self._rows[place]
        return np.asarray(row["row"], np.float32) * np.float32(row["scale"])

    @staticmethod
    def write(folder: Path, index: Index) -> None:
        """Write the vectors of an index, chunks in the order of their ids."""
        vectors = sorted((chunk.id, index.vector(chunk.id)) for chunk in index)
        rows = np.zeros(len(vectors), _row(index.settings.dim))
        for place, (name, vector) in enumerate(vectors):
            scale = max(float(np.abs(vector).max()), 1e-12) / 127
            rows[place] = (name.encode(), scale, np.round(vector / scale).astype(np.int8))
        folder.mkdir(parents=True, exist_ok=True)
        size = max(1, _PART_BYTES // rows.dtype.itemsize)
        for part, start in enumerate(range(0, len(rows), size), 1):
            np.save(
                folder / f"{index.settings.model}.{part}.npy", rows[start : start + size], allow_pickle=False
            )


def _row(dim: int) -> np.dtype[np.void]:
    return np.dtype([("id", "S20"), ("scale", "<f4"), ("row", "i1", (dim,))])
