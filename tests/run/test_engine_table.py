"""The engine's table of plans, its deadlines, and what it leaves behind: nothing."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import gc
import threading
from collections import Counter
from typing import Any

import pytest

import tauten as tt
from kit.virtual import answer, value, virtual
from tauten.describe.stage import Context, Role
from tauten.errors import DeadlineExceeded, InternalError, PlanError, Unavailable
from tauten.plan.plan import Batch, ModelChoice, Plan, StagePlan
from tauten.run.deploy.deployment import Deployment
from tauten.run.door.known_steps import MOST
from tauten.run.engine import Engine

ROLES = {"model": Role("told", ("synthetic",), options={"ms_per_batch": 1000.0})}
SLOTS = {"model": Role("told", ("synthetic_slots",), options={"ms_per_token": 1000.0})}


@tt.stage(pure=True, roles=ROLES)
async def ask(ctx: Context, q: str) -> str:
    return str(await ctx.infer("model", q))


@tt.stage(pure=True, roles=ROLES)
async def again(ctx: Context, q: str) -> str:
    return str(await ctx.infer("model", q))


@tt.stage(pure=True, roles=SLOTS)
async def tell(ctx: Context, q: str) -> tt.Stream[str]:  # type: ignore[misc]
    async for chunk in ctx.stream("model", {"prompt": q}):
        if chunk.text:
            yield chunk.text


@tt.stage(pure=True)
class Nested:
    """A user's own code, which has a deployment."""

    def __call__(self, q: str) -> str:
        return q


@tt.workflow
def asked(q: str) -> str:
    return ask(q)  # type: ignore[call-arg,arg-type]


@tt.workflow
def asked_twice(q: str) -> str:
    return again(ask(q))  # type: ignore[call-arg,arg-type]


@tt.workflow
def told(q: str) -> tt.Stream[str]:
    return tell(q)  # type: ignore[call-arg,arg-type]


@tt.workflow
async def observed(q: str) -> str:
    return await ask(q)  # type: ignore[call-arg,arg-type,misc,no-any-return]


def plan(name: str, **options: Any) -> Plan:
    return Plan(name=name, stages={"ask": StagePlan(settings=options)})


# -- several plans -------------------------------------------------------------------------------------------


def test_plans_are_drawn_by_weight_and_kept_by_their_requests() -> None:
    async def body(engine: Engine) -> None:
        a = await engine.open(asked, plan("a", answer="constant", value="a"), weight=3.0)
        b = await engine.open(asked, plan("b", answer="constant", value="b"))
        answers = await asyncio.gather(*(engine.run({"q": "x"}) for _ in range(200)))
        assert all(each.value == each.plan[0] for each in answers)
        counts = Counter(each.plan for each in answers)
        assert 120 < counts[a] < 180, "three of four"
        assert (await engine.run({"q": "x"}, plan=b)).value == "b"
        await engine.open(asked, engine.plans[a].plan, weight=0.0)
        assert {(await engine.run({"q": "x"})).value for _ in range(20)} == {"b"}, "a parked plan gets none"
        with pytest.raises(PlanError, match=r"E127 no plan 'c@"):
            await engine.run({"q": "x"}, plan="c@0000")
        await engine.open(asked, engine.plans[b].plan, weight=0.0)
        with pytest.raises(PlanError, match="parked"):
            await engine.run({"q": "x"})

    virtual(body)


def test_an_engine_without_plans_and_a_closed_one() -> None:
    async def body(engine: Engine) -> None:
        with pytest.raises(InternalError, match="no open plan"):
            await engine.run({"q": "x"})
        await engine.open(asked)
        with pytest.raises(PlanError, match="open for another workflow"):
            await engine.open(
                tt.workflow(name="other")(lambda q: ask(q)),
                Plan(graph=asked.graph.hash if asked.graph else ""),
            )
        await engine.close()
        await engine.close()
        with pytest.raises(InternalError, match="closed"):
            await engine.open(asked)

    virtual(body)


@pytest.mark.parametrize("workflow", [asked, observed], ids=["drawn", "observed"])
def test_a_swap_under_load_loses_no_request(workflow: Any) -> None:
    async def body(engine: Engine) -> None:
        first = await engine.open(workflow, plan("a", answer="constant", value="a"))
        answers: list[Any] = []

        async def load() -> None:
            for _ in range(60):
                tasks.append(asyncio.ensure_future(engine.run({"q": "x"})))
                await asyncio.sleep(0.5)

        tasks: list[asyncio.Task[Any]] = []
        loading = asyncio.ensure_future(load())
        await asyncio.sleep(5.25)
        second = await engine.swap(workflow, plan("b", answer="constant", value="b"))
        await loading
        answers = await asyncio.gather(*tasks)
        assert list(engine.plans) == [second]
        assert [each.value for each in answers] == ["a"] * 11 + ["b"] * 49
        assert {each.plan for each in answers[:11]} == {first}
        assert len(engine.properties()) == 1, "the old plan's models are freed"

    virtual(body)


