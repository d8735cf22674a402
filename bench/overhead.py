"""Engine overhead: chains and diamonds of no-op stages, drawn and observed, trace included.

Prints medians of seven interleaved rounds in CPU time of the loop's thread (what other programs on the
machine do is left out) beside the floor: as many bare awaits.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import tauten as tt
from tauten.clock import real
from tauten.plan.plan import Plan
from tauten.run.ambient import run_async
from tauten.run.backends.synthetic import SyntheticBackend
from tauten.run.contracts import ModelSpec
from tauten.run.deploy.deployment import Deployment
from tauten.run.engine import Engine
from tauten.run.request import Request

ROUNDS = 7
REQUESTS = 2000
STAGES = 8
CLIENTS = 8  # beside one another: with a single one the time to wake a sleeping thread is all that is seen
INCREMENTS = 200


@tt.stage(pure=True)
async def noop(x: Any) -> Any:
    return x


@tt.stage(pure=True)
async def both(x: Any, y: Any) -> Any:
    return x


@tt.workflow
def chain(x: Any) -> Any:
    for number in range(STAGES):
        x = noop(x, name=f"s{number}")
    return x


@tt.workflow
def single(x: Any) -> Any:
    return noop(x)


@tt.workflow
def diamond(x: Any) -> Any:
    x = noop(x, name="a")
    return both(noop(x, name="b"), noop(x, name="c"), name="d")


@tt.workflow
async def observed(x: Any) -> Any:
    for _ in range(STAGES):
        x = await noop(x)
    return x


@tt.workflow
async def observed_single(x: Any) -> Any:
    return await noop(x)


@tt.stage(pure=True)
async def counted(x: Any) -> tt.Stream[int]:
    for number in range(INCREMENTS):
        yield number


@tt.stage(pure=True)
async def passed_on(x: tt.Stream[int]) -> tt.Stream[int]:
    async for number in x:
        yield number


@tt.workflow
def one_stream(x: Any) -> Any:
    return counted(x)


@tt.workflow
def two_streams(x: Any) -> Any:
    return passed_on(counted(x))


class Nothing(SyntheticBackend):
    """A model that takes no time, not even that of a sleep."""

    def run(self, items: Sequence[Any]) -> list[Any]:
        return list(items)


async def hop() -> float:
    """Microseconds of the loop's CPU for one item through a deployment of a model that takes no time."""
    spec = ModelSpec("none")
    deployment = Deployment(lambda: Nothing(spec), label="none", clock=real, max_batch=CLIENTS)
    await deployment.open()
    # made before: it is not the hop's
    requests = [Request(real, deadline=real() + 60.0) for _ in range(REQUESTS)]

    async def client() -> None:
        for _ in range(REQUESTS // CLIENTS):
            await deployment.infer(requests.pop(), "s", 1)

    began = time.thread_time()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    taken = time.thread_time() - began
    await deployment.close()
    return taken / REQUESTS * 1e6


async def floor() -> None:
    for _ in range(STAGES):
        await noop.body(1)


async def measure(run: Callable[[], Awaitable[Any]], requests: int = REQUESTS) -> float:
    """Microseconds of this thread's CPU per request."""
    began = time.thread_time()
    for _ in range(requests):
        await run()
    return (time.thread_time() - began) / requests * 1e6


async def main() -> dict[str, float]:
    side_by_side = Plan(name="beside").edit("b", beside=("c",))
    cases = {
        "chain": (chain, None),
        "single": (single, None),
        "diamond in turn": (diamond, None),
        "diamond side by side": (diamond, side_by_side),
        "observed": (observed, None),
        "observed single": (observed_single, None),
        "one stream": (one_stream, None),
        "two streams": (two_streams, None),
    }
    runs: dict[str, Callable[[], Awaitable[Any]]] = {"floor": floor}
    engines = []
    for name, (workflow, plan) in cases.items():
        engine = Engine()
        await engine.open(workflow, plan)
        engines.append(engine)
        runs[name] = lambda engine=engine: engine.run({"x": 1})
    counts = {name: REQUESTS // (INCREMENTS if "stream" in name else 1) for name in runs}
    for name, run in runs.items():
        await measure(run, counts[name])  # warm
    rounds: dict[str, list[float]] = {name: [] for name in [*runs, "hop"]}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            rounds[name].append(await measure(run, counts[name]))
        rounds["hop"].append(await hop())
    for engine in engines:
        await engine.close()
    return {name: statistics.median(values) for name, values in rounds.items()}


def report(us: dict[str, float]) -> dict[str, dict[str, float]]:
    """Figures beside the bounds that the project set itself."""
    per_stage = (us["chain"] - us["single"]) / (STAGES - 1)
    per_observed = (us["observed"] - us["observed single"]) / (STAGES - 1)
    return {
        "drawn, a stage": {"us": per_stage, "bound_us": 3.0},
        "drawn, fixed a request": {"us": us["single"] - per_stage, "bound_us": 15.0},
        "observed, a stage": {"us": per_observed, "bound_us": 6.0},
        "diamond side by side, extra": {
            "us": us["diamond side by side"] - us["diamond in turn"],
            "bound_us": 20.0,
        },
        "a deployment hop": {"us": us["hop"], "bound_us": 15.0},
        "a streaming hop": {
            "us": (us["two streams"] - us["one stream"]) / INCREMENTS,
            "bound_us": 30.0,
        },
        "floor: one bare await": {"us": us["floor"] / STAGES, "bound_us": float("inf")},
    }


if __name__ == "__main__":
    found = report(run_async(main()))
    for row, figures in found.items():
        bound = figures["bound_us"]
        verdict = (
            ""
            if bound == float("inf")
            else f"bound {bound:.0f}   {'ok' if figures['us'] <= bound else 'MISSED'}"
        )
        print(f"{row:<30} {figures['us']:7.2f} us   {verdict}")
    if len(sys.argv) > 1:
        with open(sys.argv[1], "w") as out:
            json.dump(found, out, indent=1, default=str)
