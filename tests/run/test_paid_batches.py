"""Budgets bind what a batch backend asks of others: one call is held for each item, and what was not asked is given back."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from run.test_accounts import Elsewhere, opened
from tauten.errors import BackendError, Overloaded, Unavailable
from tauten.run.deploy.deployment import Deployment
from tauten.run.request import Request
from tauten.run.usage.budgets import Budgets, Exhausted, Purse
from tauten.run.usage.payer import NOBODY
from usage.test_budgets import made

CALLS = 'tauten = "budgets/1"\n[budget.all]\ncalls = {most}\n'
MONEY = 'tauten = "budgets/1"\n[budget.all]\nusd = "1"\n'


class Billed(Elsewhere):
    """Somebody bills its runs."""

    billed = ("hall", "m")


def payer(budgets: Budgets) -> Request:
    request = Request()
    request.purse = Purse(budgets, "", NOBODY, "flow")
    return request


def account(budgets: Budgets) -> tuple[int, int]:
    """What is spent, and what is held."""
    states = budgets.states()
    return sum(each.spent for each in states), sum(each.held for each in states)


def run(
    folder: Path,
    work: Callable[[Deployment, Billed, Budgets], Awaitable[Any]],
    text: str = CALLS.format(most=3),
    kind: type[Billed] = Billed,
    **options: Any,
) -> tuple[Any, tuple[int, int], int]:
    """What came of it, what the budget says then, and how many runs there were."""
    budgets, backend = made(folder, text), kind()

    async def main() -> Any:
        deployment = await opened(backend, **options)
        try:
            return await work(deployment, backend, budgets)
        finally:
            await deployment.close()

    found = asyncio.run(main())
    try:
        return found, account(budgets), backend.runs
    finally:
        budgets.close()


async def asked(deployment: Deployment, budgets: Budgets, items: list[str]) -> list[Any]:
    calls = (deployment.infer(payer(budgets), "ask", item) for item in items)
    return list(await asyncio.gather(*calls, return_exceptions=True))


def test_no_more_is_asked_than_the_budget_has(tmp_path: Path) -> None:
    async def work(deployment: Deployment, backend: Billed, budgets: Budgets) -> list[Any]:
        backend.gate.set()
        return await asked(deployment, budgets, list("abcdefgh"))

    found, (spent, held), runs = run(tmp_path, work)
    assert sum(isinstance(each, Exhausted) for each in found) == 5
    assert (spent, held, runs) == (3, 0, 3)


def test_several_that_share_a_call_have_spent_one(tmp_path: Path) -> None:
    async def work(deployment: Deployment, backend: Billed, budgets: Budgets) -> list[Any]:
        backend.gate.set()
        return await asked(deployment, budgets, list("abc"))

    found, (spent, held), runs = run(tmp_path, work, max_batch=3, wait=60_000)
    assert (found, spent, held, runs) == (["A", "B", "C"], 1, 0, 1)


def test_each_try_of_what_is_cut_in_halves_is_spent(tmp_path: Path) -> None:
    async def work(deployment: Deployment, backend: Billed, budgets: Budgets) -> list[Any]:
        backend.gate.set()
        return await asked(deployment, budgets, ["a", "b", "c", "bad"])

    found, (spent, held), runs = run(tmp_path, work, CALLS.format(most=100), max_batch=4, wait=60_000)
    assert found[:3] == ["A", "B", "C"]
    assert isinstance(found[3], BackendError)
    assert (spent, held) == (runs, 0)


async def _left(deployment: Deployment, backend: Billed, budgets: Budgets) -> tuple[int, int]:
    """One runs, another waits; both leave. What the budget says meanwhile."""
    tasks = [asyncio.ensure_future(deployment.infer(payer(budgets), "ask", item)) for item in "ab"]
    while not backend.begun.is_set():
        await asyncio.sleep(0.001)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    meanwhile = await asyncio.to_thread(account, budgets)
    backend.gate.set()
    while deployment.at_work:
        await asyncio.sleep(0.001)
    return meanwhile


def test_who_leaves_pays_for_what_runs_and_for_nothing_that_waits(tmp_path: Path) -> None:
    meanwhile, (spent, held), runs = run(tmp_path, _left)
    assert meanwhile == (0, 1)  # the one that runs; lots give back what is not held
    assert (spent, held, runs) == (1, 0, 1)


def test_who_is_refused_by_the_queue_has_spent_nothing(tmp_path: Path) -> None:
    async def work(deployment: Deployment, backend: Billed, budgets: Budgets) -> Any:
        first = asyncio.ensure_future(deployment.infer(payer(budgets), "ask", "a"))
        while not backend.begun.is_set():
            await asyncio.sleep(0.001)
        waits = asyncio.ensure_future(deployment.infer(payer(budgets), "ask", "b"))
        await asyncio.sleep(0.001)
        with pytest.raises(Overloaded, match="1 requests are waiting"):
            await deployment.infer(payer(budgets), "ask", "c")
        backend.gate.set()
        return [await first, await waits]

    found, (spent, held), runs = run(tmp_path, work, bound=1)
    assert (found, spent, held, runs) == (["A", "B"], 2, 0, 2)


def test_money_cannot_bound_what_has_no_price(tmp_path: Path) -> None:
    async def work(deployment: Deployment, backend: Billed, budgets: Budgets) -> Any:
        with pytest.raises(Unavailable) as raised:
            await deployment.infer(payer(budgets), "ask", "a")
        return raised.value.code

    code, _, runs = run(tmp_path, work, MONEY)
    assert (code, runs) == ("E452", 0)


def test_without_budgets_nobody_is_asked(tmp_path: Path) -> None:
    async def work(deployment: Deployment, backend: Billed, budgets: Budgets) -> Any:
        backend.gate.set()
        return await deployment.infer(Request(), "ask", "a")

    found, (spent, held), runs = run(tmp_path, work)
    assert (found, spent, held, runs) == ("A", 0, 0, 1)


def test_who_leaves_between_the_end_of_its_run_and_being_told_has_nothing_held(tmp_path: Path) -> None:
    async def work(deployment: Deployment, backend: Billed, budgets: Budgets) -> Any:
        asking = asyncio.ensure_future(deployment.infer(payer(budgets), "ask", "a"))
        finished = deployment.finished

        def then_leaves(replica: Any, batch: Any) -> None:
            finished(replica, batch)
            asking.cancel()

        deployment.finished = then_leaves  # type: ignore[method-assign]
        backend.gate.set()
        (found,) = await asyncio.gather(asking, return_exceptions=True)
        return found

    found, (spent, held), runs = run(tmp_path, work)
    assert isinstance(found, asyncio.CancelledError)
    assert (spent, held, runs) == (1, 0, 1)


class Prepared(Billed):
    """Takes the next batch beforehand, and dies of "deadly"; then it opens when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.opens = 0
        self.anew = threading.Event()

    def open(self) -> None:
        self.opens += 1
        assert self.opens == 1 or self.anew.wait(60.0)

    def prepare(self, items: Any) -> Any:
        return items

    def run_prepared(self, items: Any) -> list[Any]:
        return self.run(items)

    def run(self, items: Any) -> list[Any]:
        found = super().run(items)
        if "deadly" in items:
            error = BackendError("it is gone", help="none")
            error.dead = True
            raise error
        return found


