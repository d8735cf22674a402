"""What is measured in a slow hour of a machine is told as in the first one."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from itertools import chain, cycle
from typing import Any

import msgspec
import pytest

import tauten as tt
from improve.kit_testbed import ITEMS, NAIVE, VirtualTestbed
from tauten.describe.payload import Text
from tauten.errors import BackendError
from tauten.improve.measuring.pace import AROUND, Pace, opened, reference_of
from tauten.improve.measuring.prober import Slice
from tauten.improve.optimizer import live
from tauten.improve.optimizer.live import LiveTestbed
from tauten.improve.simulate.tape import Level, Visit
from tauten.plan.plan import ModelChoice, Plan
from tauten.run.visits import base_name

QUICK = Slice(100.0, 10.0)


class Told:
    """A measurer that gives these slices, in turn and again."""

    def __init__(self, slices: Iterable[Slice]) -> None:
        self.left = cycle(slices)
        self.ended = 0

    async def ask(self, message: Mapping[str, Any], timeout_s: float) -> Any:
        assert message == {"probe": True}
        return msgspec.to_builtins(next(self.left))

    async def end(self) -> None:
        self.ended += 1


def pace(slices: Iterable[Slice]) -> Pace:
    return Pace(Told(slices), QUICK)


def test_a_machine_at_half_its_speed_has_taken_twice_too_long() -> None:
    found = pace([Slice(50.0, 5.0)] * 4)
    found.look(3)
    assert found.taken() == pytest.approx(0.5)


def test_arithmetic_and_copying_count_alike() -> None:
    found = pace([Slice(25.0, 10.0)] * 2)
    found.look()
    assert found.taken() == pytest.approx(0.5)


def test_one_disturbed_slice_says_nothing() -> None:
    found = pace([QUICK, QUICK, Slice(1.0, 0.1), QUICK])
    found.look(3)
    assert found.taken() == pytest.approx(1.0)


def test_each_measurement_has_its_own_slices() -> None:
    found = pace([Slice(50.0, 5.0)] * 2 + [QUICK] * 2)
    found.look()
    assert found.taken() == pytest.approx(0.5)
    assert found.taken() == 1.0  # without a slice nothing is known
    found.look()
    assert found.taken() == pytest.approx(1.0)


def test_slices_come_from_a_process_of_their_own() -> None:
    measurer = opened()
    pace = Pace(measurer, reference_of(measurer))

    async def elsewhere() -> None:
        pace.look(2)

    pace.look()
    asyncio.run(elsewhere())  # any event loop may ask
    assert 0.0 < pace.taken() < 100.0
    pace.close()
    with pytest.raises(BackendError):
        pace.look()


def test_what_computes_is_as_long_as_at_another_pace_in_all_its_parts() -> None:
    seen = VirtualTestbed().capture(NAIVE, ITEMS)
    slow = seen.at_pace(3.0, lambda choice: True)
    for before, after in zip(seen.tapes, slow.tapes, strict=True):
        for one, other in zip(before, after, strict=True):
            assert other.seconds == pytest.approx(3.0 * one.seconds)
            assert other.first_s == pytest.approx(3.0 * one.first_s)
            for name, visit in one.visits.items():
                longer = other.visits[name]
                assert longer.own_s() == pytest.approx(3.0 * visit.own_s())
                assert longer.held == visit.held
                for event, later in zip(visit.events(), longer.events(), strict=True):
                    assert later.seconds == pytest.approx(3.0 * event.seconds)
                    assert (later.weight, later.tokens, later.role) == (
                        event.weight,
                        event.tokens,
                        event.role,
                    )
    assert [seconds for _, seconds in slow.firsts] == pytest.approx(
        [3.0 * seconds for _, seconds in seen.firsts]
    )


def test_what_a_model_elsewhere_takes_hangs_on_no_pace_of_this_machine() -> None:
    seen = VirtualTestbed().capture(NAIVE, ITEMS)
    slow = seen.at_pace(3.0, lambda choice: False)
    roles = {step.name: set(step.models) for step in seen.lowered.steps}
    events = [
        (event.role in roles[base_name(name)], event.seconds, later.seconds)
        for before, after in zip(chain(*seen.tapes), chain(*slow.tapes), strict=True)
        for name in before.visits
        for event, later in zip(before.visits[name].events(), after.visits[name].events(), strict=True)
    ]
    assert any(model for model, _, _ in events)
    for model, seconds, later in events:
        assert later == pytest.approx(seconds if model else 3.0 * seconds)


def test_of_own_code_what_waits_takes_what_it_took() -> None:
    visit = Visit((Level(2.0),), tail_s=2.0, held=0.25)
    assert visit.at_pace(3.0).own_s() == pytest.approx(4.0 * (0.75 + 0.25 * 3.0))


@tt.stage(pure=True)
def works(words: Text) -> Text:
    until = time.perf_counter() + 0.02
    while time.perf_counter() < until:
        pass
    return words


@tt.workflow
def working(words: Text) -> Text:
    return works(words)


def test_a_capture_is_told_at_the_pace_of_the_first() -> None:
    testbed = LiveTestbed(working, [])
    items = [("one", {"words": Text("a")})]
    told = Told([Slice(0.1, 0.01)])  # a thousandth of its speed
    testbed.pace = Pace(told, QUICK)
    [[*tapes]] = testbed.capture(Plan(), items).tapes
    assert tapes
    assert all(tape.seconds < 0.02 for tape in tapes)  # it worked for that long
    testbed.close()
    assert told.ended == 1
    testbed.pace = None
    [[*tapes]] = testbed.capture(Plan(), items).tapes
    assert all(tape.seconds >= 0.02 for tape in tapes)


def test_runs_of_a_model_are_told_at_the_pace_around_them(monkeypatch: pytest.MonkeyPatch) -> None:
    async def measured(*_: Any, **__: Any) -> list[tuple[float, float]]:
        return [(1.0, 0.5), (4.0, 1.5)]

    async def nothing(_: Any) -> dict[str, Any]:
        return {}

    looks: list[int] = []

    class Noted(Pace):
        def look(self, slices: int = 1) -> None:
            looks.append(slices)
            super().look(slices)

    monkeypatch.setattr(live, "measured_runs", measured)
    monkeypatch.setattr(live, "_files", nothing)
    testbed = LiveTestbed(working, [])
    monkeypatch.setattr(testbed, "_choice", lambda *_: ModelChoice(backend="onnx"))
    monkeypatch.setattr(testbed, "_given", lambda *_: [])
    assert testbed.runs(Plan(), "works", "model", []) == [(1.0, 0.5), (4.0, 1.5)]
    testbed.pace = Noted(Told([Slice(50.0, 5.0)]), QUICK)
    assert testbed.runs(Plan(), "works", "model", []) == [
        (1.0, pytest.approx(0.25)),
        (4.0, pytest.approx(0.75)),
    ]
    assert looks == [AROUND, AROUND]


def test_slices_of_a_measurement_that_failed_are_not_the_next_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow minute in which three models could not be run would make the fourth look quicker than it is."""
    failures = iter([True, True, True])

    async def measured(*_: Any, **__: Any) -> list[tuple[float, float]]:
        if next(failures, False):
            raise BackendError("the engine died", help="start it again")
        return [(1.0, 0.5)]

    async def nothing(_: Any) -> dict[str, Any]:
        return {}

    monkeypatch.setattr(live, "measured_runs", measured)
    monkeypatch.setattr(live, "_files", nothing)
    testbed = LiveTestbed(working, [])
    monkeypatch.setattr(testbed, "_choice", lambda *_: ModelChoice(backend="onnx"))
    monkeypatch.setattr(testbed, "_given", lambda *_: [])
    looked = AROUND + 1  # one more than counts
    testbed.pace = pace([Slice(50.0, 5.0)] * (3 * looked) + [QUICK] * (2 * looked))
    for _ in range(3):
        with pytest.raises(BackendError):
            testbed.runs(Plan(), "works", "model", [])
    assert testbed.runs(Plan(), "works", "model", []) == [(1.0, pytest.approx(0.5))]


def test_a_capture_begins_with_slices_of_its_own() -> None:
    testbed = LiveTestbed(working, [])
    told = Told([Slice(0.1, 0.01)] * 100 + [QUICK] * 100)
    testbed.pace = Pace(told, QUICK)
    testbed.pace.look(99)  # for what then failed
    [[*tapes]] = testbed.capture(Plan(), [("one", {"words": Text("a")})]).tapes
    assert all(tape.seconds >= 0.02 for tape in tapes), (
        "as long as it worked: the machine is as quick as it was"
    )