def test_a_retired_plan_drains_to_a_bound_and_then_stops_its_requests() -> None:
    async def body(engine: Engine) -> None:
        name = await engine.open(asked, plan("slow", ms_per_batch=60_000.0))
        tasks = [asyncio.ensure_future(engine.run({"q": "x"})) for _ in range(3)]
        await asyncio.sleep(1)
        await engine.retire(name, drain_s=5.0)
        for task in tasks:
            with pytest.raises(Unavailable, match=r"E409 plan slow@\w+ was retired"):
                await task
        assert engine.properties() == {}
        with pytest.raises(PlanError):
            await engine.retire(name)

    virtual(body)


def test_closing_stops_what_runs() -> None:
    async def body(engine: Engine) -> None:
        await engine.open(told)
        stream = engine.stream({"q": "a b c d"})
        assert await anext(stream) == "a"
        await engine.close()
        with pytest.raises(Unavailable):
            await anext(stream)

    virtual(body)


def test_deployments_are_shared_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    from tauten.run.backends.synthetic import SyntheticBackend

    events: list[str] = []
    opened, closed = SyntheticBackend.open, SyntheticBackend.close
    monkeypatch.setattr(SyntheticBackend, "open", lambda self: (events.append("open"), opened(self))[1])
    monkeypatch.setattr(SyntheticBackend, "close", lambda self: (events.append("close"), closed(self))[1])

    async def body(engine: Engine) -> None:
        a = await engine.open(asked_twice)
        b = await engine.open(asked_twice, Plan(name="b", stages={"again": StagePlan(threads=2)}))
        assert events == ["open", "open"], "two steps agree in plan a, and one of plan b with them"
        await engine.retire(a)
        assert events == ["open", "open"]
        assert (await engine.run({"q": "x"})).value == "x"
        await engine.retire(b)
        assert events == ["open", "open", "close", "close"]

    virtual(body)


def test_an_opening_that_fails_leaves_nothing_open() -> None:
    @tt.stage
    class Broken:
        def __init__(self) -> None:
            raise OSError("no weights")

        def __call__(self, q: str) -> str:
            return q

    @tt.workflow
    def drawn(q: str) -> str:
        return Broken(ask(q))  # type: ignore[return-value,call-arg,arg-type]

    async def main() -> None:
        async with Engine() as engine:
            before = set(threading.enumerate())
            for _ in range(2):
                with pytest.raises(Exception, match="no weights"):
                    await engine.open(drawn)
                assert engine.plans == {}
                assert engine.properties() == {}
                assert set(threading.enumerate()) <= before
            bad = Plan(stages={"ask": StagePlan(roles={"model": ModelChoice(options={"seeed": 1})})})
            with pytest.raises(
                PlanError, match=r"E109 stage 'ask', role 'model': unknown key `seeed`"
            ) as caught:
                await engine.open(asked, bad)
            assert "did you mean `seed`?" in caught.value.help
            with pytest.raises(PlanError, match=r"E109 .*`thread`") as caught:
                await engine.open(asked, plan("x", thread=2))
            assert "did you mean `threads`?" in caught.value.help
            assert set(threading.enumerate()) <= before

    asyncio.run(main())


def test_a_cancelled_opening_leaves_nothing_open() -> None:
    go = threading.Event()

    @tt.stage
    class Slow:
        def __init__(self) -> None:
            go.wait(5)

        def __call__(self, q: str) -> str:
            return q

    @tt.workflow
    def drawn(q: str) -> str:
        return Slow(q)  # type: ignore[return-value,call-arg,arg-type]

    async def main() -> None:
        async with Engine() as engine:
            before = set(threading.enumerate())
            task = asyncio.ensure_future(engine.open(drawn))
            while set(threading.enumerate()) <= before:
                await asyncio.sleep(0.001)
            task.cancel()
            asyncio.get_running_loop().call_later(0.01, go.set)
            with pytest.raises(asyncio.CancelledError):
                await task
            assert engine.properties() == {}
            assert set(threading.enumerate()) <= before

    asyncio.run(main())


