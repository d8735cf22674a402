"""Members of a map do in a simulation what they did: also those of a stream, and what is decoded for them."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from typing import Any

import numpy as np
import pytest

import tauten as tt
from tauten.clock import run_virtual
from tauten.describe.payload import Image, Tensor
from tauten.describe.stage import Context, Role, stage
from tauten.describe.view import View
from tauten.improve.optimizer.formula import Walk
from tauten.improve.optimizer.journal import Journal, Remembered
from tauten.improve.optimizer.testbed import Items
from tauten.improve.simulate.capture import Captured, KeepingEngine, capture
from tauten.improve.simulate.library import Library
from tauten.improve.simulate.machine import Shared
from tauten.improve.simulate.simulator import Simulated, Simulator
from tauten.improve.simulate.tape import CREW, tape
from tauten.plan.lower import lower
from tauten.plan.plan import Plan
from tauten.run.trace import VISIT, Trace

ROOMY = Shared(cores=64)
EACH_S, RUN_S = 0.05, 0.01  # between two increments, and of a member


@stage(pure=True)
async def listed(text: str) -> list[Tensor]:
    return [Tensor(np.zeros(1)) for _ in text]


@stage(pure=True)
async def streamed(text: str) -> AsyncIterator[Tensor]:
    for _ in text:
        await asyncio.sleep(EACH_S)
        yield Tensor(np.zeros(1))


@stage(roles={"model": Role("m", ("synthetic",), options={"ms_per_batch": RUN_S * 1e3})}, effects="pure")
async def look(part: Tensor, ctx: Context) -> str:
    return str(await ctx.infer("model", "x"))


@tt.workflow
def of_a_list(text: str) -> list[str]:
    return tt.map(look, listed(text))  # type: ignore[no-any-return]


@tt.workflow
def of_a_stream(text: str) -> list[str]:
    return tt.map(look, streamed(text))  # type: ignore[no-any-return]


ITEMS: Items = [("six", {"text": "abcdef"}), ("one", {"text": "a"}), ("none", {"text": ""})]


class Bed:
    """Captures on a virtual clock."""

    def __init__(self, workflow: Any) -> None:
        self.workflow = workflow

    def capture(self, plan: Plan, items: Items, only: Collection[str] = ()) -> Captured:
        async def main() -> Captured:
            engine = KeepingEngine(clock=asyncio.get_running_loop().time)
            async with engine:
                return await capture(engine, self.workflow, plan, items, repeats=2)

        found: Captured = run_virtual(main())
        return found


def told(workflow: Any, seen: Captured, id: str) -> Simulated:
    library = Library()
    library.add(seen)
    return Simulator(workflow, library, ROOMY).run(seen.lowered.plan, [(0.0, id)])


@pytest.mark.parametrize("remembered", [False, True], ids=["seen now", "from a journal"])
@pytest.mark.parametrize("workflow", [of_a_list, of_a_stream], ids=["list", "stream"])
def test_all_members_are_asked_for(workflow: Any, remembered: bool) -> None:
    """Also where what a member was is not known any more, and only something stands for it."""
    bed: Any = Bed(workflow)
    if remembered:
        bed = Remembered(bed, Journal(), workflow.graph)
    seen = bed.capture(Plan(graph=workflow.graph.hash), ITEMS)
    for id, inputs in ITEMS:
        found = told(workflow, seen, id)
        assert [each.error for each in found.done] == [""]
        asked = sum(size * often for runs in found.batches.values() for size, often in runs.items())
        assert asked == len(inputs["text"])


def test_members_of_a_stream_come_when_they_came() -> None:
    seen = Bed(of_a_stream).capture(Plan(graph=of_a_stream.graph.hash), ITEMS)  # type: ignore[union-attr]
    [done] = told(of_a_stream, seen, "six").done
    assert done.seconds == pytest.approx(6 * EACH_S + RUN_S, rel=0.02), "the last one is alone with its run"


# -- what is decoded for a member ------------------------------------------------------------------------------


@stage(
    roles={"model": Role("m", ("synthetic",))},
    views={"photo": View("pixels", {"max_side": 64})},
    effects="pure",
)
async def see(photo: Image, ctx: Context) -> str:
    return str(await ctx.infer("model", "x"))


@tt.workflow
def album(photos: list[Image]) -> list[str]:
    return tt.map(see, photos)  # type: ignore[no-any-return]


DECODE_S, OWN_S = 0.2, 0.3


def test_decoding_for_a_member_takes_its_time() -> None:
    assert album.graph is not None
    lowered = lower(album.graph, Plan(graph=album.graph.hash))
    photo = Image.from_array(np.zeros((8, 8, 3), np.uint8))
    trace = Trace(0.0)
    trace.end = DECODE_S + OWN_S
    trace.rows += [("see[0].photo", VISIT, 0.0, DECODE_S), ("see[0]", VISIT, DECODE_S, trace.end)]
    trace.calls += [
        ("see[0].photo", "decode in threads", 0.0, 0.0, DECODE_S, DECODE_S),
        ("see[0]", "m/synthetic", DECODE_S, DECODE_S, trace.end, trace.end),
    ]
    one = tape("one", {"photos": [photo]}, trace, lowered, {"see": ["x"]}, loop_s=0.0)
    [visit] = one.visits.values()
    assert [(event.role, event.seconds) for event in visit.events()] == [
        (CREW, pytest.approx(DECODE_S)),
        ("model", pytest.approx(OWN_S)),
    ]
    assert visit.own_s() == pytest.approx(0.0), "a thread that decodes is no code of the step"
    seen = Captured(lowered, [[one]], {}, [])
    [done] = told(album, seen, "one").done
    assert (done.error, done.seconds) == ("", pytest.approx(trace.end))
    library = Library()
    library.add(seen)
    assert Walk(library, lowered).way("one").seconds == pytest.approx(trace.end)
