"""A retrieval index: make, update, query, back up. Vectors and words (tantivy), fused.

    index = Index.create("manuals", IndexSettings())
    index.add(chunks, vectors)          # or building.build, which reads, cuts and embeds documents
    found = Index.open("manuals").search("how do I copy a list?", vector)

An `Index` is a snapshot: what others commit is seen after `refresh()`. One writer at a time; a commit
is atomic. A plain name lives beside the model store, anything with a slash is a path.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import tarfile
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from tauten.describe import passages
from tauten.describe.passages import Chunk, Found, IndexReport, Passage
from tauten.errors import InputError, MachineError, NotFound, suggest
from tauten.run.retrieval import generations
from tauten.run.retrieval.chunkfile import Catalogue
from tauten.run.retrieval.indexes import home, locate, unpack
from tauten.run.retrieval.lexical import link_words, words, write_words
from tauten.run.retrieval.ranking import Candidate, IndexSettings, exception_names, fuse, is_generic, refusal
from tauten.run.retrieval.snapshot import (
    WORDS,
    Snapshot,
    Stored,
    check_whole,
    load_snapshot,
    write_generation,
)
from tauten.run.retrieval.vectors import write_vectors


class IndexInfo(msgspec.Struct):
    """What `info` tells about an index."""

    name: str
    path: str
    chunks: int
    sources: int
    model: str
    variant: str
    dim: int
    generation: str
    size_bytes: int
    problem: str = ""  # why it cannot be opened


class Index:
    """One opened index. Searching is safe from several threads and blocks for about a millisecond."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._moving = threading.Lock()  # or who began to load earlier could put an older generation in place
        self._now = load_snapshot(root)

    @classmethod
    def create(cls, index: str | Path, settings: IndexSettings | None = None) -> Index:
        """Make an empty index; raises InputError where one stands."""
        root = locate(index)
        if generations.current(root):
            raise InputError(
                f"index {root.name!r} exists",
                help=f"open it, or remove it: tauten index rm {index}",
                code="E223",
            )
        with generations.writing(root) as (_, fresh):
            stored = Stored(settings=settings or IndexSettings())
            nothing = np.zeros((0, stored.settings.dim), np.float32)
            write_generation(fresh, stored, Catalogue(), [])
            write_vectors(fresh, nothing, nothing)
            write_words(fresh / WORDS, [], [])
        return cls(root)

    @classmethod
    def open(cls, index: str | Path) -> Index:
        """Open by name or path; raises NotFound with the command that builds it."""
        root = locate(index)
        if not generations.current(root):
            known = [each.name for each in home().glob("*") if generations.current(each)]
            hint = f"; {suggest(str(index), known)}" if known else ""
            raise NotFound(
                f"no index is called {str(index)!r}",
                help=f"tauten index build {index} FOLDER{hint}",
                code="E201",
            )
        return cls(root)

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def identity(self) -> str:
        """What names this index in a workflow's signature."""
        return f"index {self.name}"

    @property
    def revision(self) -> str:
        """What it holds now, for caches: a search of another generation is another search."""
        return f"{self.root}@{self._now.generation}"

    @property
    def settings(self) -> IndexSettings:
        return self._now.stored.settings

    def __len__(self) -> int:
        return len(self._now.chunks)

    def __iter__(self) -> Iterator[Chunk]:
        now = self._now
        return (now.chunks.get(int(key)) for key in now.chunks.keys)

    def __repr__(self) -> str:
        return f"Index({self.name!r}, {len(self)} chunks)"

    @property
    def sources(self) -> dict[str, int]:
        """How many chunks each source has."""
        return {source: len(keys) for source, keys in sorted(self._now.catalogue.sources.items())}

    def refresh(self) -> bool:
        """Move to the newest generation; tells whether there was a newer one."""
        with self._moving:
            if generations.current(self.root) == self._now.generation:
                return False
            self._now = load_snapshot(self.root)
            return True

    def info(self) -> IndexInfo:
        """Size, model and version of what is open."""
        now, settings = self._now, self.settings
        size = sum(file.stat().st_size for file in now.folder.rglob("*") if file.is_file())
        return IndexInfo(
            self.name, str(self.root), len(self), len(now.catalogue.sources), settings.model, settings.variant,
            settings.dim, now.generation, size,
        )  # fmt: skip

    # searching

    def search(
        self,
        text: str,
        vector: NDArray[np.float32],
        k: int = 3,
        *,
        error: str = "",
        hints: Sequence[str] = (),
        model: str = "",
    ) -> Found:
        """The k best passages for a question, or a refusal.

        `vector` embeds the same words: `error` (the exception line seen, if any) and `text`. `hints` are
        names whose definitions get a vote, beside the exceptions that the words name. `model` says what
        made the vector. Raises InputError for a vector of another model or size.
        """
        now = self._now
        query = self._checked(vector, model)
        terms = words(f"{error} {text}")
        named = {name.lower() for name in [*exception_names(error, text), *hints]}
        dense = now.vectors.nearest(query, self.settings.candidates)
        lexical = now.lexical.search(terms, self.settings.candidates)
        candidates = _candidates(now, query, dense, lexical, named)
        generic = is_generic(words(text), named)
        ordered = fuse(candidates, self.settings, frozenset(terms), generic)[:k]
        found = tuple(_passage(now, rank, each) for rank, each in enumerate(ordered, 1))
        if not found:
            return Found(text, (), True, "the index is empty", self.name, error)
        cover = lexical[0][1] / now.lexical.ceiling(terms) if lexical else 0.0
        known = any(each.named for each in candidates) and bool(error)
        reason = refusal(text, error, found[0].chunk.title, known, dense[0][1], cover, self.settings)
        return Found(text, found, bool(reason), reason, self.name, error)

    def _checked(self, vector: NDArray[np.float32], model: str) -> NDArray[np.float32]:
        settings = self.settings
        query = np.asarray(vector, np.float32).reshape(-1)
        if (model and model != settings.model) or query.shape[0] != settings.dim:
            raise InputError(
                f"index {self.name!r} holds vectors of {settings.model} ({settings.dim} numbers), "
                f"the query is one of {model or 'another model'} ({query.shape[0]})",
                help=f"embed with {settings.model}, or build the index again with the other model",
                code="E221",
            )
        return query

    def vector(self, chunk_id: str) -> NDArray[np.float32]:
        """The vector of one chunk; raises NotFound."""
        key = self._now.catalogue.keys.get(chunk_id)
        if key is None:
            raise NotFound(f"index {self.name!r} has no chunk {chunk_id!r}", help="take ids of its chunks")
        return self._now.vectors.get(key)

    # writing

    def missing(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """Those that the index does not hold yet, and that need a vector."""
        return _new(chunks, self._now.catalogue)

    def add(self, chunks: Sequence[Chunk], vectors: NDArray[np.float32]) -> IndexReport:
        """Add chunks with their vectors; those already here are left alone."""
        return self._commit(chunks, vectors, lambda catalogue: set())

    def remove(self, source: str) -> IndexReport:
        """Remove the chunks of one source; raises NotFound for an unknown one."""
        if source not in self._now.catalogue.sources:
            raise NotFound(
                f"index {self.name!r} has no source {source!r}",
                help=suggest(source, self.sources),
                code="E201",
            )
        nothing = np.zeros((0, self.settings.dim), np.float32)
        return self._commit([], nothing, lambda catalogue: set(catalogue.sources.get(source, ())))

    def replace(
        self,
        chunks: Sequence[Chunk],
        vectors: NDArray[np.float32],
        sources: Sequence[str] | None = None,
        *,
        of: Sequence[Chunk] | None = None,
    ) -> IndexReport:
        """Make `sources` (default: all sources of the index and of the chunks) hold just these chunks.

        `vectors` has one row for each chunk, or one for each chunk that is `missing`; or one for each chunk of `of`,
        which says so whatever others commit meanwhile. A chunk that is held and has another link now is written anew.
        """
        wanted = {chunk.id for chunk in chunks}

        def stale(catalogue: Catalogue) -> set[int]:
            named = catalogue.sources if sources is None else sources
            held = {key for source in named for key in catalogue.sources.get(source, ())}
            return held - {key for id, key in catalogue.keys.items() if id in wanted}

        return self._commit(chunks, vectors, stale, renewed=chunks, of=of)

    def _commit(
        self,
        chunks: Sequence[Chunk],
        vectors: NDArray[np.float32],
        stale: Callable[[Catalogue], set[int]],
        renewed: Sequence[Chunk] = (),
        of: Sequence[Chunk] | None = None,
    ) -> IndexReport:
        self.refresh()
        known = self._now.catalogue
        if not stale(known) and not self.missing(chunks) and not self._changed(renewed):
            return IndexReport(self.name, 0, len(self), 0, len(self))
        with generations.writing(self.root) as (_, fresh):
            self.refresh()  # nobody else writes now: this is what the new generation starts from
            changed = self._changed(renewed)
            report = self._write_next(fresh, chunks, partial(self._rows, chunks, vectors, of), stale, changed)
        self.refresh()
        return report

    def _write_next(
        self,
        fresh: Path,
        chunks: Sequence[Chunk],
        rows_of: Callable[[Sequence[Chunk]], NDArray[np.float32]],
        stale: Callable[[Catalogue], set[int]],
        changed: dict[int, bytes],
    ) -> IndexReport:
        now = self._now
        gone = stale(now.catalogue)
        catalogue = now.catalogue.without(gone)
        added = _new(chunks, catalogue)
        rows = rows_of(added)
        first = now.stored.next_key
        stored = Stored(settings=self.settings, next_key=first + len(added))
        keyed = list(enumerate(added, first))
        for key, chunk in keyed:
            catalogue.add(key, chunk)
        kept = [
            (key, changed.get(key) or now.chunks.raw(key))
            for key in map(int, now.chunks.keys)
            if key not in gone
        ]
        records = kept + [(key, msgspec.msgpack.encode(chunk)) for key, chunk in keyed]
        write_generation(fresh, stored, catalogue, records)
        stays = np.isin(now.chunks.keys, np.array(sorted(gone), np.uint64), invert=True)
        write_vectors(fresh, now.vectors.rows[stays], rows)
        link_words(now.folder / WORDS, fresh / WORDS)
        try:
            write_words(fresh / WORDS, keyed, gone)
        except (ValueError, RuntimeError) as error:  # so tantivy says that the disk is full
            raise generations.unwritable(self.name, error) from error
        return IndexReport(self.name, len(added), len(kept), len(gone), len(records))

    def _changed(self, chunks: Sequence[Chunk]) -> dict[int, bytes]:
        """New records of chunks that are held otherwise: their name says the content, not the link."""
        now = self._now
        held = [(now.catalogue.keys[chunk.id], chunk) for chunk in chunks if chunk.id in now.catalogue.keys]
        records = ((key, msgspec.msgpack.encode(chunk)) for key, chunk in held)
        return {key: record for key, record in records if record != now.chunks.raw(key)}

    def _rows(
        self,
        chunks: Sequence[Chunk],
        vectors: NDArray[np.float32],
        of: Sequence[Chunk] | None,
        added: Sequence[Chunk],
    ) -> NDArray[np.float32]:
        """The vectors of the added chunks."""
        given = np.asarray(vectors, np.float32)
        if len(given):
            self._checked(given[0], "")
        given = given.reshape(-1, self.settings.dim)
        if of is None and len(given) == len(added):
            return given
        if len(given) != len(chunks if of is None else of):
            raise InputError(
                f"{len(given)} vectors were given for {len(chunks)} chunks, {len(added)} of them new",
                help="give one vector for each chunk, or one for each chunk that `missing` names",
                code="E228",
            )
        row = {chunk.id: number for number, chunk in enumerate(chunks if of is None else of)}
        if any(chunk.id not in row for chunk in added):
            raise MachineError(
                f"somebody else removed passages of index {self.name!r} that were to stay",
                help="try again: what is missing is embedded then",
                code="E322",
            )
        return given[[row[chunk.id] for chunk in added]]

    def backup(self, path: str | Path) -> Path:
        """Write what is open to one tar file, which appears only when it is whole."""
        target = Path(path)
        draft = target.with_name(target.name + ".part")
        try:
            with tarfile.open(draft, "w:gz") as archive:
                archive.add(self._now.folder, arcname="index", filter=_no_locks)
            draft.replace(target)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise MachineError(
                f"cannot write {target.name}: {error.strerror}",
                code="E302",
                help="free disk space, check permissions, or choose another folder with TAUTEN_STORE",
            ) from error
        return target

    @classmethod
    def restore(cls, path: str | Path, index: str | Path) -> Index:
        """Make an index of a backup, or bring an existing one back to it; a backup that is not whole changes nothing."""
        root = locate(index)
        try:
            with tarfile.open(path) as archive, generations.writing(root) as (_, fresh):
                for member in archive.getmembers():
                    unpack(archive, member, fresh)
                check_whole(fresh)
        except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, RuntimeError) as error:
            raise InputError(
                f"{Path(path).name!r} is not a backup of an index: {error}",
                help="give a file that Index.backup wrote",
                code="E224",
            ) from error
        return cls(root)


