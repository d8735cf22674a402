"""Runs loads against targets: rates, rounds and plans in turn, on the same schedules, and the search."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import gc
import math
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from tauten.clock import Clock, real
from tauten.describe.slo import Slo
from tauten.errors import InputError
from tauten.explain.figures import figure
from tauten.improve.load.figures import judged, misses_of, times
from tauten.improve.load.generator import Generator, Stop
from tauten.improve.load.meter import Costs, Meter, generator_cost_s
from tauten.improve.load.mistaken import Mistaken
from tauten.improve.load.result import Comparison, Run, result
from tauten.improve.load.samples import Sample, Samples, joined
from tauten.improve.load.schedule import Load
from tauten.improve.load.search import Found, Trial, find_max_rate
from tauten.improve.load.target import Target
from tauten.statistics import percentile, queries_needed
from tauten.statistics.early_stopping import allowed_misses
from tauten.statistics.trend import mean_interval

Say = Callable[[str], None]

TRIAL_S: Final = 60.0  # what one trial of a search may last, once it is long enough to prove anything
LEAST_TRIAL_S: Final = 10.0  # some collections of garbage, log flushes and bursts of arrivals
TRIAL_LIMITS: Final = 20  # that a trial lasts at least: an overload by the precision of 5 % then misses
FEW_MISSES: Final = 5  # a trial that cannot afford these stops at a rate far below the highest one
MANY_MISSES: Final = 50  # with these to spare a trial finds a rate within some per cent of the highest
PROBES: Final = 12  # requests one after another, to guess the first rate of a search
MOST_CALM_S: Final = 30.0  # a target that is not itself again after so long is tried as it is


class Side(NamedTuple):
    """A target with its name on the screen and its prepared requests."""

    name: str
    target: Target
    items: Sequence[Any]


class Bencher:
    """Runs loads; `pid` is the process of a server whose CPU and memory are to be read.

    On any clock but the real one nothing is metered: virtual time has no CPU. `renew` is asked before each round but
    the first for the same sides anew, where they are to know nothing of what was sent to them before.
    """

    def __init__(
        self,
        sides: Sequence[Side],
        *,
        slo: Slo,
        recorded: Sequence[float] = (),
        clock: Clock = real,
        timeout_s: float = 60.0,
        deadline_s: float = math.inf,
        pid: int = 0,
        max_errors: float = 0.0,
        renew: Callable[[], Awaitable[Sequence[Side]]] | None = None,
        say: Say = lambda text: None,
    ) -> None:
        self.sides, self.slo, self.recorded, self.clock = sides, slo, recorded, clock
        self.timeout_s, self.deadline_s, self.pid = timeout_s, deadline_s, pid
        self.max_errors, self.renew, self.say = max_errors, renew, say
        self._cost_s: float | None = None

    async def runs(self, load: Load, rates: Sequence[float] = (), rounds: int = 1) -> list[list[Run]]:
        """One list of runs a rate, a run a side. Within a round all sides get the same schedule, in an
        order that is shuffled anew each round, so that drift of the machine favours none."""
        self.rounds: list[list[list[Samples]]] = []
        found = []
        for rate in rates or (load.rate_per_s,):
            at_rate = replace(load, rate_per_s=rate)
            samples, costs = await self._rounds(at_rate, rounds)
            self.rounds.append(samples)
            found.append(
                [self._run(place, at_rate, samples[place], costs[place]) for place in range(len(samples))]
            )
        return found

    async def _rounds(self, load: Load, rounds: int) -> tuple[list[list[Samples]], list[list[Costs]]]:
        samples: list[list[Samples]] = [[] for _ in self.sides]
        costs: list[list[Costs]] = [[] for _ in self.sides]
        shuffle = random.Random(load.seed)
        for turn in range(rounds):
            if turn and self.renew is not None:
                self.sides = await self.renew()
            order = list(range(len(self.sides)))
            shuffle.shuffle(order)
            for place in order:
                side = self.sides[place]
                which = f", round {turn + 1} of {rounds}" if rounds > 1 else ""
                self.say(f"{side.name}: {_words(load)}{which}")
                one, cost = await self.once(side, load, turn=turn)
                samples[place].append(one)
                costs[place].append(cost)
        return samples, costs

    def _run(self, place: int, load: Load, samples: list[Samples], costs: list[Costs]) -> Run:
        side = self.sides[place]
        return result(
            joined(samples) if len(samples) > 1 else samples[0],
            load,
            self.slo,
            plan=side.name,
            costs=_merged(costs, samples),
            shared_loop=side.target.shares_loop,
            rounds=len(samples),
            max_errors=self.max_errors,
            timeout_s=min(self.timeout_s, self.deadline_s),
        )

    async def once(
        self, side: Side, load: Load, *, turn: int = 0, stop: Stop | None = None
    ) -> tuple[Samples, Costs]:
        """One side under one load, metered; raises InputError where every request is wrong in itself."""
        mistaken = Mistaken(stop)
        generator = Generator(
            side.target,
            side.items,
            clock=self.clock,
            timeout_s=self.timeout_s,
            deadline_s=self.deadline_s,
            stop=mistaken,
        )
        if self.clock is not real:
            samples = await self._generate(generator, side, load, turn)
            mistaken.check(samples)
            return samples, Costs()
        if side.target.shares_loop and self._cost_s is None:
            self._cost_s = await generator_cost_s()
        cost_s = self._cost_s if side.target.shares_loop else None
        with _unmoved_garbage(not side.target.shares_loop):
            async with Meter(pid=self.pid, cost_s=cost_s) as meter:
                samples = await self._generate(generator, side, load, turn)
                meter.sent = len(samples.measured) + len(samples.warm_up)
        mistaken.check(samples)
        return samples, meter.costs

    async def _generate(self, generator: Generator, side: Side, load: Load, turn: int) -> Samples:
        count = len(side.items)
        if not load.clients:
            return await generator.open_loop(load.schedule(count, self.recorded, turn=turn))
        duration_s, warm_up_s, asked = load.duration_s, load.warm_up_s, load.requests
        if asked:
            duration_s = 0.0
            asked = asked * 10 // 9 if warm_up_s < 0 else asked  # the first tenth of them warms up
        elif warm_up_s < 0:
            warm_up_s = 0.1 * duration_s
        order = [place % count for place in range(asked or count)]
        return await generator.closed_loop(load.clients, order, duration_s=duration_s, warm_up_s=warm_up_s)

    # -- the search -------------------------------------------------------------------------------------------

    async def max_rate(self, load: Load, *, start: float = 0.0) -> tuple[Found, Run | None]:
        """The highest rate at which the first side holds the SLO, and the run that confirmed it."""
        limits = judged(self.slo)
        if not limits:
            raise InputError("no SLO to hold", help='give --slo "p95<800ms"', code="E260")
        side = self.sides[0]
        last: dict[int, Run] = {}
        alone_s, in_time = await self._alone_s(side)

        async def attempt(rate: float, seed: int) -> Trial:
            n = trial_size(rate, limits, load.requests)
            at_rate = replace(load, rate_per_s=rate, requests=n, seed=seed)
            self.say(f"{side.name}: {_words(at_rate)}")
            stop = hopeless(self.slo, n)
            samples, costs = await self.once(side, at_rate, stop=stop)
            run = self._run(0, at_rate, [samples], [costs])
            last[seed] = run
            if run.answer != "met" and in_time:
                await self._calm(side, alone_s)
            return _trial(run, seed)

        start = start or 0.5 / max(alone_s, 1e-6)  # half of what one client gets, whatever runs in parallel
        found = await find_max_rate(attempt, start=start, seed=load.seed)
        return found, last.get(found.trials[-1].seed) if found.rate_per_s else None

    async def _alone_s(self, side: Side) -> tuple[float, bool]:
        """The median time of one request with nobody else there, and whether that was in time for an answer.

        Raises InputError when none is answered for a reason of its own.
        """
        self.say(f"{side.name}: {PROBES} requests one after another")
        samples, _ = await self.once(side, Load(clients=1, requests=PROBES))
        good = [sample.service for sample in samples.measured if sample.good]
        late = [sample.service for sample in samples.measured if sample.outcome in ("refused", "timed_out")]
        if not (good or late):
            raise InputError(
                f"not one of {len(samples.measured)} requests was answered: {samples.first_error()}",
                help="send one with `tauten run` or curl, and mend that first",
                code="E260",
            )
        return percentile(good or late, 0.5), bool(good)

    async def _calm(self, side: Side, alone_s: float) -> None:
        """Wait until what an overloading trial left behind is done: a lone request is fast again."""
        until = self.clock() + MOST_CALM_S
        while self.clock() < until:
            samples, _ = await self.once(side, Load(clients=1, requests=2))
            if all(sample.good and sample.service <= 2 * alone_s for sample in samples.measured):
                return


def trial_size(rate: float, limits: Mapping[float, Mapping[str, float]], asked: int = 0) -> int:
    """Requests of one trial: a minute's worth within what proves the strictest percentile, or as many as
    were asked for; and always enough to last while a queue that grows would pass the limits."""
    strictest = max(limits)
    few, many = queries_needed(strictest, FEW_MISSES), queries_needed(strictest, MANY_MISSES)
    longest_s = max(limit for each in limits.values() for limit in each.values()) / 1e3
    least = rate * max(LEAST_TRIAL_S, TRIAL_LIMITS * longest_s)
    return math.ceil(max(asked or min(max(few, rate * TRIAL_S), many), least))


def hopeless(slo: Slo, n: int) -> Stop:
    """Ends a run of n requests when its misses cannot prove the SLO any more, however the rest would end."""
    limits = judged(slo)
    left = {q: allowed_misses(n, q) for q in limits}

    def stop(sample: Sample) -> bool:
        if sample.due < 0:
            return False
        for q, each in limits.items():
            left[q] -= misses_of(sample, each)
        return any(count < 0 for count in left.values())

    return stop


def _trial(run: Run, seed: int) -> Trial:
    shown = {each.q: each.ms for each in run.latency.quantiles} if run.latency else {}
    answer = "missed" if run.stopped_early and run.answer != "void" else run.answer
    return Trial(
        rate_per_s=run.rate_per_s,
        seed=seed,
        answer=answer,
        n=run.requests.sent,
        misses=max((part.misses for part in run.parts), default=0),
        p50_ms=shown.get(0.5),
        p95_ms=shown.get(0.95),
        p99_ms=shown.get(0.99),
        stopped_early=run.stopped_early,
    )


def _words(load: Load) -> str:
    if load.clients:
        return f"{load.clients} clients in a closed loop"
    length = f"{load.requests} requests" if load.requests else f"{load.duration_s:g} s"
    return f"{figure(load.rate_per_s)}/s {load.arrivals.kind}, {length}"


# -- two plans -----------------------------------------------------------------------------------------------


def compared(a: Sequence[Samples], b: Sequence[Samples]) -> list[Comparison]:
    """p50, p95 and p99 of b minus a, paired by round: a round is one independent observation."""
    found = []
    pooled = [times([s.latency for each in side for s in each.measured]) for side in (a, b)]
    for q in (0.5, 0.95, 0.99):
        each = [(_percentile(one, q), _percentile(other, q)) for one, other in zip(a, b, strict=True)]
        differences = [later - earlier for earlier, later in each]
        finite = all(math.isfinite(value) for pair in each for value in pair)
        interval = mean_interval(differences) if finite else None
        left, right = (table.at(q).ms if table else None for table in pooled)
        found.append(
            Comparison(
                q=q,
                a_ms=left,
                b_ms=right,
                diff_ms=interval.mid * 1e3 if interval else None,
                low_ms=interval.low * 1e3 if interval else None,
                high_ms=interval.high * 1e3 if interval else None,
            )
        )
    return found


def _percentile(samples: Samples, q: float) -> float:
    return percentile([sample.latency for sample in samples.measured], q) if samples.measured else math.inf


def _merged(costs: Sequence[Costs], samples: Sequence[Samples]) -> Costs:
    """Cores averaged by the length of the rounds; the memory of the last one, which saw all the others."""
    weights = [max(each.window_s, 1e-9) for each in samples]

    def mean(name: str) -> float | None:
        values = [getattr(each, name) for each in costs]
        if any(value is None for value in values):
            return None
        return math.fsum(v * w for v, w in zip(values, weights, strict=True)) / math.fsum(weights)

    return Costs(
        generator_cores=mean("generator_cores"),
        target_cores=mean("target_cores"),
        other_cores=mean("other_cores"),
        starved=mean("starved"),
        memory=costs[-1].memory,
    )


@contextmanager
def _unmoved_garbage(own_process: bool) -> Iterator[None]:
    """What is there before the run is no garbage of it: looking through it again would make sends late."""
    if not own_process:
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
