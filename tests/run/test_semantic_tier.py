"""The semantic tier: what it gives, what it never gives, what it learns, and when it does not look at all."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import tauten as tt
from kit.likeness import ALIKE, ASKED, OTHER, THIRD, letters
from tauten.clock import run_virtual
from tauten.run.caching.naming import content_name
from tauten.run.caching.refused import Refused
from tauten.run.caching.semantic.index import Index, Question
from tauten.run.caching.semantic.likeness import PATIENCE_S, Semantic
from tauten.run.caching.semantic.pays import EVERY, FIRST, Pays
from tauten.run.contracts import Kept, Sought
from tauten.run.gating.news import NEWS_S


async def equal(one: Any, other: Any) -> bool:
    return bool(one == other)


class Threshold:
    """A gate with a fixed threshold, which writes down what it was told."""

    def __init__(self, least: float = 0.0, *, shut: bool = False, chance: float = 0.0) -> None:
        self.least, self.shut, self.chance = least, shut, chance
        self.told: list[tuple[float, bool, str, str, float | None]] = []
        self.given: list[tuple[str, str]] = []
        self.asked_for_news = 0

    def opens(self, tenant: str, category: str) -> bool:
        return not self.shut

    def allows(self, score: float, tenant: str, category: str) -> bool:
        return not self.shut and score >= self.least

    def shadows(self, score: float, tenant: str, category: str) -> float:
        return self.chance

    def observe(
        self, score: float, correct: bool, tenant: str, category: str, *, chance: float | None = None
    ) -> None:
        self.told.append((score, correct, tenant, category, chance))

    def took(self, tenant: str, category: str) -> None:
        self.given.append((tenant, category))

    def bound(self, tenant: str, category: str) -> float:
        return 0.0189

    def refresh(self) -> bool:
        self.asked_for_news += 1
        return False


def tier(gate: Threshold | None = None, **how: Any) -> Semantic:
    given: dict[str, Any] = {"embed": letters, "revision": "letters/1", "same": equal, **how}
    return Semantic(1_000_000, gate=gate or Threshold(), **given)


def sought(text: str, tenant: str = "", space: bytes = b"space", **inputs: Any) -> Sought:
    every = {"question": tt.Text(text), **inputs}
    return Sought(content_name(space, tenant, every), space, every, tenant)


def kept(value: Any, saved_s: float = 1.0) -> Kept:
    return Kept(value, 10, saved_s, labels=("step:a",))


def run(body: Callable[[], Any]) -> None:
    asyncio.run(body())


def test_a_paraphrase_is_given_the_answer_and_a_trap_is_not() -> None:
    async def body() -> None:
        cache = tier()
        await cache.put(sought(ASKED), kept("so"))
        found = await cache.get(sought(ALIKE))
        assert found is not None
        assert found.value == "so"
        assert await cache.get(sought(OTHER)) is None
        assert cache.events["refused_by_check"] == 1

    run(body)


def test_tenants_spaces_other_inputs_and_embedders_share_nothing() -> None:
    async def body() -> None:
        cache = tier()
        await cache.put(sought(ASKED, "one", passages=["p"]), kept("so"))
        for other in (
            sought(ALIKE, "two", passages=["p"]),
            sought(ALIKE, "one", b"another", passages=["p"]),
            sought(ALIKE, "one", passages=["q"]),
            sought(ALIKE, "one"),
        ):
            assert await cache.get(other) is None
        assert await cache.get(sought(ALIKE, "one", passages=["p"])) is not None
        cache._revision = "letters/2"
        assert await cache.get(sought(ALIKE, "one", passages=["p"])) is None

    run(body)


def test_where_the_gate_is_closed_nobody_waits_for_a_look_and_it_learns_behind() -> None:
    async def body() -> None:
        gate, embedded = Threshold(shut=True), list[str]()

        async def counted(text: str) -> NDArray[Any]:
            embedded.append(text)
            return await letters(text)

        cache = tier(gate, embed=counted, field="question", category="kind")
        await cache.put(sought(ASKED, "one", kind="accounts"), kept("so"))
        embedded.clear()
        for text, answer, right in ((ALIKE, "so", True), (THIRD, "no", False)):
            assert await cache.get(sought(text, "one", kind="accounts")) is None
            assert text not in embedded, "nothing is embedded before the step has answered"
            await cache.put(sought(text, "one", kind="accounts"), kept(answer))
            score, *told = gate.told[-1]
            assert told == [right, "one", "accounts", None]
            assert 0.5 < score <= 1.0
        assert embedded == [ALIKE, THIRD]
        assert (cache.events["closed"], cache.events["learned"], cache.events["wrong"]) == (2, 2, 1)

    run(body)


def test_a_would_be_hit_that_is_drawn_is_answered_by_the_step_and_compared() -> None:
    async def body() -> None:
        gate, draws = Threshold(chance=0.25), iter([0.2, 0.3])
        cache = tier(gate, draw=lambda: next(draws))
        await cache.put(sought(ASKED), kept("so"))
        assert await cache.get(sought(ALIKE)) is None, "0.2 is below a quarter"
        assert cache.events["verified"] == 1
        assert not gate.told, "nobody knows yet"
        await cache.put(sought(ALIKE), kept("other"))
        [(_, correct, _, _, chance)] = gate.told
        assert (correct, chance) == (False, 0.25)
        assert await cache.get(sought(THIRD)) is not None
        assert (cache.hits, gate.given) == (1, [("", "")])

    run(body)


def test_an_answer_is_wrong_where_the_step_refuses_the_input() -> None:
    async def body() -> None:
        gate = Threshold(chance=1.0)
        cache = tier(gate, draw=lambda: 0.0)
        await cache.put(sought(ASKED), kept("so"))
        assert await cache.get(sought(ALIKE)) is None
        assert not await cache.put(sought(ALIKE), kept(Refused(False, "no", "", "E200", "")))
        assert [told[1] for told in gate.told] == [False]

    run(body)


def test_what_the_gate_does_not_allow_is_a_miss() -> None:
    async def body() -> None:
        gate = Threshold(2.0)
        cache = tier(gate)
        await cache.put(sought(ASKED), kept("so"))
        assert await cache.get(sought(ALIKE)) is None
        assert cache.events["refused_by_gate"] == 1
        await cache.put(sought(ALIKE), kept("so"))
        assert not gate.told, "below the threshold of a gate that is open nothing is learned"

    run(body)


def test_what_is_too_old_is_not_given() -> None:
    async def body() -> None:
        now = [1000.0]
        cache = tier(now=lambda: now[0])
        await cache.put(sought(ASKED), kept("so")._replace(made_at=1000.0, lives_s=60.0))
        now[0] = 1059.0
        assert await cache.get(sought(ALIKE)) is not None
        now[0] = 1060.0
        assert await cache.get(sought(ALIKE)) is None

    run(body)


def test_a_question_is_embedded_in_time_or_the_step_begins() -> None:
    async def slow(text: str) -> NDArray[Any]:
        await asyncio.sleep(1.0)
        return await letters(text)

    async def body() -> None:
        loop = asyncio.get_running_loop()
        cache = tier(embed=slow, clock=loop.time)
        await cache.put(sought(ASKED), kept("so"))  # behind, where there is time
        began = loop.time()
        assert await cache.get(sought(ALIKE)) is None
        assert loop.time() - began == pytest.approx(PATIENCE_S)
        assert cache.events["late"] == 1

    run_virtual(body())


def test_the_gate_is_asked_for_news_now_and_then() -> None:
    async def body() -> None:
        gate, now = Threshold(), [0.0]
        cache = tier(gate, clock=lambda: now[0])
        for at in (1.0, NEWS_S, NEWS_S + 1.0, 3 * NEWS_S):
            now[0] = at
            await cache.put(sought(ASKED), kept("so"))
        assert gate.asked_for_news == 2

    run(body)


def test_the_field_that_is_named_may_be_worded_otherwise_and_no_other() -> None:
    async def body() -> None:
        cache = tier(field="question")
        await cache.put(sought(ASKED, style="short"), kept("so"))
        assert await cache.get(sought(ALIKE, style="short")) is not None
        assert await cache.get(sought(ALIKE, style="long")) is None

    run(body)


def test_the_last_message_of_a_conversation_may_be_worded_otherwise() -> None:
    def said(text: Any, *before: str) -> Sought:
        messages = [{"role": "user", "content": each} for each in (*before, text)]
        every = {"messages": messages, "tools": ["search"]}
        return Sought(content_name(every), b"space", every)

    async def body() -> None:
        cache = tier(field="messages")
        await cache.put(said(ASKED, "Hello."), kept("so"))
        assert await cache.get(said(ALIKE, "Hello.")) is not None
        assert await cache.get(said(ALIKE, "Good morning.")) is None, "what was said before is the same"
        assert await cache.get(said([{"type": "text", "text": ALIKE}], "Hello.")) is None, "in another form"
        assert await cache.get(said([{"type": "image_url", "image_url": {}}])) is None
        reply = said(ALIKE, "Hello.")
        reply.inputs["messages"].append({"role": "assistant", "content": ASKED})
        assert await cache.get(reply) is None

    run(body)


def test_two_texts_or_none_are_no_question() -> None:
    async def body() -> None:
        cache = tier()
        assert not await cache.put(sought(ASKED, history="before"), kept("so"))
        assert not await cache.put(Sought(b"k", b"s", {"n": 1}), kept("so"))
        assert not await cache.put(sought("How do I undo it?"), kept("so")), "it stands for nothing here"
        assert not await cache.put(sought(ASKED), kept(Refused(False, "", "", "E200", "")))
        assert cache.holdings().entries == 0

    run(body)


def test_an_embedder_that_fails_is_a_miss() -> None:
    async def broken(text: str) -> NDArray[Any]:
        raise RuntimeError("no model")

    async def body() -> None:
        cache = tier(embed=broken)
        assert not await cache.put(sought(ASKED), kept("so"))
        assert await cache.get(sought(ALIKE)) is None
        assert cache.events["failed"] == 2

    run(body)


def test_results_are_forgotten_by_label_and_all_of_them_cleared() -> None:
    async def body() -> None:
        cache = tier()
        await cache.put(sought(ASKED), kept("so"))
        assert await cache.forget("step:b") == 0
        assert await cache.forget("step:a") == 1
        assert await cache.get(sought(ALIKE)) is None
        await cache.put(sought(ASKED), kept("so"))
        await cache.clear()
        assert cache.holdings()[:2] == (0, 0)

    run(body)


def test_where_looking_does_not_pay_it_looks_now_and_then_only() -> None:
    pays = Pays()
    for _ in range(FIRST):
        assert pays.wanted()
        pays.looked(0.01, 0.0)
    assert sum(pays.wanted() for _ in range(10 * EVERY)) == 10
    pays.looked(0.01, 100.0)
    assert pays.wanted(), "one hit that saved much says that it pays again"


def test_a_space_that_never_hits_costs_no_embedding_any_more() -> None:
    async def body() -> None:
        asked = 0
        now = [0.0]

        async def counted(text: str) -> NDArray[Any]:
            nonlocal asked
            asked += 1
            now[0] += 0.01
            return await letters(text)

        cache = tier(embed=counted, clock=lambda: now[0])
        for _ in range(FIRST + 10 * EVERY):
            await cache.get(sought(ASKED))
        assert asked == FIRST + 10
        assert cache.events["not_worth"] == 10 * EVERY - 10

    run(body)


# -- the index --------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.tuples(st.booleans(), st.integers(0, 19)), max_size=80))
def test_the_index_finds_what_a_plain_list_would(seed: int, acts: list[tuple[bool, int]]) -> None:
    draw = np.random.default_rng(seed)
    index, plain = Index(12 * 500), dict[bytes, tuple[bytes, NDArray[Any], int]]()
    for adds, name in acts:
        key, space = b"%d" % name, b"%d" % (name % 2)
        if adds:
            vector = draw.normal(size=4).astype(np.float32)
            size = random.Random(name).randrange(100, 900)
            cost = size + 2 * 4 + 16
            assert index.add(Question(key, space, "text", Kept(name, size, 1.0)), vector)
            plain.pop(key, None)
            while sum(each[2] for each in plain.values()) + cost > index.bound_bytes:
                del plain[next(iter(plain))]
            plain[key] = (space, vector, cost)
        else:
            index.remove(key)
            plain.pop(key, None)
        assert (len(index), index.size_bytes) == (len(plain), sum(each[2] for each in plain.values()))
        asked = draw.normal(size=4).astype(np.float32)
        for wanted in (b"0", b"1"):
            own = {key: float(vector @ asked) for key, (space, vector, _) in plain.items() if space == wanted}
            best = sorted(own.values(), reverse=True)[:3]
            assert np.allclose([score for score, _ in index.nearest(wanted, asked, 3)], best, atol=1e-5)
