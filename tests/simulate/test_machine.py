"""Work side by side takes as long as equal parts of a machine allow."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import random

import pytest

from tauten.clock import run_virtual
from tauten.improve.simulate.machine import Machine, Shared, filled, shared_of
from tauten.plan.hardware import Hardware
from tauten.plan.peaks import CoRun, Peaks


async def ended(machine: Machine, *jobs: tuple[float, float, int, float]) -> list[float]:
    """When each of (starts, seconds, threads, memory) ends."""
    loop = asyncio.get_running_loop()
    begun = loop.time()

    async def one(starts: float, seconds: float, threads: int, memory: float) -> float:
        await asyncio.sleep(starts)
        await machine.work(seconds, threads, memory)
        return loop.time() - begun

    return list(await asyncio.gather(*(one(*job) for job in jobs)))


def times(shared: Shared, *jobs: tuple[float, float, int, float]) -> list[float]:
    found: list[float] = run_virtual(ended(Machine(shared), *jobs))
    return found


TWO = Shared(cores=2)


def test_alone_it_takes_what_it_takes() -> None:
    assert times(TWO, (0.0, 0.5, 1, 0.0)) == pytest.approx([0.5])
    assert times(TWO, (0.0, 0.5, 2, 1.0)) == pytest.approx([0.5])
    assert times(TWO, (0.0, 0.5, 8, 0.0)) == pytest.approx([0.5]), "more threads than cores were measured so"


def test_two_of_one_thread_do_not_meet_on_two_cores() -> None:
    assert times(TWO, (0.0, 0.5, 1, 0.0), (0.1, 0.5, 1, 0.0)) == pytest.approx([0.5, 0.6])


def test_two_of_two_threads_share_and_the_first_is_done_first() -> None:
    # 0.1 s alone, then halves: 0.4 s left take 0.8 s; the other has had 0.4 s of its 0.5 by then
    assert times(TWO, (0.0, 0.5, 2, 0.0), (0.1, 0.5, 2, 0.0)) == pytest.approx([0.9, 1.0])


def test_who_leaves_gives_its_part_back() -> None:
    assert times(TWO, (0.0, 1.0, 2, 0.0), (0.0, 0.1, 2, 0.0)) == pytest.approx([1.1, 0.2])


def test_being_interrupted_costs_more_than_the_part_that_is_lost() -> None:
    shared = Shared(cores=2, interrupted=1.5)
    assert times(shared, (0.0, 0.5, 2, 0.0), (0.0, 0.5, 2, 0.0)) == pytest.approx([1.5, 1.5])
    assert times(shared, (0.0, 0.5, 1, 0.0), (0.0, 0.5, 1, 0.0)) == pytest.approx([0.5, 0.5])


def test_memory_is_shared_by_those_who_wait_for_it() -> None:
    shared = Shared(cores=2, crowded=1.8)
    assert times(shared, (0.0, 0.5, 1, 1.0), (0.0, 0.5, 1, 1.0)) == pytest.approx([0.9, 0.9])
    assert times(shared, (0.0, 0.5, 1, 1.0), (0.0, 0.5, 1, 0.0)) == pytest.approx([0.5, 0.5])
    half = times(shared, (0.0, 0.5, 1, 0.75), (0.0, 0.5, 1, 0.75))
    assert half[0] == pytest.approx(0.5 * (0.25 + 0.75 * 1.4))


def test_a_job_whose_own_threads_crowded_one_another_was_measured_so() -> None:
    """Two threads that both live from memory took what they took: another that computes beside them adds nothing to that
    but its part of the cores."""
    shared = Shared(cores=3, crowded=1.8)
    assert times(shared, (0.0, 0.5, 2, 1.0), (0.0, 0.5, 1, 0.0)) == pytest.approx([0.5, 0.5])
    both = times(shared, (0.0, 0.5, 2, 1.0), (0.0, 0.5, 1, 1.0))
    assert both[0] == pytest.approx(0.5 * 2.6 / 1.8), "three that wait instead of two"


# -- runs that are bound to processors -------------------------------------------------------------------------


def bound(shared: Shared, *jobs: tuple[float, int, frozenset[int]]) -> list[float]:
    """When each of (seconds, threads, processors) ends; all begin at once."""

    async def main() -> list[float]:
        machine, loop = Machine(shared), asyncio.get_running_loop()
        ends: dict[int, float] = {}
        for place, (seconds, threads, on) in enumerate(jobs):
            machine.begin(
                seconds, lambda place=place: ends.setdefault(place, loop.time()), threads, 0.0, None, on
            )
        while machine.busy:
            await asyncio.sleep(0.01)
        spent = sum(seconds * threads for seconds, threads, _ in jobs) * shared.interrupted
        assert machine.core_seconds == pytest.approx(spent)
        return [ends[place] for place in range(len(jobs))]

    found: list[float] = run_virtual(main())
    return found


FIRST, SECOND, BOTH = frozenset({4}), frozenset({6}), frozenset({4, 6})


def test_runs_on_processors_of_their_own_do_not_meet() -> None:
    assert bound(TWO, (0.5, 1, FIRST), (0.5, 1, SECOND)) == pytest.approx([0.5, 0.5])
    assert bound(TWO, (0.5, 1, FIRST), (0.5, 1, FIRST)) == pytest.approx([1.0, 1.0])


def test_what_is_not_bound_goes_where_there_is_room() -> None:
    assert bound(TWO, (0.5, 1, FIRST), (0.5, 1, frozenset())) == pytest.approx([0.5, 0.5])
    assert bound(Shared(cores=4), (0.5, 2, BOTH), (0.5, 2, frozenset())) == pytest.approx([0.5, 0.5])
    # three threads on two: everybody has two thirds
    assert bound(TWO, (0.5, 1, FIRST), (0.5, 2, frozenset())) == pytest.approx([0.75, 0.75])


def test_bound_runs_are_as_slow_as_their_fullest_processor() -> None:
    found = bound(TWO, (0.5, 1, FIRST), (0.5, 2, BOTH))
    assert found == pytest.approx([1.0, 1.0]), "the second waits for its thread on the shared one, too"


def test_interruptions_cost_bound_runs_as_they_cost_others() -> None:
    shared = Shared(cores=2, interrupted=1.5)
    assert bound(shared, (0.5, 2, BOTH), (0.5, 2, BOTH)) == pytest.approx([1.5, 1.5])


def test_fewer_processors_than_threads_take_longer() -> None:
    async def main() -> float:
        machine, loop = Machine(TWO), asyncio.get_running_loop()
        machine.begin(0.5, lambda: None, 2, 0.0, None, FIRST)
        while machine.busy:
            await asyncio.sleep(0.001)
        return loop.time()

    assert run_virtual(main()) == pytest.approx(1.0, abs=0.002)


def test_processors_are_filled_evenly_from_the_emptiest_on() -> None:
    assert filled([0.0, 0.0, 2.0], 1.0) == 0.5
    assert filled([0.0, 0.0, 2.0], 7.0) == pytest.approx(3.0)
    assert filled([1.0, 1.0], 0.0) == 0.0


def test_one_that_is_stopped_gives_its_part_back() -> None:
    async def main() -> float:
        machine, loop = Machine(TWO), asyncio.get_running_loop()
        other = asyncio.ensure_future(machine.work(1.0, 2))
        stays = asyncio.ensure_future(machine.work(0.5, 2))
        await asyncio.sleep(0.2)
        other.cancel()
        await stays
        assert machine.busy == 0
        return loop.time()

    assert run_virtual(main()) == pytest.approx(0.2 + 0.4)


def test_nothing_is_lost_or_made_however_jobs_come() -> None:
    draws = random.Random(7)
    jobs = [(draws.random() * 3, draws.random(), 1, 0.0) for _ in range(200)]
    machine = Machine(Shared(cores=1))
    ends = run_virtual(ended(machine, *jobs))
    assert machine.core_seconds == pytest.approx(sum(seconds for _, seconds, _, _ in jobs))
    assert max(ends) >= machine.core_seconds, "one core cannot give more"
    assert all(
        end >= starts + seconds - 1e-9 for end, (starts, seconds, _, _) in zip(ends, jobs, strict=True)
    )


def peaks(cores: int, *co_run: CoRun) -> Peaks:
    return Peaks(Hardware(cores), co_run=co_run)


def test_a_simulated_machine_slows_jobs_as_the_measured_one_did() -> None:
    """Two jobs of each kind that was measured take, side by side, as many times longer as they were measured to."""
    seen = peaks(4, CoRun("compute", "compute", 4, 2.6), CoRun("memory", "memory", 1, 1.7))
    shared = shared_of(seen)
    assert times(shared, *[(0.0, 0.5, 4, 0.0)] * 2) == pytest.approx([0.5 * 2.6] * 2)
    assert times(shared, *[(0.0, 0.5, 1, 1.0)] * 2) == pytest.approx([0.5 * 1.7] * 2)
    assert times(shared, *[(0.0, 0.5, 1, 0.0)] * 2) == pytest.approx([0.5] * 2)


def test_what_was_not_measured_costs_nothing_and_noise_makes_nothing_faster() -> None:
    assert shared_of(peaks(2)) == Shared(cores=2)
    lucky = peaks(2, CoRun("compute", "compute", 2, 1.9), CoRun("memory", "memory", 1, 0.97))
    assert shared_of(lucky) == Shared(cores=2)


def test_on_one_core_jobs_only_take_turns() -> None:
    seen = peaks(1, CoRun("compute", "compute", 1, 2.1), CoRun("memory", "memory", 1, 2.4))
    assert shared_of(seen) == Shared(cores=1)