def test_the_same_plan_opened_twice_at_once_is_one() -> None:
    async def body(engine: Engine) -> None:
        names = await asyncio.gather(engine.open(asked), engine.open(asked))
        assert names[0] == names[1]
        await engine.retire(names[0])
        assert engine.properties() == {}

    virtual(body)


# -- deadlines -------------------------------------------------------------------------------------------------


def test_a_deadline_is_exact_and_stops_the_work() -> None:
    ended: list[float] = []

    @tt.stage
    async def slow(q: str) -> str:
        try:
            await asyncio.sleep(100)
        finally:
            ended.append(asyncio.get_running_loop().time())
        return q

    @tt.workflow
    def drawn(q: str) -> list[str]:
        return [slow(q), slow(q, name="b")]

    async def body(engine: Engine) -> None:
        graph = drawn.graph
        assert graph is not None
        await engine.open(drawn, Plan(stages={"slow": StagePlan(beside=("b",))}))
        with pytest.raises(DeadlineExceeded, match="the deadline of 1500 ms passed"):
            await engine.run({"q": "x"}, deadline_ms=1500)
        assert ended == [1.5, 1.5]
        assert engine.clock() == 1.5
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0, "the caller's task is not left cancelled"

    virtual(body)


def test_a_deadline_reaches_queues_and_models() -> None:
    async def body(engine: Engine) -> None:
        await engine.open(asked)
        first = asyncio.ensure_future(engine.run({"q": "a"}))
        await asyncio.sleep(0.25)
        late = asyncio.ensure_future(engine.run({"q": "b"}, deadline_ms=500))
        third = asyncio.ensure_future(engine.run({"q": "c"}))
        await asyncio.gather(first, late, third, return_exceptions=True)
        assert isinstance(late.exception(), DeadlineExceeded)
        assert third.result().trace.end == 2.0, "what left the queue took no time of the model"

    virtual(body)


def test_a_deadline_that_has_passed_starts_nothing() -> None:
    ran: list[int] = []

    @tt.stage
    async def note(q: str) -> str:
        ran.append(1)
        return q

    for budget in (0.0, -5.0, float("nan")):
        with pytest.raises(DeadlineExceeded):
            answer(tt.workflow(name="w")(lambda q: note(q)), "x", deadline_ms=budget)
    assert ran == []


def test_a_stage_that_swallows_its_cancellation_is_late_all_the_same() -> None:
    @tt.stage
    async def stubborn(q: str) -> str:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            await asyncio.sleep(1)
        return q

    with pytest.raises(DeadlineExceeded):
        answer(tt.workflow(name="w")(lambda q: stubborn(q)), "x", deadline_ms=500)


def test_a_deadline_while_the_reader_is_slow_spares_the_readers_task() -> None:
    async def body(engine: Engine) -> None:
        await engine.open(told)
        stream = engine.stream({"q": "a b c d e f"}, deadline_ms=2500)
        assert await anext(stream) == "a"
        await asyncio.sleep(10)  # the caller's own time: nobody may cancel it
        with pytest.raises(DeadlineExceeded):
            await anext(stream)

    virtual(body)


def test_what_is_left_is_told_to_stages() -> None:
    told_left: list[float] = []

    @tt.stage
    async def look(ctx: Context, q: str) -> str:
        await asyncio.sleep(0.25)
        told_left.extend([tt.deadline_left(), ctx.deadline_left()])
        return q

    answer(tt.workflow(name="w")(lambda q: look(q)), "x", deadline_ms=1000)
    assert told_left == [0.75, 0.75]
    assert tt.deadline_left() == float("inf")
    assert not tt.cancelled()


def test_a_blocking_stage_sees_that_its_caller_left() -> None:
    inside, seen = threading.Event(), threading.Event()

    @tt.stage
    def patient(q: str) -> str:
        inside.set()
        for _ in range(5000):
            if tt.cancelled():
                seen.set()
                break
            threading.Event().wait(0.001)
        return q

    async def main(deadline_ms: float) -> None:
        inside.clear()
        seen.clear()
        async with Engine() as engine:
            await engine.open(tt.workflow(name="w")(lambda q: patient(q)))
            task = asyncio.ensure_future(engine.run({"q": "x"}, deadline_ms=deadline_ms))
            while not inside.is_set():
                await asyncio.sleep(0.001)
            if deadline_ms == float("inf"):
                task.cancel()
            with pytest.raises((asyncio.CancelledError, DeadlineExceeded)):
                await task
            while not seen.is_set():
                await asyncio.sleep(0.001)

    asyncio.run(main(float("inf")))
    asyncio.run(main(200.0))


