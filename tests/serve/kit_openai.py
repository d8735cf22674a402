"""A server of workflows on a loopback port, and the official client of its OpenAI endpoints."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import openai
import uvicorn

import tauten as tt
from tauten.describe.stages.generate import chat
from tauten.plan.plan import Plan, StagePlan
from tauten.serve.app import App, Site
from tauten.serve.door import Door
from tauten.serve.service import Service


class Served:
    """A running server."""

    def __init__(self, app: App, port: int, loop: asyncio.AbstractEventLoop) -> None:
        self.app = app
        self.url = f"http://127.0.0.1:{port}/v1"
        self.loop = loop

    def client(self, **settings: Any) -> openai.OpenAI:
        return openai.OpenAI(**self._settings(settings))

    def async_client(self, **settings: Any) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(**self._settings(settings))

    def _settings(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"base_url": self.url, "api_key": "none", "max_retries": 0, "timeout": 60.0, **given}

    def slots(self, service: Service) -> list[Any]:
        """The slot backends of a service."""
        held = [deployment for deployment, _ in service.engine.deployments._held.values()]
        return [each.backend for each in held if hasattr(each, "backend")]


@contextlib.contextmanager
def serving(
    *services: Service, door: Door | None = None, apis: Sequence[str] = ("openai",)
) -> Iterator[Served]:
    """Serve on a free loopback port until the block ends; the server's thread is gone then."""
    app = App(Site(services, door), names=list(apis))
    loops: list[asyncio.AbstractEventLoop] = []

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        await server.serve(sockets=[listener])

    with contextlib.closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="error", lifespan="on", timeout_graceful_shutdown=5)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(main()), name="served")
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the server did not start"
                time.sleep(0.005)
            yield Served(app, listener.getsockname()[1], loops[0])
        finally:
            server.should_exit = True
            thread.join(timeout=30)
            assert not thread.is_alive()


def eventually(check: Any, seconds: float = 10.0) -> bool:
    """Whether something becomes true; looked at every few milliseconds."""
    until = time.monotonic() + seconds
    while not check():
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True


def talking(name: str = "parrot", **options: Any) -> Service:
    """A chat model made of told words: it echoes the last message, or says `value`."""

    @tt.workflow(name=name)
    def parrot(
        messages: list[dict[str, Any]],
        max_tokens: int | None = None,
        temperature: float | None = None,
        stop: list[str] | None = None,
        json_schema: dict[str, Any] | None = None,
    ) -> tt.Stream[tt.Text]:
        return chat(
            messages, max_tokens=max_tokens, temperature=temperature, stop=stop, json_schema=json_schema
        )

    return Service(parrot, synthetic(parrot, "chat", **options))


def synthetic(workflow: Any, step: str, **options: Any) -> Plan:
    """A plan in which one step runs on told words."""
    settings = {"slots": 2, **options}
    chosen = StagePlan(model="told", backend="synthetic_slots", settings=settings)
    return Plan(graph=workflow.graph.hash, stages={step: chosen})
