"""What any code may ask inside a running request: time left, whether it was cancelled, several at once."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from typing import Any

from tauten.describe.stage import AMBIENT
from tauten.run.context import StepContext
from tauten.run.siblings import cancel_all


def deadline_left() -> float:
    """Seconds until the deadline of the request that runs here; infinity without one, or outside."""
    ambient = AMBIENT.get()
    return ambient.deadline_left() if isinstance(ambient, StepContext) else math.inf


def cancelled() -> bool:
    """Whether the request that runs here was cancelled; for loops in blocking stages to look at."""
    ambient = AMBIENT.get()
    return isinstance(ambient, StepContext) and ambient.request.cancelled


async def gather(*work: Awaitable[Any]) -> list[Any]:
    """Await several stages side by side; the first failure cancels the others and waits for them."""
    tasks = [asyncio.ensure_future(_await(each)) for each in work]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        await cancel_all(tasks)
        raise


async def _await(work: Awaitable[Any]) -> Any:
    return await work
