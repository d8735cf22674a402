"""What the child does: opens, runs and times a backend, and says of a failure what it was."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from tauten.clock import run_virtual
from tauten.errors import PlanError
from tauten.improve.measuring.bench import Bench, Ran
from tauten.run.contracts import ModelSpec


def ticking(*steps: float) -> Any:
    """A clock that goes on by these steps from one look to the next, round and round."""
    times = itertools.accumulate(itertools.cycle(steps), initial=0.0)
    return lambda: next(times)


def opened(bench: Bench, items: list[Any], **options: Any) -> Any:
    return asyncio.run(bench.open("synthetic", ModelSpec("m", options=options), items))


def test_opening_is_timed_and_says_what_is_in_force() -> None:
    bench = Bench(ticking(0.25))
    found = opened(bench, ["a", "b", "c"])
    assert (found.load_s, found.streams) == (0.25, False)
    assert found.properties["device"] == "synthetic"
    assert found.places == ((0, 1.0),) * 3
    assert found.memory_bytes is None or found.memory_bytes >= 0


def test_a_run_has_its_time_and_its_weight() -> None:
    bench = Bench(ticking(1.0, 9.0))  # a second in what is timed, nine between
    opened(bench, ["a", "b", "c"])
    ran = asyncio.run(bench.run([2, 0, 2]))
    assert (ran.seconds, ran.weight, ran.error) == (1.0, 3.0, "")


def test_a_member_that_fails_is_the_answer() -> None:
    bench = Bench()
    opened(bench, ["a", "b"], fail_every=2)
    assert asyncio.run(bench.run([0])).error == ""
    assert "synthetic failure of item 2" in asyncio.run(bench.run([1])).error


def test_whatever_the_engine_raises_is_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    opened(bench, ["a"])

    def burst(_items: Any) -> Any:
        raise MemoryError("no room\nat all")

    monkeypatch.setattr(bench._backend, "run", burst)
    assert asyncio.run(bench.run([0])) == Ran(0.0, error="MemoryError: no room")


def test_what_cannot_be_opened_is_raised() -> None:
    with pytest.raises(PlanError, match="E122"):
        opened(Bench(), ["a"], answer="wrong")


def test_closing_twice_is_once() -> None:
    bench = Bench()
    opened(bench, ["a"])
    asyncio.run(bench.close())
    asyncio.run(bench.close())


def test_streams_run_side_by_side_and_tell_their_rates() -> None:
    async def main() -> Ran:
        bench = Bench(asyncio.get_running_loop().time)
        options = {"prefill_ms": 500, "ms_per_token": 100, "tokens": 11}
        items = [{"prompt": "one two three four five"}] * 2
        found = await bench.open("synthetic_slots", ModelSpec("m", options=options), items)
        assert (found.streams, found.places) == (True, ((0, 0.0), (0, 0.0)))
        ran = await bench.run([0, 1])
        await bench.close()
        return ran

    ran = run_virtual(main())
    assert ran.seconds == pytest.approx(1.6)
    assert ran.weight == 10
    assert ran.first_s == pytest.approx(0.6)
    assert ran.tokens_in == pytest.approx(10)
    assert ran.tokens_out == pytest.approx(10)
