"""Load on a workflow through the engine, in virtual time: streams, refusals, deadlines, nothing left running."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

import tauten as tt
from load.virtual_targets import virtually
from tauten.describe.payload import Text
from tauten.describe.slo import Slo
from tauten.describe.stage import Role, stage
from tauten.errors import Overloaded
from tauten.improve.load.bench import Bencher, Side
from tauten.improve.load.result import Run
from tauten.improve.load.schedule import Load
from tauten.improve.load.targets.workflow import WorkflowTarget
from tauten.plan.plan import Batch, ModelChoice, Plan, StagePlan
from tauten.run.engine import Engine

TWENTY_MS = Plan(
    stages={
        "modelled": StagePlan(
            roles={"model": ModelChoice(options={"ms_per_batch": 20.0}, batch=Batch(max=1))}
        )
    }
)
FEW = Load(rate_per_s=20.0, requests=120, seed=1)


@tt.stage(pure=True)
async def nap(text: tt.Text) -> tt.Text:
    if text.text == "full":
        raise Overloaded("the queue is full", help="come again")
    await asyncio.sleep(5.0 if text.text == "slow" else 0.02)
    return text


@tt.stage(pure=True)
async def spell(text: tt.Text) -> AsyncIterator[tt.Text]:
    for letter in text.text:
        await asyncio.sleep(0.01)
        yield tt.Text(letter)


@tt.workflow
def whole(text: tt.Text) -> tt.Text:
    return nap(text)


@tt.workflow
def streamed(text: tt.Text) -> tt.Stream[tt.Text]:
    return spell(nap(text))


def load(
    workflow: Any,
    texts: list[str],
    slo: Slo,
    *,
    plan: Plan | None = None,
    own: Slo | None = None,
    asked: Load = FEW,
    **options: Any,
) -> Run:
    async def main(clock: Any) -> Run:
        async with Engine(clock=clock) as engine:
            target = WorkflowTarget(engine, workflow, plan, own)
            await target.open()
            side = Side("naive", target, [target.prepare({"text": Text(text)}) for text in texts])
            bencher = Bencher([side], slo=slo, clock=clock, **options)
            ((run,),) = await bencher.runs(asked)
            await target.close()
            return run

    found: Run = virtually(main)
    return found


def test_a_whole_answer_has_no_first_output_of_its_own() -> None:
    run = load(whole, ["a"], Slo(p95_ms=100))
    assert run.answer == "met"
    assert run.latency is not None
    assert run.latency.at(0.5).ms == pytest.approx(20.0)
    assert run.first_output is None
    assert run.gap is None
    assert (run.requests.lost, run.requests.zombies) == (0, 0)


def test_a_stream_has_first_output_and_gaps() -> None:
    run = load(streamed, ["abc"], Slo(p95_ms=100, first_output_ms=40))
    assert run.answer == "met"
    assert run.first_output is not None
    assert run.latency is not None
    assert run.gap is not None
    assert run.first_output.at(0.5).ms == pytest.approx(30.0)
    assert run.latency.at(0.5).ms == pytest.approx(50.0)
    assert run.gap.at(0.999).ms == pytest.approx(10.0)
    assert run.gap.n == 240


def test_refusals_and_deadlines_are_misses_and_leave_nothing_running() -> None:
    run = load(whole, ["a", "full", "slow"], Slo(p95_ms=100), deadline_s=0.5)
    assert run.answer == "missed"
    assert (run.requests.ok, run.requests.refused, run.requests.timed_out) == (40, 40, 40)
    assert (run.requests.lost, run.requests.zombies) == (0, 0)
    assert run.goodput.share == pytest.approx(1 / 3)
    assert any(text.startswith("E402") for text in run.errors)


@stage(roles={"model": Role("none", ("synthetic",))}, effects="pure")
async def modelled(text: tt.Text, ctx: tt.Context) -> tt.Text:
    return tt.Text(await ctx.infer("model", text.text))


@tt.workflow
def busy(text: tt.Text) -> tt.Text:
    return modelled(text)  # type: ignore[return-value]


@tt.workflow
async def program(text: tt.Text) -> tt.Text:
    return await modelled(text)


@pytest.mark.parametrize("workflow", [busy, program])
def test_without_a_deadline_overload_is_refused_by_the_slo_as_a_server_does(workflow: Any) -> None:
    """Three times what one model answers: with the SLO almost all that are admitted are in time, else none is."""
    slo, asked = Slo(p95_ms=200), Load(rate_per_s=150.0, requests=1500, seed=1)
    run, blind = (load(workflow, ["a"], slo, plan=TWENTY_MS, own=own, asked=asked) for own in (slo, Slo()))
    assert run.requests.refused > run.requests.ok > 400
    assert run.goodput.share > 0.28
    assert run.goodput.share * run.requests.sent > 0.95 * run.requests.ok, "late: those of the first moments"
    assert blind.goodput.share < 0.1


def test_a_client_that_gives_up_stops_the_work() -> None:
    run = load(whole, ["a", "slow"], Slo(p95_ms=100), timeout_s=0.5)
    assert run.requests.timed_out == 60
    assert run.requests.lost == 60
    assert run.requests.zombies == 0


def test_an_engine_that_drains_refuses_as_a_server_does() -> None:
    async def main(clock: Any) -> str:
        async with Engine(clock=clock) as engine:
            target = WorkflowTarget(engine, whole)
            await target.open()
            engine.door.draining = True
            return (await target.send(target.prepare({"text": Text("a")}), 1.0)).outcome

    assert virtually(main) == "refused"
