"""The referee: MLPerf LoadGen drives a target of `tauten bench`, and its verdict is printed beside ours.

    python bench/loadgen.py FILE.py:WORKFLOW|URL [NAME=VALUE...] --scenario server --qps 50 --latency-ms 100

SingleStream sends the next query on completion, Server at Poisson times, Offline all at once. LoadGen keeps
its own schedule, clock and early-stopping rule; ours is run on the same target right after it.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import argparse
import asyncio
import math
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlperf_loadgen as lg

from tauten.cli.load_target import UrlOptions, is_url, read_payloads, url_target
from tauten.cli.target import load_workflow, read_inputs
from tauten.describe.slo import Slo
from tauten.improve.load.bench import Bencher, Side
from tauten.improve.load.result import Run
from tauten.improve.load.schedule import Load
from tauten.improve.load.target import Target
from tauten.improve.load.targets.workflow import WorkflowTarget
from tauten.run.engine import Engine

SCENARIOS = {
    "single-stream": lg.TestScenario.SingleStream,
    "server": lg.TestScenario.Server,
    "offline": lg.TestScenario.Offline,
}
OFFLINE_AT_ONCE = 64  # a system under test may take an offline query in any order; so many requests fly
LIBRARY = 64  # samples that LoadGen draws from


@dataclass(frozen=True)
class Settings:
    """A short run; a submission asks for 600 s."""

    scenario: str = "server"
    qps: float = 10.0
    latency_ms: float = 100.0
    percentile: float = 0.99
    seconds: float = 10.0
    queries: int = 100
    seed: int = 1


@dataclass
class Verdict:
    """What LoadGen said. `failed` requests are ours to count: LoadGen knows only completion."""

    valid: bool
    summary: str
    queries: int = 0
    failed: int = 0

    def figure(self, label: str) -> float | None:
        """A number of the summary by the words before it."""
        found = re.search(rf"{re.escape(label)}\s*:\s*([0-9.e+]+)", self.summary)
        return float(found[1]) if found else None


class Referee:
    """Hands LoadGen's queries to a target that lives on an event loop of another thread."""

    def __init__(
        self, target: Target, items: Sequence[Any], loop: asyncio.AbstractEventLoop, at_once: int
    ) -> None:
        self.target, self.items, self.loop = target, items, loop
        self.room = asyncio.Semaphore(at_once)
        self.queries = self.failed = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def issue(self, samples: Sequence[Any]) -> None:
        """Called by LoadGen, in its thread."""
        asked = [(sample.id, sample.index) for sample in samples]
        self.loop.call_soon_threadsafe(self._begin, asked)

    def _begin(self, asked: list[tuple[int, int]]) -> None:
        for each in asked:
            task = self.loop.create_task(self._one(*each))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _one(self, id: int, index: int) -> None:
        good = False
        try:
            async with self.room:
                response = await self.target.send(self.items[index % len(self.items)], math.inf)
            good = response.outcome == "ok"
        finally:  # LoadGen waits for each query, however it ended
            self.failed += not good
            self.queries += 1
            lg.QuerySamplesComplete([lg.QuerySampleResponse(id, 0, 0)])


def settings_of(asked: Settings) -> Any:
    """LoadGen's own settings."""
    made = lg.TestSettings()
    made.scenario = SCENARIOS[asked.scenario]
    made.mode = lg.TestMode.PerformanceOnly
    made.min_duration_ms = int(asked.seconds * 1e3)
    made.min_query_count = asked.queries
    made.single_stream_expected_latency_ns = int(1e9 / asked.qps)  # how many queries it makes beforehand
    made.single_stream_target_latency_percentile = asked.percentile
    made.server_target_qps = asked.qps
    made.server_target_latency_ns = int(asked.latency_ms * 1e6)
    made.server_target_latency_percentile = asked.percentile
    made.offline_expected_qps = asked.qps
    made.schedule_rng_seed = made.sample_index_rng_seed = made.qsl_rng_seed = asked.seed
    return made


