"""Streams take as long as they took: whatever they are made of, and with their spread once."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any

import pytest

import tauten as tt
from tauten.describe.stage import Context, Role, stage
from tauten.improve.optimizer.formula import Walk
from tauten.improve.simulate.capture import Captured
from tauten.improve.simulate.library import Library
from tauten.improve.simulate.machine import Shared
from tauten.improve.simulate.simulator import Done, Simulator
from tauten.improve.simulate.tape import Event, Level, Tape, Visit
from tauten.plan.lower import lower
from tauten.plan.plan import Plan


@stage(roles={"llm": Role("voice", ("synthetic_slots",))}, effects="pure")
async def say(text: str, ctx: Context) -> str:
    return text


@tt.workflow
def saying(text: str) -> str:
    return say(text)  # type: ignore[no-any-return]  # a port, while it is drawn


PLAN = Plan(graph=saying.graph.hash, stages={})  # type: ignore[union-attr]


def learned(*streams: Event) -> Library:
    """Each seen twice, alike; requests are called by their number."""
    assert saying.graph is not None
    tapes = [
        Tape(str(number), {"text": "a"}, {"say": Visit((Level(0.0, ((each,),)),))}, {"say": "a"}, 0.0, 0.0)
        for number, each in enumerate(streams)
    ]
    library = Library()
    library.add(
        Captured(lower(saying.graph, PLAN), [[each, each] for each in tapes], {("say", "llm"): 8}, [])
    )
    return library


def alone(library: Library, **more: Any) -> list[Done]:
    arrivals = [(100.0 * place, id) for place, id in enumerate([*library.inputs] * 10)]
    return Simulator(saying, library, Shared(cores=4)).run(PLAN, arrivals, **more).done


@pytest.mark.parametrize("tokens", [0.0, 1.0], ids=["sound", "one word"])
def test_what_has_no_second_token_takes_its_time_all_the_same(tokens: float) -> None:
    library = learned(Event("llm", 1.5, 8.0, tokens=tokens, fresh=8.0, first_s=0.3, stream=True))
    assert [each.seconds for each in alone(library)] == pytest.approx([1.5] * 10)
    assert Walk(library, lower(saying.graph, PLAN)).way("0").seconds == pytest.approx(1.5)  # type: ignore[arg-type]


def test_what_one_request_waits_for_its_first_token_is_not_spread_once_more() -> None:
    """Two with equally long prompts, one three times as slow whenever it was run: it is no slower than that."""
    slow, quick = (
        Event("llm", first_s + 0.1, 50.0, tokens=11.0, fresh=50.0, first_s=first_s, stream=True)
        for first_s in (1.5, 0.5)
    )
    for each in alone(learned(slow, quick)):
        assert each.seconds == pytest.approx({"0": 1.6, "1": 0.6}[each.id])
