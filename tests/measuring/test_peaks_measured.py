"""Measuring peaks: pieces a second, what is asked of which engine, and what is said of a disturbed machine."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

from tauten.improve.measuring import peaks as module
from tauten.improve.measuring import prober
from tauten.improve.measuring.peaks import Peaker, caches, rates
from tauten.plan.hardware import Hardware
from tauten.plan.peaks import Cache

HERE = Hardware(2, ("avx512",), 24)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        self.now += seconds


def test_examples() -> None:
    assert doctest.testmod(module).failed == 0
    assert doctest.testmod(prober).failed == 0


def test_a_rate_is_whole_pieces_over_the_time_that_they_took() -> None:
    clock = Clock()
    assert rates([lambda: clock.work(0.25)], 1.1, clock) == [pytest.approx(5 / 1.25)]
    assert rates([lambda: clock.work(2.0)], 1.0, clock) == [pytest.approx(0.5)]


def test_jobs_run_side_by_side() -> None:
    clock, done = Clock(), [0, 0]

    def job(place: int) -> None:
        done[place] += 1
        clock.work(0.5)

    found = rates([lambda: job(0), lambda: job(1)], 1.0, clock)
    assert len(found) == 2
    assert min(done) >= 1
    assert min(found) > 0.0


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs of nothing: what is measured is not what matters here."""
    monkeypatch.setattr(module, "ROUND_S", 0.0)
    monkeypatch.setattr(module, "PROBE_S", 0.0)
    monkeypatch.setattr(module, "_SIDE", 16)
    monkeypatch.setattr(module, "_LEAST_BYTES", 4096)
    monkeypatch.setattr(module, "_MOST_BYTES", 4096)
    monkeypatch.setattr(prober, "_COPY_BYTES", 4096)


@pytest.mark.usefixtures("small")
def test_every_figure_is_there(tmp_path: Path) -> None:
    found = Peaker(HERE, share=lambda: 0.0).all((Cache(3, 8192, 2),), tmp_path)
    asked = {(row.engine, row.precision, row.threads) for row in found.matrix}
    assert {(engine, "f32", count) for engine in ("numpy", "onnx", "openvino") for count in (1, 2)} <= asked
    assert {("onnx", "int8", 1), ("onnx", "int8", 2)} <= asked
    assert ("onnx", "bf16", 1) not in asked
    assert all(row.flops_s > 0 for row in found.matrix)
    assert {(row.level, row.threads) for row in found.bandwidth} == {
        (level, count) for level in ("cache", "memory") for count in (1, 2)
    }
    assert {row.engine for row in found.dispatch} == {"onnx", "openvino"}
    assert {(row.job, row.beside, row.threads) for row in found.co_run} == {
        (job, beside, count)
        for job in ("compute", "memory")
        for beside in ("compute", "memory")
        for count in (1, 2)
    }
    assert all(row.slowdown > 0 for row in found.co_run)
    assert found.probe is not None
    assert (found.hardware, found.notes) == (HERE, ())


@pytest.mark.usefixtures("small")
def test_a_disturbed_figure_is_said() -> None:
    peaker = Peaker(HERE, share=lambda: 0.3)
    assert peaker.rate("nothing", [lambda: None]) > 0
    assert peaker.notes == ["nothing: others had 30 % of the machine in the best of 15 rounds"]


@pytest.mark.usefixtures("small")
def test_without_the_package_that_writes_models_numpy_is_measured_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _name: None)
    peaker = Peaker(HERE, share=lambda: 0.0)
    assert list(peaker.engine_rates(tmp_path)) == []
    assert list(peaker.calls(tmp_path)) == []
    assert {row.engine for row in peaker.numpy_rates()} == {"numpy"}


def test_threads_are_powers_of_two_and_all_cores() -> None:
    assert Peaker(Hardware(1), share=lambda: 0.0).threads() == [1]
    assert Peaker(Hardware(2), share=lambda: 0.0).threads() == [1, 2]
    assert Peaker(Hardware(12), share=lambda: 0.0).threads() == [1, 2, 4, 8, 12]


def test_caches_are_read_as_the_system_names_them(tmp_path: Path) -> None:
    told = {
        "index0": ("1", "Data", "32K", "0"),
        "index1": ("1", "Instruction", "32K", "0"),
        "index2": ("2", "Unified", "1024K", "0,64"),
        "index3": ("3", "Unified", "36608K", "0-3,8"),
        "index4": ("", "", "", ""),
    }
    for name, values in told.items():
        (tmp_path / name).mkdir()
        for file, value in zip(("level", "type", "size", "shared_cpu_list"), values, strict=True):
            (tmp_path / name / file).write_text(value + "\n")
    (tmp_path / "index5").mkdir()
    assert caches(tmp_path) == (
        Cache(1, 32 << 10, 1),
        Cache(2, 1 << 20, 2),
        Cache(3, 36608 << 10, 5),
    )
    assert caches(tmp_path / "none") == ()
