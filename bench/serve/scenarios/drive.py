"""Load on a server of ours and what came of it: schedules made beforehand, requests that are all different."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import numpy as np
from bench.ground import figures
from bench.serve.models import INPUT, SHAPES
from bench.serve.scenarios.light import LightTarget

from tauten.describe.payload import Payload, Tensor, Text
from tauten.improve.load.generator import Generator
from tauten.improve.load.http import HttpClient
from tauten.improve.load.samples import Sample, Samples
from tauten.improve.load.schedule import Schedule
from tauten.improve.load.target import Target
from tauten.improve.load.targets.native import NativeTarget
from tauten.improve.load.targets.oip import OipTarget
from tauten.statistics import percentile

T = TypeVar("T")
Inputs = dict[str, Payload]


def texts() -> Iterator[Inputs]:
    """Requests that differ, so that none shares another's computation."""
    return ({"text": Text(f"request {number}")} for number in itertools.count())


def rows(model: str) -> Iterator[Inputs]:
    """Random rows of a model; comparing tensors is not what is measured, so a hundred are enough."""
    draws = np.random.default_rng(7)
    few = [{INPUT: Tensor(draws.random((1, SHAPES[model].input_size), dtype=np.float32))} for _ in range(100)]
    return itertools.cycle(few)


def workflow_target(url: str, name: str, *, stream: bool = False) -> Target:
    target = NativeTarget(HttpClient(f"{url}/v1/workflows/{name}"), stream=stream)
    return target if stream else LightTarget(target)


def model_target(url: str, name: str) -> Target:
    return LightTarget(OipTarget(HttpClient(f"{url}/v2/models/{name}")))


class Driver:
    """One target with an endless supply of requests. `deadline_s` is told to the server and is the SLO."""

    def __init__(self, target: Target, inputs: Iterator[Inputs], deadline_s: float, seed: int) -> None:
        self.target, self.inputs, self.deadline_s, self.seed = target, inputs, deadline_s, seed
        self.sent: Counter[str] = Counter()  # how all requests of this driver ended

    def _items(self, count: int) -> list[Any]:
        return [self.target.prepare(each) for each in itertools.islice(self.inputs, count)]

    async def open_loop(self, due: Sequence[float], window_s: float) -> Samples:
        """Send at these times; each request is given up long after its deadline, which then is a loss."""
        schedule = Schedule(list(due), list(range(len(due))), window_s, 0.0)
        patience_s = 10.0 if math.isinf(self.deadline_s) else self.deadline_s + 10.0
        generator = Generator(
            self.target, self._items(len(due)), timeout_s=patience_s, deadline_s=self.deadline_s
        )
        return self._counted(await generator.open_loop(schedule))

    async def poisson(self, rate: float, seconds: float, turn: int = 0) -> Samples:
        return await self.open_loop(figures.poisson(rate, seconds, self.seed + turn), seconds)

    async def capacity(self, clients: int, seconds: float) -> float:
        """Answers a second to clients that send again at once."""
        count = 512
        generator = Generator(self.target, self._items(count), timeout_s=30.0)
        samples = self._counted(
            await generator.closed_loop(clients, range(count), duration_s=seconds, warm_up_s=seconds / 4)
        )
        return sum(one.good and 0 <= one.end <= seconds for one in samples.measured) / seconds

    def _counted(self, samples: Samples) -> Samples:
        self.sent.update(one.outcome for one in [*samples.warm_up, *samples.measured])
        return samples


@asynccontextmanager
async def driver(target: Target, inputs: Iterator[Inputs], deadline_s: float, seed: int) -> Any:
    try:
        await target.open()
        yield Driver(target, inputs, deadline_s, seed)
    finally:
        await target.close()


def run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run on the loop that the product uses."""
    import asyncio

    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work())


# -- what a run says --------------------------------------------------------------------------------------


def good(sample: Sample, slo_s: float) -> bool:
    return sample.good and sample.latency <= slo_s


def goodput(samples: Samples, slo_s: float) -> float:
    """Requests a second that were answered within the SLO, counted from when they were due."""
    return sum(good(one, slo_s) for one in samples.measured) / samples.window_s


def admitted(samples: Samples) -> list[Sample]:
    """Requests that were not refused at the door: an answer was owed to each."""
    return [one for one in samples.measured if one.outcome != "refused"]


def p_ms(samples: Sequence[Sample], q: float) -> float | None:
    """A percentile of latency; None without requests, or where it falls among those without an answer."""
    if not samples:
        return None
    value = percentile([one.latency for one in samples], q)
    return value * 1e3 if math.isfinite(value) else None


def summary(samples: Samples, slo_s: float) -> dict[str, Any]:
    """One run as a row of figures."""
    due = samples.measured
    let_in = admitted(samples)
    lags = samples.lags()
    return {
        "offered_rps": len(due) / samples.window_s,
        "goodput_rps": goodput(samples, slo_s),
        "ended": {outcome: samples.count(outcome) for outcome in ("ok", "refused", "timed_out", "failed")},
        "late": sum(one.good and one.latency > slo_s for one in due),
        "lost": sum(one.lost for one in due),
        "admitted_p50_ms": p_ms(let_in, 0.5),
        "admitted_p99_ms": p_ms(let_in, 0.99),
        "send_lag_p99_ms": percentile(lags, 0.99) * 1e3 if lags else None,
        "errors": grouped(samples.errors),
    }


def said(run: Mapping[str, Any]) -> str:
    """A summary in a sentence: what was given up, and why."""
    ended = ", ".join(f"{count} {word.replace('_', ' ')}" for word, count in run["ended"].items())
    why = "; ".join(f"{count} × {text}" for text, count in run["errors"].items())
    return f"At {run['offered_rps']:.3g}/s: {ended}; {run['late']} of the answers late. Why: {why or 'nothing was left out'}."


def grouped(errors: Counter[str], most: int = 6) -> dict[str, int]:
    """Reasons with their numbers taken out, so that equal ones are counted together."""
    import re

    found: Counter[str] = Counter()
    for text, count in errors.items():
        found[re.sub(r"\d+(\.\d+)?", "N", text)[:110]] += count
    return dict(found.most_common(most))