def judge(target: Target, items: Sequence[Any], loop: asyncio.AbstractEventLoop, asked: Settings) -> Verdict:
    """One LoadGen test of an opened target; blocks, while `loop` runs in another thread."""
    at_once = OFFLINE_AT_ONCE if asked.scenario == "offline" else sys.maxsize
    referee = Referee(target, items, loop, at_once)
    library = lg.ConstructQSL(LIBRARY, LIBRARY, lambda samples: None, lambda samples: None)
    system = lg.ConstructSUT(referee.issue, lambda: None)
    try:
        with tempfile.TemporaryDirectory() as folder:
            output = lg.LogOutputSettings()
            output.outdir = folder
            output.copy_summary_to_stdout = False
            logs = lg.LogSettings()
            logs.log_output = output
            logs.enable_trace = False
            lg.StartTestWithLogSettings(system, library, settings_of(asked), logs, str(Path(folder) / "none"))
            summary = (Path(folder) / "mlperf_log_summary.txt").read_text()
    finally:
        lg.DestroySUT(system)
        lg.DestroyQSL(library)
    valid = re.search(r"Result is\s*:\s*VALID", summary) is not None
    return Verdict(valid, summary, referee.queries, referee.failed)


async def ours(target: Target, items: Sequence[Any], asked: Settings, pid: int = 0) -> Run:
    """The same scenario by our own generator; `pid` is the server's process, where it is on this machine."""
    slo = Slo(**{f"p{asked.percentile * 100:g}_ms": asked.latency_ms})  # type: ignore[arg-type]
    bencher = Bencher([Side(asked.scenario, target, items)], slo=slo, pid=pid)
    count = max(asked.queries, math.ceil(asked.seconds * asked.qps))
    if asked.scenario == "server":
        load = Load(rate_per_s=asked.qps, requests=count, seed=asked.seed)
    else:
        clients = 1 if asked.scenario == "single-stream" else OFFLINE_AT_ONCE
        load = Load(clients=clients, duration_s=asked.seconds)
    ((run,),) = await bencher.runs(load)
    return run


# -- running -------------------------------------------------------------------------------------------------


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


Open = Callable[[], Coroutine[Any, Any, tuple[Target, Sequence[Any]]]]


@contextmanager
def opened(make: Open) -> Iterator[tuple[Loop, Target, Sequence[Any]]]:
    """A target on a loop of its own, closed at the end."""
    loop = Loop()
    try:
        target, items = loop.run(make())
        try:
            yield loop, target, items
        finally:
            loop.run(target.close())
            if isinstance(target, WorkflowTarget):
                loop.run(target.engine.close())
    finally:
        loop.close()


def maker(target: str, pairs: list[str]) -> Open:
    """How to open what a command line names."""

    async def make() -> tuple[Target, Sequence[Any]]:
        if is_url(target):
            found, _ = url_target(target, UrlOptions())
            await found.open()
            return found, [found.prepare(read_payloads(pairs))]
        workflow = load_workflow(target)
        here = WorkflowTarget(Engine(), workflow)
        await here.open()
        return here, [here.prepare(read_inputs(workflow, pairs))]

    return make


def report(asked: Settings, verdict: Verdict, run: Run) -> str:
    """Both verdicts, a line each, and LoadGen's summary. Its percentile is its own: from its own schedule."""
    at = (verdict.figure(f"{asked.percentile * 100:.2f} percentile latency (ns)") or math.nan) / 1e6
    percent = f"p{asked.percentile * 100:g}"
    mine = run.latency.at(asked.percentile).ms if run.latency else None
    shown = "failed" if mine is None else f"{mine:.3f} ms"
    word = "VALID" if verdict.valid and not verdict.failed else "INVALID"
    return "\n".join(
        [
            f"{asked.scenario}   LoadGen {word}: {verdict.queries} queries, {verdict.failed} failed, {percent} {at:.3f} ms",
            f"{asked.scenario}   ours    {run.answer}: {run.requests.sent} requests, "
            f"{run.requests.sent - run.requests.ok} failed, {percent} {shown}, {run.answered_per_s:.4g}/s",
            "",
            verdict.summary.strip(),
        ]
    )


def main(words: Sequence[str] | None = None) -> int:
    """Run the scenario; 0 when LoadGen and we agree that it holds."""
    default = Settings()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("target")
    parser.add_argument("inputs", nargs="*")
    parser.add_argument("--scenario", choices=SCENARIOS, default=default.scenario)
    for name in ("qps", "latency_ms", "seconds"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=getattr(default, name))
    parser.add_argument("--percentile", type=float, choices=(0.5, 0.95, 0.99), default=default.percentile)
    parser.add_argument("--queries", type=int, default=default.queries)
    parser.add_argument("--seed", type=int, default=default.seed)
    given = vars(parser.parse_args(words))
    target, inputs = given.pop("target"), given.pop("inputs")
    asked = Settings(**given)
    with opened(maker(target, inputs)) as (loop, found, items):
        verdict = judge(found, items, loop.loop, asked)
        run = loop.run(ours(found, items, asked))
    print(report(asked, verdict, run))
    return 0 if verdict.valid and not verdict.failed and run.exit_code == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
