"""Confirms what steps are worth by delays on purpose: measured on real requests, and simulated in the very same way.

Each step is delayed for a share of requests, drawn for each step apart, so that one run tells of all steps. What
a delay costs is the difference between requests with and without it, item by item of the recording, for each ms of
delay. A step cannot be made quicker on trial, but what a first ms less of it would gain is what a first ms more costs.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from tauten.describe.workflow import Workflow
from tauten.errors import TautenError
from tauten.explain.whatif import Moved, Probed
from tauten.improve.load.figures import quantile_of
from tauten.improve.simulate.simulator import Done
from tauten.plan.plan import Plan
from tauten.run.engine import Engine
from tauten.run.slowed import MOST_S, Delays
from tauten.statistics.bootstrap import mean
from tauten.statistics.trend import student_quantile

PART: Final = 0.05  # of the median request: a delay of less drowns in noise
LEAST_S: Final = 0.002  # timers of an event loop round to whole ms
REQUESTS: Final = 120  # that are run: some 30 delays of each step
SIMULATED: Final = 10  # times as many requests where they cost no time
AROUND: Final = (
    0.15  # of all requests on each side of a percentile count as lying at it: of 12 items about four
)
COVERAGE: Final = 0.90  # as of all predictions here
TOLD: Final = ("p50_ms", "p95_ms")

Arrivals = Sequence[tuple[float, str]]
Inputs = Mapping[str, Mapping[str, Any]]
"""By the ids of recorded requests."""


def delay_s(median_s: float) -> float:
    """How long a step may be delayed where a request takes so long: little, and not nothing.

    >>> delay_s(0.4), delay_s(0.001), delay_s(60.0)
    (0.02, 0.002, 0.1)
    """
    return min(MOST_S, max(LEAST_S, round(PART * median_s, 3)))


def rounds_of(count: int) -> int:
    """How often to go through so many items."""
    return math.ceil(REQUESTS / count)


def in_turn(ids: Sequence[str], rounds: int) -> list[tuple[float, str]]:
    """One request at a time: who comes next comes when the one before it is over."""
    return [(0.0, id) for _ in range(rounds) for id in ids]


async def probe(
    engine: Engine,
    workflow: Workflow[..., Any],
    plan: Plan,
    arrivals: Arrivals,
    inputs: Inputs,
    delays: Delays,
    *,
    alone: bool,
    say: Callable[[str], None] = lambda text: None,
) -> list[Done]:
    """Run requests under a plan with delays: one at a time where `alone`, else when they are due.

    Requests that fail are among the done, with their codes.
    """
    name = await engine.open(workflow, plan)
    run = _Live(engine, name, inputs, delays)
    for id in dict.fromkeys(id for _, id in arrivals):
        await run.one(id, None)  # warms up: not slowed, not kept
    run.done.clear()
    delays.slow(engine.plans[name])
    begun, tasks = engine.clock(), []
    for place, (at_s, id) in enumerate(arrivals, start=1):
        say(f"request {place} of {len(arrivals)}, some of its steps delayed")
        if alone:
            await run.one(id, None)
            continue
        await asyncio.sleep(max(0.0, begun + at_s - engine.clock()))
        tasks.append(asyncio.ensure_future(run.one(id, begun + at_s)))
    await asyncio.gather(*tasks)
    return run.done


class _Live:
    """Requests that run, and what became of them."""

    def __init__(self, engine: Engine, plan: str, inputs: Inputs, delays: Delays) -> None:
        self.engine, self.plan, self.inputs, self.delays = engine, plan, inputs, delays
        self.done: list[Done] = []

    async def one(self, id: str, due: float | None) -> None:
        """One request; its latency counts from when it was due."""
        engine = self.engine
        request, error = engine.request(), ""
        request.teaches = False
        begun = engine.clock() if due is None else due
        try:
            async for _ in engine.stream(self.inputs[id], plan=self.plan, request=request):
                pass
        except TautenError as failed:
            error = failed.code
        end, first = engine.clock(), request.trace.first_output
        slowed = self.delays.drawn.get(request.id, {})
        first_s = (end if first is None else first) - begun
        self.done.append(Done(id, begun, end - begun, first_s, error, slowed))


# -- what the delays did --------------------------------------------------------------------------------------


class Slope(NamedTuple):
    """ms that a figure moves for each ms that a step is delayed; from so many requests with and without a delay."""

    moved: Moved
    delay_ms: float
    slowed: int
    plain: int


class _Item(NamedTuple):
    """Latencies in ms of one recorded request, without what delays of other steps did; `plain` holds all of them where
    the step never ran."""

    slowed: list[float]
    plain: list[float]
    absent: bool

    @property
    def size(self) -> int:
        return len(self.slowed) + len(self.plain)

    @property
    def cost(self) -> float:
        """What the delay did to it."""
        return 0.0 if self.absent else mean(self.slowed) - mean(self.plain)

    @property
    def squares(self) -> float:
        """Of what is left once each side has its mean."""
        return math.fsum(
            (value - mean(side)) ** 2 for side in (self.slowed, self.plain) if side for value in side
        )

    @property
    def free(self) -> int:
        return self.size - (1 if self.absent else 2)


def probed(measured: Iterable[Done], simulated: Iterable[Done], steps: Iterable[str]) -> list[Probed]:
    """What delays did, measured beside simulated, for each step and figure of which both tell something."""
    kept = [list(measured), list(simulated)]
    found = []
    for step in steps:
        for what in TOLD:
            one, other = (slope(done, step, what) for done in kept)
            if one is None or other is None:
                continue
            found.append(
                Probed(
                    step=step,
                    what=what,
                    delay_ms=one.delay_ms,
                    slowed=one.slowed,
                    plain=one.plain,
                    measured=one.moved,
                    simulated=other.moved,
                )
            )
    return found


def slope(done: Iterable[Done], step: str, what: str) -> Slope | None:
    """What delaying a step does to a percentile; None where no item was run both with and without a delay.

    A percentile moves as those requests do that lie at it: the difference of means, item by item, over the items
    around it. What other steps were delayed by is taken off as far as it shows.
    """
    answered = [each for each in done if not each.error]
    delays = [each.slowed_s[step] for each in answered if each.slowed_s.get(step)]
    items = _items(answered, step, without_others(answered, step))
    if not delays or all(each.absent for each in items):
        return None
    delay_ms = mean(delays) * 1e3
    shares = _around(items, quantile_of(what))
    whole = math.fsum(share * each.size for each, share in zip(items, shares, strict=True))
    mid = math.fsum(share * each.size * each.cost for each, share in zip(items, shares, strict=True)) / whole
    half = _half(items, shares, whole)
    scaled = Moved(*((mid + side) / delay_ms for side in (-half, 0.0, half)))
    told = [each for each in items if not each.absent]
    return Slope(
        scaled, delay_ms, sum(len(each.slowed) for each in told), sum(len(each.plain) for each in told)
    )


def _items(done: Iterable[Done], step: str, walls: Iterable[float]) -> list[_Item]:
    """Those that tell something: run with and without a delay, or never in need of the step; the quickest first."""
    slowed: dict[str, list[float]] = {}
    plain: dict[str, list[float]] = {}
    absent: dict[str, list[float]] = {}
    for each, wall in zip(done, walls, strict=True):
        taken = each.slowed_s.get(step)
        side = absent if taken is None else slowed if taken else plain
        side.setdefault(each.id, []).append(wall)
    found = [_Item(slowed[id], plain[id], False) for id in slowed.keys() & plain.keys()]
    found += [_Item([], walls, True) for id, walls in absent.items() if id not in slowed and id not in plain]
    return sorted(found, key=lambda each: mean(each.plain))


def _around(items: Sequence[_Item], q: float) -> list[float]:
    """How much of each item, which stand in the order of their latencies, lies around a percentile."""
    whole, begun, found = sum(each.size for each in items), 0, []
    low, high = max(0.0, q - AROUND), min(1.0, q + AROUND)
    for each in items:
        first, last = begun / whole, (begun + each.size) / whole
        found.append(max(0.0, min(last, high) - max(first, low)) / (last - first))
        begun += each.size
    return found


def _half(items: Sequence[_Item], shares: Sequence[float], whole: float) -> float:
    """Half of the interval: Student's, over the spread within items around the percentile."""
    pairs = list(zip(items, shares, strict=True))
    free = math.fsum(each.free for each, share in pairs if share)
    if free < 1.0:
        return math.inf
    variance = math.fsum(each.squares for each, share in pairs if share) / free
    parts = [
        (share * each.size / whole) ** 2 * (1.0 / len(each.slowed) + 1.0 / len(each.plain))
        for each, share in pairs
        if not each.absent
    ]
    return student_quantile((1.0 + COVERAGE) / 2.0, free) * math.sqrt(variance * math.fsum(parts))


