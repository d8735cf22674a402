"""The index of the shop's pages: built of the files that lie here when it is not there, or is another."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path

from tauten.describe.passages import Chunk
from tauten.describe.stages.chunk import chunks_of
from tauten.describe.stages.clean import sections_of
from tauten.describe.stages.ingest import read_documents
from tauten.examples.indexed import ensured
from tauten.run.retrieval.building import KnownVectors, build
from tauten.run.retrieval.embedder import embedder
from tauten.run.retrieval.index import Index
from tauten.run.retrieval.ranking import IndexSettings

NAME = "shop-pages"
HERE = Path(__file__).parent
FOLDER = HERE / "pages"
SETTINGS = IndexSettings(foreign=(), foreign_errors=())  # a shop's pages do not tell of programs


def ensure_pages() -> None:
    """Build the index, or bring it up to date; a passage without a vector that travels here is embedded."""
    ensured(NAME, SETTINGS, _whole, _fill)


def _whole(index: Index) -> bool:
    return {chunk.id for chunk in index} == {chunk.id for chunk in chunks()}


def _fill(index: Index) -> None:
    build(index, read_documents([FOLDER]), embedder(), known=KnownVectors(HERE / "vectors"))


def chunks() -> list[Chunk]:
    """What the pages hold, as it is searched."""
    documents = read_documents([FOLDER])
    return list(chunks_of(section for document in documents for section in sections_of(document)))
