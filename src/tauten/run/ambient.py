"""Runs stages and workflows that are called outside any workflow.

A blocking call runs on one background event loop that the process keeps; an awaited one runs on the
caller's own loop. Each loop has one engine, so models stay loaded between calls.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextvars
import threading
import weakref
from collections.abc import AsyncGenerator, Coroutine, Iterator
from contextlib import aclosing
from pathlib import Path
from queue import Queue
from typing import Any

from tauten.describe.stage import AMBIENT, StageKind, caller_place
from tauten.describe.workflow import Workflow
from tauten.errors import Cancelled, WorkflowError
from tauten.plan.plan import Plan, load_plan
from tauten.run.context import StepContext
from tauten.run.engine import Engine
from tauten.run.request import Request
from tauten.run.usage.by_hand import ByHand

_AHEAD = 64  # increments that a blocking reader may lie behind, as a streamed edge's default


class Ambient:
    """The process's own runner. `engines` are per event loop and workflow."""

    def __init__(self) -> None:
        self._by_hand = ByHand()
        atexit.register(self._by_hand.end)  # the first to be registered: it comes after all else has ended
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._engines: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Engines] = (
            weakref.WeakKeyDictionary()
        )

    # -- calls that block -------------------------------------------------------------------------------------

    def call_stage(
        self, kind: StageKind[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], name: str
    ) -> Any:
        async def run() -> Any:
            return await (await self._engine(None)).run_stage(kind, args, kwargs)

        return self.block(run())

    def call_map(
        self,
        kind: StageKind[..., Any],
        items: Any,
        concurrency: int,
        errors: str,
        fixed: dict[str, Any],
        name: str,
    ) -> Any:
        from tauten.run.siblings import gather_members

        async def run() -> Any:
            engine = await self._engine(None)
            return await gather_members(
                lambda member: engine.run_stage(kind, (member,), dict(fixed)), items, concurrency, errors
            )

        return self.block(run())

    def call(self, workflow: Workflow[..., Any], inputs: dict[str, Any]) -> Any:
        return self.block(self.acall(workflow, inputs))

    def stream(self, workflow: Workflow[..., Any], inputs: dict[str, Any]) -> Iterator[Any]:
        """Yield increments in the caller's thread; leaving the loop early stops the work."""
        loop = self._background()
        values: Queue[tuple[str, Any]] = Queue()
        room = asyncio.Semaphore(_AHEAD)

        async def pump() -> None:
            try:
                async with aclosing(self.astream(workflow, inputs)) as increments:
                    async for value in increments:
                        await room.acquire()
                        values.put(("value", value))
                values.put(("end", None))
            except BaseException as error:  # noqa: BLE001  # raised in the caller's thread
                values.put(("error", error))

        job = _Blocking(loop, pump())
        try:
            while True:
                word, value = values.get()
                if word == "end":
                    return
                if word == "error":
                    raise value
                yield value
                loop.call_soon_threadsafe(room.release)
        finally:
            job.stop()

    def block(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run on the background loop and wait; Ctrl-C cancels the work and waits for it to stop."""
        job = _Blocking(self._background(work), work)
        try:
            return job.done.result()
        except KeyboardInterrupt:
            job.stop()
            raise

    def _background(self, work: Coroutine[Any, Any, Any] | None = None) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is not None and asyncio._get_running_loop() is self._loop:
                if work is not None:
                    work.close()
                raise WorkflowError(
                    "a blocking call on the loop that would have to run it",
                    help="inside a running stage, `await` stages and `await workflow.acall(...)`",
                    where=caller_place(),
                    code="E117",
                )
            if self._loop is None:
                self._loop = new_loop()
                thread = threading.Thread(target=self._loop.run_forever, name="tauten-loop", daemon=True)
                thread.start()
                atexit.register(self.close)
            return self._loop

    # -- calls that are awaited ---------------------------------------------------------------------------------

    async def acall(self, workflow: Workflow[..., Any], inputs: dict[str, Any]) -> Any:
        engine = await self._engine(workflow)
        return (await engine.run(inputs, request=_part_of_caller(engine))).value

    async def astream(
        self, workflow: Workflow[..., Any], inputs: dict[str, Any]
    ) -> AsyncGenerator[Any, None]:
        engine = await self._engine(workflow)
        async with aclosing(engine.stream(inputs, request=_part_of_caller(engine))) as values:
            async for value in values:
                yield value

    async def _engine(self, workflow: Workflow[..., Any] | None) -> Engine:
        loop = asyncio.get_running_loop()
        engines = self._engines.get(loop)
        if engines is None:
            engines = self._engines[loop] = _Engines()
            if loop is not self._loop:
                await engines.follow()
        async with engines.lock:
            return await self._opened(engines, workflow)

    async def _opened(self, engines: _Engines, workflow: Workflow[..., Any] | None) -> Engine:
        key = id(workflow) if workflow is not None else 0  # the engine keeps its workflow, and so its id
        if key not in engines.table:
            engine = Engine(book=self._by_hand.book())
            try:
                if workflow is not None:
                    await engine.open(workflow, self._plan(workflow))
            except BaseException:
                await engine.close()
                raise
            engines.table[key] = engine
        return engines.table[key]

    def _plan(self, workflow: Workflow[..., Any]) -> Plan | None:
        if not workflow.plan:
            return None
        source = getattr(workflow.function, "__code__", None)
        folder = Path(source.co_filename).parent if source is not None else Path.cwd()
        return load_plan(folder / workflow.plan)

    def close(self) -> None:
        """Close the background loop's engines; the interpreter calls this at its end."""
        loop, self._loop = self._loop, None
        if loop is None:
            return
        engines = self._engines.pop(loop, None)
        try:
            if engines is not None:
                stopped = asyncio.run_coroutine_threadsafe(engines.close(), loop)
                stopped.result(timeout=10.0)  # workers end within 5 s
        finally:
            loop.call_soon_threadsafe(loop.stop)


def _part_of_caller(engine: Engine) -> Request:
    """A request for whoever asks: running code, which has a deadline and a tenant, or nobody that is known."""
    ambient = AMBIENT.get()
    request = engine.request()
    return ambient.request.part(request) if isinstance(ambient, StepContext) else request


class _Engines:
    """The engines of one event loop."""

    def __init__(self) -> None:
        self.table: dict[int, Engine] = {}
        self.lock = asyncio.Lock()  # one opens at a time: the second call finds it open
        self._keeper: AsyncGenerator[None, None] | None = None

    async def follow(self) -> None:
        """End with the loop: a loop that shuts down closes its asynchronous generators first."""
        self._keeper = self._keep()
        await anext(self._keeper)

    async def _keep(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await self.close()

    async def close(self) -> None:
        engines, self.table = list(self.table.values()), {}
        for engine in engines:
            await engine.close()


class _Blocking:
    """Work on a loop that another thread waits for."""

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any]) -> None:
        self.done: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._loop = loop
        self._work = work
        self._task: asyncio.Task[Any] | None = None
        loop.call_soon_threadsafe(self._start, context=contextvars.Context())

    def _start(self) -> None:
        self._task = self._loop.create_task(self._work)
        self._task.add_done_callback(self._settle)

    def _settle(self, task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            self.done.set_exception(Cancelled("the call was stopped", help="call again"))
        elif (error := task.exception()) is not None:
            self.done.set_exception(error)
        else:
            self.done.set_result(task.result())

    def stop(self) -> None:
        """Cancel the work and wait for its clean-up."""
        if not self.done.done():
            self._loop.call_soon_threadsafe(self._cancel)
            concurrent.futures.wait([self.done], timeout=5.0)  # a stage that will not stop is left behind

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()


def new_loop() -> asyncio.AbstractEventLoop:
    """uvloop where it is installed, else asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def run_async(main: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on a fresh loop of the best kind; for command lines and benchmarks."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main)


_shared: list[Ambient] = []


def shared() -> Ambient:
    """The process's one ambient runner."""
    if not _shared:
        _shared.append(Ambient())
    return _shared[0]
