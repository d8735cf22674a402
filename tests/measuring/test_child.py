"""The process that measures: real models in it, its death, its silence, its errors."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest

from serve.kit_onnx import linear
from tauten.errors import BackendError, InputError, PlanError
from tauten.improve.measuring import process as module
from tauten.improve.measuring.process import Process, started
from tauten.improve.measuring.profile import measure_model
from tauten.plan.measurements import COMPUTE, LOAD, Measurements
from tauten.run.contracts import ModelSpec


def test_a_small_model_is_measured_in_processes_of_its_own(tmp_path: Path) -> None:
    spec = ModelSpec("linear", files={"model.onnx": linear(tmp_path)})
    items = [{"x": np.ones(4, np.float32)}, {"x": np.zeros(4, np.float32)}, {"x": np.ones(9, np.float32)}]
    into = Measurements()
    profile = asyncio.run(
        measure_model("onnx", spec, items, batches=(1, 4), threads=(1, 2), repeats=2, probe=False, into=into)
    )
    good = [each for each in profile.rows if each.key.shape == 4]
    assert [(each.key.threads, each.key.batch, len(each.runs)) for each in good] == [
        (1, 1, 2),
        (1, 4, 2),
        (2, 1, 2),
        (2, 4, 2),
    ]
    assert all(run.weight == 4.0 * each.key.batch for each in good for run in each.runs)
    assert all("E407" in each.reason for each in profile.rows if each.key.shape == 16)
    assert [each.properties["threads"] for each in profile.openings] == ["1", "2"]
    assert all(into.distribution(each.key, COMPUTE) is not None for each in good)
    assert sum(LOAD in into.causes(key) for key in list(into.keys())) == 2


def test_a_model_that_is_not_there_is_a_reason(tmp_path: Path) -> None:
    spec = ModelSpec("nowhere", files={"model.onnx": tmp_path / "no.onnx"})
    profile = asyncio.run(measure_model("onnx", spec, [{"x": np.ones(4, np.float32)}], probe=False))
    assert profile.openings[0].reason.startswith("E325 ")
    assert profile.rows == []


def with_process(job: Callable[[Process], Awaitable[None]]) -> None:
    """Do something with a fresh process, which is ended twice."""

    async def main() -> None:
        process = await started()
        try:
            await job(process)
        finally:
            await process.end()
            await process.end()

    asyncio.run(main())


def synthetic(**options: float) -> dict[str, object]:
    return {"open": "synthetic", "spec": {"model": "m", "options": options}, "items": ["a"]}


def test_a_process_that_is_killed_is_told_of() -> None:
    async def job(process: Process) -> None:
        await process.ask(synthetic(), 60)
        os.kill(process.pid, signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(BackendError, match="signal 9"):
                await process.ask({"run": [0]}, 60)

    with_process(job)


def test_a_process_that_does_not_answer_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GRACE_S", 0.02)

    async def job(process: Process) -> None:
        await process.ask(synthetic(ms_per_batch=60_000), 60)
        with pytest.raises(BackendError, match=r"no answer within 0\.05 s"):
            await process.ask({"run": [0]}, 0.05)

    with_process(job)


def test_errors_cross_as_what_they_are() -> None:
    async def job(process: Process) -> None:
        with pytest.raises(PlanError, match="E121"):
            await process.ask({"open": "onxn", "spec": {"model": "m"}, "items": []}, 60)
        with pytest.raises(BackendError, match="ValidationError"):
            await process.ask({"open": "synthetic", "spec": {}, "items": []}, 60)

    with_process(job)


def test_what_cannot_cross_is_refused_before_it_is_sent() -> None:
    async def job(process: Process) -> None:
        with pytest.raises(InputError, match="E255"):
            await process.ask({"open": "synthetic", "spec": {"model": "m"}, "items": [object()]}, 60)
        await process.ask(synthetic(), 60)

    with_process(job)
