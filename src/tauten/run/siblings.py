"""Tasks that run beside one another: the first failure stops the others, and none is left behind."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any


class Family:
    """The members of one map in one request: how many run, and who of them waits at a deployment."""

    __slots__ = ("active", "came", "last", "started", "waiting")

    def __init__(self) -> None:
        self.active = 0
        self.started = 0  # since none was active
        self.came: dict[object, int] = {}  # deployment -> times that members came there since
        self.waiting: dict[object, int] = {}  # deployment -> members in its queue
        self.last = -1.0  # when a member last came to a deployment

    def start(self) -> None:
        """One more runs."""
        if not self.active:
            self.started = 0
            self.came.clear()
        self.active += 1
        self.started += 1

    def come(self, deployment: object) -> None:
        """One of them is there, and waits."""
        self.came[deployment] = self.came.get(deployment, 0) + 1
        self.waiting[deployment] = self.waiting.get(deployment, 0) + 1

    def missing(self, deployment: object) -> int:
        """Members that run and may still come, each as often as the others: who was there is not missing."""
        there = self.came.get(deployment, 0)
        return max(0, min(self.active - self.waiting.get(deployment, 0), -there % max(self.started, 1)))


def family_of(families: Mapping[str, Family], step: str) -> Family | None:
    """The innermost map that a visit of a step belongs to: as its member, or called by one of its members.

    >>> inner, outer = Family(), Family()
    >>> families = {"outer": outer, "outer[1]/inner": inner}
    >>> family_of(families, "outer[1]/inner[2]") is inner
    True
    >>> family_of(families, "outer[2]/other") is family_of(families, "outer/other") is outer
    True
    """
    while step:
        found = families.get(step[: step.rindex("[")] if step.endswith("]") else step)
        if found is not None:
            return found
        step = step.rpartition("/")[0]
    return None


def outlasting(held: set[asyncio.Task[Any]], work: Coroutine[Any, Any, Any]) -> asyncio.Future[Any]:
    """Work that begins, and goes on to its end where who waits for it is cancelled; `held` has it until then."""
    task = asyncio.get_running_loop().create_task(work)
    held.add(task)
    task.add_done_callback(held.discard)
    return asyncio.shield(task)


async def gather_members(
    one: Callable[[Any], Awaitable[Any]],
    items: Any,
    concurrency: int,
    errors: str,
    family: Family | None = None,
) -> list[Any]:
    """Run `one` for each member, at most `concurrency` at once; order kept, siblings cancelled on failure.

    A stream is read no faster than its members are worked on, and is left when a member fails.
    `family` counts those that run.
    """
    family = family or Family()
    gate = asyncio.Semaphore(max(1, concurrency))
    tasks: list[asyncio.Task[Any]] = []
    stop = errors == "raise"

    def ended(task: asyncio.Task[Any]) -> None:
        gate.release()
        family.active -= 1
        if stop and not task.cancelled() and task.exception() is not None:
            siblings.fail(task)

    async def start(member: Any) -> None:
        await gate.acquire()
        family.start()
        task = asyncio.ensure_future(one(member))
        task.add_done_callback(ended)
        tasks.append(task)

    async with Siblings(tasks) as siblings:
        if hasattr(items, "__aiter__"):
            async for member in items:
                await start(member)
        else:
            for member in items:
                await start(member)
        if tasks:
            await asyncio.wait(tasks)
    results = [_outcome(task) for task in tasks]
    if errors == "drop":
        return [each for each in results if not isinstance(each, BaseException)]
    return results


def _outcome(task: asyncio.Task[Any]) -> Any:
    return asyncio.CancelledError() if task.cancelled() else task.exception() or task.result()


class Siblings:
    """Runs beside tasks: the first that fails stops this one, then all are cancelled and waited for."""

    __slots__ = ("_asked", "_failed", "_parent", "tasks")

    def __init__(self, tasks: list[asyncio.Task[Any]]) -> None:
        self.tasks = tasks
        self._failed: asyncio.Task[Any] | None = None
        self._parent: asyncio.Task[Any] | None = None
        self._asked = 0

    def fail(self, task: asyncio.Task[Any]) -> None:
        """Say that a task failed; stops the block, which raises the task's error."""
        if self._failed is None and self._parent is not None:
            self._failed = task
            self._parent.cancel()

    def watch(self, task: asyncio.Task[Any]) -> None:
        """A task's done callback."""
        if not task.cancelled() and task.exception() is not None:
            self.fail(task)

    async def __aenter__(self) -> Siblings:
        self._parent = asyncio.current_task()
        self._asked = self._parent.cancelling() if self._parent is not None else 0
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        parent, self._parent = self._parent, None
        left = parent.uncancel() if self._failed is not None and parent is not None else 0
        if error is not None or self._failed is not None:
            await cancel_all(self.tasks)
        if self._failed is not None and left <= self._asked:
            failure = self._failed.exception()
            assert failure is not None  # `fail` was told so
            raise failure


async def cancel_all(tasks: list[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until each has really ended."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.gather(*tasks, return_exceptions=True)
