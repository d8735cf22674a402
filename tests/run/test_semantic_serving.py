"""A cache by likeness before a step of a plan: what hits, what never does, what it learns, and what outlives a restart."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tauten as tt
from kit.likeness import ALIKE, ASKED, OTHER, THIRD, Letters, forget_gates, letters, proved, without_model
from kit.virtual import virtual
from tauten.describe.stage import stage
from tauten.explain.account import account
from tauten.explain.text import to_text
from tauten.plan.plan import CachePlan, Plan, SemanticPlan, StagePlan
from tauten.run.caching.semantic.likeness import Semantic
from tauten.run.caching.semantic.opening import gate_of
from tauten.run.caching.semantic.pays import EVERY, FIRST
from tauten.run.caching.semantic.sameness import sameness
from tauten.run.engine import Engine
from tauten.run.gating.gate import Gate, Labelled, Terms
from tauten.run.opened import Answer
from tauten.run.request import LOWEST

CALLS: list[str] = []
RULES = SemanticPlan(shadow=0.05)
FOLDER: list[Path] = []


@stage(pure=True)
async def reply(question: tt.Text) -> str:
    CALLS.append(question.text)
    await asyncio.sleep(1.0)
    return "so" if "password" in question.text else question.text


@stage(pure=True)
async def fickle(question: tt.Text) -> str:
    CALLS.append(question.text)
    return f"answer {len(CALLS)}"


@stage(pure=True)
async def spell(question: tt.Text) -> AsyncIterator[str]:
    CALLS.append(question.text)
    for letter in "yes":
        await asyncio.sleep(0.1)
        yield letter


@tt.workflow
def desk(question: tt.Text) -> str:
    return reply(question)


@tt.workflow
def moody(question: tt.Text) -> str:
    return fickle(question)


@tt.workflow
def spelled(question: tt.Text) -> tt.Stream[str]:
    return spell(question)


@pytest.fixture(autouse=True)
def no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    CALLS.clear()
    FOLDER[:] = [tmp_path]
    with without_model(monkeypatch, tmp_path):
        yield


def plan(
    workflow: Any = desk, step: str = "reply", tiers: tuple[str, ...] = ("memory", "semantic"), **rules: Any
) -> Plan:
    cached = CachePlan(tiers=tiers, semantic=RULES if "semantic" in tiers else None, **rules)
    return Plan(graph=workflow.graph.hash, stages={step: StagePlan(cache=cached)})


def never(engine: Engine, draw: float = 0.999) -> Any:
    """The tier, which draws no would-be hit to be verified; or every one."""
    [tier] = engine.deployments.caches.likes.every()
    tier._draw = lambda: draw  # type: ignore[attr-defined]
    return tier


async def asks(engine: Engine, text: str, tenant: str = "", workflow: Any = desk, **how: Any) -> Answer:
    answer = await engine.run(workflow.bind(text), tenant=tenant, **how)
    await engine.deployments.caches.settled()
    return answer


def took(answer: Answer) -> float:
    return answer.trace.end - answer.trace.start


def restart() -> None:
    forget_gates(FOLDER[0])
    CALLS.clear()


# -- what hits --------------------------------------------------------------------------------------------


def test_a_paraphrase_is_given_the_answer_and_a_trap_is_not() -> None:
    proved("desk", "reply", RULES)

    async def body(engine: Engine) -> None:
        await engine.open(desk, plan())
        never(engine)
        assert took(await asks(engine, ASKED)) == 1.0
        hit = await asks(engine, ALIKE)
        assert (hit.value, took(hit)) == ("so", 0.0)
        assert CALLS == [ASKED]
        trap = await asks(engine, OTHER)
        assert (trap.value, took(trap)) == (OTHER, 1.0)
        seen = engine.deployments.caches.seen()["reply", "results"]
        assert (seen.hits, seen.misses) == (1, 2)
        assert seen.tiers["semantic"].hits == 1
        assert seen.tiers["memory"].holdings.entries == 2, "likeness is not kept as equality"

    virtual(body)


def test_the_trace_and_explain_say_what_the_hit_stands_on() -> None:
    proved("desk", "reply", RULES)

    async def body(engine: Engine) -> None:
        await engine.open(desk, plan())
        never(engine)
        await asks(engine, ASKED)
        hit = await asks(engine, ALIKE)
        note = hit.trace.notes["reply:likeness"]
        assert note.startswith("semantic; score=0.9")
        assert "checks=8" in note
        assert "bound=0.0" in note
        spent = {unit: amount for _, unit, amount in hit.trace.spent}
        assert (spent["cache_hits"], spent["semantic_hits"], spent["saved_s"]) == (1.0, 1.0, 1.0)
        assert {"lookup", "embed"} <= {cause for _, cause, _, _ in hit.trace.rows}
        text = to_text(account(hit.trace))
        assert "Cache of reply, by likeness" in text
        assert note in text
        trap = await asks(engine, OTHER)
        assert "refused by names" in trap.trace.notes["reply:likeness"]

    virtual(body)


def test_what_is_the_same_is_looked_for_before_what_is_alike() -> None:
    proved("desk", "reply", RULES)

    async def body(engine: Engine) -> None:
        await engine.open(desk, plan())
        never(engine)
        await asks(engine, ASKED)
        Letters.texts.clear()
        hit = await asks(engine, ASKED)
        assert took(hit) == 0.0
        assert not Letters.texts, "nothing is embedded for what is kept word for word"
        assert not hit.trace.notes

    virtual(body)


def test_a_stream_is_given_too() -> None:
    proved("spelled", "spell", RULES)

    async def body(engine: Engine) -> None:
        await engine.open(spelled, plan(spelled, "spell"))
        never(engine)
        assert (await asks(engine, ASKED, workflow=spelled)).value == "yes"
        increments = [each async for each in engine.stream(spelled.bind(ALIKE))]
        assert increments == ["y", "e", "s"]
        assert CALLS == [ASKED]

    virtual(body)


def test_an_answer_is_given_as_long_as_it_is_fresh() -> None:
    proved("desk", "reply", RULES)

    async def body(engine: Engine) -> None:
        await engine.open(desk, plan(ttl_s=60.0, stale_s=600.0))
        never(engine)
        await asks(engine, ASKED)
        await asyncio.sleep(58.0)
        assert took(await asks(engine, ALIKE)) == 0.0
        await asyncio.sleep(10.0)
        assert took(await asks(engine, THIRD)) == 1.0, "a stale one is for those who ask the same"

    virtual(body)


# -- what never hits --------------------------------------------------------------------------------------


def test_a_closed_gate_never_hits_and_nobody_waits_for_a_look() -> None:
    async def body(engine: Engine) -> None:
        await engine.open(desk, plan())
        for text in (ASKED, ALIKE, THIRD):
            answer = await engine.run(desk.bind(text))
            assert took(answer) == 1.0
            assert "embed" not in {cause for _, cause, _, _ in answer.trace.rows}
            assert answer.trace.notes["reply:likeness"] == "none; the gate is closed"
            await engine.deployments.caches.settled()
        assert CALLS == [ASKED, ALIKE, THIRD]
        [tier] = engine.deployments.caches.likes.every()
        assert (tier.hits, tier.events["closed"], tier.events["learned"]) == (0, 3, 2)

    virtual(body)


def test_tenants_share_nothing_and_a_gate_is_open_for_those_whom_it_was_proved_for() -> None:
    proved("desk", "reply", RULES, ("one", ""), ("two", ""))

    async def body(engine: Engine) -> None:
        await engine.open(desk, plan())
        never(engine)
        await asks(engine, ASKED, "one")
        await asks(engine, ASKED, "three")
        assert took(await asks(engine, ALIKE, "two")) == 1.0, "what another tenant asked"
        assert took(await asks(engine, THIRD, "two")) == 0.0, "what it asked itself"
        assert took(await asks(engine, ALIKE, "one")) == 0.0
        assert took(await asks(engine, ALIKE, "three")) == 1.0, "nothing was proved for it"

    virtual(body)


def test_a_plan_that_promises_equal_answers_gives_no_others_beside_one_that_does_not() -> None:
    proved("desk", "reply", RULES)

    async def body(engine: Engine) -> None:
        alike, equal = plan(), plan(tiers=("memory",))
        await engine.open(desk, alike)
        await engine.open(desk, equal)
        never(engine)
        await asks(engine, ASKED, plan=equal.id)
        await asks(engine, THIRD, plan=alike.id)
        assert took(await asks(engine, ALIKE, plan=equal.id)) == 1.0
        await engine.deployments.caches.clear("memory")
        assert took(await asks(engine, ALIKE, plan=alike.id)) == 0.0

    virtual(body)


def test_a_round_of_a_bench_neither_hits_nor_teaches() -> None:
    proved("desk", "reply", RULES)

    async def body(engine: Engine) -> None:
        await engine.open(desk, plan())
        tier = never(engine)
        await asks(engine, ASKED)
        request = engine.request()
        request.partition = "round 1"
        assert took(await asks(engine, ALIKE, request=request)) == 1.0
        assert len(tier._index) == 1

    virtual(body)


def test_where_looks_cost_more_than_hits_save_nobody_looks() -> None:
    proved("moody", "fickle", RULES)

    async def body(engine: Engine) -> None:
        await engine.open(moody, plan(moody, "fickle"))
        tier = never(engine)
        embed = tier._embed

        async def slow(text: str) -> Any:
            await asyncio.sleep(0.01)
            return await embed(text)

        tier._embed = slow
        for number in range(FIRST):
            await asks(engine, f"How do I reset my password {number}?", workflow=moody)
        looks = tier.events["not_worth"]
        answer = await asks(engine, f"How do I reset my password {FIRST}?", workflow=moody)
        assert (looks, tier.events["not_worth"]) == (0, 1)
        assert answer.trace.notes["fickle:likeness"] == "none; looks cost more than hits save"
        for number in range(EVERY):
            await asks(engine, f"How do I delete my password {number}?", workflow=moody)
        assert tier.events["not_worth"] == EVERY, "one in fifty is made all the same"

    virtual(body)


def test_who_offers_a_tier_of_his_own_has_that_one() -> None:
    """With a gate of his own, or without: what its hits are worth is his."""

    async def body(engine: Engine) -> None:
        caches = engine.deployments.caches
        made: list[Semantic] = []

        def make(size_bytes: int) -> Semantic:
            gate = Gate(Terms())
            gate.certify([Labelled(0.99, True)] * 400, thresholds=[0.5])
            how: dict[str, Any] = {
                "gate": gate,
                "same": sameness(reply, 1.0),
                "draw": lambda: 0.999,
                "now": caches.now,
            }
            made.append(Semantic(size_bytes, embed=letters, revision="mine", clock=engine.clock, **how))
            return made[0]

        caches.offer("semantic", make)
        await engine.open(desk, plan())
        assert Letters.opened == 0
        await asks(engine, ASKED)
        assert took(await asks(engine, ALIKE)) == 0.0
        assert list(caches.seen()["reply", "results"].tiers) == ["memory", "semantic"]
        assert made[0].hits == 1

    virtual(body)


# -- what it learns ---------------------------------------------------------------------------------------


def test_a_gate_that_learned_from_traffic_is_certified_on_it_and_opens() -> None:
    async def body(engine: Engine) -> None:
        await engine.open(desk, plan())
        never(engine)
        gate = gate_of("desk", "reply", RULES)
        for _ in range(250):
            await asks(engine, ASKED)
            await asks(engine, ALIKE)
            await engine.deployments.caches.clear("memory")
        assert gate.learned >= 250
        [verdict] = gate.certify()
        assert verdict.open
        assert took(await asks(engine, ALIKE)) == 0.0

    virtual(body)


def test_a_share_of_would_be_hits_is_answered_by_the_step_and_compared() -> None:
    gate = proved("desk", "reply", RULES)

    async def body(engine: Engine) -> None:
        await engine.open(desk, plan())
        never(engine, draw=0.0)
        await asks(engine, ASKED)
        full = await asks(engine, ALIKE)
        assert took(full) == 1.0
        assert "drawn to be verified" in full.trace.notes["reply:likeness"]
        assert full.trace.kinds == {"reply": "verify"}, "for the books"
        [verdict] = gate.verdicts()
        assert (verdict.verified, verdict.verified_wrong) == (1, 0)
        assert not gate.taken
        never(engine)
        assert took(await asks(engine, THIRD)) == 0.0
        assert gate.taken == {verdict.scope: 1}

    virtual(body)


def test_requests_that_teach_nothing_are_never_drawn() -> None:
    gate = proved("desk", "reply", RULES)

    async def body(engine: Engine) -> None:
        await engine.open(desk, plan())
        never(engine, draw=0.0)
        await asks(engine, ASKED)
        request = engine.request()
        request.teaches = False
        assert took(await asks(engine, ALIKE, request=request)) == 0.0
        assert gate.verdicts()[0].verified == 0

    virtual(body)


def test_errors_close_the_gate_and_it_stays_closed_after_a_restart() -> None:
    proved("moody", "fickle", RULES)

    def body(check: Callable[[Engine], Any]) -> Any:
        async def run(engine: Engine) -> Any:
            await engine.open(moody, plan(moody, "fickle"))
            never(engine, draw=0.0)
            return await check(engine)

        return virtual(run)

    async def wrong(engine: Engine) -> int:
        """Every answer is another one: each would-be hit is an error."""
        gate = gate_of("moody", "fickle", RULES)
        asked = 0
        while gate.opens():
            await asks(engine, ASKED, workflow=moody)
            await asks(engine, ALIKE, workflow=moody)
            await engine.deployments.caches.clear("memory")
            asked += 1
            assert asked < 40
        assert gate.why().startswith("closed by itself")
        return asked

    async def shut(engine: Engine) -> None:
        never(engine)
        await asks(engine, ASKED, workflow=moody)
        await asks(engine, ALIKE, workflow=moody)
        assert CALLS == [ASKED, ALIKE]
        assert gate_of("moody", "fickle", RULES).why().startswith("closed by itself")

    assert body(wrong) > 1
    restart()
    body(shut)


def test_a_gate_that_is_certified_elsewhere_opens_in_a_server_that_runs() -> None:
    async def body(engine: Engine) -> None:
        await engine.open(desk, plan())
        never(engine)
        await asks(engine, ASKED)
        ours = gate_of("desk", "reply", RULES)
        ours.flush()
        forget_gates(FOLDER[0])
        theirs = proved("desk", "reply", RULES)  # as another process has it
        assert theirs is not ours
        await asyncio.sleep(10.0)
        assert took(await asks(engine, ALIKE)) == 1.0, "nobody has heard of it yet"
        assert ours.opens(), "heard of behind that one"
        assert took(await asks(engine, THIRD)) == 0.0

    virtual(body)


# -- what is kept -----------------------------------------------------------------------------------------


def test_a_restart_knows_the_questions_of_the_disk_again() -> None:
    proved("desk", "reply", RULES)
    tiers = ("memory", "disk", "semantic")

    async def first(engine: Engine) -> None:
        await engine.open(desk, plan(tiers=tiers))
        never(engine)
        await asks(engine, ASKED, "")

    async def second(engine: Engine) -> None:
        await engine.open(desk, plan(tiers=tiers))
        tier = never(engine)
        await engine.deployments.caches.settled()
        assert len(tier._index) == 1
        hit = await asks(engine, ALIKE)
        assert (hit.value, took(hit), CALLS) == ("so", 0.0, [])
        assert took(await asks(engine, OTHER)) == 1.0
        assert await engine.deployments.caches.forget("step:reply") > 0

    async def third(engine: Engine) -> None:
        await engine.open(desk, plan(tiers=tiers))
        tier = never(engine)
        await engine.deployments.caches.settled()
        assert len(tier._index) == 0, "what was forgotten is not known again"
        assert took(await asks(engine, ALIKE)) == 1.0

    for body in (first, second, third):
        virtual(body)
        restart()


def test_questions_alone_are_forgotten_on_the_disk_too_and_their_answers_stay() -> None:
    proved("desk", "reply", RULES)
    tiers = ("memory", "disk", "semantic")

    async def first(engine: Engine) -> None:
        await engine.open(desk, plan(tiers=tiers))
        never(engine)
        await asks(engine, ASKED, "")
        await engine.deployments.caches.settled()
        assert await engine.deployments.caches.forget("step:another", "semantic") == 0

    async def second(engine: Engine) -> None:
        await engine.open(desk, plan(tiers=tiers))
        tier = never(engine)
        await engine.deployments.caches.settled()
        assert len(tier._index) == 1, "another label forgot nothing"
        assert await engine.deployments.caches.forget("step:reply", "semantic") == 1

    async def third(engine: Engine) -> None:
        await engine.open(desk, plan(tiers=tiers))
        tier = never(engine)
        await engine.deployments.caches.settled()
        assert len(tier._index) == 0, "what was forgotten is not known again"
        assert took(await asks(engine, ASKED)) == 0.0, "its answer is there"
        assert took(await asks(engine, ALIKE)) == 1.0

    for body in (first, second, third):
        virtual(body)
        restart()


def test_another_stage_or_model_of_vectors_knows_nothing_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    proved("desk", "reply", RULES)
    tiers = ("memory", "disk", "semantic")

    async def first(engine: Engine) -> None:
        await engine.open(desk, plan(tiers=tiers))
        never(engine)
        await asks(engine, ASKED)

    async def other_vectors(engine: Engine) -> None:
        await engine.open(desk, plan(tiers=tiers))
        never(engine)
        await engine.deployments.caches.settled()
        assert took(await asks(engine, ALIKE)) == 1.0

    virtual(first)
    restart()
    monkeypatch.setattr(Letters, "revision", "letters/2")
    virtual(other_vectors)


def test_clearing_the_tier_forgets_its_questions_on_disk_and_leaves_the_answers() -> None:
    proved("desk", "reply", RULES)
    tiers = ("memory", "disk", "semantic")

    async def first(engine: Engine) -> None:
        await engine.open(desk, plan(tiers=tiers))
        never(engine)
        await asks(engine, ASKED)
        await engine.deployments.caches.clear("semantic")
        assert took(await asks(engine, ALIKE)) == 1.0
        assert took(await asks(engine, ASKED)) == 0.0

    async def second(engine: Engine) -> None:
        await engine.open(desk, plan(tiers=tiers))
        tier = never(engine)
        await engine.deployments.caches.settled()
        assert len(tier._index) == 1, "the one that was asked after that"

    virtual(first)
    restart()
    virtual(second)


def test_work_behind_is_booked_to_who_asked() -> None:
    proved("desk", "reply", RULES)

    async def body(engine: Engine) -> None:
        told: list[tuple[str, int, list[str]]] = []
        engine.deployments.caches.told = lambda request: told.append(
            (request.tenant, request.priority, [cause for _, cause, _, _ in request.trace.rows])
        )
        await engine.open(desk, plan())
        never(engine)
        await asks(engine, ASKED, "one")  # closed for that one: embedded behind
        assert told == [("one", LOWEST, ["embed"])]
        await asks(engine, ASKED)  # open: embedded in front, by the request itself
        assert len(told) == 1

    virtual(body)


def test_swapping_plans_keeps_what_both_have() -> None:
    proved("desk", "reply", RULES)

    async def body(engine: Engine) -> None:
        await engine.open(desk, plan())
        never(engine)
        await asks(engine, ASKED)
        await engine.swap(desk, plan(tags=("new",)))
        assert took(await asks(engine, ALIKE)) == 0.0

    virtual(body)
