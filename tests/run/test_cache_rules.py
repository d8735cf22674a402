"""Rules of a cache in a plan: age, early refresh, stale results, refused inputs, streams, labels, tiers."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest

import tauten as tt
from kit.virtual import virtual
from tauten.describe.stage import stage
from tauten.describe.workflow import Workflow
from tauten.errors import InputError, NotFound, PlanError, StageError
from tauten.plan.lower import lower
from tauten.plan.plan import CachePlan, Plan, StagePlan, format_plan, parse_plan
from tauten.run.caching.ageing import age_of
from tauten.run.caching.caches import Caches
from tauten.run.contracts import Holdings, Kept, Sought
from tauten.run.engine import Engine
from tauten.run.opened import Answer

CALLS: list[str] = []


@pytest.fixture(autouse=True)
def no_calls() -> None:
    CALLS.clear()


@stage(pure=True)
async def slow(words: tt.Text) -> str:
    CALLS.append(words.text)
    await asyncio.sleep(1.0)
    if words.text == "damaged":
        raise InputError("damaged words", help="send others", code="E200")
    if words.text == "lost":
        raise NotFound("no such words")
    if words.text == "bug":
        raise ValueError("a bug")
    return f"{words.text} {len(CALLS)}"


@stage(pure=True)
async def spell(words: tt.Text) -> AsyncIterator[str]:
    CALLS.append(words.text)
    for letter in words.text:
        await asyncio.sleep(0.1)
        yield letter


@tt.workflow
def plain(words: tt.Text) -> str:
    return slow(words)


@tt.workflow
def streamed(words: tt.Text) -> tt.Stream[str]:
    return spell(words)


def kept(workflow: Workflow[..., Any], step: str, **rules: Any) -> Plan:
    assert workflow.graph is not None
    return Plan(graph=workflow.graph.hash, stages={step: StagePlan(cache=CachePlan(**rules))})


async def ran(engine: Engine, workflow: Workflow[..., Any], *args: Any, **how: Any) -> Answer:
    return await engine.run(workflow.bind(*args), **how)


async def said(engine: Engine, words: str = "a", **how: Any) -> tuple[Any, float]:
    answer = await ran(engine, plain, words, **how)
    return answer.value, answer.trace.end - answer.trace.start


def seen(engine: Engine, step: str = "slow") -> Any:
    return engine.deployments.caches.seen()[step, "results"]


def test_a_result_is_computed_anew_once_its_time_is_over() -> None:
    async def body(engine: Engine) -> None:
        await engine.open(plain, kept(plain, "slow", ttl_s=60.0))
        assert await said(engine) == ("a 1", 1.0)
        await asyncio.sleep(58.0)
        assert await said(engine) == ("a 1", 0.0)
        await asyncio.sleep(2.0)
        assert await said(engine) == ("a 2", 1.0)
        assert await said(engine) == ("a 2", 0.0)

    virtual(body)


def test_a_stale_result_is_given_at_once_and_computed_anew_behind_once() -> None:
    async def body(engine: Engine) -> None:
        told: list[tuple[str, int]] = []
        engine.deployments.caches.told = lambda request: told.append((request.tenant, request.priority))
        await engine.open(plain, kept(plain, "slow", ttl_s=60.0, stale_s=30.0))
        await said(engine, tenant="one")
        await asyncio.sleep(61.0)
        assert [await said(engine, tenant="one") for _ in range(3)] == [("a 1", 0.0)] * 3
        await asyncio.sleep(2.0)
        assert CALLS == ["a", "a"], "three saw it stale, one computation went on behind"
        assert await said(engine, tenant="one") == ("a 2", 0.0)
        now = seen(engine)
        assert (now.hits, now.stale, now.refreshed) == (4, 3, 1)
        assert told == [("one", -8)], "somebody pays for it: whoever keeps books hears of it"
        await asyncio.sleep(100.0)
        assert await said(engine, tenant="one") == ("a 3", 1.0), "beyond that it is over"

    virtual(body)


def test_what_fails_behind_leaves_the_stale_result_and_is_counted() -> None:
    @stage(pure=True)
    async def once(words: tt.Text) -> str:
        CALLS.append(words.text)
        if len(CALLS) > 1:
            raise ValueError("only once")
        return "first"

    @tt.workflow
    def breaking(words: tt.Text) -> str:
        return once(words)

    async def body(engine: Engine) -> None:
        await engine.open(breaking, kept(breaking, "once", ttl_s=10.0, stale_s=100.0))
        assert (await ran(engine, breaking, "a")).value == "first"
        for _ in range(2):
            await asyncio.sleep(20.0)
            assert (await ran(engine, breaking, "a")).value == "first"
        await asyncio.sleep(1.0)
        assert engine.deployments.caches.behind.failed == 2
        assert len(CALLS) == 3

    virtual(body)


def test_an_engine_that_closes_ends_what_goes_on_behind() -> None:
    async def body(engine: Engine) -> None:
        await engine.open(plain, kept(plain, "slow", ttl_s=10.0, stale_s=100.0))
        await said(engine)
        await asyncio.sleep(20.0)
        await said(engine)

    virtual(body)
    assert CALLS[0] == "a"


def test_early_refresh_is_likelier_near_the_end_and_for_what_is_dear() -> None:
    rules = CachePlan(ttl_s=100.0, refresh=1.0)

    def early(at: float, took_s: float, draw: float) -> str:
        return age_of(rules, Kept("", 1, took_s, made_at=0.0), at, lambda: draw)

    half_s = math.log(2)  # of a second of work: how much earlier a draw of 0.5 begins
    assert early(100.0 - half_s - 0.01, 1.0, 0.5) == "fresh"
    assert early(100.0 - half_s + 0.01, 1.0, 0.5) == "early"
    assert early(100.0 - 10 * half_s + 0.01, 10.0, 0.5) == "early"
    assert early(99.99, 1.0, 0.0) == "fresh"
    assert early(100.0, 1.0, 0.0) == "over"
    assert age_of(CachePlan(ttl_s=100.0), Kept("", 1, 9.0), 99.9, lambda: 0.99) == "fresh", "not asked for"


def test_an_early_refresh_spares_everybody_the_wait() -> None:
    async def body(engine: Engine) -> None:
        await engine.open(plain, kept(plain, "slow", ttl_s=100.0, refresh=1.0))
        place = engine.deployments.caches._places["slow", "results"]
        place.draw = lambda: 0.999
        await said(engine)
        await asyncio.sleep(95.0)
        assert await said(engine) == ("a 1", 0.0)
        await asyncio.sleep(10.0)
        assert await said(engine) == ("a 2", 0.0), "nobody waited"

    virtual(body)


def test_only_errors_of_the_input_are_kept_and_only_for_a_while() -> None:
    async def body(engine: Engine) -> None:
        await engine.open(plain, kept(plain, "slow", negative_s=5.0))
        for words, error, times in (
            ("damaged", InputError, 1),
            ("lost", NotFound, 2),
            ("bug", StageError, 2),
        ):
            CALLS.clear()
            for _ in range(2):
                with pytest.raises(error) as raised:
                    await said(engine, words)
            assert len(CALLS) == times, words
            if words == "damaged":
                assert (raised.value.message, raised.value.help) == ("damaged words", "send others")
        await asyncio.sleep(5.0)
        with pytest.raises(InputError):
            await said(engine, "damaged")
        assert CALLS[-1] == "damaged", "it is looked at again"

    virtual(body)


def test_a_stream_is_replayed_at_once_or_as_it_was_made() -> None:
    async def times(engine: Engine) -> list[float]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        return [round(loop.time() - began, 6) async for _ in engine.stream(streamed.bind("abc"))]

    async def made(engine: Engine) -> None:
        await engine.open(streamed, kept(streamed, "spell", replay="as made"))
        assert [await times(engine) for _ in range(2)] == [[0.1, 0.2, 0.3]] * 2
        assert CALLS == ["abc"]

    async def at_once(engine: Engine) -> None:
        await engine.open(streamed, kept(streamed, "spell"))
        assert [await times(engine) for _ in range(2)] == [[0.1, 0.2, 0.3], [0.0, 0.0, 0.0]]

    virtual(made)
    virtual(at_once)


def test_results_are_forgotten_by_stage_tenant_and_tag() -> None:
    async def body(engine: Engine) -> None:
        await engine.open(plain, kept(plain, "slow", tags=("manuals",)))
        caches = engine.deployments.caches
        for label, left in (("tenant:one", 1), ("tag:manuals", 0), ("step:slow", 0)):
            for tenant in ("one", "two"):
                await said(engine, tenant=tenant)
            assert await caches.forget(label) == 2 - left
            assert seen(engine).holdings.entries == left
        assert await caches.forget("tag:others") == 0

    virtual(body)


# -- tiers ------------------------------------------------------------------------------------------------


class Far:
    """A tier elsewhere, which says what it was asked."""

    name: ClassVar[str] = "far"
    exact: ClassVar[bool] = True
    kept: ClassVar[dict[bytes, Kept]] = {}

    def __init__(self, size_bytes: int) -> None:
        self.asked: list[str] = []

    async def get(self, sought: Sought) -> Kept | None:
        self.asked.append("get")
        return self.kept.get(sought.key)

    async def put(self, sought: Sought, kept: Kept) -> bool:
        self.asked.append("put")
        self.kept[sought.key] = kept
        return True

    def resize(self, size_bytes: int) -> None:
        self.asked.append("resize")

    def holdings(self) -> Holdings:
        return Holdings(len(self.kept), 0, 0, 0, 0)

    async def clear(self) -> None:
        self.kept.clear()

    async def forget(self, label: str) -> int:
        return 0

    async def close(self) -> None:
        self.asked.append("close")


def test_tiers_are_looked_through_in_order_and_filled_upwards() -> None:
    Far.kept.clear()
    made: list[Far] = []

    def make(size_bytes: int) -> Far:
        made.append(Far(size_bytes))
        return made[-1]

    plan = kept(plain, "slow", tiers=("memory", "far"))

    async def body(engine: Engine) -> None:
        engine.deployments.caches.offer("far", make)
        await engine.open(plain, plan)
        await said(engine)
        await engine.deployments.caches.behind.settled()
        assert len(Far.kept) == 1
        assert await said(engine) == ("a 1", 0.0)
        assert made[-1].asked == ["resize", "get", "put"], "the second was there already"

    async def restarted(engine: Engine) -> None:
        engine.deployments.caches.offer("far", make)
        await engine.open(plain, plan)
        assert [await said(engine) for _ in range(2)] == [("a 1", 0.0)] * 2
        assert made[-1].asked == ["resize", "get"], "then it was in memory"
        now = seen(engine)
        assert {name: tier.hits for name, tier in now.tiers.items()} == {"memory": 1, "far": 1}

    virtual(body)
    virtual(restarted)
    assert CALLS == ["a"]
    assert [each.asked[-1] for each in made] == ["close", "close"]


def test_a_round_of_a_bench_looks_in_memory_only() -> None:
    Far.kept.clear()
    made: list[Far] = []

    async def body(engine: Engine) -> None:
        engine.deployments.caches.offer("far", lambda size: made.append(Far(size)) or made[-1])
        await engine.open(plain, kept(plain, "slow", tiers=("memory", "far")))
        request = engine.request()
        request.partition = "2"
        await ran(engine, plain, "a", request=request)
        assert made[-1].asked == ["resize", "get"] or made[-1].asked == ["resize"]
        assert not Far.kept

    virtual(body)


def test_a_tier_that_no_plan_names_any_more_is_closed() -> None:
    Far.kept.clear()
    made: list[Far] = []

    async def body(engine: Engine) -> None:
        engine.deployments.caches.offer("far", lambda size: made.append(Far(size)) or made[-1])
        await engine.open(plain, kept(plain, "slow", tiers=("memory", "far")))
        await said(engine)
        await engine.swap(plain, kept(plain, "slow"))
        await engine.deployments.caches.behind.settled()
        assert made[-1].asked[-1] == "close"
        assert await said(engine) == ("a 1", 0.0), "what is in memory stays"

    virtual(body)


def test_a_tier_that_there_is_not_is_refused_when_the_plan_is_opened() -> None:
    async def body(engine: Engine) -> None:
        with pytest.raises(PlanError) as refused:
            await engine.open(plain, kept(plain, "slow", tiers=("memory", "cloud")))
        assert refused.value.code == "E135"
        assert "memory" in refused.value.help

    virtual(body)


def test_simulations_have_the_tier_in_memory_only() -> None:
    from tauten.run.caches.memory import Memory

    place = Caches(Memory).take([], "a", "results", 1000, CachePlan(tiers=("memory", "disk")))
    assert place is not None
    assert list(place.tiers) == ["memory"]


# -- plans ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ({"tiers": ()}, "keeps nothing"),
        ({"tiers": ("memory", "memory")}, "twice"),
        ({"ttl_s": -1.0}, "no span"),
        ({"negative_s": math.nan}, "no span"),
        ({"stale_s": 5.0}, "without ttl_s"),
        ({"refresh": 1.0}, "without ttl_s"),
        ({"disk": "1GB"}, 'no tier "disk"'),
    ],
)
def test_rules_that_contradict_one_another_are_refused(rules: dict[str, Any], says: str) -> None:
    assert plain.graph is not None
    with pytest.raises(PlanError, match=says) as refused:
        lower(plain.graph, kept(plain, "slow", **rules))
    assert (refused.value.code, bool(refused.value.help)) == ("E135", True)


def test_sizes_in_rules_are_read_as_anywhere() -> None:
    assert plain.graph is not None
    for rules in ({"size": "lots"}, {"tiers": ("memory", "disk"), "disk": "12"}):
        with pytest.raises(PlanError) as refused:
            lower(plain.graph, kept(plain, "slow", **rules))
        assert refused.value.code == "E134"


def test_a_plan_file_says_all_of_it_and_is_written_as_it_was_read() -> None:
    text = (
        'tauten = "plan/1"\n[stage.slow]\ncache = {size = "256MB", tiers = ["memory", "disk", "redis"], '
        'disk = "10GB", ttl_s = 3600.0, refresh = 0.8, stale_s = 60.0, negative_s = 5.0, replay = "as made", '
        'tags = ["manuals"]}\n'
    )
    plan = parse_plan(text)
    assert plan.stage("slow").cache == CachePlan(
        size="256MB",
        tiers=("memory", "disk", "redis"),
        disk="10GB",
        ttl_s=3600.0,
        refresh=0.8,
        stale_s=60.0,
        negative_s=5.0,
        replay="as made",
        tags=("manuals",),
    )
    assert parse_plan(format_plan(plan)) == plan
    assert plan.id != parse_plan(text.replace("0.8", "0.9")).id


def test_a_plan_names_no_server() -> None:
    with pytest.raises(PlanError) as refused:
        parse_plan('tauten = "plan/1"\n[stage.slow]\ncache = {tiers = ["redis://somewhere:6379"]}\n')
    assert refused.value.code == "E125"


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(PlanError, match="ttl"):
        parse_plan('tauten = "plan/1"\n[stage.slow]\ncache = {ttl = 5}\n')
