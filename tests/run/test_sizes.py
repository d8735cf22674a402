"""Deployments whose backend runs only certain batch sizes: batches are padded or trimmed by what that costs."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import pytest

from tauten.clock import run_virtual
from tauten.run.backends.synthetic import SyntheticBackend
from tauten.run.contracts import ModelSpec
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
