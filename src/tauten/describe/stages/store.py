"""Write chunks and their vectors into an index: the last step of a workflow that builds one, or that lets it grow."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tauten.describe.passages import Chunk, IndexReport, open_index
from tauten.describe.payload import Tensor
from tauten.describe.stage import Context, stage
from tauten.errors import MachineError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BUSY = "E322"  # another writer works
PAUSE_S = 0.02  # between two tries to write: a tenth of what a commit of some thousand chunks takes
TRIES = 1500  # half a minute in all, where the request has no deadline before


@stage(effects="once")
async def store(ctx: Context, chunks: list[Chunk], vectors: list[Tensor], index: Any) -> IndexReport:
    """Make the index hold just these chunks, in one commit; what it holds already is not written again."""
    rows = _rows(vectors)
    return await ctx.work(open_index(index).replace, chunks, rows, cause="lookup")


@stage(effects="once")
async def add(ctx: Context, chunks: list[Chunk], vectors: list[Tensor], index: Any) -> IndexReport:
    """Make the sources of these chunks hold just them, in one commit; other sources stay as they are.

    Whoever searches meanwhile sees the index as it was, and from the commit on as it is. Writers take turns: this one
    tries again while another works, as long as the request has time, half a minute at most (MachineError E322).
    """
    rows, opened = _rows(vectors), open_index(index)
    sources = sorted({chunk.source for chunk in chunks})
    for _ in range(TRIES):
        try:
            return await ctx.work(opened.replace, chunks, rows, sources, cause="lookup")
        except MachineError as error:
            if error.code != BUSY or ctx.deadline_left() < PAUSE_S:
                raise
        await asyncio.sleep(PAUSE_S)
    return await ctx.work(opened.replace, chunks, rows, sources, cause="lookup")


def _rows(vectors: list[Tensor]) -> NDArray[np.float32]:
    import numpy as np

    return np.array([vector.array for vector in vectors], np.float32)
