"""The generator in virtual time: queueing theory, coordinated omission, lost requests, bugs of a target."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from load.virtual_targets import (
    Fifo,
    Pause,
    VirtualTarget,
    md1_mean_wait,
    md1_quantile,
    virtually,
)
from tauten.describe.slo import Slo
from tauten.improve.load.arrivals import Arrivals
from tauten.improve.load.bench import Bencher, Side
from tauten.improve.load.figures import in_flight, steady, times
from tauten.improve.load.generator import Generator
from tauten.improve.load.samples import Samples, joined
from tauten.improve.load.schedule import Load
from tauten.improve.load.target import Response
from tauten.statistics import percentile

SERVICE_S = 0.01


def run(load: Load, make: Any, **options: Any) -> Samples:
    """One load in virtual time against ``make(clock)``."""

    async def main(clock: Any) -> Samples:
        generator = Generator(make(clock), [None], clock=clock, **options)
        if load.clients:
            order = [0] * (load.requests or 1)
            return await generator.closed_loop(load.clients, order, duration_s=load.duration_s)
        return await generator.open_loop(load.schedule(1))

    found: Samples = virtually(main)
    return found


def latencies(samples: Samples) -> list[float]:
    return [sample.latency for sample in samples.measured]


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_latencies_of_md1_are_those_of_theory(load: float) -> None:
    rate = load / SERVICE_S
    found = latencies(
        run(Load(rate_per_s=rate, requests=10_000, seed=7), lambda clock: Fifo(clock, SERVICE_S))
    )
    mean = math.fsum(found) / len(found)
    assert mean - SERVICE_S == pytest.approx(md1_mean_wait(rate, SERVICE_S), rel=0.1)
    for q in (0.5, 0.95, 0.99):
        assert percentile(found, q) == pytest.approx(md1_quantile(q, rate, SERVICE_S), rel=0.1)


# -- coordinated omission: the self-test ---------------------------------------------------------------------

STALLS = Load(arrivals=Arrivals(kind="constant"), rate_per_s=100.0, duration_s=100.0, warm_up_s=0.0)


def test_an_open_loop_sees_the_pauses() -> None:
    """1 s of every 10 stands still at 100 requests a second: p90 is 0.1 s, p99 0.9 s, p99.9 0.99 s."""
    found = run(STALLS, Pause)
    assert len(found.measured) == 10_001
    shown = [percentile(latencies(found), q) for q in (0.5, 0.95, 0.99, 0.999)]
    assert shown == pytest.approx([0.001, 0.5, 0.9, 0.99], abs=0.03)
    assert max(sample.lag for sample in found.measured) < 1e-6
    assert {sample.outcome for sample in found.measured} == {"ok"}


def test_poisson_arrivals_see_them_too() -> None:
    found = run(Load(rate_per_s=100.0, duration_s=100.0, seed=1), Pause)
    assert percentile(latencies(found), 0.99) == pytest.approx(0.9, abs=0.03)


def test_a_closed_loop_does_not_see_them() -> None:
    """One client: 2 of 18,000 requests met a pause, and p99.9 is the service time."""
    found = run(Load(clients=1, duration_s=20.0), Pause)
    shown = [percentile(latencies(found), q) for q in (0.5, 0.99, 0.999)]
    assert shown == pytest.approx([0.001, 0.001, 0.001], abs=1e-6)
    assert max(latencies(found)) == pytest.approx(1.001, abs=0.002)


# -- nothing is skipped, nothing is moved --------------------------------------------------------------------


class Blocking(VirtualTarget):
    """Keeps the event loop busy for 0.5 s at its tenth request: the generator itself stands still."""

    def __init__(self, clock: Any) -> None:
        self.loop = asyncio.get_running_loop()
        self.count = 0

    async def send(self, prepared: Any, budget_s: float) -> Response:
        self.count += 1
        if self.count == 10:
            self.loop.now += 0.5  # type: ignore[attr-defined]
        await asyncio.sleep(0.001)
        return Response()


def test_a_late_send_counts_from_when_it_was_due() -> None:
    load = Load(arrivals=Arrivals(kind="constant"), rate_per_s=100.0, requests=200, warm_up_s=0.0)
    found = run(load, Blocking)
    assert len(found.measured) == 200
    assert [sample.due for sample in found.measured] == pytest.approx([n / 100 for n in range(200)])
    late = [sample for sample in found.measured if sample.lag > 1e-6]
    assert len(late) == 49  # due from 0.10 to 0.58, while it stood still
    assert max(sample.lag for sample in late) == pytest.approx(0.49, abs=0.011)
    for sample in late:
        assert sample.latency == pytest.approx(sample.lag + sample.service)


def test_the_generator_gives_up_in_time_and_counts_it() -> None:
    class Never(VirtualTarget):
        def __init__(self, clock: Any) -> None:
            self.running = 0

        async def send(self, prepared: Any, budget_s: float) -> Response:
            await asyncio.sleep(math.inf if self.running else 0.01)
            return Response()

        def zombies(self) -> int | None:
            return self.running

    class Half(Never):
        async def send(self, prepared: Any, budget_s: float) -> Response:
            self.running += 1
            if self.running % 2:
                await asyncio.Event().wait()
            return Response()

    found = run(Load(rate_per_s=10.0, requests=100, warm_up_s=0.0), Half, timeout_s=2.0)
    assert found.count("timed_out") == 50
    assert found.count("ok") == 50
    assert sum(sample.lost for sample in found.measured) == 50
    assert found.zombies == 100  # what this target says is running
    ends = [sample.end - sample.due for sample in found.measured if not sample.good]
    assert ends == pytest.approx([2.0] * 50)
    assert sum(math.isinf(value) for value in latencies(found)) == 50


def test_work_that_will_not_stop_is_lost_and_does_not_hang_the_run() -> None:
    class Deaf(VirtualTarget):
        def __init__(self, clock: Any) -> None:
            self.asked = 0

        async def send(self, prepared: Any, budget_s: float) -> Response:
            while self.asked < 3:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    self.asked += 1
            return Response()

    found = run(Load(rate_per_s=10.0, requests=1, warm_up_s=0.0), Deaf, timeout_s=1.0)
    assert [(sample.outcome, sample.lost) for sample in found.measured] == [("timed_out", True)]


def test_the_deadline_is_told_and_shrinks_with_the_lag() -> None:
    class Told(VirtualTarget):
        def __init__(self, clock: Any) -> None:
            self.budgets: list[float] = told

        async def send(self, prepared: Any, budget_s: float) -> Response:
            self.budgets.append(budget_s)
            return Response()

    told: list[float] = []
    run(Load(rate_per_s=10.0, requests=3, warm_up_s=0.0), Told, deadline_s=0.8)
    assert told == pytest.approx([0.8] * 3)


def test_a_bug_of_a_target_ends_the_run_with_its_error() -> None:
    class Broken(VirtualTarget):
        def __init__(self, clock: Any) -> None: ...

        async def send(self, prepared: Any, budget_s: float) -> Response:
            raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        run(Load(rate_per_s=10.0, requests=100), Broken)


def test_streams_have_a_first_output_and_gaps() -> None:
    class Stream(VirtualTarget):
        def __init__(self, clock: Any) -> None:
            self.clock = clock

        async def send(self, prepared: Any, budget_s: float) -> Response:
            outputs = []
            for wait_s in (0.2, 0.03, 0.05):
                await asyncio.sleep(wait_s)
                outputs.append(self.clock())
            return Response(outputs=tuple(outputs), tokens=7)

    found = run(Load(rate_per_s=5.0, requests=20, warm_up_s=0.0), Stream)
    assert [sample.first_output for sample in found.measured] == pytest.approx([0.2] * 20)
    assert latencies(found) == pytest.approx([0.28] * 20)
    assert sorted(found.gaps) == pytest.approx([0.03] * 20 + [0.05] * 20)
    assert sum(sample.tokens for sample in found.measured) == 140


def test_a_run_can_be_stopped_early() -> None:
    load = Load(arrivals=Arrivals(kind="constant"), rate_per_s=100.0, requests=1000, warm_up_s=0.0)
    found = run(load, Pause, stop=lambda sample: sample.due > 3.0)
    assert found.stopped_early
    assert 295 <= len(found.measured) <= 305
    assert found.errors == {}


def test_a_closed_loop_sends_each_request_once() -> None:
    found = run(Load(clients=4, requests=100, duration_s=0.0), lambda clock: Fifo(clock, SERVICE_S))
    assert len(found.measured) == 90
    assert len(found.warm_up) == 10
    assert latencies(found) == pytest.approx([4 * SERVICE_S] * 90)
    assert len(found.measured) / found.window_s == pytest.approx(100.0, rel=0.05)


@pytest.mark.parametrize(("warm_up_s", "warm"), [(0.0, 0), (2.0, 200), (-1.0, 11)])
def test_a_closed_loop_measures_as_many_as_were_asked_for(warm_up_s: float, warm: int) -> None:
    """After as long a warm-up as was asked for; the target answers a hundred a second."""

    async def main(clock: Any) -> Samples:
        side = Side("one", Fifo(clock, SERVICE_S), [None])
        load = Load(clients=4, requests=100, warm_up_s=warm_up_s)
        return (await Bencher([side], slo=Slo(), clock=clock).once(side, load))[0]

    found: Samples = virtually(main)
    assert len(found.measured) == 100
    assert len(found.warm_up) == pytest.approx(warm, abs=4 if warm > 100 else 0)
    assert found.window_s == pytest.approx(1.0, abs=0.05)
    assert min(sample.due for sample in found.measured) == 0.0


# -- steady state --------------------------------------------------------------------------------------------


def test_an_overloaded_server_is_saturated() -> None:
    found = run(Load(rate_per_s=130.0, duration_s=20.0), lambda clock: Fifo(clock, SERVICE_S))
    state = steady(found)
    assert state.tested
    assert state.saturated
    assert state.in_flight_per_s == pytest.approx(30.0, rel=0.3)


@pytest.mark.parametrize("seed", range(8))
def test_a_server_with_room_is_not(seed: int) -> None:
    found = run(Load(rate_per_s=70.0, duration_s=30.0, seed=seed), lambda clock: Fifo(clock, SERVICE_S))
    assert steady(found).tested
    assert not steady(found).saturated


def test_littles_law_holds() -> None:
    found = run(Load(rate_per_s=70.0, duration_s=60.0, seed=1), lambda clock: Fifo(clock, SERVICE_S))
    flying = math.fsum(in_flight(found, 12)) / 12
    wait = math.fsum(latencies(found)) / len(found.measured)
    assert flying == pytest.approx(len(found.measured) / found.window_s * wait, rel=0.02)


def test_rounds_are_joined_and_not_averaged() -> None:
    one = run(Load(rate_per_s=20.0, requests=100), lambda clock: Fifo(clock, 0.001))
    two = run(Load(rate_per_s=20.0, requests=300), lambda clock: Fifo(clock, 0.1))
    both = joined([one, two])
    assert len(both.measured) == 400
    assert both.window_s == pytest.approx(one.window_s + two.window_s)
    assert latencies(both) == pytest.approx(latencies(one) + latencies(two))
    table = times(latencies(both))
    assert table is not None
    assert table.at(0.5).ms == pytest.approx(percentile(latencies(one) + latencies(two), 0.5) * 1e3, abs=1e-3)
