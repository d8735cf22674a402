"""The index of the bundled manual (part of Python 3.11's documentation), built by a workflow.

Vectors of the passages travel with the repository; a passage that changed is embedded anew.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import tauten as tt
from tauten.describe.passages import Chunk, IndexReport
from tauten.describe.stages.chunk import chunk
from tauten.describe.stages.clean import clean
from tauten.describe.stages.ingest import ingest
from tauten.describe.stages.store import store
from tauten.examples.indexed import ensured
from tauten.plan.plan import Batch, Plan
from tauten.run.ambient import run_async
from tauten.run.engine import Engine
from tauten.run.retrieval.building import KnownVectors
from tauten.run.retrieval.index import Index

NAME = "python-docs"
HERE = Path(__file__).parent
URL = "https://docs.python.org/3.11"

PLAN = Plan(name="indexing").edit("embed", backend="openvino", precision="f32", batch=Batch(max=16))
"""Full batches of the compiled engine, at the reference's precision: queries may come from any engine."""


@tt.stage
class Known:
    """Vectors that travel with the documents; loaded once."""

    def __init__(self) -> None:
        self.vectors = KnownVectors(HERE / "vectors")

    def __call__(self, chunks: list[Chunk]) -> list[tt.Tensor | None]:
        rows = (self.vectors.get(each.id) for each in chunks)
        return [None if row is None else tt.Tensor(row) for row in rows]


@tt.stage(pure=True)
def unknown(chunks: list[Chunk], known: list[tt.Tensor | None]) -> list[tt.Text]:
    """What is embedded: the nearest title and the text of each chunk without a vector."""
    return [tt.Text(each.embedded) for each, vector in zip(chunks, known, strict=True) if vector is None]


@tt.stage(pure=True)
def joined(known: list[tt.Tensor | None], embedded: list[tt.Tensor]) -> list[tt.Tensor]:
    """A vector for each chunk, in their order."""
    fresh = iter(embedded)
    return [tt.Tensor(np.asarray(each.array)) if each is not None else next(fresh) for each in known]


@tt.workflow
def index_manual(folder: str, index: Any) -> IndexReport:
    """ingest -> clean -> chunk -> embed -> index."""
    pieces = chunk(clean(ingest(folder, url=URL)))
    known = Known(pieces, name="known")
    embedded = tt.map(tt.embed, unknown(pieces, known), concurrency=512)  # many wait: equal lengths meet
    return store(pieces, joined(known, embedded), index)


def ensure_manual() -> None:
    """Build the index unless it is there, whole and ours."""
    ensured(NAME, None, is_ours, lambda index: run_async(build(index)))


def is_ours(index: Index) -> bool:
    """Whether it was built here: another index of this name, say one without links, is brought up to date."""
    first = next(iter(index), None)
    return first is not None and first.url.startswith(URL)


async def build(index: Index) -> IndexReport:
    """Run the workflow on the bundled documents."""
    async with Engine() as engine:
        await engine.open(index_manual, PLAN)
        report: IndexReport = (await engine.run({"folder": str(HERE / "docs"), "index": index})).value
        return report
