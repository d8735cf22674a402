"""The lifespan of an ASGI application, the same for every server: startup before the first request, shutdown last."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from tauten.errors import MachineError
from tauten.serve.http.cycle import Asgi, Message

log = logging.getLogger("tauten.serve.http.listener")


class Lifespan:
    """Runs an app's lifespan in one task. An app that knows none is served all the same."""

    def __init__(self, app: Asgi) -> None:
        self.state: dict[str, Any] | None = None  # what the app left for its requests
        self._draft: dict[str, Any] = {}
        self._app = app
        self._task: asyncio.Task[None] | None = None
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._started: asyncio.Future[str | None] | None = None
        self._stopped: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Raises MachineError when the app says that it cannot start."""
        loop = asyncio.get_running_loop()
        self._started, self._stopped = loop.create_future(), loop.create_future()
        self._task = loop.create_task(self._run())
        self._inbox.put_nowait({"type": "lifespan.startup"})
        await asyncio.wait((self._started, self._task), return_when=asyncio.FIRST_COMPLETED)
        if not self._started.done():
            log.debug("the application has no lifespan")
            return
        failed = self._started.result()
        if failed is not None:
            await self._task
            raise MachineError(f"the application did not start: {failed}", help="see its log", code="E344")

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self._draft}
        try:
            await self._app(scope, self._inbox.get, self._send)
        except Exception as error:  # ASGI: an app without a lifespan raises
            started = self._started is not None and self._started.done()
            log.log(logging.ERROR if started else logging.DEBUG, "the lifespan ended early", exc_info=error)

    async def _send(self, message: Message) -> None:
        kind, started, stopped = message["type"], self._started, self._stopped
        if started is None or stopped is None:
            return
        if kind == "lifespan.startup.complete" and not started.done():
            self.state = self._draft or None
            started.set_result(None)
        elif kind == "lifespan.startup.failed" and not started.done():
            started.set_result(message.get("message") or "no reason given")
        elif kind.startswith("lifespan.shutdown.") and not stopped.done():
            stopped.set_result(None)

    async def stop(self) -> None:
        """Tell the app, and wait until it is done. An app that never started is left alone."""
        if self._task is None or self._task.done() or self._stopped is None:
            return
        self._inbox.put_nowait({"type": "lifespan.shutdown"})
        await asyncio.wait((self._stopped, self._task), return_when=asyncio.FIRST_COMPLETED)
        await self._task

    def wrap(self, app: Asgi) -> Asgi:
        """The app with this lifespan's state in every scope, for servers that know nothing of it."""

        async def with_state(
            scope: MutableMapping[str, Any],
            receive: Callable[[], Awaitable[Message]],
            send: Callable[[Message], Awaitable[None]],
        ) -> None:
            if self.state is not None:
                scope["state"] = dict(self.state)
            await app(scope, receive, send)

        return with_state
