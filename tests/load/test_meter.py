"""The meter and the timer: what they read is there, and nothing wakes too early."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest

from tauten.clock import real
from tauten.improve.load.meter import Meter, generator_cost_s
from tauten.improve.load.timer import KernelTimer, LoopTimer, Timer, timer
from tauten.run.ambient import new_loop
from tauten.run.kernel import tree_seconds

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads the books of a Linux kernel")


async def _burn(seconds: float) -> None:
    until = real() + seconds
    while real() < until:
        sum(range(1000))
    await asyncio.sleep(0)


@linux
def test_a_server_is_metered_by_its_process() -> None:
    async def main() -> Meter:
        async with Meter(pid=os.getpid()) as meter:
            await _burn(0.1)
        return meter

    costs = asyncio.run(main()).costs
    assert costs.memory is not None
    assert costs.memory.peak_mb >= costs.memory.start_mb > 1
    assert costs.memory.slope_mb_per_min is None  # too short a line
    assert costs.generator_cores is not None
    assert costs.generator_cores > 0
    assert costs.target_cores is not None
    assert costs.other_cores is not None


@linux
def test_a_server_that_we_started_is_no_generator() -> None:
    program = (
        "import sys, time\nsys.stdin.readline()\nwhile time.process_time() < 0.4: pass\nsys.stdin.read()"
    )

    async def main() -> Meter:
        with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) as child:
            assert child.stdin is not None
            async with Meter(pid=child.pid) as meter:
                child.stdin.write(b"\n")
                child.stdin.flush()
                while (tree_seconds(child.pid) or 0.0) < 0.3:
                    await asyncio.sleep(0.02)
            child.stdin.close()
        return meter

    costs = asyncio.run(main()).costs
    assert costs.generator_cores is not None
    assert costs.target_cores is not None
    assert costs.target_cores > 2 * costs.generator_cores  # 0.2 s or more against some looks at /proc


@linux
def test_on_a_shared_loop_the_generators_part_is_its_known_cost() -> None:
    async def main() -> Meter:
        async with Meter(cost_s=1e-4) as meter:
            await _burn(0.1)
            meter.sent = 10
        return meter

    costs = asyncio.run(main()).costs
    assert costs.generator_cores is not None
    assert costs.target_cores is not None
    assert 0 < costs.generator_cores < costs.target_cores  # 1 ms against what was burned


def test_a_request_costs_the_generator_something() -> None:
    assert 0 < asyncio.run(generator_cost_s()) < 1


@pytest.mark.parametrize("kind", ["kernel", "loop"])
@pytest.mark.parametrize("loop", ["asyncio", "best"])
def test_a_timer_wakes_soon_after_and_can_be_armed_anew(kind: str, loop: str) -> None:
    """A loop's own timer may wake early (uvloop rounds, from a cached time); the generator looks again."""
    if kind == "kernel" and sys.platform != "linux":
        pytest.skip("a timerfd is Linux's")

    async def main() -> list[float]:
        woken: list[float] = []
        rang = asyncio.Event()

        def wake() -> None:
            woken.append(real())
            rang.set()

        one: Timer = KernelTimer(wake) if kind == "kernel" else LoopTimer(real, wake)
        try:
            late: list[float] = []
            for wait_s in (0.003, 0.0, -1.0, 0.0101):
                at = real() + wait_s
                rang.clear()
                one.arm(at)
                await rang.wait()
                late.append(woken[-1] - at)
            return late
        finally:
            one.close()
            one.close()

    with asyncio.Runner(loop_factory=asyncio.new_event_loop if loop == "asyncio" else new_loop) as runner:
        late = runner.run(main())
    assert len(late) == 4
    if kind == "kernel":
        assert min(late) >= 0.0


def test_the_finest_timer_is_chosen() -> None:
    async def main() -> tuple[Timer, Timer]:
        loop = asyncio.get_running_loop()
        found = timer(real, lambda: None), timer(loop.time, lambda: None)
        for each in found:
            each.close()
        return found

    fine, plain = asyncio.run(main())
    assert isinstance(fine, KernelTimer if sys.platform == "linux" else LoopTimer)
    assert isinstance(plain, LoopTimer)
