"""Deployments whose backend runs only certain batch sizes: batches are padded or trimmed by what that costs."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from serve.kit_onnx import batch_of
from tauten.clock import run_virtual
from tauten.run.backends.synthetic import SyntheticBackend
from tauten.run.contracts import ModelSpec, find
from tauten.run.deploy.deployment import Deployment
from tauten.run.request import Request

SIZES = (1, 2, 4, 8)


class Compiled(SyntheticBackend):
    """A model compiled for some batch sizes: fewer items are filled up, and filling costs like items."""

    sizes = SIZES

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.ran: list[tuple[int, int]] = []  # items, and the size that ran

    def _padded(self, items: Sequence[Any]) -> int:
        return min(size for size in SIZES if size >= len(items))

    def duration(self, items: Sequence[Any]) -> float:
        return super().duration([items[0]] * self._padded(items))

    def answer(self, items: Sequence[Any]) -> list[Any]:
        self.ran.append((len(items), self._padded(items)))
        return super().answer(items)


def sizes_run(options: dict[str, float], crowds: Sequence[int], learn: bool = True) -> list[tuple[int, int]]:
    """What ran for crowds that come one after the other, each while a replica works alone on one item."""

    async def main() -> list[tuple[int, int]]:
        loop = asyncio.get_running_loop()
        backend = Compiled(ModelSpec("compiled", options=options))
        deployment = Deployment(lambda: backend, label="c", clock=loop.time, max_batch=max(SIZES), wait="off")
        await deployment.open()

        async def crowd(count: int) -> list[Any]:
            first = loop.create_task(deployment.infer(Request(loop.time), "s", -1))
            await asyncio.sleep(0.001)  # it runs: the others gather behind it
            rest = [
                deployment.infer(Request(loop.time, deadline=math.inf), "s", each) for each in range(count)
            ]
            answers = await asyncio.gather(*rest)
            assert list(answers) == list(range(count)), "each gets its own answer, never one of the filling"
            return [await first]

        if learn:
            for count in (*SIZES, *SIZES):
                await crowd(count)
        backend.ran.clear()
        for count in crowds:
            await crowd(count)
        await deployment.close()
        return [each for each in backend.ran if each != (1, 1)]

    found: list[tuple[int, int]] = run_virtual(main())
    return found


def test_where_filling_is_nearly_free_a_batch_is_padded() -> None:
    assert sizes_run({"ms_per_batch": 100.0, "ms_per_item": 1.0}, [3, 5, 7]) == [(3, 4), (5, 8), (7, 8)]


def test_where_filling_costs_like_work_a_batch_is_trimmed_and_nobody_is_lost() -> None:
    assert sizes_run({"ms_per_batch": 0.1, "ms_per_item": 100.0}, [3, 5, 7]) == [
        (2, 2),
        (4, 4),
        (4, 4),
        (2, 2),
    ]


def test_without_estimates_nobody_is_left_behind() -> None:
    assert sizes_run({"ms_per_batch": 0.1, "ms_per_item": 100.0}, [5], learn=False)[0] == (5, 8)


@pytest.mark.parametrize("count", SIZES)
def test_a_size_that_runs_is_taken_as_it_is(count: int) -> None:
    ran = sizes_run({"ms_per_batch": 100.0, "ms_per_item": 100.0}, [count])
    assert ran == ([] if count == 1 else [(count, count)])


class Wide(Compiled):
    """Items are numbers of places."""

    def weight(self, item: Any) -> float:
        return float(item)

    def group(self, item: Any) -> Any:
        return ()

    def duration(self, items: Sequence[Any]) -> float:
        return SyntheticBackend.duration(self, range(int(self.filled(items))))

    def filled(self, items: Sequence[Any]) -> float:
        return min(size for size in self.sizes if size >= sum(items))

    def answer(self, items: Sequence[Any]) -> list[Any]:
        self.ran.append((sum(items), int(self.filled(items))))
        return list(items)


class Single(Wide):
    sizes = (4,)


class Pair(Compiled):
    sizes = (4, 8)

    def _padded(self, items: Sequence[Any]) -> int:
        return min(size for size in self.sizes if size >= len(items))


def deployed(backend: Any, crowds: Sequence[Sequence[Any]], **settings: Any) -> Deployment:
    """A deployment that has run crowds, each in one turn of the loop."""

    async def main() -> Deployment:
        loop = asyncio.get_running_loop()
        made = Deployment(lambda: backend, label="c", clock=loop.time, **{"max_batch": 32, **settings})
        await made.open()
        for crowd in crowds:
            answers = await asyncio.gather(*(made.infer(Request(loop.time), "s", item) for item in crowd))
            assert list(answers) == list(crowd)
        await made.close()
        return made

    found: Deployment = run_virtual(main())
    return found


def test_a_padded_run_teaches_how_long_its_size_takes() -> None:
    backend = Pair(ModelSpec("pair", options={"ms_per_item": 100.0}))
    durations = deployed(backend, [range(3), range(5)] * 20, wait="off").durations
    assert durations.expected(4) == pytest.approx(0.4)
    assert durations.expected(8) == pytest.approx(0.8)


@pytest.mark.parametrize("wait", ["off", "slack"])
def test_no_batch_is_larger_than_the_largest_size(wait: Any) -> None:
    backend = Pair(ModelSpec("pair", options={"ms_per_batch": 10.0}))
    deployed(backend, [range(19)], wait=wait)
    assert [items for items, _ in backend.ran] == [8, 8, 3]


def test_items_of_several_places_share_a_size_where_they_fit() -> None:
    backend = Single(ModelSpec("single", options={"ms_per_batch": 10.0}))
    crowds = [[3, 1], [1, 3], [2, 2], [1, 1, 1, 1], [3, 3], [1], [4, 1], [2, 2, 2], [1, 1, 1, 1, 1]]
    made = deployed(backend, crowds, wait="off")
    assert [places for places, _ in backend.ran] == [4, 4, 4, 4, 3, 3, 1, 4, 1, 4, 2, 4, 1]
    assert made.durations.expected(1) == made.durations.expected(4) == pytest.approx(0.01)


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_a_file_of_a_fixed_batch_answers_any_number_of_items_as_it_answers_one(
    name: str, tmp_path: Any
) -> None:
    """The whole way: an .onnx with a batch of 4, its engine, its deployment; each item as if it were alone."""
    spec = ModelSpec("batch", files={"model.onnx": batch_of(tmp_path, 4)}, threads=1, precision="f32")
    items = [{"x": np.arange(4, dtype=np.float32) * n} for n in range(13)]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        deployment = Deployment(
            lambda: find("backends", name)(spec), label="batch", clock=loop.time, max_batch=16
        )
        await deployment.open()

        async def ask(item: Any) -> Any:
            return (await deployment.infer(Request(loop.time), "s", item))["y"]

        alone = [await ask(item) for item in items]
        np.testing.assert_allclose(alone[2], 2 * np.array([14.0, 20.0, 26.0]), rtol=1e-5)
        for count in (1, 3, 4, 5, 13):
            batches = deployment.batches
            together = await asyncio.gather(*map(ask, items[:count]))
            np.testing.assert_allclose(together, alone[:count], rtol=1e-6)
            assert deployment.batches - batches >= -(-count // 4)
        assert max(deployment.batch_sizes) <= 4
        await deployment.close()

    asyncio.run(main())
