"""Run a workflow on an engine in virtual time: sleeps cost nothing and times are exact."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

from tauten.clock import run_virtual
from tauten.describe.workflow import Workflow
from tauten.plan.plan import Plan
from tauten.run.engine import Engine
from tauten.run.opened import Answer


def virtual(body: Callable[[Engine], Awaitable[Any]]) -> Any:
    """Run `body(engine)` in virtual time; whatever it leaves running is an error."""

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        async with Engine(clock=loop.time) as engine:
            result = await body(engine)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks left behind: {left}"
        return result

    return run_virtual(main())


def answer(
    workflow: Workflow[..., Any],
    *args: Any,
    plan: Plan | None = None,
    deadline_ms: float = math.inf,
    **kwargs: Any,
) -> Answer:
    """One request in virtual time."""

    async def body(engine: Engine) -> Answer:
        await engine.open(workflow, plan)
        return await engine.run(workflow.bind(*args, **kwargs), deadline_ms=deadline_ms)

    result: Answer = virtual(body)
    return result


def value(workflow: Workflow[..., Any], *args: Any, **kwargs: Any) -> Any:
    return answer(workflow, *args, **kwargs).value
