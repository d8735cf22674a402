"""Write chunks and their vectors into an index: the last step of the workflow that builds one."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any

from tauten.describe.passages import Chunk, IndexReport, open_index
from tauten.describe.payload import Tensor
from tauten.describe.stage import Context, stage


@stage(effects="once")
async def store(ctx: Context, chunks: list[Chunk], vectors: list[Tensor], index: Any) -> IndexReport:
    """Make the index hold just these chunks, in one commit; what it holds already is not written again."""
    import numpy as np

    rows = [vector.array for vector in vectors]
    return await ctx.work(open_index(index).replace, chunks, np.array(rows, np.float32), cause="lookup")