# -- running code ------------------------------------------------------------------------------------------------


def test_observed_steps_are_named_by_their_call_sites() -> None:
    @tt.stage(pure=True)
    async def step(q: str) -> str:
        return q

    @tt.workflow
    async def program(q: str) -> str:
        if "a" in q:
            await step(q)  # type: ignore[misc]
        if "b" in q:
            await step(q)  # type: ignore[misc]
        for _ in range(q.count("c")):
            await step(q, name="loop")  # type: ignore[misc,call-arg]
        return q

    def names(q: str) -> list[str]:
        return [row[0] for row in answer(program, q).trace.rows if row[1] == "visit"]

    first, second = names("ab")
    assert first == "step"
    assert second.startswith("step@")
    assert names("a") == [first]
    assert names("b") == [second], "the name is the line's, whatever ran before"
    assert names("ccc") == ["loop", "loop[1]", "loop[2]"]


def test_observed_code_is_ordinary_python() -> None:
    @tt.stage(pure=True)
    async def words(q: str) -> tt.Stream[str]:  # type: ignore[misc]
        for word in q.split():
            await asyncio.sleep(1)
            yield word

    @tt.stage(pure=True)
    async def fails(q: str) -> str:
        raise ValueError(q)

    @tt.stage(pure=True)
    async def joined(stream: tt.Stream[str], *, sep: str = "-") -> str:
        return sep.join([word async for word in stream])

    @tt.stage(pure=True)
    async def count(q: str, k: int = 3) -> int:
        return len(q) * k

    @tt.workflow
    async def helper(q: str) -> str:
        return await joined(words(q))  # type: ignore[misc,no-any-return]

    @tt.workflow
    async def program(q: tt.Text, session: tt.Session) -> Any:
        session.say("user", q.text)
        seen = []
        async for word in words(q):  # type: ignore[arg-type,attr-defined]
            seen.append(word)
            if word == "b":
                break
        try:
            await fails(q)  # type: ignore[misc,arg-type]
        except tt.TautenError as error:
            seen.append(error.code)
        seen += await tt.gather(count("ab"), count("a", k=1, name="one"))  # type: ignore[call-arg,arg-type]
        seen += await tt.map(count, ["x", "yy"], k=2)
        seen.append(await helper(q))  # type: ignore[arg-type,misc]
        seen.append(await count(None))  # type: ignore[misc,arg-type]
        seen.append(len(session.history))
        return seen

    assert value(program, "a b c") == ["a", "b", "E404", 6, 1, 2, 4, "a-b-c", None, 1]


def test_gather_stops_the_others_at_the_first_failure() -> None:
    stopped: list[float] = []

    @tt.stage
    async def slow(q: str) -> str:
        try:
            await asyncio.sleep(100)
        finally:
            stopped.append(asyncio.get_running_loop().time())
        return q

    @tt.stage
    async def fails(q: str) -> str:
        await asyncio.sleep(1)
        raise ValueError(q)

    @tt.workflow
    async def program(q: str) -> str:
        await tt.gather(slow(q), fails(q))
        return q

    with pytest.raises(tt.TautenError, match="stage 'fails'"):
        value(program, "x")
    assert stopped == [1.0]


def test_stages_inside_stages_are_steps_of_their_own() -> None:
    @tt.stage(pure=True)
    async def inner(q: str) -> str:
        return q

    @tt.stage(pure=True)
    async def first(q: str) -> str:
        return await inner(q) + await inner(q, name="second")  # type: ignore[misc,call-arg,no-any-return]

    @tt.workflow
    def drawn(q: list[str]) -> list[str]:
        return tt.map(first, q)  # type: ignore[no-any-return]

    done = answer(drawn, ["a", "b"])
    assert done.value == ["aa", "bb"]
    steps = {row[0] for row in done.trace.rows if row[1] == "visit"}
    assert steps == {
        *("first[0]", "first[0]/inner", "first[0]/second"),
        *("first[1]", "first[1]/inner", "first[1]/second"),
    }


def test_two_kinds_of_one_name_keep_apart() -> None:
    def kind(end: str) -> Any:
        @tt.stage
        class Model:
            def __call__(self, q: str) -> str:
                return q + end

        return Model

    one, two = kind("1"), kind("2")

    @tt.workflow
    async def program(q: str) -> str:
        return await one(q) + await two(q)  # type: ignore[no-any-return]

    assert value(program, "x") == "x1x2"


