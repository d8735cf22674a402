"""A model that another machine runs keeps no core of this one busy, however many wait for it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any

import pytest

import tauten as tt
from tauten.describe.stage import Context, Role, stage
from tauten.improve.optimizer import live
from tauten.improve.optimizer.formula import formula
from tauten.improve.optimizer.live import LiveTestbed
from tauten.improve.simulate.capture import Captured
from tauten.improve.simulate.library import Library
from tauten.improve.simulate.machine import Shared
from tauten.improve.simulate.simulator import Simulator
from tauten.improve.simulate.tape import Event, Level, Tape, Visit
from tauten.plan.lower import lower
from tauten.plan.plan import ModelChoice, Plan

TOOK_S = 1.0
AT_ONCE = 20


@stage(roles={"llm": Role("gpt", ("remote", "llm"))}, effects="pure")
async def ask(text: str, ctx: Context) -> str:
    return text


@stage(roles={"net": Role("net", ("oip_remote", "onnx"))}, effects="pure")
async def infer(text: str, ctx: Context) -> str:
    return text


@tt.workflow
def asking(text: str) -> str:
    return ask(text)  # type: ignore[no-any-return]  # a port, while it is drawn


@tt.workflow
def inferring(text: str) -> str:
    return infer(text)  # type: ignore[no-any-return]  # as above


ANSWER = Event("llm", TOOK_S, 40.0, tokens=20.0, fresh=40.0, first_s=0.4, stream=True)
TENSOR = Event("net", TOOK_S, 12.0, 12.0)


def played(workflow: Any, event: Event, **stage: Any) -> tuple[list[float], float, float]:
    """Seconds of requests that come at once on one core; core seconds of each, as simulated and by the formula."""
    name = next(iter(workflow.graph.stages))
    plan = Plan(graph=workflow.graph.hash).edit(name, **stage)
    lowered = lower(workflow.graph, plan)
    tape = Tape("one", {"text": "a"}, {name: Visit((Level(0.0, ((event,),)),))}, {name: "a"}, TOOK_S, TOOK_S)
    library = Library()
    library.add(Captured(lowered, [[tape, tape]], {(name, event.role): 64}, []))
    found = Simulator(workflow, library, Shared(cores=1)).run(plan, [(0.0, "one")] * AT_ONCE)
    assert not found.failed
    by_formula = formula(library, lowered, cores=1).values["core_ms"] / 1e3
    return [each.seconds for each in found.done], found.core_seconds / AT_ONCE, by_formula


@pytest.mark.parametrize(
    ("workflow", "event", "backend", "replicas"),
    [(asking, ANSWER, "remote", 1), (inferring, TENSOR, "oip_remote", AT_ONCE)],
    ids=["streams", "batches"],
)
def test_who_waits_for_another_machine_is_in_nobodys_way(
    workflow: Any, event: Event, backend: str, replicas: int
) -> None:
    seconds, core_s, by_formula = played(workflow, event, backend=backend, replicas=replicas)
    assert seconds == pytest.approx([TOOK_S] * AT_ONCE, rel=0.01)
    assert core_s == pytest.approx(0.0, abs=1e-6)
    assert by_formula == pytest.approx(0.0, abs=1e-6)


def test_the_same_model_here_shares_the_core() -> None:
    seconds, core_s, _ = played(asking, ANSWER, backend="llm")
    assert max(seconds) > 0.9 * TOOK_S * AT_ONCE
    assert core_s > 0.9 * TOOK_S


def test_nobody_is_paid_to_see_that_streams_elsewhere_are_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """To measure them twenty-eight calls were made that are in no book and that no budget was asked for."""
    asked: list[str] = []

    async def measured(choice: ModelChoice, *_: Any, **__: Any) -> Any:
        asked.append(choice.backend)
        return ((1, 1.0), (2, 1.7))

    async def nothing(_: Any) -> dict[str, Any]:
        return {}

    monkeypatch.setattr(live, "measured_streams", measured)
    monkeypatch.setattr(live, "_files", nothing)
    testbed = LiveTestbed(asking, [])
    monkeypatch.setattr(testbed, "_given", lambda *_: [])
    there = Plan().edit("ask", backend="remote")
    assert testbed.streams(there, "ask", "llm", []) == live.APART
    assert asked == []
    assert testbed.streams(Plan().edit("ask", backend="llm"), "ask", "llm", []) == ((1, 1.0), (2, 1.7))
    assert asked == ["llm"]
