"""Cached stages on the engine: what hits, what never does, and what of it is seen."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

import tauten as tt
from kit.virtual import virtual
from tauten.describe.stage import Context, Role, stage
from tauten.describe.workflow import Workflow
from tauten.errors import DeadlineExceeded, PlanError, StageError
from tauten.explain.account import account
from tauten.plan.lower import lower
from tauten.plan.plan import Plan, StagePlan, diff_plans, format_plan, parse_plan
from tauten.run.engine import Engine
from tauten.run.opened import Answer
from tauten.run.trace import VISIT

CALLS: list[Any] = []


@pytest.fixture(autouse=True)
def no_calls() -> None:
    CALLS.clear()


@stage(pure=True)
async def slow(
    words: tt.Text, *, style: str = "plain", temperature: float = 0.0, seed: int | None = None
) -> list[str]:
    CALLS.append(words.text)
    await asyncio.sleep(1.0)
    if words.text == "bad":
        raise ValueError("bad words")
    return [words.text, style]


@stage(pure=True)
async def spell(words: tt.Text) -> AsyncIterator[str]:
    CALLS.append(words.text)
    for letter in words.text:
        await asyncio.sleep(0.1)
        yield letter


@stage(roles={"model": Role("echo", ("synthetic",), options={"ms_per_batch": 100.0})}, pure=True)
async def ask(words: tt.Text, ctx: Context) -> str:
    CALLS.append(words.text)
    return str(await ctx.infer("model", words.text))


@stage
async def effect(words: tt.Text) -> str:
    return words.text


@tt.workflow
def plain(words: tt.Text) -> list[str]:
    return slow(words)


@tt.workflow
def streamed(words: tt.Text) -> tt.Stream[str]:
    return spell(words)


@tt.workflow
def modelled(words: tt.Text) -> str:
    return ask(words)


def cached(workflow: Workflow[..., Any], step: str, **settings: Any) -> Plan:
    graph = workflow.graph
    assert graph is not None
    return Plan(graph=graph.hash, stages={step: StagePlan(cache=True, **settings)})


async def ran(engine: Engine, workflow: Workflow[..., Any], *args: Any, **how: Any) -> Answer:
    return await engine.run(workflow.bind(*args), **how)


def seconds(answer: Answer) -> float:
    return answer.trace.end - answer.trace.start


def seen(engine: Engine, step: str, holds: str = "results") -> Any:
    return engine.deployments.caches.seen()[step, holds]


def test_equal_inputs_are_computed_once_and_the_hit_says_so_in_the_trace() -> None:
    async def body(engine: Engine) -> None:
        await engine.open(plain, cached(plain, "slow"))
        first, again, other = [await ran(engine, plain, words) for words in ("a", "a", "b")]
        assert [first.value, again.value, other.value] == [["a", "plain"], ["a", "plain"], ["b", "plain"]]
        assert [seconds(first), seconds(again), seconds(other)] == [1.0, 0.0, 1.0]
        assert CALLS == ["a", "b"]
        causes = [cause for step, cause, _, _ in again.trace.rows if step == "slow"]
        assert causes == ["lookup", VISIT]
        assert ("slow", "saved_s", 1.0) in again.trace.spent
        now = seen(engine, "slow")
        assert (now.hits, now.misses, now.passed, now.saved_s) == (1, 2, 0, 1.0)
        assert now.holdings.entries == 2

    virtual(body)


def test_the_books_of_a_hit_close() -> None:
    async def body(engine: Engine) -> None:
        await engine.open(plain, cached(plain, "slow"))
        for _ in range(2):
            shown = account((await ran(engine, plain, "a")).trace)
            assert shown.unattributed_ms == 0.0

    virtual(body)


def test_a_reader_that_changes_its_list_changes_nobody_elses() -> None:
    async def body(engine: Engine) -> None:
        await engine.open(plain, cached(plain, "slow"))
        for _ in range(3):
            answer = await ran(engine, plain, "a")
            assert answer.value == ["a", "plain"]
            answer.value.append("mine")

    virtual(body)


def test_errors_are_never_kept() -> None:
    async def body(engine: Engine) -> None:
        await engine.open(plain, cached(plain, "slow"))
        for _ in range(2):
            with pytest.raises(StageError):
                await ran(engine, plain, "bad")
        assert CALLS == ["bad", "bad"]
        assert seen(engine, "slow").holdings.entries == 0

    virtual(body)


def test_a_request_that_is_cancelled_or_late_leaves_nothing_behind() -> None:
    async def body(engine: Engine) -> None:
        await engine.open(plain, cached(plain, "slow"))
        task = asyncio.ensure_future(ran(engine, plain, "a"))
        await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.wait([task])
        with pytest.raises(DeadlineExceeded):
            await ran(engine, plain, "a", deadline_ms=300.0)
        assert seen(engine, "slow").holdings.entries == 0
        assert (await ran(engine, plain, "a")).value == ["a", "plain"]

    virtual(body)


def test_requests_at_the_same_time_each_compute_and_one_is_kept() -> None:
    async def body(engine: Engine) -> None:
        await engine.open(plain, cached(plain, "slow"))
        found = await asyncio.gather(*(ran(engine, plain, "a") for _ in range(3)))
        assert [each.value for each in found] == [["a", "plain"]] * 3
        assert seen(engine, "slow").holdings.entries == 1

    virtual(body)


def test_tenants_and_partitions_share_nothing() -> None:
    async def body(engine: Engine) -> None:
        await engine.open(plain, cached(plain, "slow"))
        for tenant in ("one", "two", "one"):
            await ran(engine, plain, "a", tenant=tenant)
        assert CALLS == ["a", "a"]
        request = engine.request()
        request.partition = "2"
        await ran(engine, plain, "a", request=request)
        assert len(CALLS) == 3

    virtual(body)


def test_a_stream_is_kept_once_it_was_read_to_its_end() -> None:
    async def body(engine: Engine) -> None:
        await engine.open(streamed, cached(streamed, "spell"))
        left = engine.stream(streamed.bind("abc"))
        assert await anext(left) == "a"
        await left.aclose()
        assert seen(engine, "spell").holdings.entries == 0, "it was left before its end"
        whole = [await ran(engine, streamed, "abc") for _ in range(2)]
        assert [each.value for each in whole] == ["abc", "abc"]
        assert [round(seconds(each), 6) for each in whole] == [0.3, 0.0]
        assert CALLS == ["abc", "abc"]
        assert "".join([each async for each in engine.stream(streamed.bind("abc"))]) == "abc"

    virtual(body)


def test_a_hit_has_the_tokens_of_its_answer_as_shared_ones_and_whether_it_was_cut() -> None:
    @stage(pure=True)
    async def count(words: tt.Text, ctx: Context) -> str:
        for unit, amount in (
            ("input_tokens", 9.0),
            ("output_tokens", 4.0),
            ("cut_answers", 1.0),
            ("bytes", 7.0),
        ):
            ctx.spend(unit, amount)
        return words.text

    @tt.workflow
    def counted(words: tt.Text) -> str:
        return count(words)

    async def body(engine: Engine) -> None:
        await engine.open(counted, cached(counted, "count"))
        await ran(engine, counted, "a")
        for _ in range(2):
            booked = {unit: amount for _, unit, amount in (await ran(engine, counted, "a")).trace.spent}
            del booked["saved_s"]
            assert booked == {
                "cache_hits": 1.0,
                "shared_input_tokens": 9.0,
                "shared_output_tokens": 4.0,
                "cut_answers": 1.0,
            }

    virtual(body)


def test_what_draws_by_lot_is_not_kept() -> None:
    @stage(pure=True)
    async def say(words: tt.Text, temperature: float = 0.0, seed: int | None = None) -> str:
        CALLS.append(temperature)
        return words.text

    @tt.workflow
    def drawn(words: tt.Text, heat: float, seed: int | None = None) -> str:
        return say(words, heat, seed)

    async def body(engine: Engine) -> None:
        await engine.open(drawn, cached(drawn, "say"))
        for asked in [("a", 0.7), ("a", 0.7), ("a", 0.7, 1), ("a", 0.7, 1), ("a", 0.0), ("a", 0.0)]:
            await ran(engine, drawn, *asked)
        assert CALLS == [0.7, 0.7, 0.7, 0.0], "a seed, or no temperature, gives the same again"
        assert seen(engine, "say").passed == 2

    virtual(body)
    hot = StagePlan(cache=True, settings={"temperature": 0.7})
    assert "draws by lot" in refusal(plain, slow=hot).message
    seeded = StagePlan(cache=True, settings={"temperature": 0.7, "seed": 1})
    assert plain.graph is not None
    lower(plain.graph, Plan(graph=plain.graph.hash, stages={"slow": seeded}))


def test_other_settings_and_other_models_are_other_results() -> None:
    async def body(engine: Engine) -> None:
        first = cached(plain, "slow")
        await engine.open(plain, first)
        await ran(engine, plain, "a")
        new = await engine.swap(plain, cached(plain, "slow", settings={"style": "grand"}))
        assert (await ran(engine, plain, "a", plan=new)).value == ["a", "grand"]
        new = await engine.swap(plain, first)
        assert (await ran(engine, plain, "a", plan=new)).value == ["a", "plain"]
        assert CALLS == ["a", "a"], "what a plan before had computed is there still"

    virtual(body)


def test_a_swap_keeps_what_agrees_and_forgets_what_no_plan_wants() -> None:
    async def body(engine: Engine) -> None:
        await engine.open(modelled, cached(modelled, "ask"))
        await ran(engine, modelled, "a")
        await engine.swap(modelled, cached(modelled, "ask", replicas=2))
        assert seconds(await ran(engine, modelled, "a")) == 0.0
        await engine.swap(modelled, cached(modelled, "ask", precision="bf16"))
        assert seconds(await ran(engine, modelled, "a")) == 0.1, "another precision is another result"
        assert modelled.graph is not None
        await engine.swap(modelled, Plan(graph=modelled.graph.hash))
        assert engine.deployments.caches.seen() == {}

    virtual(body)


def test_members_of_a_map_and_running_code_hit_as_well() -> None:
    @tt.workflow
    def mapped(words: list[tt.Text]) -> list[list[str]]:
        return tt.map(slow, words, name="each")

    @tt.workflow
    async def running(words: tt.Text) -> list[str]:
        await slow(words)
        return await slow(words, name="again", style="grand")

    async def drawn(engine: Engine) -> None:
        assert mapped.graph is not None
        name = next(iter(mapped.graph.stages))
        await engine.open(mapped, cached(mapped, name))
        first = await ran(engine, mapped, [tt.Text("a"), tt.Text("b")])
        again = await ran(engine, mapped, [tt.Text("b"), tt.Text("c")])
        assert first.value[1] == again.value[0] == ["b", "plain"]
        assert CALLS == ["a", "b", "c"]

    async def observed(engine: Engine) -> None:
        both = {"slow": StagePlan(cache=True), "again": StagePlan(cache=True)}
        await engine.open(running, Plan(stages=both))
        values = [(await ran(engine, running, "a")).value for _ in range(2)]
        assert values == [["a", "grand"]] * 2
        assert CALLS == ["a", "a"]

    virtual(drawn)
    CALLS.clear()
    virtual(observed)


def test_decoded_views_are_kept_by_the_hash_of_what_was_encoded() -> None:
    from tauten.describe.view import Pixels, View

    @stage(pure=True, views={"photo": View("pixels", {"max_side": 64})})
    async def width(photo: tt.Image) -> int:
        pixels: Pixels = photo  # type: ignore[assignment]
        CALLS.append(pixels.array.flags.writeable)
        return pixels.width

    @tt.workflow
    def measured(photo: tt.Image) -> int:
        return width(photo)

    async def main() -> None:
        picture = tt.Image.from_array(np.zeros((32, 48, 3), np.uint8))
        same = tt.Image(picture.data)
        assert measured.graph is not None
        plan = Plan(graph=measured.graph.hash, stages={"width": StagePlan(cache_view="1MB")})
        async with Engine() as engine:
            await engine.open(measured, plan)
            answers = [await ran(engine, measured, each) for each in (picture, same)]
            assert [each.value for each in answers] == [48, 48]
            assert [cause for step, cause, *_ in answers[1].trace.rows if step == "width.photo"] == [
                "lookup",
                VISIT,
            ]
            now = seen(engine, "width", "views")
            assert (now.hits, now.misses) == (1, 1)
            assert now.holdings.size_bytes > 32 * 48 * 3
        assert CALLS == [False, False], "two requests see the same pixels: neither may write them"

    asyncio.run(main())


# -- plans ------------------------------------------------------------------------------------------------


def refusal(workflow: Workflow[..., Any], **stages: StagePlan) -> PlanError:
    assert workflow.graph is not None
    with pytest.raises(PlanError) as refused:
        lower(workflow.graph, Plan(graph=workflow.graph.hash, stages=stages))
    assert refused.value.help
    return refused.value


def test_a_stage_that_may_have_effects_is_refused() -> None:
    @tt.workflow
    def once(words: tt.Text) -> str:
        return effect(words)

    error = refusal(once, effect=StagePlan(cache=True))
    assert (error.code, "effects" in error.message) == ("E133", True)


def test_what_reads_a_stream_is_refused() -> None:
    @stage(pure=True)
    async def count(letters: tt.Stream[str]) -> int:
        return len([each async for each in letters])

    @tt.workflow
    def counted(words: tt.Text) -> int:
        return count(spell(words))

    assert "stream" in refusal(counted, count=StagePlan(cache=True)).message


def test_a_stage_of_a_session_and_one_without_views_are_refused() -> None:
    @stage(pure=True)
    async def greet(words: tt.Text, session: tt.Session) -> str:
        return words.text

    @tt.workflow
    def met(words: tt.Text, session: tt.Session) -> str:
        return greet(words)

    assert "session" in refusal(met, greet=StagePlan(cache=True)).message
    assert "decodes nothing" in refusal(plain, slow=StagePlan(cache_view=True)).message


@pytest.mark.parametrize("said", ["lots", "12", "0MB", "5 parsecs", "-1MB", "9" * 400 + "GB"])
def test_a_size_that_is_none_is_refused(said: str) -> None:
    assert refusal(plain, slow=StagePlan(cache=said)).code == "E134"


def test_a_plan_file_says_it_and_differs_by_it() -> None:
    text = 'tauten = "plan/1"\n[stage.slow]\ncache = "256MB"\n'
    plan = parse_plan(text)
    assert plan.stage("slow").cache == "256MB"
    assert parse_plan(format_plan(plan)) == plan
    assert diff_plans(Plan(), plan) == [("slow", "cache", None, "256MB")]
    assert plan.id != Plan(name="plan").id
