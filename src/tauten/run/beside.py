"""What an engine does beside requests: stages that are called by hand, and what went on behind requests; both are booked."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any

from tauten.describe.ports import Session
from tauten.describe.stage import StageKind
from tauten.describe.workflow import Workflow
from tauten.run.bound import BoundStep
from tauten.run.context import Running, StepContext
from tauten.run.door.admission import Door
from tauten.run.opened import Opened
from tauten.run.request import Request
from tauten.run.workers import Workers


async def _nothing() -> None:
    """The body of a workflow's root step; never called."""


ROOT: StageKind[..., Any] = StageKind(_nothing, name="")
ALONE: Workflow[..., Any] = Workflow(_nothing, name="alone")
"""What stages that are called by hand are booked under."""


async def by_hand(
    door: Door,
    alone: Opened,
    workers: Workers,
    kind: StageKind[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Any:
    """The value of a stage that is called outside any workflow; `alone` holds its models."""
    inputs, params = kind.bind(args, dict(kwargs))
    if kind.prepare is not None:
        inputs, params = kind.prepare(inputs, params, Path.cwd())
    request = Request(door.clock, session=Session() if kind.session_param else None)
    assert alone.steps is not None  # set when the engine was made
    root = StepContext(BoundStep("", ROOT, {}, workers), request, alone.steps, {})
    return await _booked(door, alone, request, Running(root, kind, kind.name, 0, inputs, params))


async def _booked(door: Door, alone: Opened, request: Request, work: Awaitable[Any]) -> Any:
    book = door.book
    if book is None:
        return await work
    request.purse = book.purse(alone, request)
    failed: BaseException | None = None
    try:
        return await work
    except BaseException as error:
        failed = error
        raise
    finally:
        book.ended(alone, request, whole=failed is None, error=failed)


def behind(door: Door, opened: Opened, request: Request, error: BaseException | None) -> None:
    """Work that a request caused and did not wait for is over: it goes on the same account, and is no request."""
    if door.book is not None:
        door.book.behind(opened, request, error=error)
