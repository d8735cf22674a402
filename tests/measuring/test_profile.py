"""One model measured alone: turns, sizes, failures, disturbances; all times are told."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from measuring.kit_told import World
from tauten.errors import BackendError, InputError
from tauten.improve.measuring.profile import Profile, Row, measure_model
from tauten.plan.hardware import Hardware
from tauten.plan.measurements import COMPUTE, FIRST, LOAD, MEMORY, TOKENS_IN, TOKENS_OUT, WEIGHT, Measurements
from tauten.plan.peaks import Probe
from tauten.plan.roofline import Point, measured_points
from tauten.run.contracts import ModelSpec

HERE = Hardware(2, ("avx512",), 24)
SPEC = ModelSpec("tiny", "fp32")


def measured(world: World, items: list[Any] | None = None, **how: Any) -> Profile:
    """A profile of three rounds after one warm-up, on a quiet machine where nothing else is said."""
    how = {"threads": (1, 2), "batches": (1, 4), "repeats": 3, "warm": 1, "share": lambda: 0.0, **how}
    job = measure_model("told", SPEC, items or [3, 4], clock=world.clock, start=world.start, **how)
    profile: Profile = asyncio.run(job)
    assert world.alive == 0
    return profile


def row(profile: Profile, threads: int, batch: int, shape: int = 4) -> Row:
    [found] = [
        each
        for each in profile.rows
        if (each.key.threads, each.key.batch, each.key.shape) == (threads, batch, shape)
    ]
    return found


def test_each_case_is_measured_once_a_round() -> None:
    profile = measured(World())
    assert [len(each.runs) for each in profile.rows] == [3] * 4
    assert row(profile, 1, 4).seconds == pytest.approx(0.010 + 0.001 * 14)
    assert row(profile, 2, 4).seconds == pytest.approx((0.010 + 0.001 * 14) / 2)
    assert row(profile, 1, 4).memory_bytes == 2400
    assert [(each.threads, each.load_s, each.memory_bytes) for each in profile.openings] == [
        (1, 0.5, 1000),
        (2, 1.0, 1000),
    ]
    assert profile.openings[1].properties == {"threads": "2"}
    assert profile.probe == Probe(100.0, 10.0)
    assert profile.notes == []


def rounds(world: World) -> list[list[tuple[int, int]]]:
    """(threads, batch) in the order of each round, the warm-up left out."""
    asked = [(threads, len(members)) for threads, members in world.log[4:]]
    return [asked[at : at + 4] for at in range(0, len(asked), 4)]


def test_the_order_is_drawn_anew_each_round_by_the_seed() -> None:
    orders = []
    for seed in (0, 0, 1):
        world = World()
        measured(world, repeats=6, seed=seed)
        assert all(sorted(each) == [(1, 1), (1, 4), (2, 1), (2, 4)] for each in rounds(world))
        orders.append(rounds(world))
    assert orders[0] == orders[1] != orders[2]
    assert len({tuple(each) for each in orders[0]}) > 1


def test_every_item_has_its_turn() -> None:
    world = World()
    measured(world, items=[3, 4, 4, 4, 4], batches=(2,), threads=(1,), repeats=4)
    assert {index for _, members in world.log for index in members} == {0, 1, 2, 3, 4}


def test_items_of_another_size_are_a_case_of_their_own() -> None:
    profile = measured(World(), items=[3, 4, 100], threads=(1,), batches=(1,))
    assert [(each.key.shape, each.items) for each in profile.rows] == [(4, 2), (128, 1)]
    assert row(profile, 1, 1, 128).seconds == pytest.approx(0.110)


def test_what_was_measured_is_in_the_measurements() -> None:
    into = Measurements(HERE)
    profile = measured(World(), into=into)
    key = row(profile, 2, 4).key
    assert (key.step, key.model, key.variant, key.backend) == ("", "tiny", "fp32", "told")
    found = into.estimate(key, COMPUTE)
    assert found is not None
    assert (found.mid_ms, found.n) == (pytest.approx(12, rel=0.02), 3)
    size, weight = into.amount(key, MEMORY), into.amount(key, WEIGHT)
    assert size is not None
    assert weight is not None
    assert (size.mid, weight.mid) == (pytest.approx(2400, rel=0.02), pytest.approx(3.5, rel=0.02))
    opening = into.amount(next(each for each in list(into.keys()) if LOAD in into.causes(each)), LOAD)
    assert opening is not None
    assert opening.mid == pytest.approx(0.5, rel=0.02)
    assert into.probe == Probe(100.0, 10.0)
    assert (Point(4, 2, "f32", 4.0, "told"), pytest.approx(0.012, rel=0.02)) in measured_points(
        into, "tiny", "fp32"
    )


def test_streams_tell_their_size_and_their_rates() -> None:
    into = Measurements(HERE)
    measured(World(streams=True), items=[60, 60], threads=(2,), batches=(2,), into=into)
    [key] = [each for each in list(into.keys()) if COMPUTE in into.causes(each)]
    assert (key.shape, key.batch) == (64, 2)
    told = [into.amount(key, cause) for cause in (FIRST, TOKENS_IN, TOKENS_OUT)]
    assert [each.mid for each in told if each] == pytest.approx([0.2, 50.0, 25.0], rel=0.02)


def test_a_model_that_does_not_open_says_why_and_the_others_are_measured() -> None:
    profile = measured(World(shut=frozenset({1})))
    assert [each.reason for each in profile.openings] == ["E325 it cannot be loaded", ""]
    assert [(each.key.threads, len(each.runs)) for each in profile.rows] == [(2, 3), (2, 3)]


def test_nothing_that_opens_is_a_profile_of_reasons() -> None:
    world = World(shut=frozenset({1, 2}))
    into = Measurements(HERE)
    profile = measured(world, into=into)
    assert (profile.rows, profile.probe, len(into)) == ([], None, 0)
    assert world.started == 2


def test_a_batch_that_fails_is_a_row_with_the_reason() -> None:
    profile = measured(World(fails_at=4))
    assert [(each.key.batch, len(each.runs), each.reason) for each in profile.rows] == [
        (1, 3, ""),
        (4, 0, "E407 too large"),
    ] * 2


def test_a_process_that_dies_takes_only_its_own_rows_with_it() -> None:
    profile = measured(World(dies_at=4))
    ones, twos = ([each for each in profile.rows if each.key.threads == count] for count in (1, 2))
    assert ["the process ended" in each.reason for each in ones] == [True, True]
    assert [(len(each.runs), each.reason) for each in twos] == [(3, ""), (3, "")]


def test_a_probe_that_fails_spoils_nothing() -> None:
    profile = measured(World(deaf=True))
    assert [len(each.runs) for each in profile.rows] == [3] * 4
    assert profile.probe is None
    assert profile.notes == ["the probe failed in 3 rounds"]


def shares(*told: float) -> Iterator[float]:
    """The look before the first round, then one after each; a quiet machine in the end."""
    yield 0.0
    yield from told
    while True:
        yield 0.0


def test_a_disturbed_round_is_thrown_away_and_repeated() -> None:
    looks = shares(0.4, 0.0, 0.3)
    world = World()
    profile = measured(world, share=lambda: next(looks))
    assert [len(each.runs) for each in profile.rows] == [3] * 4
    assert len(world.log) == 4 * (1 + 5)
    assert profile.notes == ["2 rounds were disturbed and repeated"]


def test_a_machine_that_is_never_quiet_is_measured_and_said() -> None:
    profile = measured(World(), share=lambda: 0.4)
    assert [len(each.runs) for each in profile.rows] == [3] * 4
    assert profile.notes == [
        "3 rounds were disturbed and repeated",
        "disturbed all the same: others had up to 40 % of the machine",
    ]


def test_a_busy_machine_is_not_waited_for_beyond_the_budget() -> None:
    profile = measured(World(), share=lambda: 0.4, budget_s=1.5, repeats=9)
    assert [len(each.runs) for each in profile.rows] == [1] * 4
    assert profile.notes == [
        "1 of 9 rounds: 1.5 s were over",
        "1 rounds were disturbed and repeated",
        "disturbed all the same: others had up to 40 % of the machine",
    ]


def test_the_budget_ends_the_rounds_but_not_the_first() -> None:
    profile = measured(World(), budget_s=1.5, repeats=9)  # a round takes a little over a second
    assert [len(each.runs) for each in profile.rows] == [2] * 4
    assert profile.notes == ["2 of 9 rounds: 1.5 s were over"]
    assert [len(each.runs) for each in measured(World(), budget_s=0.0).rows] == [1] * 4


def test_processes_end_whatever_happens() -> None:
    world = World(most=1)
    with pytest.raises(BackendError, match="no more processes"):
        asyncio.run(measure_model("told", SPEC, [1], threads=(1, 2), clock=world.clock, start=world.start))
    assert world.alive == 0


@pytest.mark.parametrize(
    "wrong", [{"items": []}, {"batches": ()}, {"batches": (0,)}, {"threads": (-1,)}, {"repeats": 0}]
)
def test_nothing_to_measure_is_refused(wrong: dict[str, Any]) -> None:
    how = {"items": [1], **wrong}
    with pytest.raises(InputError, match="E255"):
        asyncio.run(measure_model("told", SPEC, how.pop("items"), **how))


def test_progress_is_told() -> None:
    told: list[str] = []
    measured(World(), progress=told.append)
    assert told == [
        "open tiny with 1 threads",
        "open tiny with 2 threads",
        *[f"round {number} of 3" for number in (1, 2, 3)],
    ]
