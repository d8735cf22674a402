"""Delays steps on purpose, for a random share of requests: what a request then loses is what a quicker step would gain.

Off unless somebody asks: a plan that is slowed gets operators of its own, all others run as they were bound.
A delay comes before its step and holds neither a core nor a place in a queue. It stands in the trace under its own
cause, and it never takes more than a part of the time that a request has to spare.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Mapping

from tauten.describe.graph import FromInput, FromStage
from tauten.errors import InputError, PlanError, suggest
from tauten.plan.lower import Lowered, Step
from tauten.run.binding import Binder
from tauten.run.bound import BoundStep, Dynamic
from tauten.run.door.admission import Path
from tauten.run.opened import Opened
from tauten.run.request import Asked, Request
from tauten.run.slots import Operator, Run

MOST_S = 0.1  # a delay that people would notice is no small one
SHARE = (
    0.25  # of the requests, for each step: half of them would tell a little more, and slow down twice as many
)
SPARE_SHARE = 0.1  # of what a request has left beyond the steps that follow: a delay may take no more
CAUSE = "slowed"


class Delays:
    """How long each step is delayed (seconds, by its name), for which share of requests, and what was drawn.

    Which requests are delayed is drawn from a seed, for each step apart. `drawn` keeps for each request what each
    step was really delayed by: 0.0 where the draw spared it, nothing where it did not run or had no time to lose.
    """

    def __init__(self, delays_s: Mapping[str, float], *, share: float = SHARE, seed: int = 0) -> None:
        for step, seconds in delays_s.items():
            if not 0.0 < seconds <= MOST_S:
                raise InputError(
                    f"a delay of {seconds * 1e3:g} ms for '{step}'",
                    help=f"give more than 0 and at most {MOST_S * 1e3:g} ms",
                    code="E256",
                )
        if not 0.0 < share < 1.0:
            raise InputError(f"a share of {share:g} of requests", help="give between 0 and 1", code="E256")
        self.delays_s = dict(delays_s)
        self.share = share
        self.drawn: dict[str, dict[str, float]] = {}
        self._draws = {step: random.Random(f"{seed} {step}") for step in delays_s}

    def draw(self, request: Request, step: str, path: Path | None, now: float) -> float:
        """Seconds by which a request's step is to be delayed now."""
        seconds = self.delays_s[step]
        if seconds > spare_s(request, step, path, now) * SPARE_SHARE:
            return 0.0
        hit = self._draws[step].random() < self.share
        self.drawn.setdefault(request.id, {})[step] = 0.0
        return seconds if hit else 0.0

    def slow(self, opened: Opened) -> None:
        """Delay the requests that an opened plan takes from now on."""
        lowered, steps = opened.lowered, opened.steps
        if lowered is None or steps is None:
            raise PlanError(
                f"'{opened.workflow.name}' is an `async def` workflow: it has no steps before it runs",
                help="draw it (`def`) where its steps are fixed",
                code="E132",
            )
        names = [step.name for step in lowered.steps]
        for step in self.delays_s:
            if step not in names:
                raise PlanError(f"the plan has no step '{step}'", help=suggest(step, names), code="E110")
        binder = _SlowedBinder(lowered, opened.bound, steps, self, opened.path)
        opened.operators = binder.operators(lowered.program)


def spare_s(request: Asked, step: str, path: Path | None, now: float) -> float:
    """Seconds that a request could lose before a step: until its deadline or its aim, less the step and what follows.

    None to spare where it has a deadline and nothing is known of what it still has to do.
    """
    until = min(request.deadline, request.target)
    if until == math.inf:
        return math.inf
    own_s = path.usual_s(step, now, request.tenant) if path is not None else None
    follows_s = request.after.get(step)
    return 0.0 if own_s is None or follows_s is None else max(0.0, until - now - own_s - follows_s)


class _SlowedBinder(Binder):
    """Binds a program as it is, with a delay before some steps."""

    def __init__(
        self,
        lowered: Lowered,
        bound: Mapping[str, BoundStep],
        dynamic: Dynamic,
        delays: Delays,
        path: Path | None,
    ) -> None:
        super().__init__(lowered, bound, dynamic)
        self.delays, self.path = delays, path

    def step(self, step: Step) -> Operator:
        operate = super().step(step)
        if step.name not in self.delays.delays_s:
            return operate
        return _slowed(step.name, operate, self.delays, self._awaited(step), self.path)

    def _awaited(self, step: Step) -> list[int]:
        """The slots of what a step cannot do without: where one is empty it is skipped."""
        needed = step.kind.required if step.kind is not None else step.inputs
        found = [source for name, source in step.inputs.items() if name in needed]
        return [
            self.slots[source.name if isinstance(source, FromStage) else f"input.{source.name}"]
            for source in found
            if isinstance(source, FromStage | FromInput)
        ]


def _slowed(step: str, operate: Operator, delays: Delays, awaited: list[int], path: Path | None) -> Operator:
    async def wait_and_operate(run: Run) -> None:
        if any(run.values[slot] is None for slot in awaited):
            await operate(run)
            return
        request = run.request
        start = request.clock()
        seconds = delays.draw(request, step, path, start)
        if seconds:
            run.begins(start)
            await asyncio.sleep(seconds)
            run.free = end = request.clock()
            delays.drawn[request.id][step] = end - start
            request.trace.rows.append((step, CAUSE, start, end))
            request.trace.notes[CAUSE] = ", ".join(
                f"{name} by {taken * 1e3:.3g} ms" for name, taken in delays.drawn[request.id].items() if taken
            )
        await operate(run)

    return wait_and_operate