def test_a_pinned_model_belongs_to_its_call() -> None:
    @tt.workflow
    async def program(q: str) -> Any:
        return [await ask(q, model=model) for model in ("one", "two")]  # type: ignore[misc,call-arg,arg-type]

    async def body(engine: Engine) -> None:
        await engine.open(program)
        await engine.run({"q": "x"})
        assert sorted(key.split('"')[1] for key in engine.properties()) == ["one", "two"]

    virtual(body)


def test_what_is_not_awaited_is_told() -> None:
    @tt.stage
    async def step(q: str) -> str:
        return q

    def program(use: Any) -> Any:
        @tt.workflow
        async def body(q: str) -> Any:
            return use(step(q))

        return body

    for use in (bool, str, len, lambda call: call == "x", lambda call: call[0], lambda call: call.text):
        with pytest.raises(tt.TautenError, match=r"E101 test_engine_table\.py:\d+") as caught:
            value(program(use), "x")
        assert "await step(...)" in caught.value.help
    assert value(program(lambda call: call), "x") == "x"

    @tt.workflow
    async def twice(q: str) -> Any:
        call: Any = step(q)
        return await call + await call

    with pytest.raises(tt.TautenError, match="E114"):
        value(twice, "x")


def test_a_thread_cannot_await_and_is_told_so() -> None:
    @tt.stage
    async def inner(q: str) -> str:
        return q

    @tt.stage
    def blocking(q: str) -> str:
        return inner(q)  # type: ignore[return-value]

    @tt.workflow
    def drawn(q: str) -> str:
        return blocking(q)

    async def main() -> None:
        async with Engine() as engine:
            await engine.open(drawn)
            with pytest.raises(tt.TautenError, match=r"E117 test_engine_table\.py:\d+: stage 'blocking'"):
                await engine.run({"q": "x"})

    asyncio.run(main())


def test_the_request_does_not_surround_its_callers_code() -> None:
    @tt.stage
    async def step(q: str) -> str:
        return q

    @tt.workflow
    async def program(q: str) -> tt.Stream[str]:
        for word in q.split():
            yield await step(word)  # type: ignore[misc]

    async def body(engine: Engine) -> None:
        from tauten.describe.stage import AMBIENT

        await engine.open(program)
        async for _ in engine.stream({"q": "a b"}):
            assert AMBIENT.get() is None

    virtual(body)


def test_steps_whose_names_are_made_up_are_forgotten_and_those_that_come_again_are_bound_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tauten.run.steps.MET", 8)

    @tt.workflow
    async def program(q: str) -> Any:
        return [await ask(q), await again(q, name=q), await Nested(q, name=f"{q}/n")]  # type: ignore[misc,call-arg,arg-type]

    async def body(engine: Engine) -> None:
        plan = await engine.open(program)
        opened = engine.plans[plan]
        steps: Any = opened.steps
        for number in range(100):
            answer = await engine.run({"q": f"step{number}"})
            assert answer.value == [f"step{number}"] * 3
        tables = [steps._bound, steps._plain, steps._models, steps._bindings]
        assert all(len(each) <= 9 for each in tables)
        assert len(steps._places) <= 9 + MOST
        assert len(opened.keys) == len(set(opened.keys)) == 2, "a model, and the code of a class"
        assert steps.models_of("step99")["model"].model == "told"
        assert len(engine.deployments._opening) == 0

    virtual(body)


def test_what_is_opened_twice_at_once_is_one_and_no_lock_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    opened = Deployment.open

    async def slowly(self: Deployment) -> None:
        made.append(self.label)
        await asyncio.sleep(1.0)
        if len(made) == 1:
            raise OSError("not now")
        await opened(self)

    monkeypatch.setattr(Deployment, "open", slowly)

    async def body(engine: Engine) -> None:
        deployments, choice = engine.deployments, ModelChoice("told", backend="synthetic", batch=Batch(1))

        async def later(seconds: float) -> Any:
            await asyncio.sleep(seconds)
            return await deployments.take([], choice, {})

        async def several() -> tuple[type[Any], int]:
            came = (later(seconds) for seconds in (0.0, 0.5, 1.0, 1.5))
            first, *others = await asyncio.gather(*came, return_exceptions=True)
            return type(first), len({id(each) for each in others})

        assert await several() == (OSError, 1)
        assert len(made) == 2
        await asyncio.sleep(0)
        gc.collect()  # the error knew where it was raised
        assert len(deployments._opening) == 0

    virtual(body)
