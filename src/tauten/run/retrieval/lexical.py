"""The lexical half of an index: words, stems, and BM25 over them (tantivy).

A name in CamelCase is found whole and by its parts. Question words are stop words: they say nothing
about the subject, and in a FAQ they would find every question.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import math
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tauten.describe.passages import Chunk

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|\d+(?:\.\d+)*")
_HUMP = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")
STOP_WORDS = frozenset(
    "a an the this that these those it its i me my we our you your he she they them their is are was were be "
    "been am do does did done doing have has had having of in on at to for from by with as and or but if then "
    "so than too very can could will would shall should may might must just about into over under again "
    "what why how when where who whom which there here get gets got getting give gives want need please tell "
    "mean means meaning explain error errors say says said happen happens happening s t don doesn didn isn "
    "up out not no".split()
)
_HEAP_BYTES = 15_000_000  # the least that tantivy takes for one writer thread
_K1 = 1.2  # of BM25, fixed in tantivy
_DEEP = 64  # candidates that a search looks at; the fusion uses fewer


@functools.cache
def _stemmer() -> Any:
    import tantivy

    return (
        tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace())
        .filter(tantivy.Filter.stemmer("english"))
        .build()
    )


def words(text: str) -> list[str]:
    """The stems that a text is found by, in order.

    >>> words("Why does my KeyError happen?")
    ['keyerror', 'key', 'error']
    """
    found: list[str] = []
    for word in _WORD.findall(text):
        lowered = word.lower()
        if lowered in STOP_WORDS:
            continue
        found.append(lowered.strip("_") or lowered)
        parts = _HUMP.findall(word) if not word[0].isdigit() else []
        if len(parts) > 1:
            found.extend(part.lower() for part in parts)
    return list(_stemmer().analyze(" ".join(found))) if found else []


def _schema() -> Any:
    import tantivy

    builder = tantivy.SchemaBuilder()
    builder.add_text_field("words", tokenizer_name="whitespace", index_option="freq")
    builder.add_unsigned_field("key", fast=True, indexed=True)
    return builder.build()


def write_words(folder: Path, added: Iterable[tuple[int, Chunk]], removed: Iterable[int]) -> None:
    """Add and remove chunks of the lexical index in `folder`, making it when it is not there."""
    import tantivy

    folder.mkdir(parents=True, exist_ok=True)
    schema = _schema()
    index = tantivy.Index(schema, str(folder))
    writer = index.writer(_HEAP_BYTES, 1)
    for key in removed:
        # by query: a term made from a Python integer is signed, and would match nothing
        writer.delete_documents_by_query(tantivy.Query.term_query(schema, "key", key))
    for key, chunk in added:
        document = tantivy.Document()
        document.add_text("words", " ".join(words(chunk.words)))
        document.add_unsigned("key", key)
        writer.add_document(document)
    writer.commit()
    writer.wait_merging_threads()


def link_words(source: Path, target: Path) -> None:
    """Start a new generation from an old one: its segments never change, so they are linked, not copied."""
    target.mkdir(parents=True)
    for file in source.iterdir():
        if file.name.endswith(".lock"):
            continue
        try:
            os.link(file, target / file.name)
        except OSError:  # a file system without hard links
            shutil.copy2(file, target / file.name)


class Lexical:
    """BM25 over one generation. Safe to search from several threads."""

    def __init__(self, folder: Path) -> None:
        import tantivy

        self._index = tantivy.Index.open(str(folder))
        self._index.config_reader(reload_policy="manual")
        self._index.reload()
        self._searcher = self._index.searcher()
        self._tantivy = tantivy

    def search(self, terms: Sequence[str], limit: int = _DEEP) -> list[tuple[int, float]]:
        """(key, BM25) of the best chunks; equal scores in the order of their keys."""
        if not terms or not self._searcher.num_docs:
            return []
        once = dict.fromkeys(terms)
        should = self._tantivy.Occur.Should
        clauses = [(should, self._term(term)) for term in once]
        hits = self._searcher.search(self._tantivy.Query.boolean_query(clauses), limit).hits
        keys = self._searcher.fast_field_values("key", [address for _, address in hits])
        found = [(int(key), float(score)) for key, (score, _) in zip(keys, hits, strict=True)]
        return sorted(found, key=lambda pair: (-pair[1], pair[0]))

    def ceiling(self, terms: Sequence[str]) -> float:
        """The BM25 that a chunk full of all these terms would approach; unknown terms count most."""
        total = int(self._searcher.num_docs)
        seen = (int(self._searcher.doc_freq("words", term)) for term in dict.fromkeys(terms))
        return (_K1 + 1) * sum(math.log(1 + (total - n + 0.5) / (n + 0.5)) for n in seen)

    def _term(self, term: str) -> Any:
        return self._tantivy.Query.term_query(self._index.schema, "words", term)