def without_others(done: Sequence[Done], step: str) -> list[float]:
    """Latencies in ms without what delays of the other steps did to them: least squares within each item."""
    names = sorted({name for each in done for name in each.slowed_s})
    rows = [[each.slowed_s.get(name, 0.0) * 1e3 for name in names] for each in done]
    walls = [each.seconds * 1e3 for each in done]
    items: dict[str, list[int]] = {}
    for place, each in enumerate(done):
        items.setdefault(each.id, []).append(place)
    slopes = _within(rows, walls, list(items.values()))
    others = [0.0 if name == step else cost for name, cost in zip(names, slopes, strict=True)]
    return [
        wall - math.fsum(cost * value for cost, value in zip(others, row, strict=True))
        for wall, row in zip(walls, rows, strict=True)
    ]


def _within(
    rows: Sequence[Sequence[float]], values: Sequence[float], groups: Sequence[Sequence[int]]
) -> list[float]:
    """Least-squares slopes of the columns, each group with a level of its own; 0 for columns that say nothing."""
    size = len(rows[0]) if rows else 0
    square, side = [[0.0] * size for _ in range(size)], [0.0] * size
    for group in groups:
        means = [mean([rows[place][column] for place in group]) for column in range(size)]
        level = mean([values[place] for place in group])
        for place in group:
            row = [value - centre for value, centre in zip(rows[place], means, strict=True)]
            for column, value in enumerate(row):
                side[column] += value * (values[place] - level)
                square[column] = [old + value * other for old, other in zip(square[column], row, strict=True)]
    return _solved(square, side)


def _solved(square: list[list[float]], side: list[float]) -> list[float]:
    """The solution of symmetric equations by elimination; 0 where the rest of them says the same."""
    size = len(side)
    rows = [[*row, value] for row, value in zip(square, side, strict=True)]
    for column in range(size):
        if rows[column][column] <= 1e-9 * max(square[column][column], 1e-12):
            rows[column] = [0.0] * (size + 1)
            rows[column][column] = 1.0
        for below in range(column + 1, size):
            part = rows[below][column] / rows[column][column]
            rows[below] = [old - part * one for old, one in zip(rows[below], rows[column], strict=True)]
    found = [0.0] * size
    for column in reversed(range(size)):
        rest = math.fsum(rows[column][other] * found[other] for other in range(column + 1, size))
        found[column] = (rows[column][size] - rest) / rows[column][column]
    return found
