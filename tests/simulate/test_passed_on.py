"""Waiting for a stream is nobody's work: of one that a control step passes on, and of one that is read as a whole."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

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


@tt.stage(pure=True)
async def whole(told: str) -> str:
    return told


@tt.workflow
def gathered(sound: str, photo: str | None = None) -> str:
    return whole(tell(find(hear(sound), look(photo))))


def test_what_reads_a_stream_behind_when_waits_and_does_not_work() -> None:
    own_s, recorded_s, told_s = played(desk, "reply")
    assert own_s < LLM_S / 2  # else it would keep a core busy while the model speaks
    assert told_s == pytest.approx(recorded_s, rel=0.05)


def test_what_takes_a_stream_as_a_whole_waits_too() -> None:
    own_s, recorded_s, told_s = played(gathered, "whole")
    assert own_s < LLM_S / 10
    assert told_s == pytest.approx(recorded_s, rel=0.05)


def played(desk: tt.Workflow[..., Any], step: str) -> tuple[float, float, float]:
    """Seconds of a step's own code, of the request as recorded, and as simulated on one core."""
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
    own_s = sum(level.gap_s for level in tape.visits[step].levels) + tape.visits[step].tail_s
    [told] = Simulator(desk, library, Shared(cores=1)).run(Plan(), [(0.0, ITEMS[0][0])]).done
    return own_s, recorded_s, told.seconds
