"""Policies of `tt.choose` in running workflows: who is asked, what the trace says, what the gate learns."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tauten as tt
from kit.stages import wait
from kit.virtual import answer, virtual
from tauten.errors import BackendError, PlanError, StageError, WorkflowError
from tauten.plan.lower import lower
from tauten.plan.plan import Plan, StagePlan
from tauten.run.engine import Engine
from tauten.run.gating import gates
from tauten.run.gating.gate import Gate, Labelled, Terms
from tauten.run.routing.decision import Decision
from tauten.run.trace import VISIT


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("TAUTEN_STORE", str(tmp_path))
    yield tmp_path
    for path in [each for each in gates._open if tmp_path in each.parents]:
        gates._open.pop(path).flush()


@tt.stage(pure=True)
async def small(question: str) -> str:
    await asyncio.sleep(0.1)
    return f"small {question}"


@tt.stage(pure=True)
async def large(question: str) -> str:
    await asyncio.sleep(1.0)
    return f"large {question}"


@tt.stage(pure=True)
async def spoken(question: str) -> tt.Stream[str]:
    for word in ("small", question):
        await asyncio.sleep(0.1)
        yield f"{word} "


@tt.stage(pure=True)
async def told(question: str) -> tt.Stream[str]:
    for word in ("large", question):
        await asyncio.sleep(0.5)
        yield f"{word} "


def sure(text: Any) -> float:
    return 0.9 if "easy" in str(text) else 0.1


def alike(one: Any, other: Any) -> bool:
    return "wrong" not in str(one)


@tt.workflow
def quickest(question: str) -> str:
    return tt.choose(small(question), large(question), policy="latency")  # type: ignore[no-any-return]


@tt.workflow
def cascade(question: str) -> str:
    return tt.choose(  # type: ignore[no-any-return]
        tt.option(small(question), score=sure),
        large(question),
        policy="cascade",
        risk_gate="desk",
        same=alike,
    )


@tt.workflow
def streamed(question: str) -> tt.Stream[str]:
    return tt.choose(  # type: ignore[no-any-return]
        tt.option(spoken(question), score=sure),
        told(question),
        policy="cascade",
        risk_gate="desk",
        same=alike,
    )


def visited(trace: Any) -> set[str]:
    return {step for step, cause, *_ in trace.rows if cause == VISIT}


def open_desk(floor: float = 1e-9) -> Gate:
    """A gate that lets scores above 0.5 pass and verifies hardly any of them, or all."""
    gate = gates.open_gate("desk", Terms(epsilon=0.05, floor=floor))
    gate.certify([Labelled(0.9, True)] * 200, thresholds=[0.5])
    return gate


# -- policies that send to one -------------------------------------------------------------------------------------


def test_the_quicker_one_is_asked_and_the_trace_says_why() -> None:
    async def body(engine: Engine) -> list[Any]:
        await engine.open(quickest)
        return [await engine.run(quickest.bind("q")) for _ in range(6)]

    answers = virtual(body)
    assert [str(each.value) for each in answers[2:]] == ["small q"] * 4  # each was tried once
    last = answers[-1].trace
    assert visited(last) == {"small"}
    assert last.notes["choose"] == "latency: option 1 of 2, small costs 100 ms, large 1000"
    assert any(step == "choose" and cause == "route" for step, cause, *_ in last.rows)
    assert last.end - last.start == pytest.approx(0.1)
    [decision] = last.routes
    assert isinstance(decision, Decision)
    assert (decision.policy, decision.chosen, decision.order) == ("latency", "small", ("small", "large"))
    assert decision.outcomes["small"].took_s == pytest.approx(0.1)


def test_a_plan_may_name_the_policy_and_its_settings() -> None:
    @tt.workflow
    def either(question: str) -> str:
        return tt.choose(large(question), small(question))  # type: ignore[no-any-return]

    assert either.graph is not None
    settings = {"policy": "latency", "decay_s": 2.0}
    plan = Plan(graph=either.graph.hash, stages={"choose": StagePlan(settings=settings)})

    async def body(engine: Engine) -> list[str]:
        await engine.open(either, plan)
        return [str((await engine.run(either.bind("q"))).value) for _ in range(4)]

    assert virtual(body)[2:] == ["small q", "small q"]
    assert str(answer(either, "q").value) == "large q"  # without a policy the first that opens


def test_gates_that_are_ports_leave_options_out() -> None:
    @tt.stage(pure=True)
    async def short(question: str) -> bool:
        return len(question) < 5

    @tt.workflow
    def gated(question: str) -> str:
        return tt.choose(  # type: ignore[no-any-return]
            tt.option(small(question), gate=short(question)), large(question), policy="cost"
        )

    assert str(answer(gated, "a long one").value) == "large a long one"
    assert visited(answer(gated, "a long one").trace) == {"short", "large"}
    assert visited(answer(gated, "hi").trace) == {"short", "small"}


def test_equal_keys_go_the_same_way() -> None:
    @tt.workflow
    def sticky(question: str, who: str) -> str:
        return tt.choose(  # type: ignore[no-any-return]
            wait(question, name="a"),
            wait(question, name="b"),
            wait(question, name="c"),
            policy="sticky",
            key=who,
        )

    async def body(engine: Engine) -> list[str]:
        await engine.open(sticky)
        runs = [await engine.run(sticky.bind("q", f"who {number % 5}")) for number in range(20)]
        return [run.trace.routes[0].chosen for run in runs]

    chosen = virtual(body)
    assert chosen[:5] * 4 == chosen
    assert len(set(chosen)) > 1


def test_the_outcome_of_a_stream_is_known_at_its_end() -> None:
    @tt.workflow
    def streams(question: str) -> tt.Stream[str]:
        return tt.choose(spoken(question), told(question), policy="hybrid")  # type: ignore[no-any-return]

    done = answer(streams, "q")
    [decision] = done.trace.routes
    outcome = decision.outcomes[decision.chosen]
    assert (outcome.took_s, outcome.first_s) == (pytest.approx(0.2), pytest.approx(0.1))
    assert str(done.value) == "small q "


def test_who_fails_again_and_again_is_left_alone_for_a_while() -> None:
    @tt.stage(pure=True)
    async def broken(question: str) -> str:
        raise BackendError("down", help="wait")

    @tt.workflow
    def shaky(question: str) -> str:
        return tt.choose(  # type: ignore[no-any-return]
            tt.option(broken(question), cents_per_token=0.1),
            tt.option(small(question), cents_per_token=1.0),
            policy="cost",
        )

    async def body(engine: Engine) -> tuple[int, str]:
        await engine.open(shaky)
        failed = 0
        for _ in range(3):
            try:
                await engine.run(shaky.bind("q"))
            except BackendError:
                failed += 1
        return failed, str((await engine.run(shaky.bind("q"))).value)

    assert virtual(body) == (3, "small q")


def test_a_step_that_two_options_share_runs_once_whoever_is_chosen() -> None:
    ran: list[str] = []

    @tt.stage(pure=True)
    async def prepared(question: str) -> str:
        ran.append(question)
        return question

    @tt.workflow
    def sharing(question: str) -> str:
        both = prepared(question)
        return tt.choose(tt.option(small(both), score=sure), large(both), policy="cost")  # type: ignore[no-any-return]

    assert str(answer(sharing, "q").value) in ("small q", "large q")
    assert ran == ["q"]


# -- shortcuts -------------------------------------------------------------------------------------------------------


def test_a_closed_gate_lets_nothing_pass_and_learns() -> None:
    gate = gates.open_gate("desk")
    done = answer(cascade, "easy")
    assert str(done.value) == "large easy"
    assert visited(done.trace) == {"small", "large"}
    assert gate.learned == 1
    assert done.trace.notes["choose"].endswith("small: certainty 0.900 does not pass the gate")
    [decision] = done.trace.routes
    assert (decision.chosen, decision.outcomes["small"].accepted) == ("large", False)
    assert decision.outcomes["small"].score == 0.9


def test_an_open_gate_lets_the_sure_pass_and_no_other() -> None:
    open_desk()
    easy = answer(cascade, "easy")
    assert str(easy.value) == "small easy"
    assert visited(easy.trace) == {"small"}
    assert easy.trace.notes["choose"] == "cascade: option 1 of 2, certainty 0.900 passes the gate"
    hard = answer(cascade, "hard")
    assert str(hard.value) == "large hard"
    assert hard.trace.end - hard.trace.start == pytest.approx(1.1)


def test_a_shortcut_that_is_drawn_is_verified_and_the_full_answer_given() -> None:
    gate = open_desk(floor=1.0)
    assert str(answer(cascade, "easy").value) == "large easy"
    assert gate.verdicts()[0].verified == 1
    assert gate.verdicts()[0].verified_wrong == 0
    answer(cascade, "easy wrong")
    assert gate.verdicts()[0].verified_wrong == 1


def test_errors_close_the_gate_and_then_the_full_path_answers() -> None:
    gate = open_desk(floor=1.0)
    for _ in range(12):
        answer(cascade, "easy wrong")
    assert not gate.allows(0.9)
    assert gate.why().startswith("closed by itself")
    assert str(answer(cascade, "easy").value) == "large easy"


def test_a_replay_teaches_the_gate_nothing() -> None:
    gate = gates.open_gate("desk")

    async def body(engine: Engine) -> Any:
        await engine.open(cascade)
        request = engine.request()
        request.teaches = False
        return await engine.run(cascade.bind("easy"), request=request)

    assert str(virtual(body).value) == "large easy"
    assert gate.learned == 0


def test_streams_are_held_until_they_are_judged() -> None:
    open_desk()
    easy = answer(streamed, "easy")
    assert str(easy.value) == "small easy "
    assert easy.trace.first_output == pytest.approx(easy.trace.start + 0.2)
    hard = answer(streamed, "hard")
    assert str(hard.value) == "large hard "
    assert hard.trace.first_output == pytest.approx(hard.trace.start + 0.7)


def test_the_full_stream_judges_the_shortcut_at_its_end() -> None:
    gate = gates.open_gate("desk")
    assert str(answer(streamed, "wrong").value) == "large wrong "
    assert gate.learned == 1


def test_a_shortcut_that_fails_costs_its_time_alone() -> None:
    @tt.stage(pure=True)
    async def broken(question: str) -> str:
        raise BackendError("down", help="wait")

    @tt.workflow
    def shaky(question: str) -> str:
        return tt.choose(  # type: ignore[no-any-return]
            tt.option(broken(question), score=sure), large(question), policy="cascade"
        )

    done = answer(shaky, "q")
    assert str(done.value) == "large q"
    assert done.trace.notes["choose.broken"] == "failed: down"


def test_a_score_may_be_a_stage() -> None:
    @tt.stage(pure=True)
    async def judge(text: str) -> float:
        return 0.9 if "easy" in text else 0.1

    @tt.workflow
    def judged(question: str) -> str:
        first = small(question)
        return tt.choose(  # type: ignore[no-any-return]
            tt.option(first, score=judge(first)),
            large(question),
            policy="cascade",
            risk_gate="desk",
            same=alike,
        )

    open_desk()
    assert str(answer(judged, "easy").value) == "small easy"
    assert visited(answer(judged, "hard").trace) == {"small", "judge", "large"}


def test_search_answers_where_it_leads_and_the_gate_lets_it() -> None:
    @tt.workflow
    def first_search(question: str) -> str:
        return tt.choose(  # type: ignore[no-any-return]
            tt.option(small(question), score=lambda text: (sure(text), 0.4 if "clear" in text else 0.05)),
            large(question),
            policy="retrieval_first",
            margin=0.2,
            risk_gate="desk",
            same=alike,
        )

    gate = open_desk()
    assert str(answer(first_search, "easy clear").value) == "small easy clear"
    close = answer(first_search, "easy")
    assert str(close.value) == "large easy"
    assert "leads by 0.050, 0.200 is wanted" in close.trace.notes["choose"]
    assert gate.learned == 0


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_a_policy_that_is_not_there_is_named_when_the_plan_opens() -> None:
    @tt.workflow
    def odd(question: str) -> str:
        return tt.choose(small(question), large(question), policy="latencey")  # type: ignore[no-any-return]

    with pytest.raises(PlanError, match="did you mean `latency`"):
        answer(odd, "q")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"policy": "latency", "decays": 1.0}, "no setting `decays`"),
        ({"policy": "latency", "decay_s": "long"}, "decay_s = 'long'"),
        ({"policy": "cascade", "risk_gate": "desk"}, "nothing verifies"),
        ({"policy": "latency", "risk_gate": "desk"}, "no setting `risk_gate`"),
        ({"policy": "usage", "shares": {"small": 0}}, "shares.small = 0"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], said: str) -> None:
    @tt.workflow
    def odd(question: str) -> str:
        return tt.choose(small(question), large(question), **settings)  # type: ignore[no-any-return]

    with pytest.raises(PlanError, match=said) as caught:
        answer(odd, "q")
    assert caught.value.code == "E140"


def test_a_plan_keeps_what_the_workflow_writes() -> None:
    assert quickest.graph is not None
    stages = {"choose": StagePlan(settings={"policy": "cost"})}
    with pytest.raises(PlanError, match="E126"):
        lower(quickest.graph, Plan(graph=quickest.graph.hash, stages=stages))


def test_mistakes_are_found_where_they_are_written() -> None:
    def drawn(body: Any) -> None:
        tt.workflow(body)

    def gate_function(question: str) -> str:
        return tt.choose(tt.option(small(question), gate=bool), large(question), policy="cost")  # type: ignore[no-any-return]

    def no_policy(question: str) -> str:
        return tt.choose(small(question), large(question), decay_s=1.0)  # type: ignore[no-any-return]

    def no_port(question: str) -> str:
        return tt.choose(small(question), large(question), policy="sticky", key="ann")  # type: ignore[no-any-return]

    def no_score(question: str) -> str:
        return tt.choose(tt.option(small(question), score=0.5), large(question), policy="cascade")  # type: ignore[no-any-return]

    def no_price(question: str) -> str:
        return tt.choose(tt.option(small(question), cents_per_token=-1.0), large(question))  # type: ignore[no-any-return]

    def a_stream(question: str) -> tt.Stream[str]:
        said = spoken(question)
        return tt.choose(tt.option(said, score=small(said)), told(question), policy="cascade")  # type: ignore[no-any-return]

    for body in (gate_function, no_policy, no_port, no_score, no_price, a_stream):
        with pytest.raises(WorkflowError) as caught:
            drawn(body)
        assert caught.value.code == "E102", body.__name__
        assert caught.value.where.startswith("test_choosing.py:")


def test_a_value_that_cannot_say_how_sure_it_is() -> None:
    @tt.workflow
    def mute(question: str) -> str:
        return tt.choose(small(question), large(question), policy="cascade")  # type: ignore[no-any-return]

    with pytest.raises(StageError, match="how sure"):
        answer(mute, "q")


def test_it_is_drawn() -> None:
    assert "choose by latency(small -> value0, large -> value1)" in quickest.describe()
    assert "choose by latency" in quickest.svg()
