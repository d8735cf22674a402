"""The finalist is measured on engines that are warm, for as long as the load leaves."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

import tauten as tt
from tauten.describe.payload import Text
from tauten.describe.slo import Slo
from tauten.improve.load.schedule import Load
from tauten.improve.optimizer.finals import DROWNING, FEW, ROUNDS, Finals
from tauten.improve.optimizer.live import LiveTestbed
from tauten.improve.optimizer.search import Figures
from tauten.improve.optimizer.testbed import WARM_UP, Items
from tauten.improve.recording import Item
from tauten.plan.plan import ModelChoice, Plan, StagePlan

ANSWERED: list[str] = []
SLO = Slo(p95_ms=800.0)


@tt.stage
async def answer(words: Text) -> Text:
    ANSWERED.append(words.text)
    return words


@tt.workflow
def answering(words: Text) -> Text:
    return answer(words)


def recorded(count: int) -> list[Item]:
    return [
        Item(
            id=f"r{place}",
            render=lambda place=place: {"words": Text(f"r{place}")},
            tags=(f"kind {place % 2}",),
        )
        for place in range(count)
    ]


def test_a_round_begins_with_requests_that_are_not_measured() -> None:
    every = recorded(10)
    testbed = LiveTestbed(answering, every)
    items = [(item.id, answering.bind(**item.inputs)) for item in every[:3]]
    ANSWERED.clear()
    [run] = testbed.bench([Plan()], items, Load(clients=1, requests=2), 2, Slo())
    assert run.requests.ok
    measured = {"r0", "r1", "r2"}
    for turn in (ANSWERED[: len(ANSWERED) // 2], ANSWERED[len(ANSWERED) // 2 :]):
        first, then = turn[:WARM_UP], turn[WARM_UP:]
        assert len(set(first)) == WARM_UP, "each round has an engine of its own"
        assert not set(first) & measured
        assert then
        assert set(then) <= measured


def test_a_recording_without_others_is_measured_as_it_is() -> None:
    every = recorded(2)
    testbed = LiveTestbed(answering, every)
    items = [(item.id, answering.bind(**item.inputs)) for item in every]
    ANSWERED.clear()
    [run] = testbed.bench([Plan()], items, Load(clients=1, requests=2), 1, Slo())
    assert run.requests.ok
    assert set(ANSWERED) == {"r0", "r1"}


class Asked:
    """Notes what it is to bench."""

    def __init__(self) -> None:
        self.loads: list[tuple[int, Load, int]] = []  # plans, load, rounds

    def bench(self, plans: Sequence[Plan], items: Items, load: Load, rounds: int, slo: Slo) -> list[Any]:
        self.loads.append((len(plans), load, rounds))
        return [None for _ in plans]


def plans() -> dict[str, Plan]:
    def plan(threads: int) -> Plan:
        return Plan(stages={"answer": StagePlan(roles={"model": ModelChoice(threads=threads)})})

    return {"naive": plan(1), "zero-effort": plan(2), "chosen": plan(3)}


@pytest.mark.parametrize("p95_ms", [700.0, 60_000.0])
def test_what_the_load_does_not_need_is_for_one_request_at_a_time(p95_ms: float) -> None:
    """Where every plan drowns a minute shows it, and the alone have the rest of the time."""
    testbed = Asked()
    items: Items = [(f"r{place}", {}) for place in range(1000)]
    finals = Finals(testbed, items, SLO, 1.0, 0)  # type: ignore[arg-type]
    figures = {name: Figures({"p50_ms": 500.0, "p95_ms": p95_ms}) for name in plans()}
    finals.play(plans(), figures, figures, 450.0)
    (of, alone, rounds), (under, loaded, once) = testbed.loads
    assert (of, rounds, once) == (3, ROUNDS, 1)
    fitting_s = 450.0 - DROWNING if p95_ms > SLO.limits()["p95_ms"] else 450.0 * 0.4
    assert under == (1 if p95_ms > SLO.limits()["p95_ms"] else 3)
    assert loaded.requests == (DROWNING if under == 1 else 90)
    count = max(FEW, int(fitting_s / ROUNDS / 1.5) - WARM_UP)
    assert alone.requests == count * 9 // 10
