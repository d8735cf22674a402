"""Two million simulated requests through the pure scheduling functions: one end each, bounded holds, order."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from heapq import heappop, heappush
from typing import Any

import pytest

from tauten.run.deploy.fair_queue import FairQueue
from tauten.run.deploy.scheduling import WAIT_OF_BUDGET, WAIT_OF_RUN, Forecast, Queue, release

MOST, REPLICAS = 16, 2
FIXED_S, ITEM_S = 0.003, 0.0002
RETURN_S = 0.0004  # until a client that was answered asks again
SLOW = 10  # times, in every other rush: later than a run that is saved
ARRIVE, EXPIRE, FINISH, WAKE = range(4)


def run_s(count: float) -> float:
    return FIXED_S + ITEM_S * count


class Item:
    """One request; it is its own waiter: `done` once it has left."""

    __slots__ = ("came", "cost", "due", "end", "lane", "priority", "tenant")
    count = 1

    def __init__(self, came: float, budget_s: float, tenant: str, priority: int) -> None:
        self.came, self.due = came, came + budget_s
        self.tenant, self.priority, self.cost = tenant, priority, 1.0
        self.end = ""

    @property
    def waiter(self) -> Any:
        return self

    def done(self) -> bool:
        return bool(self.end)


class Simulation:
    """Two replicas behind a fair queue; each decision is `release`'s."""

    def __init__(self, requests: int, seed: int) -> None:
        self.requests = requests
        self.draws = random.Random(seed)
        self.now = 0.0
        self.made = 0
        self.idle, self.idle_since = REPLICAS, 0.0
        self.returning = 0
        self.queue: FairQueue[Any] = FairQueue()
        self.ends: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.rate = 0.0
        self._events: list[tuple[float, int, int, Any]] = []
        self._order = itertools.count()
        self._woken = math.inf

    @property
    def return_s(self) -> float:
        return RETURN_S * (SLOW if self.made // 2500 % 2 else 1)

    def at(self, when: float, kind: int, what: Any = None) -> None:
        heappush(self._events, (when, kind, next(self._order), what))

    def run(self) -> None:
        for _ in range(8):
            self.at(self.draws.random() * 0.01, ARRIVE, True)
        self.at(0.0, ARRIVE, False)
        while self._events:
            when, kind, _, what = heappop(self._events)
            assert when >= self.now, "time does not go back"
            self.now = when
            (self.arrive, self.expire, self.finish, self.wake)[kind](what)
            self.decide()

    def arrive(self, client: Any) -> None:
        """A client of a closed loop, or a stranger, after whom the next one comes: slow hours and rushes."""
        if self.made == self.requests:
            return
        draws = self.draws
        if client:
            self.returning = max(0, self.returning - 1)
        else:
            self.rate = 500.0 if self.made // 5000 % 3 else 4500.0
            self.at(self.now + draws.expovariate(self.rate), ARRIVE, False)
        self.made += 1
        item = Item(
            self.now, draws.choice((0.02, 0.1, 1.0, math.inf)), draws.choice("abc"), draws.randint(-1, 1)
        )
        self.queue.push(item)
        if item.due < math.inf:
            self.at(item.due, EXPIRE, item)

    def expire(self, item: Item) -> None:
        if not item.end:
            self.over(item, "expired")
            self.queue.left(item)

    def finish(self, batch: list[Item]) -> None:
        if not self.idle:
            self.idle_since = self.now
        self.idle += 1
        for item in batch:
            self.ends[item.end] += 1
            if len(batch) % 3 == 0:  # some clients ask again at once
                self.returning += 1
                self.at(self.now + self.return_s * self.draws.random(), ARRIVE, True)

    def wake(self, _: Any) -> None:
        self._woken = math.inf

    def over(self, item: Item, how: str) -> None:
        assert not item.end, "each request has one end"
        item.end = how
        if how == "expired":
            self.ends[how] += 1

    def decide(self) -> None:
        while self.idle and self.queue.live:
            head = self.queue.head()
            since = max(self.idle_since, head.came)
            waiting = Queue(self.queue.live, MOST, self.queue.live, head.due, head.due - head.came, since)
            forecast = Forecast(self.returning, self.return_s, self.return_s, self.rate)
            found = release(self.now, waiting, run_s, run_s, forecast)
            if not found.members:
                self.hold(found, waiting, since)
                return
            assert found.members <= min(waiting.items, MOST)
            self.reasons[found.reason] += 1
            self.begin(found.members)

    def hold(self, found: Any, waiting: Queue, since: float) -> None:
        n = waiting.items
        cap = since + min(WAIT_OF_RUN * run_s(n), WAIT_OF_BUDGET * waiting.budget_s)
        assert self.now < found.wake_at <= cap + 1e-12, "a hold ends, and never later than its bound"
        assert found.wake_at <= waiting.due - run_s(n + 1) + 1e-12, "and before a deadline would be lost"
        assert n < found.target <= MOST
        self.reasons["held"] += 1
        if found.wake_at < self._woken:
            self._woken = found.wake_at
            self.at(found.wake_at, WAKE)

    def begin(self, count: int) -> None:
        batch = [self.queue.pop() for _ in range(count)]
        last: dict[tuple[int, str], float] = {}
        for item in batch:
            lane = (item.priority, item.tenant)
            assert item.due >= last.get(lane, -math.inf), "within a tenant the most urgent goes first"
            last[lane] = item.due
            self.over(item, "done")
        self.idle -= 1
        self.at(self.now + run_s(count), FINISH, batch)


LONG = pytest.mark.slow  # a hundred times the requests of the short run: a minute of computing


@pytest.mark.parametrize("requests", [20_000, pytest.param(2_000_000, marks=LONG)])
def test_every_request_has_one_end_and_no_hold_outlives_its_bound(requests: int) -> None:
    simulation = Simulation(requests, seed=5)
    simulation.run()
    assert simulation.made == requests
    assert sum(simulation.ends.values()) == requests
    assert set(simulation.ends) <= {"done", "expired"}
    assert simulation.ends["done"] > 0.5 * requests
    assert (simulation.queue.live, simulation.idle) == (0, REPLICAS)
    assert simulation.queue.pop() is None
    assert min(simulation.reasons[each] for each in ("full", "gain", "held")) > requests / 10_000, (
        simulation.reasons
    )
