"""Runs stages and workflows that are called outside any workflow.

A blocking call runs on one background event loop that the process keeps; an awaited one runs on the
caller's own loop. Each loop has one engine, so models stay loaded between calls.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from queue import Queue
from typing import Any

from tauten.describe.stage import StageKind
from tauten.describe.workflow import Workflow
from tauten.plan.plan import Plan, load_plan
from tauten.run.engine import Engine


class Ambient:
    """The process's own runner. `engines` are per event loop and workflow."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._engines: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[int, Engine]] = (
            weakref.WeakKeyDictionary()
        )

    # -- calls that block -------------------------------------------------------------------------------------

    def call_stage(
        self, kind: StageKind[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], name: str
    ) -> Any:
        async def run() -> Any:
            return await (await self._engine(None)).run_stage(kind, args, kwargs)

        return self._block(run())

    def call_map(
        self,
        kind: StageKind[..., Any],
        items: Any,
        concurrency: int,
        errors: str,
        fixed: dict[str, Any],
        name: str,
    ) -> Any:
        from tauten.run.context import gather_members

        async def run() -> Any:
            engine = await self._engine(None)
            return await gather_members(
                lambda member: engine.run_stage(kind, (member,), dict(fixed)), items, concurrency, errors
            )

        return self._block(run())

    def call(self, workflow: Workflow[..., Any], inputs: dict[str, Any]) -> Any:
        return self._block(self.acall(workflow, inputs))

    def stream(self, workflow: Workflow[..., Any], inputs: dict[str, Any]) -> Iterator[Any]:
        """Yield increments in the caller's thread; leaving the loop early stops the work."""
        values: Queue[tuple[str, Any]] = Queue()

        async def pump() -> None:
            try:
                async for value in self.astream(workflow, inputs):
                    values.put(("value", value))
                values.put(("end", None))
            except BaseException as error:  # noqa: BLE001  # raised in the caller's thread
                values.put(("error", error))

        task = asyncio.run_coroutine_threadsafe(pump(), self._background())
        try:
            while True:
                word, value = values.get()
                if word == "end":
                    return
                if word == "error":
                    raise value
                yield value
        finally:
            task.cancel()

    def _block(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run on the background loop and wait; Ctrl-C cancels the work and waits for it to stop."""
        future = asyncio.run_coroutine_threadsafe(work, self._background())
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            concurrent.futures.wait([future], timeout=5.0)  # the work's own clean-up, then the caller's
            raise

    def _background(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = new_loop()
                thread = threading.Thread(target=self._loop.run_forever, name="tauten-loop", daemon=True)
                thread.start()
                atexit.register(self.close)
            return self._loop

    # -- calls that are awaited ---------------------------------------------------------------------------------

    async def acall(self, workflow: Workflow[..., Any], inputs: dict[str, Any]) -> Any:
        return (await (await self._engine(workflow)).run(inputs)).value

    async def astream(self, workflow: Workflow[..., Any], inputs: dict[str, Any]) -> AsyncIterator[Any]:
        engine = await self._engine(workflow)
        async for value in engine.stream(inputs):
            yield value

    async def _engine(self, workflow: Workflow[..., Any] | None) -> Engine:
        loop = asyncio.get_running_loop()
        engines = self._engines.setdefault(loop, {})
        key = id(workflow) if workflow is not None else 0
        if key not in engines:
            engine = Engine()
            if workflow is not None:
                await engine.open(workflow, self._plan(workflow))
            engines[key] = engine
        return engines[key]

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
        engines = self._engines.pop(loop, {})

        async def stop() -> None:
            for engine in engines.values():
                await engine.close()

        try:
            asyncio.run_coroutine_threadsafe(stop(), loop).result(timeout=10.0)  # workers end within 5 s
        finally:
            loop.call_soon_threadsafe(loop.stop)


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


Factory = Callable[[], Ambient]
