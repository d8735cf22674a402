"""Lots: most calls are held in memory, and what the database says is never less than what is true."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tauten.errors import Unavailable
from tauten.run.usage.budgets import Budgets, Exhausted, Hold, Purse
from tauten.run.usage.call import Call
from tauten.run.usage.limits import read_limits
from tauten.run.usage.lots import CALLS, IDLE_S, SHARE, Lots
from tauten.run.usage.payer import NOBODY, Payer
from tauten.run.usage.sqlite import Sqlite
from usage.kit_usage import prices

MOST = 100_000  # tokens of the budget
HELD = {"input_tokens": 10.0}  # of each call


class Counted(Sqlite):
    """A database that counts its transactions, and may be locked."""

    transactions = 0

    def alone(self, work: Any) -> Any:
        Counted.transactions += 1
        return super().alone(work)


def made(folder: Path, most: int = MOST, kind: Callable[[Path], Any] = Counted) -> Budgets:
    (folder / "budgets.toml").write_text(f'tauten = "budgets/1"\n[budget.all]\ntokens = {most}\n')
    limits = read_limits(folder / "budgets.toml")
    return Budgets(limits, prices(folder), lambda: kind(folder / "book.db"))


def purse(budgets: Budgets, payer: Payer = NOBODY) -> Purse:
    return Purse(budgets, "desk", payer, "flow")


def ended(tokens: float) -> Call:
    units = {"input_tokens": tokens}
    return Call(step="s", provider="p", model="m", started=0.0, ended=1.0, outcome="ok", units=units)


async def spend(budgets: Budgets, count: int, took: float = 4.0) -> None:
    for _ in range(count):
        (await purse(budgets).reserve("p", "m", HELD)).settle(ended(took))


async def until_refused(budgets: Budgets, took: float, most: int) -> list[str]:
    """What became of calls, the last one by the code of its refusal."""
    seen = []
    for _ in range(most):
        try:
            (await purse(budgets).reserve("p", "m", HELD)).settle(ended(took))
        except (Exhausted, Unavailable) as error:
            return [*seen, error.code]
        seen.append("held")
    return seen


def told(folder: Path) -> tuple[int, int]:
    """What the database says: spent and held."""
    database = Sqlite(folder / "book.db")
    try:
        [(spent,)] = database.fetch("SELECT COALESCE(SUM(spent), 0) FROM budget")
        [(held,)] = database.fetch("SELECT COALESCE(SUM(amount), 0) FROM hold")
    finally:
        database.close()
    return int(spent), int(held)


def test_most_calls_are_no_transaction_and_the_sum_is_exact(tmp_path: Path) -> None:
    budgets = made(tmp_path)
    Counted.transactions = 0
    asyncio.run(spend(budgets, 1000))
    assert Counted.transactions < 3 * 1000 / CALLS
    [state] = budgets.states()
    assert (state.spent, state.held) == (4000, 0)
    budgets.close()
    assert told(tmp_path) == (4000, 0)


def test_a_process_that_dies_has_its_lot_still_held(tmp_path: Path) -> None:
    died = made(tmp_path)
    asyncio.run(spend(died, 20))
    spent, held = told(tmp_path)
    assert spent + held >= 20 * 4
    assert held <= CALLS * 10 + 10, "and no more than a lot is lost to others"
    died._thread.submit(died._shut)
    died._thread.shutdown()


def test_what_was_spent_of_a_lot_stays_held_when_the_next_is_taken(tmp_path: Path) -> None:
    budgets = made(tmp_path)
    asyncio.run(spend(budgets, 3 * CALLS, took=10.0))
    spent, held = told(tmp_path)
    assert spent + held >= 3 * CALLS * 10
    budgets.close()
    assert told(tmp_path) == (3 * CALLS * 10, 0)


def test_a_lot_leaves_nearly_all_to_others(tmp_path: Path) -> None:
    one, other = made(tmp_path, 5000), made(tmp_path, 5000)

    async def main() -> list[str]:
        (await purse(one).reserve("p", "m", HELD)).settle(None)
        held = told(tmp_path)[1]
        assert 0 < held <= 5000 // SHARE + 10
        return await until_refused(other, 10.0, 1000)

    assert asyncio.run(main()).count("held") >= (5000 - 5000 // SHARE) // 10 - 1
    one.close()
    other.close()


def test_what_its_own_lots_hold_is_given_back_before_anybody_is_refused(tmp_path: Path) -> None:
    budgets = made(tmp_path, 2000)

    async def main() -> None:
        (await purse(budgets).reserve("p", "m", HELD)).settle(ended(10))
        assert told(tmp_path)[1] > 10, "a lot"
        held = await purse(budgets).reserve("p", "m", {"input_tokens": 1990.0})
        with pytest.raises(Exhausted):
            await purse(budgets).reserve("p", "m", {"input_tokens": 1.0})
        held.settle(ended(1990))

    asyncio.run(main())
    [state] = budgets.states()
    assert (state.spent, state.held) == (2000, 0)
    budgets.close()


def test_a_lot_that_nobody_uses_goes_back(tmp_path: Path) -> None:
    now = [0.0]
    budgets = made(tmp_path)
    budgets._lots = Lots(lambda: now[0])
    asyncio.run(spend(budgets, 3))
    budgets.look()
    budgets._thread.submit(int).result()
    spent, held = told(tmp_path)
    assert spent == 12
    assert held > 0
    now[0] += IDLE_S + 0.01
    budgets.look()
    budgets._thread.submit(int).result()
    assert told(tmp_path) == (12, 0)
    assert not budgets._lots.due
    budgets.close()


@pytest.mark.parametrize("took", [0, 7])
def test_a_call_of_which_nothing_is_held_may_end_after_everybody_else(tmp_path: Path, took: int) -> None:
    now = [0.0]
    budgets = made(tmp_path)
    budgets._lots = Lots(lambda: now[0])

    async def main() -> Hold:
        await spend(budgets, 1)
        return await purse(budgets).reserve("p", "m", {"audio_seconds": 3.0})

    hold = asyncio.run(main())
    assert [claim.amount for claim in hold.claims] == [0]
    now[0] += IDLE_S + 0.01
    budgets.look()
    budgets._thread.submit(int).result()
    assert told(tmp_path) == (4, 0), "the lot is given back"
    hold.settle(ended(took))
    assert budgets._lots.due
    budgets.look()
    budgets._thread.submit(int).result()
    assert told(tmp_path) == (4 + took, 0)
    assert not budgets._lots._lots, "and then it goes"
    budgets.close()


def test_calls_that_are_held_already_go_on_while_the_database_is_locked(tmp_path: Path) -> None:
    budgets = made(tmp_path, kind=lambda path: Sqlite(path, wait_s=0.05))
    asyncio.run(spend(budgets, 2))
    lock = Sqlite(tmp_path / "book.db")

    def while_locked(do: Any) -> list[str]:
        return asyncio.run(until_refused(budgets, 10.0, 2 * CALLS))

    *held, last = seen = lock.alone(while_locked)
    lock.close()
    assert set(held) == {"held"}
    assert last == "E453"
    budgets.look()
    [state] = budgets.states()
    assert (state.spent, state.held) == (8 + 10 * seen.count("held"), 0)
    budgets.close()


@dataclass
class Crowd:
    """Processes with one book, and what is true of them."""

    folder: Path
    most: int
    spent: int = 0
    open: list[tuple[Hold, int]] = field(default_factory=list)
    now: float = 0.0

    def __post_init__(self) -> None:
        self.processes = [made(self.folder, self.most) for _ in range(2)]
        for each in self.processes:
            each._lots = Lots(lambda: self.now)

    async def reserve(self, number: int, amount: int) -> None:
        true = self.spent + sum(held for _, held in self.open)
        try:
            hold = await purse(self.processes[number % 2]).reserve("p", "m", {"input_tokens": float(amount)})
        except Exhausted:
            assert true + amount > self.most - self.most // SHARE - amount, "others hold little beforehand"
        else:
            assert true + amount <= self.most
            self.open.append((hold, amount))

    def settle(self, number: int, amount: int) -> None:
        if self.open:
            hold, held = self.open.pop(number % len(self.open))
            took = min(held, amount)
            hold.settle(ended(took) if took else None)
            self.spent += took

    def look(self, number: int, idle_s: float = 0.0) -> None:
        self.now += idle_s
        self.processes[number % 2].look()

    def check(self) -> None:
        for each in self.processes:
            each._thread.submit(int).result()
        spent, held = told(self.folder)
        true = self.spent + sum(held for _, held in self.open)
        assert true <= spent + held <= self.most
        assert spent <= self.spent


NUMBERS = st.integers(0, 60)
EVENTS = st.lists(
    st.tuples(st.sampled_from(("reserve", "reserve", "settle", "settle", "look", "idle")), NUMBERS, NUMBERS),
    max_size=60,
)


@settings(max_examples=100, deadline=None)
@given(EVENTS, st.sampled_from((3000, 30_000, 300_000)))
def test_two_processes_in_any_order_never_spend_what_the_database_does_not_hold(
    events: list[tuple[str, int, int]], most: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        crowd = Crowd(Path(folder), most)

        async def main() -> None:
            for word, number, amount in events:
                if word == "reserve":
                    await crowd.reserve(number, amount)
                elif word == "settle":
                    crowd.settle(number, amount)
                else:
                    crowd.look(number, 2 * IDLE_S if word == "idle" else 0.0)
                crowd.check()
            while crowd.open:
                crowd.settle(0, 60)

        asyncio.run(main())
        for each in crowd.processes:
            each.close()
        assert told(Path(folder)) == (crowd.spent, 0)


class TidiesUp(dict[str, int]):
    """What a call took; while it is looked at, memory is tidied up, and another call is let go in the same thread."""

    def __init__(self, took: dict[str, int], let_go: Callable[[], object]) -> None:
        super().__init__(took)
        self.let_go = let_go

    def __getitem__(self, name: str) -> int:
        self.let_go()
        return super().__getitem__(name)


def test_a_call_that_is_let_go_while_a_lot_is_looked_at_is_settled(tmp_path: Path) -> None:
    budgets = made(tmp_path)

    async def main() -> list[Hold]:
        await spend(budgets, 2)
        return [await purse(budgets).reserve("p", "m", HELD) for _ in range(2)]

    one, other = asyncio.run(main())
    assert (one.id, other.id) == ("", ""), "both are of lots"
    lots = budgets._lots
    (account,) = lots._lots
    took = TidiesUp({claim.name: 4 for claim in one.claims}, lambda: other.settle(ended(4.0)))
    thread = threading.Thread(target=lots.settle, args=(one.claims, took), daemon=True)
    thread.start()
    thread.join(10.0)
    assert not thread.is_alive(), "it waits for itself"
    assert (lots._lots[account].out, lots._lots[account].claims) == (0, 0)
    budgets.close()
