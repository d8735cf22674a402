"""A workflow to be optimised, and a testbed on a virtual clock: told model times, real engines, no noise."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Collection, Sequence

import tauten as tt
from tauten.clock import run_virtual
from tauten.describe.slo import Slo
from tauten.describe.stage import Context, Role, stage
from tauten.describe.turn import Turn
from tauten.errors import TautenError
from tauten.improve.load.bench import Bencher, Side
from tauten.improve.load.result import Run
from tauten.improve.load.schedule import Load
from tauten.improve.load.targets.workflow import WorkflowTarget
from tauten.improve.optimizer.testbed import Items, Runs, Scored, Together
from tauten.improve.simulate.capture import Captured, KeepingEngine, capture
from tauten.improve.simulate.costs import STILL, Moving
from tauten.improve.simulate.library import Held
from tauten.plan.lower import lower
from tauten.plan.plan import Plan
from tauten.run.engine import Engine

HEAR_MS, ROW_MS, ROWS_MS = 30.0, 20.0, 5.0
HELD = {"hear": 40_000_000, "look": 60_000_000}  # bytes, whatever the batch


@stage(roles={"model": Role("hear", ("synthetic",), options={"ms_per_batch": HEAR_MS})}, effects="pure")
async def hear(sound: str, ctx: Context) -> str:
    return str(await ctx.infer("model", sound))


@stage(
    roles={
        "read": Role("read", ("synthetic",), options={"ms_per_batch": ROW_MS, "ms_per_item": ROWS_MS}),
    },
    turns=(
        Turn("reduce", {"last": 2}, "lossy", "reads the last two rows only"),
        Turn("reduce", {"last": 1}, "lossy", "reads the last row only"),
    ),
    effects="pure",
)
async def look(photo: str, ctx: Context, *, last: int = 0) -> str:
    """Reads a row for each letter of the photo, and tells the row with the exclamation mark."""
    rows = list(photo)[-last:] if last else list(photo)
    return "".join([str(await ctx.infer("read", row)) for row in rows])


@stage(pure=True)
async def both(words: str, rows: str) -> str:
    return f"{words}: {'found' if '!' in rows else 'nothing'}"


@tt.workflow
def desk(sound: str, photo: str) -> str:
    return both(hear(sound), look(photo))


def photo(number: int) -> str:
    """Six rows, of which the telling one is among the last two, and in each tenth the last but one."""
    return f"{number:04d}!x" if number % 10 == 0 else f"{number:05d}!"


LABELS = {f"item {number}": "found" for number in range(200)}
EVERY: Items = [(f"item {number}", {"sound": f"s{number}", "photo": photo(number)}) for number in range(200)]
ITEMS: Items = EVERY[:4]
NAIVE = Plan()


class VirtualTestbed:
    """A testbed whose time is virtual; counts what it was asked."""

    def __init__(self) -> None:
        assert desk.graph is not None
        self.graph = desk.graph
        self.asked: list[str] = []
        self.failing = ""  # a step whose captures fail under any setting of its own

    def capture(self, plan: Plan, items: Items, only: Collection[str] = ()) -> Captured:
        self.asked.append(f"capture {sorted(plan.stages)}")
        if self.failing and plan.stage(self.failing).settings:
            raise TautenError("the engine died", help="start it again", code="E500")

        async def main() -> Captured:
            engine = KeepingEngine(clock=asyncio.get_running_loop().time)
            async with engine:
                return await capture(engine, desk, plan, items, repeats=1)

        found: Captured = run_virtual(main())
        return found

    def runs(self, plan: Plan, step: str, role: str, items: Items) -> Runs:
        self.asked.append(f"runs {step}.{role}")
        [options] = [each.models[role].options for each in lower(self.graph, plan).steps if each.name == step]
        batch_ms, item_ms = options.get("ms_per_batch", 0.0), options.get("ms_per_item", 0.0)
        return [(float(size), (batch_ms + size * item_ms) / 1e3) for size in (1, 4, 16)]

    def streams(self, plan: Plan, step: str, role: str, items: Items) -> Together:
        raise AssertionError("no model here writes streams")

    def moving(self, plan: Plan, step: str, role: str, items: Items) -> Moving:
        return STILL

    def held(self, plan: Plan, step: str, role: str, items: Items) -> Held:
        return ((1, HELD[step]),)

    def alike(self, before: Plan, after: Plan, ids: Sequence[str]) -> dict[str, bool]:
        return {}

    def scores(self, plan: Plan, ids: Sequence[str]) -> dict[str, Scored]:
        self.asked.append(f"scores {len(ids)}")
        inputs = dict(EVERY)

        async def main() -> dict[str, Scored]:
            found = {}
            async with Engine(clock=asyncio.get_running_loop().time) as engine:
                name = await engine.open(desk, plan)
                for id in ids:
                    answer = (await engine.run(inputs[id], plan=name)).value
                    told = hashlib.sha256(str(answer).encode()).hexdigest()[:8]
                    found[id] = Scored(float(str(answer).endswith(LABELS[id])), told)
            return found

        scored: dict[str, Scored] = run_virtual(main())
        return scored

    def bench(self, plans: Sequence[Plan], items: Items, load: Load, rounds: int, slo: Slo) -> list[Run]:
        self.asked.append(f"bench {len(plans)}")

        async def main() -> list[Run]:
            clock = asyncio.get_running_loop().time
            async with Engine(clock=clock) as engine:
                sides = []
                for plan in plans:
                    target = WorkflowTarget(engine, desk, plan, slo)
                    await target.open()
                    sides.append(Side(plan.id, target, [inputs for _, inputs in items or EVERY]))
                return (await Bencher(sides, slo=slo, clock=clock).runs(load, rounds=rounds))[0]

        found: list[Run] = run_virtual(main())
        return found
