"""What retrieval passes on: documents, sections, chunks, found passages and quoted answers.

A document is read from a file, cleaned into sections, and cut into chunks small enough to embed. A
search gives `Found`: passages in order, or a refusal with its reason. `quote` turns that into `Answer`.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

from tauten.errors import InternalError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Kind = Literal["section", "definition", "term"]


class Document(msgspec.Struct, frozen=True):
    """One file as it was read. `url` is where a reader finds it, without an anchor."""

    source: str  # the path inside its folder, with forward slashes
    text: str
    format: Literal["rst", "markdown", "text"] = "text"
    url: str = ""


class Block(msgspec.Struct, frozen=True):
    """A paragraph, or text whose line breaks matter: code and tables."""

    text: str
    kind: Literal["prose", "code", "table"] = "prose"


class Section(msgspec.Struct, frozen=True):
    """A heading's own text, a definition, or a glossary term: what stands under one title path."""

    source: str
    titles: tuple[str, ...]
    blocks: tuple[Block, ...]
    kind: Kind = "section"
    signature: str = ""  # of a definition: the call as the documentation writes it
    url: str = ""


class Chunk(msgspec.Struct, frozen=True, dict=True):
    """A piece of a section that is embedded and found as one."""

    source: str
    titles: tuple[str, ...]
    blocks: tuple[Block, ...]
    kind: Kind = "section"
    signature: str = ""
    url: str = ""
    part: int = 0  # 0 is the section's first piece

    @cached_property
    def id(self) -> str:
        """Names the content: the same text under the same titles keeps its name over rebuilds."""
        content = msgspec.msgpack.encode((self.source, self.titles, self.signature, self.body))
        return hashlib.sha256(content).hexdigest()[:20]  # 80 bits: no clash below 10^9 chunks

    @property
    def text(self) -> str:
        """The prose, paragraphs apart by an empty line."""
        return "\n\n".join(block.text for block in self.blocks if block.kind == "prose")

    @property
    def code(self) -> tuple[str, ...]:
        return tuple(block.text for block in self.blocks if block.kind == "code")

    @property
    def body(self) -> str:
        """Everything in reading order."""
        return "\n\n".join(block.text for block in self.blocks)

    @property
    def title(self) -> str:
        return self.titles[-1] if self.titles else self.source

    @property
    def name(self) -> str:
        """The bare name that a definition defines (``json.dump``), in a form that search compares."""
        return self.title.removesuffix("()") if self.kind != "section" else ""

    @property
    def embedded(self) -> str:
        """What the embedding model reads: the nearest title, then the text."""
        return f"{self.title}\n{self.body}"

    @property
    def words(self) -> str:
        """What the lexical search reads: the whole title path as well."""
        return "\n".join([*self.titles, self.signature, self.body])


class Passage(msgspec.Struct, frozen=True):
    """One chunk that a search found, and why. Ranks count from 1; 0 means not among the candidates."""

    chunk: Chunk
    score: float  # of the fusion; comparable only inside one search
    cosine: float
    bm25: float
    rank: int
    dense_rank: int = 0
    lexical_rank: int = 0


class Found(msgspec.Struct, frozen=True):
    """The answer of a search: passages in order. `refused` says that none of them should be trusted."""

    question: str
    passages: tuple[Passage, ...] = ()
    refused: bool = False
    reason: str = ""
    index: str = ""
    error: str = ""  # the line of an error message that was part of the search

    def __bool__(self) -> bool:
        return bool(self.passages) and not self.refused


class Answer(msgspec.Struct, frozen=True):
    """Words of the documentation that answer a question, or the honest statement that none do."""

    text: str
    found: bool
    passage: str = ""  # the whole passage, in reading order
    code: str = ""
    source: str = ""
    url: str = ""
    titles: tuple[str, ...] = ()
    confidence: float = 0.0  # 0 to 1: the share of such answers that were right on the tuning questions
    reason: str = ""

    def __str__(self) -> str:
        return self.text


class IndexReport(msgspec.Struct, frozen=True):
    """What storing chunks changed."""

    index: str
    added: int
    kept: int
    removed: int
    chunks: int


class Searchable(Protocol):
    """What `retrieve` and `store` need of an index; `run.retrieval.index.Index` is one."""

    @property
    def name(self) -> str: ...

    def search(
        self,
        text: str,
        vector: NDArray[np.float32],
        k: int = 3,
        *,
        error: str = "",
        hints: Sequence[str] = (),
        model: str = "",
    ) -> Found: ...

    def replace(
        self, chunks: Sequence[Chunk], vectors: NDArray[np.float32], sources: Sequence[str] | None = None
    ) -> IndexReport: ...


Opener = Callable[[str | Path], Searchable]
_opener: list[Opener] = []


def set_opener(opener: Opener) -> None:
    """Say who opens an index by its name (`run.retrieval.index` does, when it is imported)."""
    _opener[:] = [opener]


def open_index(index: Any) -> Searchable:
    """The index itself, or the one of that name."""
    if not isinstance(index, str | Path):
        return index  # type: ignore[no-any-return]
    if not _opener:
        raise InternalError(f"index {str(index)!r} was named before tauten.run.retrieval.index was imported")
    return _opener[0](index)
