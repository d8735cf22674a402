"""Backends that say what calls they made elsewhere: each call is with the request that waited, also when it has left."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import threading
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

import tauten as tt
from tauten.clock import real
from tauten.describe.stage import stage
from tauten.errors import BackendError, TautenError
from tauten.plan.plan import Plan
from tauten.run.contracts import ModelSpec
from tauten.run.deploy.deployment import Deployment
from tauten.run.door.admission import Door
from tauten.run.opened import Opened
from tauten.run.request import Request
from tauten.run.single import Item, Single, Station
from tauten.run.usage.call import Call
from tauten.run.usage.payer import Payer
from usage.kit_usage import quiet, rows


class Elsewhere:
    """Runs are calls: one for each, whose first item carries it. `gate` holds them up."""

    name: ClassVar[str] = "elsewhere"
    option_keys: ClassVar[frozenset[str]] = frozenset()
    local: ClassVar[bool] = False

    def __init__(self) -> None:
        self.spec = ModelSpec("m")
        self.gate = threading.Event()
        self.begun = threading.Event()
        self.runs = 0
        self._calls: list[tuple[Call, ...]] = []

    def open(self) -> None:
        return

    def group(self, item: Any) -> Hashable:
        return 0

    def weight(self, item: Any) -> float:
        return 1.0

    def run(self, items: Sequence[Any]) -> list[Any]:
        self.runs += 1
        self.begun.set()
        assert self.gate.wait(60.0)
        outcome = "failed" if "bad" in items else "ok"
        made = [
            Call(
                step="",
                provider="hall",
                model="m",
                started=0.0,
                ended=1.0,
                outcome=outcome,  # type: ignore[arg-type]
                units={"requests": float(not place)},
                counted="measured",
            )
            for place in range(len(items))
        ]
        self._calls = [(each,) for each in made]
        if outcome == "failed":
            raise BackendError("it fails", help="none")
        return [str(item).upper() for item in items]

    def account(self) -> list[tuple[Call, ...]]:
        calls, self._calls = self._calls, []
        return calls

    def properties(self) -> Mapping[str, str]:
        return {}

    def close(self) -> None:
        return


async def opened(backend: Elsewhere, **options: Any) -> Deployment:
    deployment = Deployment(lambda: backend, label="m/elsewhere", clock=real, **options)  # type: ignore[arg-type, return-value]
    await deployment.open()
    return deployment


def made(request: Request) -> list[tuple[str, str, float]]:
    return [(call.step, call.outcome, call.units["requests"]) for call in request.trace.provider_calls]


def test_a_call_is_with_its_request_and_its_step_and_its_time_is_remote() -> None:
    backend, request = Elsewhere(), Request()
    backend.gate.set()

    async def main() -> Any:
        deployment = await opened(backend)
        try:
            return await deployment.infer(request, "ask", "a")
        finally:
            await deployment.close()

    assert asyncio.run(main()) == "A"
    assert made(request) == [("ask", "ok", 1.0)]
    assert {cause for _, cause, *_ in request.trace.rows} == {"queue", "remote", "loop"}


def test_each_run_of_a_batch_that_is_cut_in_halves_is_booked() -> None:
    backend = Elsewhere()
    requests = [Request() for _ in range(4)]

    async def main() -> list[Any]:
        deployment = await opened(backend, max_batch=4, wait=60_000)
        try:
            items = ["a", "b", "c", "bad"]
            asked = [deployment.infer(*each) for each in zip(requests, "wxyz", items, strict=True)]
            tasks = [asyncio.ensure_future(each) for each in asked]
            await asyncio.sleep(0)
            backend.gate.set()
            return await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            await deployment.close()

    answers = asyncio.run(main())
    assert answers[:3] == ["A", "B", "C"]
    assert isinstance(answers[3], TautenError)
    assert sum(units for request in requests for _, _, units in made(request)) == backend.runs
    assert all(
        step == name for request, name in zip(requests, "wxyz", strict=True) for step, *_ in made(request)
    )
    assert [outcome for _, outcome, _ in made(requests[3])][-1] == "failed"


def test_who_left_has_the_call_in_the_books_all_the_same(tmp_path: Path) -> None:
    backend, request, book = Elsewhere(), Request(), quiet(tmp_path)
    request.payer = Payer("front")

    async def main() -> None:
        deployment = await opened(backend)
        try:
            task = asyncio.ensure_future(deployment.infer(request, "ask", "a"))
            while not backend.begun.is_set():
                await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            book.ended(Opened(Plan(), flow, None), request, whole=False, error=asyncio.CancelledError())
            backend.gate.set()
            while len(request.trace.provider_calls) < 1:
                await asyncio.sleep(0.001)
        finally:
            await deployment.close()

    asyncio.run(main())
    first, call = rows(book)
    assert (first.ended, first.asked, first.provider) == ("cancelled", 1, "")
    assert (call.provider, call.step, call.key, call.asked) == ("hall", "ask", "front", 0)


@stage(pure=True)
async def nothing(words: tt.Text) -> str:
    return words.text


@tt.workflow
def flow(words: tt.Text) -> str:
    return nothing(words)


class One(Single):
    """A request without a task; its answer is kept."""

    def __init__(self, station: Station) -> None:
        super().__init__(station, budget_s=1e9)
        self.ended = asyncio.Event()
        self.answers: list[Any] = []

    def answer(self, value: Any) -> None:
        self.answers.append(value)
        self.ended.set()

    def refuse(self, error: TautenError) -> None:
        self.answers.append(error)
        self.ended.set()


@pytest.mark.parametrize("leaves", [False, True])
def test_a_request_without_a_task_is_booked_by_its_calls(tmp_path: Path, leaves: bool) -> None:
    backend, book = Elsewhere(), quiet(tmp_path)

    async def main() -> list[Any]:
        deployment = await opened(backend)
        station = Station(Door(real, book), Opened(Plan(), flow, None), "model", deployment)
        one = One(station)
        try:
            one.enter(Item("a", 1.0, 0, 1.0))
            while not backend.begun.is_set():
                await asyncio.sleep(0.001)
            if leaves:
                one.fail(BackendError("who waited left", help="none"))
            backend.gate.set()
            await one.ended.wait()
            while deployment.at_work:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.01)
            return one.answers
        finally:
            await deployment.close()

    [answer] = asyncio.run(main())
    assert isinstance(answer, BackendError) == leaves
    lines = rows(book)
    assert sum(line.asked for line in lines) == 1
    [call] = [line for line in lines if line.provider == "hall"]
    assert (call.step, call.outcome, call.counted) == ("model", "ok", "measured")
    assert [line.provider for line in lines if line.provider not in ("", "hall")] == []
