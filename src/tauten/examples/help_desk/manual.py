"""The index of the bundled manual (part of Python 3.11's documentation), built by a workflow."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tauten as tt
from tauten.describe.passages import Chunk, IndexReport
from tauten.describe.stages.chunk import chunk
from tauten.describe.stages.clean import clean
from tauten.describe.stages.ingest import ingest
from tauten.describe.stages.store import store
from tauten.errors import NotFound
from tauten.plan.plan import Batch, Plan
from tauten.run.ambient import run_async
from tauten.run.engine import Engine
from tauten.run.index import Index, locate
from tauten.run.request import Request

NAME = "python-docs"
DOCS = Path(__file__).parent / "docs"
URL = "https://docs.python.org/3.11"
WATCH_S = 0.25  # how often progress is looked at

PLAN = Plan(name="indexing").edit("embed", backend="openvino", precision="f32", batch=Batch(max=16))
"""Full batches of the compiled engine, at the reference's precision: queries may come from any engine."""


@tt.stage(pure=True)
def texts(chunks: list[Chunk]) -> list[tt.Text]:
    """What is embedded of each chunk: its nearest title and its text."""
    return [tt.Text(each.embedded) for each in chunks]


@tt.workflow
def index_manual(folder: str, index: Any) -> IndexReport:
    """ingest -> clean -> chunk -> embed -> index."""
    pieces = chunk(clean(ingest(folder, url=URL)))
    vectors = tt.map(tt.embed, texts(pieces), concurrency=512)  # many wait, so that equal lengths meet
    return store(pieces, vectors, index)


def ensure_manual(progress: Callable[[int, int], None] | None = None) -> None:
    """Build the index unless it is there; `progress` is told how many passages are embedded."""
    try:
        index = Index.open(NAME)
    except NotFound:
        index = Index.create(NAME)
    if len(index):
        return
    run_async(_build(index, progress))


async def _build(index: Index, progress: Callable[[int, int], None] | None) -> None:
    async with Engine() as engine:
        await engine.open(index_manual, PLAN)
        request = engine.request()
        watcher = asyncio.ensure_future(_watch(request, progress)) if progress else None
        try:
            async for _ in engine.stream({"folder": str(DOCS), "index": index}, request=request):
                pass
        finally:
            if watcher is not None:
                watcher.cancel()


async def _watch(request: Request, progress: Callable[[int, int], None]) -> None:
    """Count what the trace already shows: one `compute` row a passage."""
    while True:
        done = sum(1 for step, cause, *_ in request.trace.rows if cause == "compute" and step.startswith("embed["))
        progress(done, max(done, EXPECTED))
        await asyncio.sleep(WATCH_S)


EXPECTED = 2400  # passages of the bundled manual, for the progress bar only


def manual() -> Path:
    """Where the index lies."""
    return locate(NAME)
