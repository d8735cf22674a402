"""Budgets hold: what is spent and held never exceeds them, however many ask at once."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tauten.errors import InputError, Unavailable
from tauten.run.usage.budgets import Budgets, Exhausted, Hold, Purse
from tauten.run.usage.call import Call
from tauten.run.usage.limits import period_at, read_limits
from tauten.run.usage.payer import NOBODY, Payer
from tauten.run.usage.sqlite import CACHE_KIB, Sqlite
from usage.kit_usage import prices

CALL = 100 * 1000 + 20 * 2500  # nano-dollars of 100 tokens in and 20 out
MOST = {"input_tokens": 100, "output_tokens": 20}
FIFTY = f'tauten = "budgets/1"\n[budget.desk]\nusd = "{50 * CALL / 1e9:.9f}"\ntenant = "desk"\n'
NOON = datetime(2026, 3, 4, 12, tzinfo=UTC).timestamp()


def taken(units: dict[str, float] | None = None, **about: Any) -> Call:
    told = {"outcome": "ok", "units": MOST if units is None else units, **about}
    return Call(step="s", provider="house", model="small", started=0.0, ended=1.0, **told)


async def spend(purse: Purse) -> bool:
    """One call: held, made for a while, settled by what it took; False where there was no room."""
    try:
        hold = await purse.reserve("house", "small", MOST)
    except Exhausted:
        return False
    await asyncio.sleep(random.random() * 0.01)
    hold.settle(taken())
    return True


def made(folder: Path, text: str = FIFTY, **options: Any) -> Budgets:
    (folder / "budgets.toml").write_text(text)
    options.setdefault("wall", lambda: NOON)
    limits = read_limits(folder / "budgets.toml")
    return Budgets(limits, prices(folder), lambda: Sqlite(folder / "book.db"), **options)


@pytest.fixture
def budgets(tmp_path: Path) -> Iterator[Budgets]:
    found = made(tmp_path)
    yield found
    found.close()


def desk(budgets: Budgets, payer: Payer = NOBODY, tenant: str = "desk") -> Purse:
    return Purse(budgets, tenant, payer, "flow")


def test_two_hundred_calls_at_once_spend_at_most_the_budget(tmp_path: Path) -> None:
    """As two processes do it: each with a database connection of its own."""
    several = [made(tmp_path), made(tmp_path)]

    async def main() -> list[bool]:
        return await asyncio.gather(*(spend(desk(several[number % 2])) for number in range(200)))

    ended = asyncio.run(main())
    for each in several:
        each.close()
    database = Sqlite(tmp_path / "book.db")
    assert sum(ended) == 50
    assert database.fetch("SELECT SUM(spent) FROM budget") == [(50 * CALL,)]
    assert database.fetch("SELECT COUNT(*) FROM hold") == [(0,)]
    assert sum(each.refused["desk"] for each in several) == 150


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), st.integers(0, 40)),
        st.tuples(st.just("settle"), st.integers(0, 40)),
        st.tuples(st.just("drop"), st.integers(0, 40)),
    ),
    max_size=40,
)


@settings(max_examples=40, deadline=None)
@given(EVENTS)
def test_any_order_of_holding_and_settling_keeps_the_sum_within_the_budget(
    events: list[tuple[str, int]],
) -> None:
    """Against the plain arithmetic of it; a call takes what was held for it or less."""
    text = 'tauten = "budgets/1"\n[budget.all]\ntokens = 100\nperiod = "day"\n'
    with tempfile.TemporaryDirectory() as folder:
        budgets = made(Path(folder), text)
        purse = desk(budgets)
        spent, open_holds = 0, list[tuple[Hold, int]]()

        async def main() -> None:
            nonlocal spent
            for word, amount in events:
                if word == "reserve":
                    fits = spent + sum(held for _, held in open_holds) + amount <= 100
                    try:
                        hold = await purse.reserve("house", "small", {"input_tokens": amount})
                    except Exhausted:
                        assert not fits
                    else:
                        assert fits
                        open_holds.append((hold, amount))
                elif open_holds:
                    hold, held = open_holds.pop(amount % len(open_holds))
                    took = 0 if word == "drop" else held // 2
                    hold.settle(None if word == "drop" else taken({"input_tokens": took}))
                    hold.settle(taken({"input_tokens": 99}))  # only the first time counts
                    spent += took

        asyncio.run(main())
        [state] = budgets.states()
        assert (state.spent, state.held) == (spent, sum(held for _, held in open_holds))
        assert state.spent + state.held <= 100
        budgets.close()


@pytest.mark.parametrize(
    ("call", "spent"),
    [
        (None, 0),
        (taken(), CALL),
        (taken({"input_tokens": 50, "output_tokens": 0}), 50_000),
        (taken({}, outcome="refused"), 0),
        (taken({}, outcome="cancelled", counted="none"), CALL),
        (taken({"input_tokens": 40, "output_tokens": 2}, outcome="cut", counted="estimate"), 45_000),
        (taken({"input_tokens": 100, "output_tokens": 9e14}), CALL),  # which is no count
        (taken({"input_tokens": 100, "output_tokens": -1}), CALL),
        (taken({"input_tokens": 100, "output_tokens": 9e11}), CALL),  # which is no price
    ],
)
def test_a_hold_is_settled_by_what_the_call_took(budgets: Budgets, call: Call | None, spent: int) -> None:
    async def main() -> None:
        (await desk(budgets).reserve("house", "small", MOST)).settle(call)

    asyncio.run(main())
    [state] = budgets.states()
    assert (state.spent, state.held) == (spent, 0)


def test_a_call_that_took_more_than_was_held_is_booked_whole_and_counted(budgets: Budgets) -> None:
    async def main() -> None:
        (await desk(budgets).reserve("house", "small", MOST)).settle(taken({"input_tokens": 1000}))

    asyncio.run(main())
    [state] = budgets.states()
    assert state.spent == 1_000_000
    assert budgets.over == {"desk": 1}


def test_what_cannot_be_settled_is_said_and_stays_held(
    budgets: Budgets, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        hold = await desk(budgets).reserve("house", "small", MOST)
        with monkeypatch.context() as broken:
            broken.setattr(Sqlite, "alone", lambda *_: 1 / 0)
            hold.settle(taken())
            assert budgets._thread.submit(int).result() == 0, "it was tried"
        assert "could not be settled, and stays held: ZeroDivisionError" in caplog.text
        [state] = budgets.states()
        assert (state.spent, state.held) == (0, CALL)
        (await desk(budgets).reserve("house", "small", MOST)).settle(taken())

    asyncio.run(main())
    [state] = budgets.states()
    assert (state.spent, state.held) == (2 * CALL, 0), "with the next, both are"


def test_an_amount_that_no_database_takes_keeps_no_other_call_from_being_settled(
    budgets: Budgets, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        bad, good = [await desk(budgets).reserve("house", "small", MOST) for _ in range(2)]
        budgets.settle(bad, {"desk": 2**70})
        good.settle(taken())

    asyncio.run(main())
    [state] = budgets.states()
    assert (state.spent, state.held) == (CALL, CALL), "what cannot be settled stays held"
    assert "could not be settled, and stays held: BadValue" in caplog.text


def test_tokens_that_are_no_count_leave_what_was_held(tmp_path: Path) -> None:
    budgets = made(tmp_path, 'tauten = "budgets/1"\n[budget.t]\ntokens = 500\n')

    async def main() -> None:
        (await desk(budgets).reserve("house", "small", MOST)).settle(taken({"output_tokens": 1e300}))

    asyncio.run(main())
    assert [(state.spent, state.held) for state in budgets.states()] == [(120, 0)]
    budgets.close()


def test_who_leaves_while_it_is_held_leaves_nothing_held(budgets: Budgets) -> None:
    async def main() -> None:
        waiting = asyncio.ensure_future(desk(budgets).reserve("house", "small", MOST))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(main())
    budgets._thread.submit(lambda: None).result()
    budgets._thread.submit(lambda: None).result()
    [state] = budgets.states()
    assert (state.spent, state.held) == (0, 0)


def test_a_refusal_says_what_is_left_and_when_it_renews(tmp_path: Path) -> None:
    budgets = made(
        tmp_path, 'tauten = "budgets/1"\n[budget.demo]\ncalls = 1\nperiod = "week"\ntag = "demo"\n'
    )

    async def main() -> Exhausted:
        purse = desk(budgets, Payer(tags=("beta", "demo")))
        await purse.reserve("house", "small", {})
        with pytest.raises(Exhausted) as raised:
            await purse.reserve("house", "small", {})
        return raised.value

    error = asyncio.run(main())
    budgets.close()
    assert (error.code, error.http_status, error.grpc_status) == ("E451", 429, "RESOURCE_EXHAUSTED")
    assert error.message == (
        "budget 'demo' of tag=demo is used up: 0 calls spent and 1 calls held of 1 calls, and this call may take 1 calls"
    )
    assert "it renews at 2026-03-09 00:00 UTC" in error.help
    assert error.retry_after_s == pytest.approx(4.5 * 86_400)


def test_each_of_a_star_has_its_own_and_others_have_none(tmp_path: Path) -> None:
    budgets = made(tmp_path, 'tauten = "budgets/1"\n[budget.each]\ncalls = 1\nkey = "*"\n')

    async def main() -> list[bool]:
        purses = [desk(budgets, Payer(key)) for key in ("a", "a", "b", "", "")]
        return [await spend(purse) for purse in purses]

    assert asyncio.run(main()) == [True, False, True, True, True]
    assert {state.whose for state in budgets.states()} == {"key=a", "key=b"}
    budgets.close()


def test_a_new_period_has_the_whole_budget_and_a_clock_that_jumps_back_finds_the_old_one(
    tmp_path: Path,
) -> None:
    now = [NOON]
    text = 'tauten = "budgets/1"\n[budget.a]\ncalls = 2\nperiod = "hour"\n'
    budgets = made(tmp_path, text, wall=lambda: now[0])

    async def main() -> list[bool]:
        ended = [await spend(desk(budgets)) for _ in range(3)]
        now[0] += 3600
        ended += [await spend(desk(budgets)) for _ in range(3)]
        now[0] -= 3600
        return [*ended, await spend(desk(budgets))]

    assert asyncio.run(main()) == [True, True, False, True, True, False, False]
    budgets.close()


def test_all_budgets_of_a_request_must_have_room_or_nothing_is_held(tmp_path: Path) -> None:
    text = 'tauten = "budgets/1"\n[budget.a]\ncalls = 9\n[budget.b]\ncalls = 1\nworkflow = "flow"\n'
    budgets = made(tmp_path, text)

    async def main() -> None:
        assert [await spend(desk(budgets)) for _ in range(3)] == [True, False, False]

    asyncio.run(main())
    assert {state.name: state.spent + state.held for state in budgets.states()} == {"a": 1, "b": 1}
    budgets.close()


def test_money_without_a_price_is_refused_and_other_units_are_not(tmp_path: Path) -> None:
    dear, counted = made(tmp_path), None

    async def main() -> None:
        with pytest.raises(Unavailable, match="nobody knows") as raised:
            await desk(dear).reserve("nobody", "unheard-of", MOST)
        assert raised.value.code == "E452"

    asyncio.run(main())
    dear.close()
    counted = made(tmp_path, 'tauten = "budgets/1"\n[budget.t]\ntokens = 500\n')

    async def tokens() -> None:
        await desk(counted).reserve("nobody", "unheard-of", MOST)

    asyncio.run(tokens())
    assert [state.held for state in counted.states()] == [120]
    counted.close()


def test_budgets_that_cannot_be_read_let_nothing_through(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "budgets.toml").write_text(FIFTY)
    limits = read_limits(tmp_path / "budgets.toml")
    budgets = Budgets(limits, prices(tmp_path), lambda: Sqlite(tmp_path / "file" / "book.db"))

    async def main() -> None:
        with pytest.raises(Unavailable) as raised:
            await desk(budgets).reserve("house", "small", MOST)
        assert raised.value.code == "E453"

    asyncio.run(main())
    budgets.close()


def test_a_hold_of_a_process_that_died_is_taken_as_spent_after_a_day(tmp_path: Path) -> None:
    died = made(tmp_path, wall=lambda: NOON)
    asyncio.run(_hold(died))
    died.close()
    early = made(tmp_path, wall=lambda: NOON + 3600)
    asyncio.run(_hold(early))
    assert [(state.spent, state.held) for state in early.states()] == [(0, 2 * CALL)]
    early.close()
    late = made(tmp_path, wall=lambda: NOON + 86_401)
    asyncio.run(_hold(late))
    assert [(state.spent, state.held) for state in late.states()] == [(CALL, 2 * CALL)]
    late.close()


async def _hold(budgets: Budgets) -> None:
    await desk(budgets).reserve("house", "small", MOST)


@pytest.mark.parametrize(
    ("span", "name", "ends"),
    [
        ("hour", "2026-12-31T23", "2027-01-01"),
        ("day", "2026-12-31", "2027-01-01"),
        ("week", "2026-W53", "2027-01-04"),
        ("month", "2026-12", "2027-01-01"),
    ],
)
def test_periods_end_where_the_next_begins(span: Any, name: str, ends: str) -> None:
    found = period_at(span, datetime(2026, 12, 31, 23, 59, tzinfo=UTC))
    assert found.name == name
    assert found.ends == datetime.fromisoformat(f"{ends}T00:00:00+00:00")
    assert period_at("ever", datetime(2026, 1, 1, tzinfo=UTC)).ends is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        'tauten = "budgets/9"',
        'tauten = "budgets/1"\n[budget.a]\nperiod = "day"\n',
        'tauten = "budgets/1"\n[budget.a]\nusd = 1\ncalls = 2\n',
        'tauten = "budgets/1"\n[budget.a]\nusd = -1\n',
        'tauten = "budgets/1"\n[budget.a]\ncalls = 1\nperiod = "year"\n',
        'tauten = "budgets/1"\n[budget.a]\ncalls = 1\nteam = "x"\n',
        "not toml at all [",
    ],
)
def test_a_file_that_bounds_nothing_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "b.toml").write_text(text)
    with pytest.raises(InputError) as raised:
        read_limits(tmp_path / "b.toml")
    assert raised.value.code == "E238"


def test_their_database_keeps_little_of_what_it_wrote_in_memory_as_does_that_of_the_book(
    tmp_path: Path, budgets: Budgets
) -> None:
    database = budgets._thread.submit(budgets._opened).result()
    found = budgets._thread.submit(database.fetch, "PRAGMA cache_size").result()
    assert found == Sqlite(tmp_path / "other.db").fetch("PRAGMA cache_size") == [(-CACHE_KIB,)]
