"""What a simulation is taught of a model alone: runs by weight, streams by how many speak; all times are told."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from measuring.kit_told import Told, World
from tauten.errors import BackendError, InputError
from tauten.improve.measuring.bench import Ran
from tauten.improve.measuring.profile import Opening, Profile
from tauten.improve.measuring.runs import (
    How,
    held_of,
    measured_memory,
    measured_runs,
    measured_streams,
    slowed,
)
from tauten.improve.simulate.costs import fitted
from tauten.plan.hardware import Hardware
from tauten.plan.measurements import COMPUTE, TOKENS_OUT, Measurements
from tauten.plan.plan import ModelChoice
from tauten.run.contracts import ModelSpec

CHOICE = ModelChoice(model="tiny", variant="int8", backend="onnx", threads=2)
TALKER = ModelChoice(model="talker", backend="llm", threads=2)


def how(world: World, **more: Any) -> How:
    return How(**{"repeats": 3, "clock": world.clock, "start": world.start, "share": lambda: 0.0, **more})


class Talker(Told):
    """One whose streams say 60 tokens a second alone, and each further one takes a tenth of that; four slots."""

    def _open(self, message: Any) -> Any:
        opened = super()._open(message)
        return type(opened)(opened.load_s, opened.memory_bytes, {"slots": "4"}, True, opened.places)

    def _run(self, members: list[int]) -> Ran:
        super()._run(members)
        return Ran(0.5, 10.0 * len(members), 0.1, 300.0, 60.0 * (1.1 - 0.1 * len(members)))


class Talking(World):
    async def start(self) -> Told:
        await super().start()
        return Talker(self)


class Mute(World):
    async def start(self) -> Told:
        await super().start()
        return MuteTold(self)


class MuteTold(Talker):
    def _run(self, members: list[int]) -> Ran:
        return Ran(0.5, 10.0 * len(members), 0.1)


def test_runs_are_weighed_as_their_deployment_weighs_them() -> None:
    world = World()
    runs = asyncio.run(measured_runs(CHOICE, {}, [3, 4, 4], batches=(1, 2, 4), how=how(world)))
    assert len(runs) == 3 * 3
    assert {threads for threads, _ in world.log} == {2}
    cost = fitted(runs, threads=2)
    assert (cost.fixed_s, cost.slope_s) == (pytest.approx(0.005), pytest.approx(0.0005))
    assert world.alive == 0


def test_of_a_slow_model_large_batches_are_left_out() -> None:
    world = World()
    items = [400.0] * 16  # 0.2 s each, two threads
    runs = asyncio.run(measured_runs(CHOICE, {}, items, batches=(1, 4, 16), how=how(world, budget_s=1.0)))
    assert {weight for weight, _ in runs} == {400.0, 1600.0}
    assert world.now < 6.0, "sixteen of them take 3.2 s a run"
    assert world.alive == 0


def test_runs_can_be_kept_for_others(tmp_path: Any) -> None:
    world, kept = World(), Measurements(Hardware(2, ("avx512",), 24))
    asyncio.run(measured_runs(CHOICE, {}, [4], batches=(1, 2), how=how(world, into=kept)))
    keys = [key for key in kept.keys() if kept.distribution(key, COMPUTE)]  # noqa: SIM118 - it is no dict
    assert {(key.model, key.variant, key.batch) for key in keys} == {("tiny", "int8", 1), ("tiny", "int8", 2)}


@pytest.mark.parametrize(
    ("world", "reason"),
    [(World(shut=frozenset({2})), "E325 it cannot be loaded"), (World(fails_at=1), "E407 too large")],
    ids=["shut", "fails"],
)
def test_what_cannot_be_measured_says_why(world: World, reason: str) -> None:
    with pytest.raises(BackendError, match=reason):
        asyncio.run(measured_runs(CHOICE, {}, [4], batches=(1,), how=how(world)))
    assert world.alive == 0


def test_no_items_are_the_callers_mistake() -> None:
    with pytest.raises(InputError, match="0 items"):
        asyncio.run(measured_runs(CHOICE, {}, [], how=how(World())))


def test_streams_slow_one_another_up_to_the_slots_of_their_engine() -> None:
    world, kept = Talking(), Measurements(Hardware(2, ("avx512",), 24))
    found = asyncio.run(measured_streams(TALKER, {}, [1, 2, 3], how=how(world, into=kept)))
    assert found == ((1, 1.0), (2, pytest.approx(1 / 0.9)), (4, pytest.approx(1 / 0.7)))
    assert world.alive == 0
    rates = [key for key in kept.keys() if kept.distribution(key, TOKENS_OUT)]  # noqa: SIM118 - it is no dict
    assert {key.batch for key in rates} == {1, 2, 4, 8}


def test_no_count_of_streams_is_left_out_for_want_of_time() -> None:
    world = Talking()
    found = asyncio.run(measured_streams(TALKER, {}, [4000] * 4, how=how(world, budget_s=1.0)))  # 2 s each
    assert [count for count, _ in found] == [1, 2, 4]
    assert len(world.log) == 2 * 4, "once to warm up, and one round"


def test_one_stream_is_measured_even_when_only_more_are_asked_for() -> None:
    found = asyncio.run(measured_streams(TALKER, {}, [1], together=(2,), how=how(Talking())))
    assert [count for count, _ in found] == [1, 2]


def test_streams_that_say_nothing_tell_nothing() -> None:
    with pytest.raises(BackendError, match="no two tokens"):
        asyncio.run(measured_streams(TALKER, {}, [1], how=how(Mute())))


def test_noise_makes_no_token_faster_among_more() -> None:
    assert slowed({1: 60.0, 2: 66.0, 4: 30.0, 8: 33.0}) == ((1, 1.0), (2, 1.0), (4, 2.0), (8, 2.0))


# -- memory -----------------------------------------------------------------------------------------------------


def test_memory_is_told_by_batch() -> None:
    world = World()
    seen: list[Profile] = []
    asyncio.run(measured_runs(CHOICE, {}, [3, 4], batches=(1, 4), how=how(world, seen=seen.append)))
    [profile] = seen
    assert held_of(profile) == ((1, 2100), (4, 2400))


def test_a_model_can_be_opened_for_its_memory_alone() -> None:
    world = World()
    held = asyncio.run(measured_memory(CHOICE, {}, [3, 4, 5], how=how(world)))
    assert held == ((1, 2100),)
    assert {len(members) for _, members in world.log} == {1}
    assert world.alive == 0


def test_what_opening_took_stands_for_runs_that_tell_nothing() -> None:
    profile = Profile("onnx", ModelSpec("tiny"), openings=[Opening(2, 0.5, 1000)])
    assert held_of(profile) == ((1, 1000),)
    assert held_of(Profile("onnx", ModelSpec("tiny"), openings=[Opening(2, reason="E325")])) == ()
