"""MLPerf LoadGen and our generator on the same trivial target: they agree on what holds and what does not."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from load.virtual_targets import VirtualTarget
from tauten.improve.load.target import Response

pytestmark = pytest.mark.slow  # LoadGen knows no virtual clock: two seconds of load in each test, twice

PATH = Path(__file__).parents[2] / "bench" / "loadgen.py"


@pytest.fixture(scope="module")
def loadgen() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("loadgen", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["loadgen"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["loadgen"]


class Nap(VirtualTarget):
    """Sleeps so long, really."""

    def __init__(self, nap_s: float, outcome: Any = "ok") -> None:
        self.nap_s, self.outcome = nap_s, outcome

    async def send(self, prepared: Any, budget_s: float) -> Response:
        await asyncio.sleep(self.nap_s)
        return Response(self.outcome)


def both(loadgen: ModuleType, target: Nap, **settings: Any) -> tuple[Any, Any, str]:
    """LoadGen's verdict, our run, and the report of both."""
    asked = loadgen.Settings(**{"qps": 300.0, "seconds": 2.0, **settings})

    async def make() -> Any:
        return target, [None]

    with loadgen.opened(make) as (loop, found, items):
        verdict = loadgen.judge(found, items, loop.loop, asked)
        run = loop.run(loadgen.ours(found, items, asked))
    return verdict, run, loadgen.report(asked, verdict, run)


def test_both_say_that_a_generous_limit_holds(loadgen: ModuleType) -> None:
    verdict, run, report = both(loadgen, Nap(0.001), latency_ms=20_000.0)
    assert verdict.valid, verdict.summary
    assert verdict.queries >= 459  # p99 without a miss
    assert all(part.proof == "met" for part in run.parts)  # the run is void where the machine is busy
    assert "LoadGen VALID" in report


def test_both_say_that_a_limit_below_the_work_is_missed(loadgen: ModuleType) -> None:
    verdict, run, report = both(loadgen, Nap(0.02), latency_ms=1.0, qps=50.0)
    assert not verdict.valid
    assert [part.proof for part in run.parts] == ["missed"]
    assert "LoadGen INVALID" in report


def test_failures_are_counted_though_loadgen_knows_none(loadgen: ModuleType) -> None:
    verdict, run, report = both(loadgen, Nap(0.001, "failed"), latency_ms=20_000.0)
    assert verdict.failed == verdict.queries > 0
    assert run.requests.failed == run.requests.sent
    assert "LoadGen INVALID" in report


@pytest.mark.parametrize("scenario", ["single-stream", "offline"])
def test_the_other_scenarios_run_to_their_end(loadgen: ModuleType, scenario: str) -> None:
    verdict, run, report = both(loadgen, Nap(0.001), scenario=scenario, latency_ms=20_000.0, seconds=1.0)
    assert verdict.queries > 0
    assert verdict.failed == 0
    assert run.clients == (1 if scenario == "single-stream" else loadgen.OFFLINE_AT_ONCE)
    assert f"Scenario : {'SingleStream' if scenario == 'single-stream' else 'Offline'}" in report
