"""How new the assistant's answers are: never older than the plan allows, and with layers what they are without.

All in virtual time. The service reads an order first and waits then, so that an answer is as old as it can be.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.virtual import virtual
from tauten.errors import BackendError
from tauten.examples.assistant import plans
from tauten.examples.assistant.lookup import order_desk, says
from tauten.examples.assistant.orders import STATES, WAIT_S, Order, Orders
from tauten.examples.assistant.source import use
from tauten.plan.plan import Plan
from tauten.run.engine import Engine

POT = Order("T-1111", "blue teapot", "packed", "Red Van", "4 May")
CUP = Order("T-2222", "egg cup", "on its way", "Parcel Owl", "5 May")
NOT_YET = "T-3333"  # an order that is there once it has changed
NUMBERS = (POT.number, CUP.number, NOT_YET)
LAYERED = plans.of_orders(plans.layered())
NAIVE = plans.of_orders(plans.naive())
RULES = plans.cache_rules(LAYERED.stages[plans.STEP].cache)
SAME_S = 1e-5  # seconds since 1970 have so many digits and no more


def told(number: str, order: Order | None) -> str:
    """What the assistant says of an order that is so."""
    if order is None:
        return f"There is no order {number}."
    return f"Order {number} ({order.thing}) {says(order)}."


class Seen(NamedTuple):
    """One question: when it was asked, when it was answered, and with what; None where the service could not say."""

    number: str
    asked: float
    ended: float
    answer: str | None


class Shop:
    """Orders that change, an engine that answers about them, and a note of what was so from when on."""

    def __init__(self, engine: Engine, *, tells: bool) -> None:
        self.engine = engine
        self.orders = Orders([POT, CUP])
        self.tells = tells  # whether who changes an order says so to the cache
        self.history = {number: [(0.0, told(number, self.orders.now(number)))] for number in NUMBERS}
        self.seen: list[Seen] = []
        self._asked: list[asyncio.Task[None]] = []

    async def ask(self, number: str, tenant: str = "") -> str | None:
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            answer = await self.engine.run(order_desk.bind(f"Where is {number}?"), tenant=tenant)
            said: str | None = answer.value.text
        except BackendError:
            said = None
        self.seen.append(Seen(number, began, clock(), said))
        return said

    def ask_beside(self, number: str) -> None:
        """Ask, and go on."""

        async def asked() -> None:
            await self.ask(number)

        self._asked.append(asyncio.ensure_future(asked()))

    async def change(self, number: str, state: str) -> None:
        order = self.orders.change(number, state)
        self.history[number].append((asyncio.get_running_loop().time(), told(number, order)))
        if self.tells:
            await self.engine.deployments.caches.forget("tag:orders")

    async def all_answered(self) -> None:
        await asyncio.gather(*self._asked)

    def was_so(self, seen: Seen, since_s: float) -> bool:
        """Whether the answer was true at some time from so long before the question until it was answered."""
        versions = self.history[seen.number]
        ends = [*(at for at, _ in versions[1:]), float("inf")]
        return any(
            said == seen.answer and begins <= seen.ended + SAME_S and ends_at >= seen.asked - since_s - SAME_S
            for (begins, said), ends_at in zip(versions, ends, strict=True)
        )


def shopping(body: Callable[[Shop], Awaitable[Any]], plan: Plan = LAYERED, *, tells: bool = False) -> Any:
    """Run it in virtual time."""

    async def main(engine: Engine) -> Any:
        await engine.open(order_desk, plan)
        shop = Shop(engine, tells=tells)
        with use(shop.orders):
            found = await body(shop)
            await engine.deployments.caches.behind.settled()
            return found

    return virtual(main)


# -- age -----------------------------------------------------------------------------------------------------


def test_a_change_that_nobody_told_of_is_seen_within_the_time_that_the_plan_says() -> None:
    fresh_only = plans.ruled(LAYERED, stale_s=0.0, refresh=0.0)

    async def body(shop: Shop) -> None:
        before, after = told(POT.number, POT), f"Order {POT.number} ({POT.thing}) was delivered"
        assert await shop.ask(POT.number) == before
        await shop.change(POT.number, "delivered")
        await asyncio.sleep(RULES.ttl_s - WAIT_S - 0.01)
        assert await shop.ask(POT.number) == before, "not old enough"
        await asyncio.sleep(0.02)
        assert (await shop.ask(POT.number) or "").startswith(after)

    shopping(body, fresh_only)


def test_beyond_its_time_one_stale_answer_is_given_while_it_is_looked_up() -> None:
    async def body(shop: Shop) -> None:
        await shop.ask(POT.number)
        await shop.change(POT.number, "delivered")
        await asyncio.sleep(RULES.ttl_s)
        assert await shop.ask(POT.number) == told(POT.number, POT)
        await asyncio.sleep(2 * WAIT_S)
        assert await shop.ask(POT.number) != told(POT.number, POT)
        assert shop.orders.looked == 2

    shopping(body, plans.ruled(LAYERED, refresh=0.0))


def test_beyond_both_nobody_is_given_what_was_before() -> None:
    async def body(shop: Shop) -> None:
        await shop.ask(POT.number)
        await shop.change(POT.number, "delivered")
        await asyncio.sleep(RULES.ttl_s + RULES.stale_s - WAIT_S + 0.01)
        assert "delivered" in (await shop.ask(POT.number) or "")

    shopping(body)


def test_a_change_that_was_told_is_seen_at_once() -> None:
    async def body(shop: Shop) -> None:
        await shop.ask(POT.number)
        await shop.change(POT.number, "delivered")
        assert "delivered" in (await shop.ask(POT.number) or "")

    shopping(body, tells=True)


def test_an_unknown_number_is_kept_for_a_moment_only() -> None:
    async def body(shop: Shop) -> None:
        for _ in range(3):
            assert await shop.ask(NOT_YET) == told(NOT_YET, None)
        assert shop.orders.looked == 1
        await shop.change(NOT_YET, "received")
        await asyncio.sleep(RULES.negative_s)
        assert "received" in (await shop.ask(NOT_YET) or ""), "and no stale `unknown` before it"

    shopping(body, plans.ruled(LAYERED, refresh=0.0))  # which is drawn by lot


# -- the service fails ---------------------------------------------------------------------------------------


def test_while_the_service_is_down_answers_get_as_old_as_allowed_and_no_older() -> None:
    async def body(shop: Shop) -> None:
        await shop.ask(POT.number)
        shop.orders.down = True
        ages: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(80):
            await asyncio.sleep(1.0)
            age = asyncio.get_running_loop().time()  # it was read at 0
            ages[await shop.ask(POT.number) is not None].append(age)
        assert max(ages[True]) < RULES.ttl_s + RULES.stale_s <= min(ages[False])
        shop.orders.down = False
        assert await shop.ask(POT.number) == told(POT.number, POT), "an error of the service is not kept"

    shopping(body)


def test_a_service_that_is_down_makes_no_order_unknown() -> None:
    async def body(shop: Shop) -> None:
        shop.orders.down = True
        assert [await shop.ask(number) for number in NUMBERS] == [None] * 3
        shop.orders.down = False
        assert await shop.ask(POT.number) == told(POT.number, POT)
        assert await shop.ask(NOT_YET) == told(NOT_YET, None)

    shopping(body)


# -- tenants -------------------------------------------------------------------------------------------------


def test_tenants_never_share() -> None:
    async def body(shop: Shop) -> None:
        clock = asyncio.get_running_loop().time
        for tenant in ("one", "two"):
            began = clock()
            await shop.ask(POT.number, tenant)
            assert clock() - began == pytest.approx(WAIT_S), (
                "how long it takes tells nobody what another asked"
            )
            began = clock()
            await shop.ask(POT.number, tenant)
            assert clock() == began
        await shop.engine.deployments.caches.forget("tenant:one")
        looked = shop.orders.looked
        await shop.ask(POT.number, "two")
        assert shop.orders.looked == looked
        await shop.ask(POT.number, "one")
        assert shop.orders.looked == looked + 1

    shopping(body)


# -- with layers as without ----------------------------------------------------------------------------------

ASK = st.tuples(st.just("ask"), st.sampled_from(NUMBERS))
BESIDE = st.tuples(st.just("beside"), st.sampled_from(NUMBERS))
CHANGE = st.tuples(st.just("change"), st.sampled_from(NUMBERS), st.sampled_from(STATES))
WAIT = st.tuples(st.just("wait"), st.sampled_from([0.1, 0.2, 0.4, 1.0, 1.7, 5.0, 19.5, 21.0, 45.0, 61.0]))
DOWN = st.tuples(st.just("down"), st.booleans())

Does = Sequence[tuple[Any, ...]]


async def played(shop: Shop, does: Does) -> list[str | None]:
    """Do all of it; the answers of those questions that were waited for."""
    answers: list[str | None] = []
    for what, *how in does:
        if what == "ask":
            answers.append(await shop.ask(*how))
        elif what == "beside":
            shop.ask_beside(*how)
            await asyncio.sleep(0)
        elif what == "change":
            await shop.change(*how)
        elif what == "down":
            [shop.orders.down] = how
        else:
            await asyncio.sleep(*how)
    await shop.all_answered()
    return answers


@settings(deadline=None, max_examples=100)  # a machine may be busy
@given(st.lists(st.one_of(ASK, CHANGE, WAIT), max_size=30))
def test_told_of_each_change_layers_answer_as_no_layers_do(does: Does) -> None:
    async def body(shop: Shop) -> list[str | None]:
        return await played(shop, does)

    assert shopping(body, LAYERED, tells=True) == shopping(body, NAIVE)


@settings(deadline=None, max_examples=100)  # a machine may be busy
@given(st.lists(st.one_of(ASK, BESIDE, CHANGE, WAIT), max_size=40))
def test_told_of_each_change_no_answer_is_older_than_its_question(does: Does) -> None:
    """Also where lookups are under way, in front or behind, while orders change."""

    async def body(shop: Shop) -> None:
        await played(shop, does)
        assert [seen for seen in shop.seen if not shop.was_so(seen, 0.0)] == []

    shopping(body, LAYERED, tells=True)


@settings(deadline=None, max_examples=100)  # a machine may be busy
@given(st.lists(st.one_of(ASK, BESIDE, CHANGE, WAIT, DOWN), max_size=40))
def test_never_told_no_answer_is_older_than_the_plan_allows(does: Does) -> None:
    """An answer was true within fresh and stale time; `there is none` within its own; else the service is down."""

    async def body(shop: Shop) -> None:
        failed = any(what == "down" and how[0] for what, *how in does)
        await played(shop, does)
        for seen in shop.seen:
            if seen.answer is None:
                assert failed
            elif seen.answer == told(seen.number, None):
                assert shop.was_so(seen, RULES.negative_s)
            else:
                assert shop.was_so(seen, RULES.ttl_s + RULES.stale_s)

    shopping(body, LAYERED)
