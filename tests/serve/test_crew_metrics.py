"""Threads and processes that prepare and decode are shown like deployments: who waits, runs and was refused."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import tauten as tt
from serve.kit_asgi import site
from serve.test_metrics import flow, measured, scraped, value
from tauten.describe.view import View
from tauten.errors import Overloaded
from tauten.run.codecs.pixels import PixelsCodec
from tauten.run.decode.decoders import Decoders
from tauten.run.engine import PREPARATION_THREADS, Engine
from tauten.run.request import Request
from tauten.serve.samples import picture
from tauten.serve.service import Service

CREWS = ("prepare", "decode-thread", "decode-process")
SHOWN = {
    "queue_length": "tauten_queue_length",
    "running": "tauten_deployment_running",
    "refused": "tauten_rejected_total",
    "shed": "tauten_shed_total",
    "expired": "tauten_expired_total",
    "zombies": "tauten_zombies",
}


class Held:
    """Work that takes until it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.go = threading.Event()

    def __call__(self, *_: Any) -> int:
        self.begun.release()
        assert self.go.wait(20)
        return 1


Work = Callable[[Engine, Held], Awaitable[Any]]


def prepared(engine: Engine, held: Held) -> Awaitable[Any]:
    return engine.workers.run(Request(), "s", "user", held)


def decoded(engine: Engine, held: Held) -> Awaitable[Any]:
    return engine.decoders.decode(tt.Image(picture()), View("pixels"), request=Request())


@pytest.mark.parametrize(("crew", "work"), [("prepare", prepared), ("decode-thread", decoded)])
def test_a_crew_shows_who_waits_runs_and_was_refused(
    monkeypatch: pytest.MonkeyPatch, crew: str, work: Work
) -> None:
    held = Held()
    monkeypatch.setattr(PixelsCodec, "decode", lambda self, *given: held())

    async def main() -> None:
        async with site(Service(flow), apis=["operations"]) as app:
            measured(app)
            engine = app.site.services["flow"].engine

            def shown(label: str = crew) -> dict[str, float]:
                samples = scraped(app)
                told = {"workflow": "flow", "deployment": label}
                return {short: value(samples, name, **told) for short, name in SHOWN.items()}

            idle = dict.fromkeys(SHOWN, 0.0)
            assert shown() == idle
            tasks = [asyncio.ensure_future(work(engine, held)) for _ in range(PREPARATION_THREADS)]
            for _ in tasks:
                assert await asyncio.to_thread(held.begun.acquire, timeout=10)
            for each in (engine.workers, *engine.decoders.crews):
                each.bound = 1
            tasks.append(asyncio.ensure_future(work(engine, held)))
            await asyncio.sleep(0)
            with pytest.raises(Overloaded):
                await work(engine, held)
            assert shown() == {**idle, "queue_length": 1, "running": PREPARATION_THREADS, "refused": 1}
            others = {label: shown(label) for label in CREWS if label != crew}
            assert {each["queue_length"] + each["running"] for each in others.values()} == {0.0}
            held.go.set()
            await asyncio.gather(*tasks)
            assert shown() == {**idle, "refused": 1}
            of_models = ("tauten_batch", "tauten_replica", "tauten_retried")
            assert [key for key in scraped(app) if key[0].startswith(of_models)] == []

    asyncio.run(main())


def test_processes_are_counted() -> None:
    decoders = Decoders(threads=3, processes=2)
    assert [(each.label, each.view().replicas, each.view().idle) for each in decoders.crews] == [
        ("decode-thread", 3, 3),
        ("decode-process", 2, 2),
    ]
    decoders.close()
