"""Deadlines in real time, while others compute: what comes first, the answer or the end of the work."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import os
import signal
import threading
from contextlib import aclosing

import pytest

import tauten as tt
from tauten.clock import real
from tauten.errors import DeadlineExceeded
from tauten.models import Store
from tauten.run.backends.llm import LlmBackend
from tauten.run.contracts import ModelSpec
from tauten.run.deadline import arm, disarm, stoppable
from tauten.run.deploy.slots_deployment import SlotDeployment
from tauten.run.engine import Engine
from tauten.run.request import Request
from tauten.run.steps import FUNCTION_THREADS

MANY = 50_000_000  # turns of a loop in Python: many seconds, which only a failing test sees
LIMIT_S = 60.0  # a hang is a failure; no test comes near it


@pytest.mark.parametrize("busy", [FUNCTION_THREADS, FUNCTION_THREADS - 1])
def test_who_expires_is_answered_while_threads_compute_in_python(busy: int) -> None:
    """Whether it waits for a thread or runs in one: its answer leaves before any of them is done."""
    order: list[str] = []
    answered = threading.Event()
    begun: list[int] = []

    @tt.stage
    def computes(q: int) -> int:
        begun.append(q)
        turns = 0
        while turns < MANY and not answered.is_set():  # no sleep, no wait: the interpreter is never offered
            turns += 1
        order.append("done")
        return q

    @tt.workflow
    def flow(q: int) -> int:
        return computes(q)

    async def main() -> None:
        async with Engine() as engine:
            await engine.open(flow)
            others = [asyncio.ensure_future(engine.run({"q": q})) for q in range(busy)]
            while len(begun) < busy:
                await asyncio.sleep(0.001)
            with pytest.raises(DeadlineExceeded):
                await engine.run({"q": 9}, deadline_ms=30)
            order.append("answered")
            answered.set()
            await asyncio.gather(*others)
        assert order[0] == "answered"
        assert order.count("done") >= busy

    asyncio.run(main())


@pytest.mark.models
def test_who_expires_is_answered_while_the_worker_of_a_language_model_is_in_a_step() -> None:
    """The step lasts until the answer is there: its process stands still."""
    name = "smollm2-135m-instruct"
    spec = ModelSpec(name, files=Store().files(name), threads=1, options={"cache_size_gb": 0.1})

    async def main() -> None:
        backend = LlmBackend(spec)
        deployment = SlotDeployment(backend, label="llm", clock=real)
        await deployment.open()
        pid = backend.worker_pid
        assert pid is not None
        first = asyncio.Event()

        async def read(request: Request) -> None:
            item = {"prompt": "Tell me of the harbour.", "max_tokens": 500}
            async with aclosing(deployment.stream(request, "s", item)) as chunks:
                async for _ in chunks:
                    first.set()

        async def expires() -> None:
            request = Request(real)
            request.deadline = real() + LIMIT_S
            reading = asyncio.ensure_future(stoppable(request, read(request)))
            await first.wait()
            os.kill(pid, signal.SIGSTOP)
            request.deadline = real() + 0.02
            arm(request)
            with pytest.raises(DeadlineExceeded):
                await reading
            disarm(request)

        try:
            await asyncio.wait_for(expires(), LIMIT_S)
            assert backend.active == 1, "it is answered, and the engine does not know yet that it left"
            assert deployment.waiting == 0
        finally:
            os.kill(pid, signal.SIGCONT)
        while backend.active:
            await asyncio.sleep(0.01)
        await deployment.close()

    asyncio.run(asyncio.wait_for(main(), LIMIT_S))
