"""Simulated deployments wait as long as queueing theory says that such queues do."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import itertools
import math
import random

import pytest

from tauten.clock import run_virtual
from tauten.improve.simulate.costs import Cost
from tauten.improve.simulate.machine import Machine, Shared
from tauten.improve.simulate.models import TapedDeployments
from tauten.improve.simulate.tape import Event
from tauten.plan.plan import Batch, ModelChoice
from tauten.run.deploy.deployment import Deployment
from tauten.run.request import Request

RUN_S = 0.010
REQUESTS = 60_000  # the mean wait of a queue at 80 % is then known to about one percent
EVENT = Event("model", RUN_S)
THEORY = pytest.mark.slow  # means of queues want a hundred thousand requests: some ten seconds each


Call = tuple[float, float, float]  # when it came, began, ended


async def calls(cost: Cost, choice: ModelChoice, rate: float, seed: int, count: int) -> list[Call]:
    """What became of so many Poisson arrivals, in the order of their ends."""
    loop = asyncio.get_running_loop()
    machine = Machine(Shared(cores=64))
    deployments = TapedDeployments(lambda _: cost, machine, loop.time, seed)
    found = await deployments.take([], choice, {})
    assert isinstance(found, Deployment)
    draws, done, running = random.Random(seed), [], set()

    async def one() -> None:
        request = Request(loop.time)
        await found.infer(request, "model", EVENT)
        call = request.trace.invocations[0]
        done.append((call.asked, call.started, call.ended))

    for _ in range(count):
        await asyncio.sleep(draws.expovariate(rate))
        task = loop.create_task(one())
        running.add(task)
        task.add_done_callback(running.discard)
    while running:
        await asyncio.wait(running)
    await deployments.close()
    return done


def mean_wait(cost: Cost, choice: ModelChoice, rate: float, seeds: int = 3) -> float:
    means = []
    for seed in range(seeds):
        done: list[Call] = run_virtual(calls(cost, choice, rate, seed, REQUESTS))
        waits = [began - came for came, began, _ in done[REQUESTS // 10 :]]
        means.append(sum(waits) / len(waits))
    return sum(means) / len(means)


def choice(replicas: int = 1, most: int = 1) -> ModelChoice:
    return ModelChoice("m", backend="onnx", replicas=replicas, batch=Batch(max=most, wait="off"))


def exponential(mean_s: float, quantiles: int = 40_001) -> Cost:
    """Runs whose length is drawn from an exponential distribution, by its quantiles."""
    ends = [-math.log(1.0 - (index + 0.5) / quantiles) for index in range(quantiles)]
    scale = quantiles / sum(ends)
    return Cost(mean_s, ratios=tuple(each * scale for each in ends))


@THEORY
@pytest.mark.parametrize("load", [0.5, 0.7])
def test_one_server_of_equal_runs(load: float) -> None:
    """M/D/1: Pollaczek and Khinchine's mean wait is load x run / (2 (1 - load))."""
    expected = load * RUN_S / (2 * (1 - load))
    assert mean_wait(Cost(RUN_S), choice(), load / RUN_S) == pytest.approx(expected, rel=0.03)


def erlang_c(servers: int, offered: float) -> float:
    """The chance to wait at all where all servers are alike (Erlang 1917)."""
    terms = [offered**k / math.factorial(k) for k in range(servers)]
    last = offered**servers / math.factorial(servers) * servers / (servers - offered)
    return last / (sum(terms) + last)


@THEORY
@pytest.mark.parametrize(("servers", "load"), [(1, 0.5), (3, 0.6)])
def test_several_servers_of_unequal_runs(servers: int, load: float) -> None:
    """M/M/c: the mean wait is Erlang's chance to wait, times run / (c - offered load)."""
    offered = servers * load
    expected = erlang_c(servers, offered) * RUN_S / (servers - offered)
    found = mean_wait(exponential(RUN_S), choice(servers), offered / RUN_S, seeds=5)
    assert found == pytest.approx(expected, rel=0.03)


def bulk_wait(most: int, rate: float, run_s: float) -> float:
    """M/D/1 where a run takes all who wait, up to `most` (Bailey 1954, but a lone one does not wait for more).

    The chain of the numbers that wait as a run ends gives the mean number that waits, and by Little's law the wait.
    """
    size = 60 * most
    come = [math.exp(-rate * run_s)]
    for k in range(1, size):
        come.append(come[-1] * rate * run_s / k)
    chance = [1.0] + [0.0] * (size - 1)
    for _ in range(4000):
        new = [0.0] * size
        for left, share in enumerate(chance):
            if share < 1e-13:
                continue
            start = max(0, left - most)  # those who are taken, one comes first where nobody waits
            for k, part in enumerate(come):
                if start + k < size:
                    new[start + k] += share * part
                if part < 1e-15 and k > rate * run_s:
                    break
        if max(map(abs, map(float.__sub__, new, chance))) < 1e-12:
            chance = new
            break
        chance = new
    # over a cycle: after a run's end those beyond the batch wait the whole next run, who comes in it half of it
    cycle_s = run_s + chance[0] / rate
    behind = sum(share * max(0, left - most) for left, share in enumerate(chance))
    waited = behind * run_s + rate * run_s * run_s / 2
    return waited / cycle_s / rate


@THEORY
@pytest.mark.parametrize(("most", "load"), [(4, 0.6), (8, 0.7)])
def test_a_server_that_takes_all_who_wait(most: int, load: float) -> None:
    rate = load * most / RUN_S
    found = mean_wait(Cost(RUN_S), choice(most=most), rate)
    assert found == pytest.approx(bulk_wait(most, rate, RUN_S), rel=0.03)


@pytest.mark.parametrize("servers", [1, 3])
def test_each_waits_until_the_first_server_is_free(servers: int) -> None:
    """Lindley's recursion (1952), with Kiefer and Wolfowitz's vector (1955) for several servers: not a mean, each."""
    done: list[Call] = run_virtual(calls(exponential(RUN_S), choice(servers), 0.8 * servers / RUN_S, 7, 2000))
    free = [0.0] * servers
    for came, began, ended in sorted(done):
        first = min(range(servers), key=free.__getitem__)
        assert began == pytest.approx(max(came, free[first]), abs=1e-6)
        free[first] = ended


def test_a_run_takes_all_who_wait() -> None:
    done: list[Call] = run_virtual(calls(Cost(RUN_S), choice(most=8), 6.0 / RUN_S, 7, 2000))
    runs: dict[float, list[float]] = {}
    for came, began, _ in done:
        runs.setdefault(began, []).append(came)
    begins = sorted(runs)
    assert max(map(len, runs.values())) == 8
    for before, began in itertools.pairwise(begins):
        assert began >= before + RUN_S - 1e-9
        left = [came for came, _, _ in done if came < began - 1e-9] and len(runs[began]) < 8
        if left:
            assert not [came for came, start, _ in done if came < began - 1e-9 and start > began + 1e-9]


def test_the_same_seed_gives_the_same_waits() -> None:
    first, second = (run_virtual(calls(exponential(RUN_S), choice(2), 150.0, 7, 500)) for _ in range(2))
    assert first == second
