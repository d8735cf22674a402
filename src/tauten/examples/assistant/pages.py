"""The index of the shop's pages: built of the files that lie here when it is not there, or is another."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path

from tauten.describe.passages import Chunk
from tauten.describe.stages.chunk import chunks_of
from tauten.describe.stages.clean import sections_of
from tauten.describe.stages.ingest import read_documents
from tauten.errors import InputError, MachineError, NotFound
from tauten.run.retrieval.building import KnownVectors, build
from tauten.run.retrieval.embedder import embedder
from tauten.run.retrieval.index import Index, remove_index
from tauten.run.retrieval.ranking import IndexSettings

NAME = "shop-pages"
HERE = Path(__file__).parent
FOLDER = HERE / "pages"
SETTINGS = IndexSettings(foreign=(), foreign_errors=())  # a shop's pages do not tell of programs


def ensure_pages() -> None:
    """Build the index, or bring it up to date; a passage without a vector that travels here is embedded."""
    index = _opened()
    if {chunk.id for chunk in index} != {chunk.id for chunk in chunks()}:
        build(index, read_documents([FOLDER]), embedder(), known=KnownVectors(HERE / "vectors"))


def _opened() -> Index:
    """The index of that name; an empty one where there is none, or a damaged one: it is made of what lies here."""
    try:
        return Index.open(NAME)
    except NotFound:
        pass  # it is made below
    except MachineError:
        remove_index(NAME)
    try:
        return Index.create(NAME, SETTINGS)
    except InputError:
        return Index.open(NAME)  # another process was quicker


def chunks() -> list[Chunk]:
    """What the pages hold, as it is searched."""
    documents = read_documents([FOLDER])
    return list(chunks_of(section for document in documents for section in sections_of(document)))
