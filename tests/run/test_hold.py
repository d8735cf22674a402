"""What a held batch looks at: the tightest of those whom it keeps, what they weigh, and who comes meanwhile."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from run.kit_load import Load, Outcome, simulate
from tauten.run.backends.synthetic import SyntheticBackend
from tauten.run.contracts import ModelSpec
from tauten.run.deploy.fair_queue import FairQueue
from tauten.run.deploy.job import Job

BATCH_S, UNIT_S = 0.002, 0.001  # of a run: by itself, and for each unit of weight
OPTIONS = {"ms_per_batch": BATCH_S * 1e3, "ms_per_item": UNIT_S * 1e3}
LONG_MS = 200.0  # a fixed wait, longer than what the tight ones have


class Heavy(SyntheticBackend):
    """Items are what they weigh."""

    ran: list[list[float]]

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.ran = spec.options["ran"]

    def weight(self, item: Any) -> float:
        return float(item)

    def duration(self, items: Sequence[Any]) -> float:
        self.ran.append(list(items))
        return BATCH_S + UNIT_S * sum(items)


async def learn(load: Load, items: Sequence[float] = (1, 2, 4, 1, 2, 4)) -> None:
    """Runs of one item each, from which the deployment learns how long weights take."""
    for item in items:
        await load.one(item=item)
    load.outcomes.clear()


def with_weights(body: Any, wait: Any = "off", **settings: Any) -> Any:
    ran: list[list[float]] = []

    async def main(load: Load) -> Any:
        load.deployment.wait = "off"
        await learn(load)
        ran.clear()
        load.deployment.wait = wait
        return await body(load)

    simulate(main, backend=Heavy, options={**OPTIONS, "ran": ran}, wait=wait, **settings)
    return ran


async def together(load: Load, *requests: dict[str, Any]) -> list[Outcome]:
    found: list[Any] = await asyncio.gather(*[load.start(**each) for each in requests])
    return found


# -- the tightest -----------------------------------------------------------------------------------------------

RELAXED = {"budget_s": 60.0, "priority": 1}  # whose turn it is


@pytest.mark.parametrize("tight", [{"priority": 0}, {"priority": 1, "tenant": "other"}])
def test_a_batch_is_not_held_past_the_slack_of_one_whose_turn_it_is_not(tight: dict[str, Any]) -> None:
    async def body(load: Load) -> None:
        ends = await together(load, {**RELAXED, "item": 1}, {**tight, "budget_s": 0.05, "item": 1})
        assert [(each.how, each.size) for each in ends] == [("done", 2)] * 2
        assert ends[0].took > 0.02, "it was held, for as long as there was time"

    with_weights(body, LONG_MS, max_batch=8)


def test_who_comes_with_less_time_ends_the_hold_in_time() -> None:
    async def body(load: Load) -> None:
        first = load.start(**RELAXED, item=1)
        await asyncio.sleep(0.02)
        ends = await together(load, {"budget_s": 0.05, "priority": 0, "item": 1})
        assert (ends[0].how, ends[0].size) == ("done", 2)
        await first

    with_weights(body, LONG_MS, max_batch=8)


def test_a_batch_held_for_clients_that_return_minds_the_tightest_too() -> None:
    model = {"ms_per_batch": 10.0, "ms_per_item": 1.0}

    async def body(load: Load) -> None:
        deployment = load.deployment
        crowd = asyncio.ensure_future(load.closed_loop(8, 40, 0.006))
        while deployment.done < 240 or len(deployment._idle) == 0:
            await asyncio.sleep(0.0002)
        ends = await together(load, {**RELAXED, "item": 1}, {"budget_s": 0.0135, "item": 1})
        assert [(each.how, each.size) for each in ends] == [("done", 2)] * 2
        assert ends[1].took == pytest.approx(0.012, abs=1e-6), "at once: it has no time for those who return"
        await crowd

    simulate(body, options=model, max_batch=32)


# -- weights -----------------------------------------------------------------------------------------------------


def test_a_heavy_one_takes_the_light_ones_along_that_fit() -> None:
    async def body(load: Load) -> None:
        ends = await together(load, *({"item": item} for item in (40, 5, 5, 5, 5)))
        assert {(each.how, each.size) for each in ends} == {("done", 5)}
        assert load.deployment.reasons["full"] == 1

    assert with_weights(body, "slack", max_batch=8, max_weight=60.0) == [[40, 5, 5, 5, 5]]


def test_who_is_too_heavy_is_passed_over_and_those_who_are_alike_are_not_searched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    restored: list[float] = []
    restore = FairQueue.restore

    def noted(queue: FairQueue[Any], job: Job) -> None:
        restored.append(job.weight)
        restore(queue, job)

    monkeypatch.setattr(FairQueue, "restore", noted)

    async def body(load: Load) -> None:
        await together(load, *({"item": item} for item in (30, 40, 10, 20, 5)))
        assert restored == [40]
        await together(load, *({"item": 25} for _ in range(6)))
        assert restored == [40, 25, 25], "one look a batch shows that it is full"

    ran = with_weights(body, "off", max_batch=8, max_weight=60.0)
    assert [sorted(each) for each in ran] == [[10, 20, 30], [5, 40], [25] * 2, [25] * 2, [25] * 2]


def test_a_heavy_one_leaves_while_there_is_time_for_its_own_run() -> None:
    async def body(load: Load) -> None:
        (heavy,) = await together(load, {"item": 64, "budget_s": 0.1})
        assert heavy.how == "done"

    with_weights(body, LONG_MS, max_batch=8)


def test_who_comes_heavier_than_was_reckoned_with_is_looked_at() -> None:
    async def body(load: Load) -> None:
        light = load.start(item=1, budget_s=0.08)
        await asyncio.sleep(0.01)
        await together(load, {"item": 60, "budget_s": 60.0})
        ended: Any = await light
        assert (ended.how, ended.size) == ("done", 2), "it would be late at the end of its time to wait"

    with_weights(body, LONG_MS, max_batch=8)


def test_idle_replicas_share_by_weight() -> None:
    async def body(load: Load) -> None:
        await together(load, *({"item": item} for item in [64] + [1] * 31))
        await together(load, *({"item": item} for item in [1] * 31 + [64]))
        await together(load, *({"item": item} for item in [45, 45, 45, 5]))
        assert load.deployment.reasons["spread"] == 6

    ran = with_weights(body, "slack", max_batch=32, replicas=2)
    assert sorted(map(sorted, ran)) == sorted([[64], [1] * 31, [1] * 31, [64], [5, 45], [45, 45]])


def test_what_waits_is_weighed_whoever_leaves() -> None:
    async def body(load: Load) -> None:
        deployment = load.deployment
        busy = load.start(item=100)
        await asyncio.sleep(0.001)
        waiting = [load.start(item=item) for item in (3, 5, 7)]
        await asyncio.sleep(0)
        (crowd,) = deployment._groups.values()
        assert (crowd.count, crowd.weight) == (3, 15.0)
        waiting[1].cancel()
        await asyncio.sleep(0)
        assert (crowd.count, crowd.weight) == (2, 10.0)
        await asyncio.wait([busy, *waiting])
        assert not deployment._groups

    with_weights(body, "slack", max_batch=8)