def _new(chunks: Sequence[Chunk], catalogue: Catalogue) -> list[Chunk]:
    """Those that a generation does not hold, each once."""
    return list({chunk.id: chunk for chunk in chunks if chunk.id not in catalogue.keys}.values())


def _candidates(
    now: Snapshot,
    query: NDArray[np.float32],
    dense: list[tuple[int, float]],
    lexical: list[tuple[int, float]],
    named: set[str],
) -> list[Candidate]:
    """What is found of one generation, whatever is committed meanwhile: keys of another one mean other chunks."""
    seen: dict[int, Candidate] = {}
    for rank, (key, cosine) in enumerate(dense, 1):
        seen[key] = Candidate(key, "", cosine=cosine, dense_rank=rank)
    for rank, (key, bm25) in enumerate(lexical, 1):
        each = seen.setdefault(key, Candidate(key, ""))
        each.bm25, each.lexical_rank = bm25, rank
    for name in named:
        for key in now.catalogue.names.get(name, ()):
            seen.setdefault(key, Candidate(key, "")).named = True
    unknown = [each for each in seen.values() if not each.dense_rank]
    cosines = now.vectors.cosines(query, [each.key for each in unknown])
    for each, cosine in zip(unknown, cosines, strict=True):
        each.cosine = cosine
    for each in seen.values():
        each.source, each.part, each.title = now.facts(each.key)
    return list(seen.values())


def _passage(now: Snapshot, rank: int, each: Candidate) -> Passage:
    chunk = now.chunks.get(each.key)
    return Passage(chunk, each.score, each.cosine, each.bm25, rank, each.dense_rank, each.lexical_rank)


def index(name: str | Path) -> Index:
    """Open an index by name or path; checked now, not on request 1."""
    return Index.open(name)


def list_indexes() -> list[IndexInfo]:
    """The named indexes, by name."""
    roots = sorted(home().glob("*")) if home().is_dir() else []
    return [_told(root) for root in roots if generations.current(root)]


def _told(root: Path) -> IndexInfo:
    try:
        return Index(root).info()
    except MachineError as error:  # one damaged index must not hide the others
        return IndexInfo(root.name, str(root), 0, 0, "", "", 0, generations.current(root), 0, error.message)


def remove_index(index: str | Path) -> None:
    """Delete an index and its backups of older generations; raises NotFound."""
    root = locate(index)
    if not generations.current(root):
        Index.open(index)  # raises, with what there is
    generations.remove(root)


def _no_locks(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if member.name.endswith(".lock") else member


passages.set_opener(Index.open)