def test_who_left_a_batch_that_a_dead_backend_never_began_has_nothing_held(tmp_path: Path) -> None:
    async def work(deployment: Deployment, backend: Billed, budgets: Budgets) -> list[Any]:
        tasks: list[asyncio.Task[Any]] = []
        for item in ("deadly", "b", "c", "d"):
            tasks.append(asyncio.ensure_future(deployment.infer(payer(budgets), "ask", item)))
            while deployment.waiting + deployment.at_work < len(tasks):
                await asyncio.sleep(0.001)
        while deployment.at_work < 4:
            await asyncio.sleep(0.001)
        tasks[2].cancel()
        await asyncio.wait([tasks[2]])
        assert isinstance(backend, Prepared)
        backend.gate.set()
        while not deployment.waiting:
            await asyncio.sleep(0.001)
        backend.anew.set()
        while not deployment.view().replicas:
            await asyncio.sleep(0.001)
        tasks.append(asyncio.ensure_future(deployment.infer(payer(budgets), "ask", "e")))
        return await asyncio.gather(*tasks, return_exceptions=True)

    text = CALLS.format(most=100)
    found, (spent, held), runs = run(tmp_path, work, text, Prepared, max_batch=2, wait=60_000, pure=False)
    assert [type(each) for each in found[:3]] == [BackendError, BackendError, asyncio.CancelledError]
    assert (found[3:], spent, held, runs) == (["D", "E"], 2, 0, 2)
