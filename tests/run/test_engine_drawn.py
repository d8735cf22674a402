"""Drawn workflows on the engine: branches, streams, stages of all forms, failures, traces."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tauten as tt
from kit.stages import both, wait
from kit.virtual import answer, value, virtual
from tauten.clock import run_virtual
from tauten.describe.workflow import Workflow
from tauten.errors import BackendError, InputError, StageError
from tauten.plan.lower import Program, lower
from tauten.plan.plan import Plan, StagePlan
from tauten.run.engine import Engine
from tauten.run.trace import BODY, VISIT, Trace


def beside(graph: Any, **pairs: tuple[str, ...]) -> Plan:
    return Plan(graph=graph.hash, stages={name: StagePlan(beside=others) for name, others in pairs.items()})


def visits(trace: Trace) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {}
    for step, cause, start, end in trace.rows:
        if cause == VISIT:
            found.setdefault(step, []).append((start, end))
    return found


# -- order -----------------------------------------------------------------------------------------------


def test_one_after_another_by_default_and_side_by_side_where_the_plan_frees_them() -> None:
    @tt.workflow
    def drawn(q: str) -> str:
        return both(wait(q, s=1.0, name="a"), wait(q, s=2.0, name="b"))

    naive = answer(drawn, "x").trace
    assert naive.end - naive.start == 3.0
    assert visits(naive) == {"a": [(0.0, 1.0)], "b": [(1.0, 3.0)], "both": [(3.0, 3.0)]}
    tuned = answer(drawn, "x", plan=beside(drawn.graph, a=("b",))).trace
    assert tuned.end - tuned.start == 2.0
    assert visits(tuned)["b"] == [(0.0, 2.0)]


@st.composite
def dags(draw: st.DrawFn) -> tuple[list[list[int]], set[tuple[int, int]]]:
    count = draw(st.integers(1, 8))
    edges = [sorted(draw(st.sets(st.integers(0, i - 1)))) if i else [] for i in range(count)]
    pairs = st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)).filter(
        lambda pair: pair[0] < pair[1]
    )
    return edges, draw(st.sets(pairs, max_size=20)) if count > 1 else set()


def dag_workflow(
    edges: list[list[int]], durations: list[float], ran: list[tuple[str, int]]
) -> Workflow[..., Any]:
    @tt.stage
    async def node(before: list[int], q: int, *, number: int) -> int:
        ran.append(("start", number))
        await asyncio.sleep(durations[number])
        ran.append(("end", number))
        return number

    @tt.workflow
    def drawn(q: int) -> list[int]:
        ports: list[Any] = []
        for number, upstream in enumerate(edges):
            ports.append(node([ports[each] for each in upstream], q, number=number, name=f"n{number}"))
        return ports

    return drawn


@settings(max_examples=60, deadline=None)
@given(dags(), st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0]), min_size=8, max_size=8))
def test_every_order_respects_data_and_the_plan(
    dag: tuple[list[list[int]], set[tuple[int, int]]], durations: list[float]
) -> None:
    edges, free = dag
    ran: list[tuple[str, int]] = []
    drawn = dag_workflow(edges, durations, ran)
    stages = {f"n{a}": StagePlan(beside=tuple(f"n{y}" for x, y in sorted(free) if x == a)) for a, _ in free}
    assert drawn.graph is not None
    done = answer(drawn, 1, plan=Plan(graph=drawn.graph.hash, stages=stages))
    assert done.value == list(range(len(edges)))
    place = {event: index for index, event in enumerate(ran)}
    assert len(place) == len(ran) == 2 * len(edges), "every step runs exactly once"
    for after in range(len(edges)):
        for before in range(after):
            if before in edges[after] or (before, after) not in free:
                assert place["end", before] < place["start", after]
    assert set(visits(done.trace)) == {f"n{index}" for index in range(len(edges))}
    for start, end in (span for spans in visits(done.trace).values() for span in spans):
        assert done.trace.start <= start <= end <= done.trace.end


def shapes(program: Program) -> Any:
    if program.shape == "step":
        assert program.step is not None
        return program.step.name
    return (program.shape, *(shapes(part) for part in program.parts))


def test_shapes() -> None:
    @tt.workflow
    def drawn(q: str) -> list[str]:
        a = wait(q, name="a")
        b, c = wait(a, name="b"), wait(a, name="c")
        return [both(b, c, name="d")]

    graph = drawn.graph
    assert graph is not None
    assert shapes(lower(graph).program) == ("series", "a", "b", "c", "d")
    assert shapes(lower(graph, beside(graph, b=("c",))).program) == (
        "series",
        "a",
        ("parallel", "b", "c"),
        "d",
    )

    @tt.workflow
    def crossed(q: str) -> list[str]:
        a, b = wait(q, name="a"), wait(q, name="b")
        return [wait(a, name="c"), both(a, b, name="d")]

    graph = crossed.graph
    assert graph is not None
    plan = beside(graph, a=("b",), c=("b", "d"))
    assert shapes(lower(graph, plan).program) == ("knot", "a", "b", "c", "d")
    assert answer(crossed, "x", plan=plan).trace.end == 2.0


# -- branches that fail ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails_first", [True, False])
def test_a_failing_branch_cancels_its_sibling_at_once_and_waits_for_it(fails_first: bool) -> None:
    stopped: list[str] = []

    @tt.stage
    async def slow(q: str) -> str:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(0.5)
            stopped.append("slow")
        return q

    @tt.stage
    async def fails(q: str) -> str:
        await asyncio.sleep(1)
        raise ValueError("broken")

    @tt.workflow
    def drawn(q: str) -> list[str]:
        return [fails(q), slow(q)] if fails_first else [slow(q), fails(q)]

    async def body(engine: Engine) -> None:
        await engine.open(drawn, beside(drawn.graph, slow=("fails",)))
        with pytest.raises(StageError, match="stage 'fails' raised ValueError: broken") as caught:
            await engine.run({"q": "x"})
        assert isinstance(caught.value.__cause__, ValueError)
        assert stopped == ["slow"]
        assert engine.clock() == 1.5

    virtual(body)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_request_that_is_cancelled_again_while_it_ends_is_under_way_no_longer(streamed: bool) -> None:
    @tt.stage
    async def lingers(q: str) -> tt.Stream[str]:  # type: ignore[misc]
        try:
            yield q
            await asyncio.sleep(100.0)
        finally:
            await asyncio.sleep(5.0)

    @tt.workflow
    def drawn(q: str) -> list[str]:
        return taken(lingers(q))  # type: ignore[call-arg,arg-type]

    @tt.workflow
    def streaming(q: str) -> tt.Stream[str]:
        return lingers(q)

    async def asking(engine: Engine) -> None:
        if not streamed:
            await engine.run({"q": "x"})
        async with aclosing(engine.stream({"q": "x"})) as increments:
            await anext(increments)

    async def body(engine: Engine) -> None:
        plan = await engine.open(streaming if streamed else drawn)
        task = asyncio.ensure_future(asking(engine))
        await asyncio.sleep(1.0)
        assert engine.plans[plan].running == 1
        for _ in range(2):
            task.cancel()
            await asyncio.sleep(1.0)
        await asyncio.wait([task])
        assert task.cancelled()
        assert engine.plans[plan].running == 0

    virtual(body)


def test_a_knot_that_fails_is_drained() -> None:
    ended: list[str] = []

    @tt.stage
    async def slow(q: str) -> str:
        try:
            await asyncio.sleep(100)
        finally:
            ended.append("slow")
        return q

    @tt.stage
    async def fails(q: str) -> str:
        await asyncio.sleep(1)
        raise ValueError("broken")

    @tt.workflow
    def drawn(q: str) -> list[str]:
        a, b = wait(q, s=0.5, name="a"), fails(q, name="b")
        return [slow(a, name="c"), both(a, b, name="d")]

    with pytest.raises(StageError, match="stage 'b'"):
        answer(drawn, "x", plan=beside(drawn.graph, a=("b",), c=("b", "d")))
    assert ended == ["slow"]


def test_errors_of_ours_pass_through_and_others_are_wrapped() -> None:
    @tt.stage
    async def ours(q: str) -> str:
        raise InputError("not that", help="this")

    @tt.stage
    def leaves(q: str) -> str:
        raise SystemExit(3)

    @tt.stage
    async def exits(q: str) -> str:
        raise SystemExit(3)

    @tt.stage
    def chained(q: str) -> str:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("outer") from error

    with pytest.raises(InputError, match="not that"):
        value(tt.workflow(name="w1")(lambda q: ours(q)), "x")
    for stage in (leaves, exits):
        with pytest.raises(StageError, match="raised SystemExit: 3"):
            value(tt.workflow(name="w2")(lambda q: stage(q)), "x")  # noqa: B023
    with pytest.raises(StageError, match="stage 'chained'") as caught:
        value(tt.workflow(name="w3")(lambda q: chained(q)), "x")
    assert isinstance(caught.value.__cause__, ValueError)
    assert isinstance(caught.value.__cause__.__cause__, KeyError)


# -- streams -----------------------------------------------------------------------------------------------


produced: list[str] = []


@tt.stage(pure=True)
async def parts(text: str) -> tt.Stream[str]:  # type: ignore[misc]
    produced.append("open")
    try:
        for word in text.split():
            await asyncio.sleep(1)
            produced.append(word)
            yield word
    finally:
        produced.append("closed")


@tt.stage(pure=True)
async def first(stream: tt.Stream[str]) -> str:
    async for word in stream:
        return word
    return ""


@tt.stage(pure=True)
async def later(word: str) -> str:
    await asyncio.sleep(500)
    return word


@tt.stage(pure=True)
async def taken(stream: tt.Stream[str], *, count: int = 100) -> list[str]:
    words: list[str] = []
    async for word in stream:
        words.append(word)
        if len(words) == count:
            break
    return words


@pytest.fixture(autouse=True)
def _nothing_produced() -> None:
    produced.clear()


def test_a_stream_comes_in_increments() -> None:
    @tt.workflow
    def drawn(q: str) -> tt.Stream[tt.Text]:
        return parts(q)  # type: ignore[return-value]

    async def body(engine: Engine) -> None:
        await engine.open(drawn)
        seen = [(engine.clock(), word) async for word in engine.stream({"q": "a b"})]
        assert seen == [(1.0, tt.Text("a")), (2.0, tt.Text("b"))]
        done = await engine.run({"q": "a b"})
        assert done.value == tt.Text("ab")
        assert done.trace.first_output == done.trace.start + 1.0
        assert (await engine.run({"q": ""})).value == tt.Text("")

    virtual(body)


def test_a_stream_for_several_consumers_some_of_which_collect() -> None:
    @tt.workflow
    def drawn(q: str) -> dict[str, Any]:
        stream = parts(q)
        return {
            "first": taken(stream, count=1, name="first"),
            "all": taken(stream, name="all"),
            "text": both(stream, "!"),  # type: ignore[arg-type]
            "map": tt.map(wait, stream),
            "raw": stream,
        }

    names = ("first", "all", "both", "map")
    expected = {"first": ["a"], "all": list("abc"), "text": "abc!", "map": list("abc"), "raw": "abc"}
    assert value(drawn, "a b c") == expected
    plan = beside(drawn.graph, first=("all", "both", "wait"), all=("both", "wait"), both=("wait",))
    plan = plan.edit("parts", channel=1)
    assert value(drawn, "a b c", plan=plan) == expected, names


def test_one_stream_on_several_ports_of_one_step() -> None:
    @tt.stage(pure=True)
    async def merged(a: tt.Stream[str], b: tt.Stream[str]) -> list[str]:
        return [word async for word in a] + [word async for word in b]

    @tt.workflow
    def drawn(q: str) -> dict[str, Any]:
        stream = parts(q)
        whole = both(stream, stream)  # type: ignore[arg-type]
        return {"merged": merged(stream, stream), "whole": whole, "a": stream, "b": [stream]}

    expected = {"merged": ["x", "y"] * 2, "whole": "xyxy", "a": "xy", "b": ["xy"]}
    assert value(drawn, "x y") == expected


def test_streaming_stages_overlap() -> None:
    @tt.stage(pure=True)
    async def louder(stream: tt.Stream[str]) -> tt.Stream[str]:  # type: ignore[misc]
        async for word in stream:
            await asyncio.sleep(1)
            yield word.upper()

    @tt.workflow
    def drawn(q: str) -> tt.Stream[str]:
        return louder(parts(q))

    done = answer(drawn, "a b c d")
    assert done.value == "ABCD"
    assert done.trace.end == 5.0, "1 s a word, and one more for the last"


def test_a_plain_consumer_that_leaves_stops_the_producer_and_holds_no_other_reader_back() -> None:
    @tt.workflow
    def leaving(q: str) -> str:
        return later(first(parts(q)))  # type: ignore[return-value]

    @tt.workflow
    def handed_on(q: str) -> str:
        stream = tt.fallback(parts(q))
        return later(both(first(stream), first(stream, name="again")))  # type: ignore[call-arg,return-value]

    @tt.workflow
    def shared(q: str) -> str:
        stream = parts(q)
        return both(first(stream), stream)  # type: ignore[arg-type]

    for drawn in (leaving, handed_on):
        produced.clear()
        assert value(drawn, "a " * 200) in ("a", "aa")
        assert produced.count("a") <= 3, "it was told that nobody reads"
    assert value(shared, "a " * 200) == "a" * 201


def test_what_the_clean_up_of_a_left_stream_raises_is_said_of_its_stage() -> None:
    @tt.stage(pure=True)
    async def untidy(q: str) -> tt.Stream[str]:  # type: ignore[misc]
        try:
            for word in q.split():
                await asyncio.sleep(1)
                yield word
        finally:
            raise ValueError("the door is stuck")

    @tt.workflow
    def drawn(q: str) -> str:
        return later(first(untidy(q)))  # type: ignore[return-value]

    with pytest.raises(StageError, match="'untidy' raised ValueError: the door is stuck"):
        value(drawn, "a b c")


def test_two_ways_from_one_stream_into_one_step_never_stand_still() -> None:
    @tt.stage(pure=True)
    async def passed(stream: tt.Stream[str]) -> tt.Stream[str]:  # type: ignore[misc]
        async for word in stream:
            yield word

    @tt.workflow
    def drawn(q: str) -> str:
        stream = parts(q)
        return both(passed(passed(stream), name="twice"), passed(stream, name="once"))  # type: ignore[arg-type]

    words = "a " * 40
    whole = "a" * 40
    for size in (1, 7, 64):
        plan = beside(drawn.graph)
        for step in ("parts", "twice", "once", "passed"):
            plan = plan.edit(step, channel=size)
        assert value(drawn, words, plan=plan) == whole + whole


def test_a_stream_that_gives_text_in_both_spellings_is_one_text() -> None:
    @tt.stage(pure=True)
    async def mixed(q: str) -> tt.Stream[tt.Text]:  # type: ignore[misc]
        yield "so: "
        yield tt.Text(q)

    @tt.stage(pure=True)
    async def shouted(text: tt.Text) -> tt.Text:
        return tt.Text(text.text.upper())

    @tt.workflow
    def drawn(q: str) -> tt.Text:
        return shouted(mixed(q))  # type: ignore[return-value]

    assert value(drawn, "yes") == tt.Text("SO: YES")


def test_the_bound_holds_the_producer_back() -> None:
    lead: list[int] = []

    @tt.stage(pure=True)
    async def slow(stream: tt.Stream[str]) -> int:
        count = 0
        async for _ in stream:
            count += 1
            await asyncio.sleep(100)
            lead.append(len(produced) - 1 - count)
        return count

    @tt.workflow
    def drawn(q: str) -> int:
        return slow(parts(q))

    assert value(drawn, "a " * 20, plan=Plan(stages={"parts": StagePlan(channel=3)})) == 20
    assert max(lead) == 4, "three in the channel and one in the producer's hand"


def test_a_consumer_that_leaves_stops_the_producer() -> None:
    @tt.workflow
    def leaving(q: str) -> list[str]:
        first = taken(parts(q), count=2)
        return [first, wait("x", s=50.0)]  # type: ignore[list-item]

    async def body(engine: Engine) -> None:
        await engine.open(leaving)
        assert (await engine.run({"q": "a " * 30})).value == [["a", "a"], "x"]

    virtual(body)
    assert produced[-1] == "closed"
    assert produced.count("a") <= 4


def test_a_caller_that_leaves_stops_the_producer() -> None:
    @tt.workflow
    def drawn(q: str) -> tt.Stream[str]:
        return parts(q)

    async def body(engine: Engine) -> None:
        await engine.open(drawn)
        stream = engine.stream({"q": "a " * 100})
        assert await anext(stream) == "a"
        await stream.aclose()
        assert produced == ["open", "a", "closed"]

    virtual(body)


def test_a_stream_that_fails_gives_what_came_before() -> None:
    @tt.stage
    async def breaks(q: str) -> tt.Stream[str]:  # type: ignore[misc]
        yield q
        raise ValueError("half-way")

    @tt.workflow
    def drawn(q: str) -> tt.Stream[str]:
        return breaks(q)

    async def body(engine: Engine) -> None:
        await engine.open(drawn)
        seen: list[str] = []
        with pytest.raises(StageError, match="stage 'breaks' raised ValueError: half-way"):  # noqa: PT012
            async for word in engine.stream({"q": "x"}):
                seen.append(word)
        assert seen == ["x"]

    virtual(body)


def test_a_stream_falls_back_before_its_first_increment() -> None:
    @tt.stage
    async def breaks(q: str) -> tt.Stream[str]:  # type: ignore[misc]
        if q:
            raise ValueError("at once")
        yield q

    @tt.workflow
    def drawn(q: str) -> tt.Stream[str]:
        return tt.fallback(breaks(q), parts(q))  # type: ignore[no-any-return]

    assert value(drawn, "a b") == "ab"


def test_a_control_step_hands_one_stream_to_several() -> None:
    @tt.workflow
    def drawn(q: str) -> dict[str, Any]:
        stream = tt.when(tt.equals(q, "never"), wait(q), parts(q))
        return {"a": taken(stream, name="a"), "b": taken(stream, name="b")}

    assert value(drawn, "x y") == {"a": ["x", "y"], "b": ["x", "y"]}
    assert value(drawn, "never") == {"a": ["never"], "b": ["never"]}


def test_a_stream_that_nobody_reads_runs_for_its_effect() -> None:
    @tt.stage
    async def effect(q: str) -> tt.Stream[str]:  # type: ignore[misc]
        for word in q.split():
            await asyncio.sleep(1)
            produced.append(word)
            yield word

    @tt.workflow
    def drawn(q: str) -> str:
        effect(q)
        return wait(q)

    value(drawn, "a b c")
    assert produced == ["a", "b", "c"]


def test_a_stage_may_return_a_stream_or_an_iterator() -> None:
    @tt.stage
    async def passed(stream: tt.Stream[str]) -> tt.Stream[str]:
        return stream

    @tt.stage
    def plain(q: str) -> tt.Stream[str]:
        return q.split()  # type: ignore[return-value]

    assert value(tt.workflow(name="a")(lambda q: taken(passed(parts(q)))), "x y") == ["x", "y"]
    assert value(tt.workflow(name="b")(lambda q: taken(plain(q))), "x y") == ["x", "y"]


# -- map -----------------------------------------------------------------------------------------------------


def test_map_bounds_its_concurrency_and_reads_a_stream_no_faster() -> None:
    running, most, ahead = [0], [0], [0]

    @tt.stage(pure=True)
    async def member(word: str) -> str:
        running[0] += 1
        most[0] = max(most[0], running[0])
        await asyncio.sleep(50 if word == "a" else 5)
        running[0] -= 1
        ahead[0] = max(ahead[0], len(produced) - 1)
        return word

    @tt.workflow
    def drawn(q: str) -> list[str]:
        return tt.map(member, parts(q), concurrency=2)  # type: ignore[no-any-return]

    words = [chr(97 + index) for index in range(20)]
    plan = Plan(stages={"parts": StagePlan(channel=1)})
    done = answer(drawn, " ".join(words), plan=plan)
    assert done.value == words
    assert most == [2]
    steps = visits(done.trace)
    assert len([name for name in steps if name.startswith("member[")]) == 20
    assert "member" not in steps  # the members' time is theirs


def test_a_failing_member_cancels_its_siblings() -> None:
    stopped: list[str] = []

    @tt.stage
    async def member(word: str) -> str:
        try:
            await asyncio.sleep(1 if word == "bad" else 100)
        except asyncio.CancelledError:
            stopped.append(word)
            raise
        raise ValueError(word)

    @tt.workflow
    def drawn(q: list[str]) -> list[str]:
        return tt.map(member, q)  # type: ignore[no-any-return]

    async def body(engine: Engine) -> None:
        await engine.open(drawn)
        with pytest.raises(StageError, match=r"stage 'member\[1\]' raised ValueError: bad"):
            await engine.run({"q": ["a", "bad", "c"]})
        assert stopped == ["a", "c"]
        assert engine.clock() == 1.0

    virtual(body)


# -- forms of stages -------------------------------------------------------------------------------------------


def real(workflow: Workflow[..., Any], *args: Any, requests: int = 1, plan: Plan | None = None) -> list[Any]:
    async def main() -> list[Any]:
        async with Engine() as engine:
            await engine.open(workflow, plan)
            given = workflow.bind(*args)
            answers = await asyncio.gather(*(engine.run(given) for _ in range(requests)))
            return [each.value for each in answers]

    return asyncio.run(main())


def test_plain_functions_run_in_threads_and_inline_ones_do_not() -> None:
    @tt.stage
    def in_thread(q: str) -> str:
        return threading.current_thread().name

    @tt.stage(inline=True)
    def inline(q: str) -> str:
        return threading.current_thread().name

    @tt.workflow
    def drawn(q: str) -> list[str]:
        return [in_thread(q), inline(q)]

    ((thread, main),) = real(drawn, "x")
    assert thread.startswith("tauten-in_thread")
    assert main == threading.main_thread().name


def test_a_class_is_made_once_a_replica_and_closed() -> None:
    events: list[str] = []

    @tt.stage
    class Model:
        def __init__(self) -> None:
            events.append("made")

        def __call__(self, q: str, *, end: str = "!") -> str:
            if q == "bad":
                raise ValueError(q)
            return q + end

        def close(self) -> None:
            events.append("closed")

    @tt.workflow
    def drawn(q: str) -> str:
        return Model(q, end="?")  # type: ignore[return-value,call-arg,arg-type]

    assert real(drawn, "a", requests=5) == ["a?"] * 5
    assert events == ["made", "closed"]
    events.clear()
    assert real(drawn, "a", plan=Plan(stages={"Model": StagePlan(replicas=2)})) == ["a?"]
    assert events == ["made", "made", "closed", "closed"]
    with pytest.raises(StageError, match="stage 'Model' raised ValueError: bad") as caught:
        real(drawn, "bad")
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_batched_stage_takes_what_waits_together() -> None:
    sizes: list[int] = []

    @tt.stage(max_batch=4)
    def batched(words: list[str], *, end: str = "") -> list[str]:
        sizes.append(len(words))
        return [word + end for word in words]

    @tt.workflow
    def drawn(q: list[str]) -> list[str]:
        return tt.map(batched, q, end="!", concurrency=8)  # type: ignore[no-any-return]

    assert real(drawn, list("abcdef")) == [["a!", "b!", "c!", "d!", "e!", "f!"]]
    assert sum(sizes) == 6
    assert max(sizes) == 4

    @tt.stage(max_batch=4)
    def wrong(words: list[str]) -> list[str]:
        return [*words, "one too many"]

    with pytest.raises((StageError, BackendError), match=r"1 items|batch of 1"):
        real(tt.workflow(name="w")(lambda q: wrong(q)), "x")


def test_a_blocking_generator_runs_in_a_thread_and_is_closed() -> None:
    names: set[str] = set()
    closed = threading.Event()

    @tt.stage
    def blocking(q: str) -> tt.Stream[str]:  # type: ignore[misc]
        try:
            for word in q.split():
                names.add(threading.current_thread().name)
                yield word
        finally:
            closed.set()

    @tt.workflow
    def drawn(q: str) -> tt.Stream[str]:
        return blocking(q)

    assert real(drawn, "a b c") == ["abc"]
    assert all(name.startswith("tauten-blocking") for name in names)
    closed.clear()

    async def leave() -> None:
        async with Engine() as engine:
            await engine.open(drawn)
            stream = engine.stream({"q": "a b c " * 100})
            assert await anext(stream) == "a"
            await stream.aclose()
            assert closed.wait(5)

    asyncio.run(leave())


def test_a_cancelled_blocking_generator_is_closed_after_its_step() -> None:
    go, inside, closed = threading.Event(), threading.Event(), threading.Event()

    @tt.stage
    def blocking(q: str) -> tt.Stream[str]:  # type: ignore[misc]
        try:
            inside.set()
            go.wait(5)
            yield q
            yield q
        finally:
            closed.set()

    @tt.workflow
    def drawn(q: str) -> tt.Stream[str]:
        return blocking(q)

    async def leave() -> None:
        async with Engine() as engine:
            await engine.open(drawn)
            task = asyncio.ensure_future(engine.run({"q": "x"}))
            while not inside.is_set():
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not closed.is_set()
            go.set()
            while not closed.is_set():
                await asyncio.sleep(0.001)

    asyncio.run(leave())


# -- the trace ----------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("asnv"), st.integers(0, 3)), min_size=1, max_size=8), st.booleans())
def test_rows_nest_and_lie_inside_the_request(steps: list[tuple[str, int]], observed: bool) -> None:  # noqa: C901
    @tt.stage
    def sync(q: int) -> int:
        return q

    @tt.stage
    async def nested(q: int, *, s: float) -> int:
        await asyncio.sleep(s)
        return await leaf(q, s=s) if s else q  # type: ignore[misc]

    @tt.stage
    async def leaf(q: int, *, s: float) -> int:
        await asyncio.sleep(s)
        return q

    @tt.stage
    async def streamed(q: int, *, s: float) -> tt.Stream[int]:  # type: ignore[misc]
        for index in range(3):
            await asyncio.sleep(s)
            yield index

    def call(form: str, s: int, port: Any, name: str) -> Any:
        if form == "s":
            return sync(port, name=name)
        stage = {"a": leaf, "n": nested, "v": streamed}[form]
        return stage(port, s=float(s), name=name)

    @tt.workflow
    def drawn(q: int) -> Any:
        port: Any = q
        for index, (form, s) in enumerate(steps):
            port = call(form, s, port, f"n{index}")
        return port

    @tt.workflow
    async def running(q: int) -> Any:
        port: Any = q
        for index, (form, s) in enumerate(steps):
            port = await call(form, s, port, f"n{index}")
        return port

    trace = answer(running if observed else drawn, 1).trace
    stays = visits(trace)
    assert {f"n{index}" for index in range(len(steps))} <= set(stays)
    for step, _, start, end in trace.rows:
        assert trace.start <= start <= end <= trace.end
        if step == BODY:  # the one step without a visit here
            assert observed
        elif step:
            assert any(a <= start and end <= b for a, b in stays[step]), f"a row of {step} outside its visit"
    for step, spans in stays.items():
        parent = step.rpartition("/")[0]
        for start, end in spans:
            assert not parent or any(a <= start and end <= b for a, b in stays[parent])


def test_virtual_deadlocks_are_found() -> None:
    with pytest.raises(RuntimeError, match="virtual deadlock"):
        run_virtual(asyncio.Event().wait())
