"""Runs the requests of a recording under a plan, one at a time, and keeps the tape of each."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from time import thread_time
from typing import Any, NamedTuple

from tauten.clock import VirtualLoop
from tauten.describe.workflow import Workflow
from tauten.improve.simulate.tape import Tape, tape
from tauten.improve.simulate.unseen import unseen
from tauten.plan.lower import Lowered, lower
from tauten.plan.plan import ModelChoice, Plan
from tauten.run.caching.caches import NoCaches
from tauten.run.deploy.slots_deployment import SlotDeployment
from tauten.run.engine import Engine
from tauten.run.opened import Opened
from tauten.run.request import Request
from tauten.run.slots import Run, Streamed

REPEATS = 3  # of each request: the median of three is no outlier
Items = Iterable[tuple[str, Mapping[str, Any]]]


class Captured(NamedTuple):
    """What was seen of one plan."""

    lowered: Lowered
    tapes: list[list[Tape]]  # of each request those of its repeats, from the quickest to the slowest
    slots: dict[tuple[str, str], int]  # (step, role) -> streams that its engine runs at a time
    firsts: list[tuple[str, float]]  # (id, seconds) of the round that warmed up, in its order

    def at_pace(self, times: float, computes: Callable[[ModelChoice], bool]) -> Captured:
        """As where what computes takes so many times as long; `computes` says it of a model."""
        elsewhere = {
            step.name: [role for role, choice in step.models.items() if not computes(choice)]
            for step in self.lowered.steps
        }
        tapes = [[tape.at_pace(times, elsewhere) for tape in each] for each in self.tapes]
        return self._replace(tapes=tapes, firsts=[(id, seconds * times) for id, seconds in self.firsts])


class KeepingEngine(Engine):
    """An engine that lets one see what the steps of its last request gave."""

    last: Run | None = None

    def __init__(self, *args: Any, **fields: Any) -> None:
        super().__init__(*args, **fields)
        self.deployments.caches = NoCaches()  # a tape is of the work, which a hit would leave out

    def _begin(self, opened: Opened, request: Request, inputs: Mapping[str, Any]) -> Run:
        self.last = super()._begin(opened, request, inputs)
        return self.last


async def capture(
    engine: KeepingEngine,
    workflow: Workflow[..., Any],
    plan: Plan | None,
    items: Items,
    *,
    repeats: int = REPEATS,
    progress: Callable[[str], None] | None = None,
) -> Captured:
    """Tapes of each request under a plan.

    Rounds go over all requests, so that a slow minute of the machine does not hit all repeats of one. A round before
    them warms up; kept of it is how long it took, and how its prompts were read: nobody had read them before. Raises what a request raises: one that fails shows no plan's work.
    """
    assert workflow.graph is not None  # drawn workflows have tapes
    name = await engine.open(workflow, plan)
    lowered = lower(workflow.graph, engine.plans[name].plan)
    every = list(items)
    taped: dict[str, list[Tape]] = {id: [] for id, _ in every}
    first: list[Tape] = []
    for turn in range(repeats + 1):
        for id, inputs in every:
            found = await _one(engine, name, lowered, id, inputs)
            (taped[id] if turn else first).append(found)
            if progress is not None:
                progress(id)
    bound = engine.plans[name].bound.items()
    slots = {
        (step, role): place.backend.slots
        for step, each in bound
        for role, place in each.deployments.items()
        if isinstance(place, SlotDeployment)
    }
    ordered = [sorted(tapes, key=_seconds) for tapes in unseen(first, taped).values()]
    return Captured(lowered, ordered, slots, [(each.id, each.seconds) for each in first])


def _seconds(tape: Tape) -> float:
    return tape.seconds


async def _one(
    engine: KeepingEngine, plan: str, lowered: Lowered, id: str, inputs: Mapping[str, Any]
) -> Tape:
    request, virtual = engine.request(), isinstance(asyncio.get_running_loop(), VirtualLoop)
    request.teaches = False
    began_s = _wanted_s()
    async for _ in engine.stream(inputs, plan=plan, request=request):
        pass
    loop_s = 0.0 if virtual else _wanted_s() - began_s  # in virtual time nothing computes
    run, engine.last = engine.last, None
    assert run is not None  # it has just begun
    first = len(engine.plans[plan].inputs)
    values = dict(zip([step.name for step in lowered.steps], run.values[first:], strict=True))
    kept = {step.name: values[step.name] for step in lowered.steps if step.view is None}
    given = {name: _plain(value) for name, value in kept.items()}
    return tape(id, inputs, request.trace, lowered, given, loop_s)


def _plain(value: Any) -> Any:
    """A step's result, where it is no stream: those were read."""
    return None if isinstance(value, Streamed) or hasattr(value, "__aiter__") else value


def _wanted_s() -> float:
    """Seconds in which this thread has computed or, where the system tells it, would have: others had its core."""
    try:
        ran, waited, _ = Path("/proc/thread-self/schedstat").read_text().split()
    except OSError:  # no Linux, or one that does not count
        return thread_time()
    return (int(ran) + int(waited)) / 1e9
