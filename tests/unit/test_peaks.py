"""Peaks: rates by threads, the file, and the probe that compares two machines."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

from tauten.errors import MachineError, PlanError
from tauten.plan import peaks as module
from tauten.plan.hardware import Hardware
from tauten.plan.peaks import (
    Bandwidth,
    Cache,
    CoRun,
    Dispatch,
    MatrixRate,
    Peaks,
    Probe,
    load_peaks,
)

HERE = Hardware(2, ("avx512", "amx"), 24)
PEAKS = Peaks(
    hardware=HERE,
    matrix=(
        MatrixRate("onnx", "f32", 1, 80e9),
        MatrixRate("onnx", "f32", 4, 240e9),
        MatrixRate("openvino", "f32", 1, 100e9),
        MatrixRate("openvino", "bf16", 1, 400e9),
    ),
    bandwidth=(Bandwidth("memory", 1, 10e9), Bandwidth("memory", 2, 16e9), Bandwidth("cache", 1, 40e9)),
    caches=(Cache(1, 32 << 10), Cache(3, 32 << 20, 2)),
    dispatch=(Dispatch("onnx", 20e-6), Dispatch("openvino", 50e-6)),
    co_run=(CoRun("compute", "memory", 1, 1.1), CoRun("memory", "memory", 1, 1.8)),
    probe=Probe(90.0, 9.0),
    notes=("memory with 2 threads: others took 8 %",),
    measured_at="2026-01-02T03:04:05Z",
)


def test_examples() -> None:
    assert doctest.testmod(module).failed == 0


def test_rates_are_read_between_thread_counts() -> None:
    assert PEAKS.matrix_rate("f32", 1) == 100e9
    assert PEAKS.matrix_rate("f32", 1, "onnx") == 80e9
    assert PEAKS.matrix_rate("f32", 2, "onnx") == pytest.approx(80e9 + 160e9 / 3)
    assert PEAKS.matrix_rate("f32", 9) == PEAKS.matrix_rate("f32") == 240e9
    assert PEAKS.matrix_rate("int8") is None
    assert PEAKS.copy_rate(threads=2) == PEAKS.copy_rate() == 16e9
    assert PEAKS.copy_rate("cache", 2) == 40e9


def test_calls_caches_and_neighbours() -> None:
    assert PEAKS.call_s("openvino") == 50e-6
    assert PEAKS.call_s() == 20e-6
    assert PEAKS.call_s("whisper") == 0.0
    assert PEAKS.last_cache_bytes == 32 << 20
    assert Peaks(HERE).last_cache_bytes == 0
    assert PEAKS.slowdown("memory", "memory") == 1.8
    assert PEAKS.slowdown("memory", "memory", threads=2) is None


def test_the_file_comes_back_as_it_went(tmp_path: Path) -> None:
    path = tmp_path / "new" / "peaks.json"
    PEAKS.save(path)
    assert load_peaks(path, HERE) == PEAKS
    assert load_peaks(path, Hardware(2, ("avx512", "amx"), 23)) == PEAKS
    assert [each.name for each in path.parent.iterdir()] == ["peaks.json"]


def test_peaks_of_another_machine_are_none(tmp_path: Path) -> None:
    PEAKS.save(tmp_path / "peaks.json")
    assert load_peaks(tmp_path / "peaks.json", Hardware(16, ("avx2",), 64)) is None
    assert load_peaks(tmp_path / "none.json", HERE) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"tauten":"peaks/9","hardware":{"cores":2}}',
        '{"tauten":"peaks/1"}',
        '{"tauten":"peaks/1","hardware":{"cores":2},"x":1}',
        '{"tauten":"peaks/1","hardware":{"cores":2},"probe":{"compute":0,"memory":1}}',
        '{"tauten":"peaks/1","hardware":{"cores":2},"bandwidth":[{"level":"memory","threads":1,"bytes_s":0}]}',
        '{"tauten":"peaks/1\xff","hardware":{"cores":2}}',
    ],
)
def test_what_is_no_file_of_peaks_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "peaks.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(PlanError, match="E150"):
        load_peaks(tmp_path / "peaks.json", HERE)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="E302"):
        load_peaks(tmp_path, HERE)


def test_a_slower_machine_is_slower_by_between_its_two_ratios() -> None:
    fast, slow = Probe(100.0, 20.0), Probe(25.0, 10.0)
    assert slow.slowness(fast) == (2.0, 4.0)
    assert fast.slowness(slow) == (0.25, 0.5)
    assert fast.slowness(fast) == (1.0, 1.0)
