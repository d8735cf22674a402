"""A stream that a control step passes on is read as it comes: waiting for it is nobody's work."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

import tauten as tt
from simulate.kit_desk import FIRST_MS, ITEMS, TOKEN_MS, TOKENS, find, hear, look, tell
from tauten.clock import run_virtual
from tauten.improve.simulate.capture import KeepingEngine, capture
from tauten.improve.simulate.library import Library
from tauten.improve.simulate.machine import Shared
from tauten.improve.simulate.simulator import Simulator
from tauten.plan.lower import lower
from tauten.plan.plan import Plan

LLM_S = (FIRST_MS + (TOKENS - 1) * TOKEN_MS) / 1e3


@tt.stage(pure=True)
async def reply(found: str, told: tt.Stream[str] | None) -> AsyncIterator[str]:
    yield found  # at once
    if told is not None:
        async for piece in told:
            yield piece


@tt.workflow
def desk(sound: str, photo: str | None = None) -> tt.Stream[str]:
    found = find(hear(sound), look(photo))
    return reply(found, tt.when(found, tell(found)))


def test_what_reads_a_stream_behind_when_waits_and_does_not_work() -> None:
    library = Library()

    async def learn() -> float:
        engine = KeepingEngine(clock=asyncio.get_running_loop().time)
        async with engine:
            seen = await capture(engine, desk, Plan(), ITEMS, repeats=1)
            library.add(seen)
        return seen.tapes[0][0].seconds

    recorded_s = run_virtual(learn())
    assert desk.graph is not None
    tape = library.tape(ITEMS[0][0], lower(desk.graph, Plan()))
    own_s = sum(level.gap_s for level in tape.visits["reply"].levels) + tape.visits["reply"].tail_s
    assert own_s < LLM_S / 2  # else it would keep a core busy while the model speaks
    [told] = Simulator(desk, library, Shared(cores=1)).run(Plan(), [(0.0, ITEMS[0][0])]).done
    assert told.seconds == pytest.approx(recorded_s, rel=0.05)
