"""The semantic tier: what it gives, what it never gives, what it learns, and when it does not look at all."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import tauten as tt
from kit.virtual import virtual
from tauten.describe.stage import stage
from tauten.plan.plan import CachePlan, Plan, StagePlan
from tauten.run.caching.naming import content_name
from tauten.run.caching.refused import Refused
from tauten.run.caching.semantic.index import Index, Question
from tauten.run.caching.semantic.likeness import Semantic
from tauten.run.caching.semantic.pays import EVERY, FIRST, Pays
from tauten.run.contracts import Kept, Sought
from tauten.run.engine import Engine

ASKED = "How do I reset my password?"
ALIKE = "How can I reset my password?"
OTHER = "How do I reset my router?"


async def embed(text: str) -> NDArray[Any]:
    """Letters counted: texts that look alike lie close, traps too."""
    counted = np.zeros(128, np.float32)
    for letter in text.lower():
        counted[ord(letter) % 128] += 1.0
    length: NDArray[Any] = counted / np.linalg.norm(counted)
    return length


async def equal(one: Any, other: Any) -> bool:
    return bool(one == other)


class Threshold:
    """A gate with a fixed threshold, which writes down what it was told."""

    def __init__(self, least: float = 0.0) -> None:
        self.least = least
        self.told: list[tuple[float, bool, str, str]] = []

    def allows(self, score: float, tenant: str, category: str) -> bool:
        return score >= self.least

    def observe(self, score: float, correct: bool, tenant: str, category: str) -> None:
        self.told.append((score, correct, tenant, category))


def tier(gate: Threshold | None = None, **how: Any) -> Semantic:
    given: dict[str, Any] = {"embed": embed, "revision": "letters/1", "same": equal, **how}
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


def test_what_the_gate_does_not_allow_is_computed_and_teaches_it() -> None:
    async def body() -> None:
        gate = Threshold(2.0)
        cache = tier(gate, category=lambda text: "accounts" if "password" in text else "")
        await cache.put(sought(ASKED, "one"), kept("so"))
        for text, answer, right in ((ALIKE, "so", True), ("What do I do to reset my password?", "no", False)):
            assert await cache.get(sought(text, "one")) is None
            await cache.put(sought(text, "one"), kept(answer))
            score, *told = gate.told[-1]
            assert told == [right, "one", "accounts"]
            assert 0.5 < score <= 1.0
        assert cache.events["refused_by_gate"] == 2
        assert cache.events["wrong"] == 1

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
            return await embed(text)

        cache = tier(embed=counted, clock=lambda: now[0])
        for _ in range(FIRST + 10 * EVERY):
            await cache.get(sought(ASKED))
        assert asked == FIRST + 10
        assert cache.events["not_worth"] == 10 * EVERY - 10

    run(body)


# -- in a plan --------------------------------------------------------------------------------------------

CALLS: list[str] = []


@stage(pure=True)
async def reply(question: tt.Text) -> str:
    CALLS.append(question.text)
    await asyncio.sleep(1.0)
    return "the same" if "password" in question.text else question.text


@tt.workflow
def help_desk(question: tt.Text) -> str:
    return reply(question)


def test_a_plan_uses_it_and_a_share_of_its_hits_is_verified_behind() -> None:
    CALLS.clear()
    gate = Threshold()
    draws = iter([0.9, 0.0])

    async def body(engine: Engine) -> None:
        caches = engine.deployments.caches
        loop = asyncio.get_running_loop()
        caches.offer(
            "semantic",
            lambda size: tier(gate, verified=0.05, draw=lambda: next(draws), clock=loop.time),
        )
        assert help_desk.graph is not None
        rules = StagePlan(cache=CachePlan(tiers=("memory", "semantic")))
        await engine.open(help_desk, Plan(graph=help_desk.graph.hash, stages={"reply": rules}))

        async def asks(text: str) -> tuple[Any, float]:
            answer = await engine.run(help_desk.bind(text))
            return answer.value, answer.trace.end - answer.trace.start

        assert await asks(ASKED) == ("the same", 1.0)
        await caches.behind.settled()
        assert await asks(ALIKE) == ("the same", 0.0)
        assert CALLS == [ASKED]
        assert caches.seen()["reply", "results"].holdings.entries == 1, "likeness is not kept as equality"
        assert await asks(ALIKE) == ("the same", 0.0)
        await asyncio.sleep(2.0)
        assert CALLS == [ASKED, ALIKE], "the second hit was verified, behind"
        [(score, correct, tenant, _)] = gate.told
        assert (correct, tenant) == (True, "")
        assert score > 0.9
        assert caches.seen()["reply", "results"].tiers["semantic"].hits == 2
        assert await asks(OTHER) == (OTHER, 1.0)

    virtual(body)


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
