"""Delays on purpose: drawn from a seed, bounded, in the trace under their own cause, never where time is short."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

import tauten as tt
from simulate import kit_desk
from tauten.clock import run_virtual
from tauten.errors import InputError, PlanError
from tauten.plan.plan import Plan, StagePlan
from tauten.run.attribution import attribute
from tauten.run.engine import Engine
from tauten.run.request import Request
from tauten.run.slowed import MOST_S, Delays, spare_s
from tauten.run.trace import Trace

WORK_S = 0.05


@tt.stage(pure=True)
async def hear(sound: str) -> str:
    await asyncio.sleep(WORK_S)
    return sound


@tt.stage(pure=True)
async def look(photo: str) -> str:
    await asyncio.sleep(2 * WORK_S)
    return photo


@tt.stage(pure=True)
async def tell(words: str, seen: str | None = None) -> str:
    return f"{words} {seen}"


@tt.workflow
def desk(sound: str, photo: str | None = None) -> str:
    return tell(hear(sound), look(photo))


@tt.workflow
async def observed(sound: str) -> str:
    return await hear(sound)


def served(delays: Delays | None, inputs: list[dict[str, Any]], plan: Plan | None = None) -> list[Trace]:
    """The traces of requests one after another on a virtual clock."""
    traces = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with Engine(clock=loop.time) as engine:
            name = await engine.open(desk, plan)
            if delays is not None:
                delays.slow(engine.plans[name])
            for each in inputs:
                traces.append((await engine.run(each)).trace)

    run_virtual(main())
    return traces


def walls(traces: list[Trace]) -> list[float]:
    return [trace.end - trace.start for trace in traces]


BOTH, DEAF = {"sound": "a", "photo": "b"}, {"sound": "a"}


def test_a_share_of_requests_is_delayed_and_says_so() -> None:
    delays = Delays({"hear": 0.01}, share=0.5, seed=1)
    traces = served(delays, [BOTH] * 40)
    taken = [each["hear"] for each in delays.drawn.values()]
    assert 10 < sum(each > 0.0 for each in taken) < 30
    assert walls(traces) == [pytest.approx(3 * WORK_S + each, abs=1e-6) for each in taken]
    for trace, each in zip(traces, taken, strict=True):
        rows = [(step, cause) for step, cause, *_ in trace.rows if cause == "slowed"]
        assert rows == ([("hear", "slowed")] if each else [])
        assert trace.notes == ({"slowed": "hear by 10 ms"} if each else {})


def test_the_delay_owns_its_time_in_the_account() -> None:
    delays = Delays({"look": 0.02}, share=0.999)
    [trace] = served(delays, [BOTH])
    owned = {
        (segment.step, segment.cause): segment.end - segment.start for segment in attribute(trace).segments
    }
    assert owned["look", "slowed"] == pytest.approx(0.02)
    assert attribute(trace).unattributed < 1e-6


def test_the_same_seed_draws_the_same_requests() -> None:
    def taken(seed: int) -> list[dict[str, float]]:
        delays = Delays({"hear": 0.01, "look": 0.02}, seed=seed)
        served(delays, [BOTH] * 20)
        return list(delays.drawn.values())

    assert taken(3) == taken(3)
    assert taken(3) != taken(4)


def test_a_step_that_is_skipped_is_not_delayed() -> None:
    delays = Delays({"look": 0.02}, share=0.999)
    assert walls(served(delays, [DEAF] * 3)) == [pytest.approx(WORK_S)] * 3
    assert delays.drawn == {}


def test_beside_the_path_a_delay_costs_nothing() -> None:
    beside = Plan(graph=desk.graph.hash, stages={"hear": StagePlan(beside=("look",))})  # type: ignore[union-attr]
    delays = Delays({"hear": 0.02}, share=0.999)
    assert walls(served(delays, [BOTH], beside)) == [pytest.approx(2 * WORK_S)]
    assert [each["hear"] for each in delays.drawn.values()] == [pytest.approx(0.02)]


def test_nobody_asks_nothing_changes() -> None:
    async def main() -> None:
        async with Engine() as engine:
            bound = engine.plans[await engine.open(desk)]
            before = bound.operators
            Delays({"hear": 0.01}).slow(bound)
            assert len(bound.operators) == len(before)
            kept = [one is other for one, other in zip(before, bound.operators, strict=True)]
            assert not any(
                kept
            )  # a plan that is slowed has its own; the binder of all others knows nothing of it

    asyncio.run(main())


class Known:
    """Where a step named `hear` is known to take 0.1 s."""

    def usual_s(self, step: str, now: float, tenant: str = "") -> float | None:
        return 0.1 if step == "hear" else None


def test_no_delay_where_time_is_short() -> None:
    request, now, path = Request(lambda: 10.0), 10.0, Known()
    spare = lambda step="hear": spare_s(request, step, path, now)  # type: ignore[arg-type]  # noqa: E731
    assert spare() == math.inf
    request.deadline = 11.0
    assert spare() == 0.0  # nobody knows what follows
    request.after = {"hear": 0.6, "look": 0.1}
    assert spare() == pytest.approx(0.3)
    assert spare("look") == 0.0  # nobody knows what it takes
    assert spare_s(request, "hear", None, now) == 0.0
    request.target = 10.8
    assert spare() == pytest.approx(0.1)
    delays = Delays({"hear": 0.02}, share=0.999)
    assert delays.draw(request, "hear", path, now) == 0.0  # type: ignore[arg-type]  # more than a tenth of that
    assert request.id not in delays.drawn
    request.target = math.inf
    assert delays.draw(request, "hear", path, now) == 0.02  # type: ignore[arg-type]
    request.deadline = 10.69  # it is late already
    assert delays.draw(request, "hear", path, now) == 0.0  # type: ignore[arg-type]


def test_a_deadline_that_leaves_no_time_forbids_delays() -> None:
    """The door has learned what steps take; a request of 510 ms is expected to need about 450."""
    delays = Delays({"hear": 0.01, "tell": 0.01}, share=0.5)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with Engine(clock=loop.time) as engine:
            name = await engine.open(kit_desk.desk, kit_desk.NAIVE)
            inputs = [each for _, each in kit_desk.ITEMS] * 6
            for each in inputs:
                await engine.run(each)
            delays.slow(engine.plans[name])
            for each in inputs:
                await engine.run(each, deadline_ms=510.0)

    run_virtual(main())
    assert delays.drawn  # the end of a request without a photo has time
    assert not any(
        "hear" in each for each in delays.drawn.values()
    )  # nobody was drawn, not even to be spared


@pytest.mark.parametrize(("delay_s", "share"), [(0.0, 0.5), (MOST_S * 1.01, 0.5), (0.01, 0.0), (0.01, 1.0)])
def test_delays_are_small_and_for_some(delay_s: float, share: float) -> None:
    with pytest.raises(InputError) as refused:
        Delays({"hear": delay_s}, share=share)
    assert refused.value.code == "E256"


def test_what_cannot_be_slowed_is_refused() -> None:
    async def main() -> None:
        async with Engine() as engine:
            drawn, seen = await engine.open(desk), Engine()
            with pytest.raises(PlanError, match="hear") as unknown:
                Delays({"heer": 0.01}).slow(engine.plans[drawn])
            async with seen:
                name = await seen.open(observed)
                with pytest.raises(PlanError, match="async def") as program:
                    Delays({"hear": 0.01}).slow(seen.plans[name])
        assert (unknown.value.code, program.value.code) == ("E110", "E132")

    asyncio.run(main())
