"""All that `tauten bench --stages` calls: peaks once, and each model kept at once."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from measuring.kit_told import World
from tauten.errors import BackendError
from tauten.improve.measuring.prober import Slice
from tauten.improve.measuring.stages import (
    PEAKS_FILE,
    Measured,
    Wanted,
    machine_probe,
    measure_stages,
    probing,
    wanted,
)
from tauten.plan.hardware import Hardware
from tauten.plan.measurements import COMPUTE, Measurements
from tauten.plan.peaks import Probe, load_peaks
from tauten.plan.plan import ModelChoice
from tauten.run.contracts import ModelSpec

HERE = Hardware(2, ("avx512",), 24)
TWO = [Wanted("told", ModelSpec(name), [3, 4, 4]) for name in ("first", "second")]


def stages(world: World, path: Path, again: bool = False, models: list[Wanted] = TWO) -> Measured:
    return asyncio.run(
        measure_stages(
            models,
            path,
            batches=(1, 2),
            repeats=6,
            again=again,
            here=HERE,
            clock=world.clock,
            start=world.start,
            share=lambda: 0.0,
        )
    )


def test_everything_is_measured_and_kept(tmp_path: Path) -> None:
    world = World()
    done = stages(world, tmp_path / "measurements.json")
    assert [each.spec.model for each in done.profiles] == ["first", "second"]
    assert load_peaks(tmp_path / PEAKS_FILE, HERE) == done.peaks
    back = Measurements.load(tmp_path / "measurements.json", HERE)
    assert back.probe == Probe(80.0, 8.0)
    assert {key.model for key in list(back.keys())} == {"first", "second"}
    assert {key.threads for key in list(back.keys())} == {1, 2}
    assert world.alive == 0


def test_peaks_are_measured_once_unless_asked_again(tmp_path: Path) -> None:
    world = World()
    for again in (False, False, True):
        stages(world, tmp_path / "measurements.json", again=again)
    assert world.asked_for_peaks == 2
    back = Measurements.load(tmp_path / "measurements.json", HERE)
    found = [back.distribution(key, COMPUTE) for key in list(back.keys())]
    assert {each.n for each in found if each is not None} == {3 * 6}


def test_what_was_measured_before_an_interruption_is_kept(tmp_path: Path) -> None:
    world = World(most=4)  # peaks, two thread counts and a probe; the second model finds no process
    with pytest.raises(BackendError, match="no more processes"):
        stages(world, tmp_path / "measurements.json")
    back = Measurements.load(tmp_path / "measurements.json", HERE)
    assert {key.model for key in list(back.keys())} == {"first"}
    assert world.alive == 0


def test_the_probe_takes_as_long_as_it_is_told() -> None:
    world = World()
    assert asyncio.run(machine_probe(seconds=2.5, clock=world.clock, start=world.start)) == Probe(100.0, 10.0)
    assert world.now == 4.0  # one slice before the time is counted, and three of a second each
    assert world.alive == 0


def test_slices_of_the_probe_come_when_they_are_asked_for() -> None:
    world = World()

    async def main() -> list[Slice]:
        async with probing(world.start) as piece:
            return [await piece(), await piece()]

    assert asyncio.run(main()) == [Slice(100.0, 10.0)] * 2
    assert (world.now, world.alive) == (2.0, 0)


def test_a_choice_is_opened_as_its_deployment_would(tmp_path: Path) -> None:
    choice = ModelChoice(
        model="minilm",
        variant="int8",
        backend="onnx",
        precision="f32",
        threads=2,
        options={"spin": True, "kind": object()},
    )
    found = wanted(choice, {"model.onnx": tmp_path}, [1])
    assert found.backend == "onnx"
    assert found.spec == ModelSpec("minilm", "int8", {"model.onnx": tmp_path}, 2, "f32", {"spin": True})
