"""Deployments in virtual time: order by deadline, batches, shares, bounds, slots, leavers."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from tauten.clock import run_virtual
from tauten.errors import BackendError, Overloaded
from tauten.run.backends.synthetic import SyntheticBackend
from tauten.run.contracts import Chunk, ModelSpec
from tauten.run.deployment import Deployment
from tauten.run.request import Request
from tauten.run.slots_deployment import SlotDeployment


class Told(SyntheticBackend):
    """Items are (group, weight); batches are noted."""

    batches: list[list[Any]]

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.batches = []

    def group(self, item: Any) -> Any:
        return item[0]

    def weight(self, item: Any) -> float:
        return float(item[1])

    def answer(self, items: Sequence[Any]) -> list[Any]:
        self.batches.append(list(items))
        return super().answer(items)


def in_deployment(
    body: Callable[[Deployment, Told], Awaitable[Any]],
    *,
    options: dict[str, Any] | None = None,
    **settings: Any,
) -> Any:
    async def main() -> Any:
        loop = asyncio.get_running_loop()
        backend = Told(
            ModelSpec("told", options={"ms_per_batch": 1000.0, "ms_per_item": 500.0, **(options or {})})
        )
        deployment = Deployment(lambda: backend, label="told", clock=loop.time, **settings)
        await deployment.open()
        try:
            return await body(deployment, backend)
        finally:
            await deployment.close()
            await deployment.close()
            assert asyncio.all_tasks() == {asyncio.current_task()}

    return run_virtual(main())


def request(deadline: float = math.inf) -> Request:
    return Request(asyncio.get_running_loop().time, deadline=deadline)


def test_the_most_urgent_goes_first() -> None:
    async def body(deployment: Deployment, backend: Told) -> None:
        busy = asyncio.ensure_future(deployment.infer(request(), "s", ("g", 0)))
        await asyncio.sleep(0.1)
        tasks = [
            asyncio.ensure_future(deployment.infer(request(deadline), "s", ("g", deadline)))
            for deadline in (30.0, math.inf, 10.0, 20.0)
        ]
        await asyncio.gather(busy, *tasks)
        assert [batch[0][1] for batch in backend.batches] == [0, 10.0, 20.0, 30.0, math.inf]

    in_deployment(body)


def test_batches_hold_equal_groups_up_to_their_bound() -> None:
    async def body(deployment: Deployment, backend: Told) -> None:
        items = [("a", 1), ("b", 1), ("a", 1), ("a", 1), ("b", 1), ("a", 1)]
        results = await asyncio.gather(*(deployment.infer(request(), "s", item) for item in items))
        assert list(results) == items
        assert backend.batches == [[("a", 1)] * 3, [("b", 1)] * 2, [("a", 1)]]
        assert deployment.batches == 3

    in_deployment(body, max_batch=3)


def test_an_idle_replica_never_waits_and_replicas_work_side_by_side() -> None:
    async def body(deployment: Deployment, backend: Told) -> None:
        requests = [request() for _ in range(4)]
        await asyncio.gather(*(deployment.infer(each, "s", ("g", 1)) for each in requests))
        assert asyncio.get_running_loop().time() == 3.0

    in_deployment(body, replicas=2)


def test_rows_tile_the_visit_and_shares_sum_to_the_batch() -> None:
    async def body(deployment: Deployment, backend: Told) -> None:
        weights = (1, 2, 5)
        requests = [request() for _ in weights]
        await asyncio.gather(
            *(deployment.infer(each, "s", ("g", w)) for each, w in zip(requests, weights, strict=True))
        )
        for each in requests:
            assert each.trace.rows == [
                ("s", "queue", 0.0, 0.0),
                ("s", "compute", 0.0, 2.5),
                ("s", "loop", 2.5, 2.5),
            ]
        spent = [each.trace.spent for each in requests]
        assert [row[0][:2] for row in spent] == [("s", "replica_seconds")] * 3
        assert [row[0][2] for row in spent] == pytest.approx([2.5 / 8, 5 / 8, 12.5 / 8])
        late = request()
        first = asyncio.ensure_future(deployment.infer(request(), "s", ("x", 1)))
        await asyncio.sleep(0.5)
        await deployment.infer(late, "s", ("y", 1), cause="user")
        await first
        causes = {cause: end - start for _, cause, start, end in late.trace.rows}
        assert causes == {"queue": 1.0, "user": 1.5, "loop": 0.0}

    in_deployment(body, max_batch=8)


def test_a_full_queue_refuses_and_leavers_make_room() -> None:
    async def body(deployment: Deployment, backend: Told) -> None:
        tasks = [asyncio.ensure_future(deployment.infer(request(), "s", ("g", n))) for n in range(3)]
        await asyncio.sleep(0.1)
        assert deployment.waiting == 2
        with pytest.raises(Overloaded, match="E402 told: 2 requests are waiting"):
            await deployment.infer(request(), "s", ("g", 9))
        tasks[1].cancel()
        await asyncio.sleep(0)
        assert deployment.waiting == 1
        last = asyncio.ensure_future(deployment.infer(request(), "s", ("g", 3)))
        await asyncio.gather(*tasks, last, return_exceptions=True)
        assert [batch[0][1] for batch in backend.batches] == [0, 2, 3]
        assert deployment.waiting == 0

    in_deployment(body, bound=2)


def test_a_crowd_that_leaves_is_forgotten() -> None:
    async def body(deployment: Deployment, backend: Told) -> None:
        busy = asyncio.ensure_future(deployment.infer(request(), "s", ("g", 0)))
        await asyncio.sleep(0.1)
        for _ in range(50):
            tasks = [asyncio.ensure_future(deployment.infer(request(), "s", ("g", 1))) for _ in range(20)]
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert deployment.waiting == 0
        assert len(deployment.queue) <= 200, "memory is bounded while a replica is stuck"
        await busy
        assert len(backend.batches) == 1

    in_deployment(body)


def test_one_member_may_fail_alone() -> None:
    async def body(deployment: Deployment, backend: Told) -> None:
        results = await asyncio.gather(
            *(deployment.infer(request(), "s", ("g", 1)) for _ in range(4)), return_exceptions=True
        )
        assert [isinstance(each, BackendError) for each in results] == [False, True, False, True]

    in_deployment(body, options={"fail_every": 2}, max_batch=4)


def test_closing_fails_what_waits_and_finishes_what_runs() -> None:
    async def body(deployment: Deployment, backend: Told) -> None:
        tasks = [asyncio.ensure_future(deployment.infer(request(), "s", ("g", n))) for n in range(3)]
        await asyncio.sleep(0.1)
        await deployment.close()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert results[0] == ("g", 0)
        assert all(isinstance(each, BackendError) for each in results[1:])
        with pytest.raises(BackendError, match="told is closed"):
            await deployment.infer(request(), "s", ("g", 1))

    in_deployment(body)


class Blunt:
    """A backend of real threads that does what it is told."""

    name = "blunt"
    option_keys: frozenset[str] = frozenset()

    def __init__(self, run: Callable[[Sequence[Any]], Any], fails: BaseException | None = None) -> None:
        self._run = run
        self._fails = fails
        self.closed = 0

    def open(self) -> None:
        if self._fails is not None:
            raise self._fails

    def group(self, item: Any) -> None:
        return None

    def weight(self, item: Any) -> float:
        return 0.0

    def run(self, items: Sequence[Any]) -> Any:
        return self._run(items)

    def properties(self) -> Mapping[str, str]:
        return {"device": "none"}

    def close(self) -> None:
        self.closed += 1


def _raise(items: Sequence[Any]) -> Any:
    raise MemoryError("no room")


@pytest.mark.parametrize("run", [_raise, lambda items: None, lambda items: [1, 2, 3], lambda items: []])
def test_a_backend_that_misbehaves_fails_its_requests_and_goes_on(
    run: Callable[[Sequence[Any]], Any],
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        backend = Blunt(run)
        deployment = Deployment(lambda: backend, label="blunt", clock=loop.time)
        await deployment.open()
        assert deployment.properties == {"device": "none"}
        for _ in range(2):
            with pytest.raises(BackendError, match="blunt"):
                await deployment.infer(request(), "s", 1)
        await deployment.close()
        assert backend.closed == 1

    asyncio.run(main())


def test_an_opening_that_fails_raises_the_backends_own_error() -> None:
    async def main() -> None:
        deployment = Deployment(
            lambda: Blunt(list, OSError("no file")),
            label="b",
            clock=asyncio.get_running_loop().time,
            replicas=2,
        )
        with pytest.raises(OSError, match="no file"):
            await deployment.open()

    asyncio.run(main())


# -- slots ----------------------------------------------------------------------------------------------------


class Slots:
    name = "slots"
    option_keys: frozenset[str] = frozenset()
    slots = 2

    def __init__(self) -> None:
        self.open_streams = self.most = 0
        self.order: list[Any] = []

    async def open(self) -> None: ...

    async def start(self, item: Mapping[str, Any]) -> AsyncIterator[Chunk]:
        self.order.append(item["name"])
        self.open_streams += 1
        self.most = max(self.most, self.open_streams)
        now = asyncio.get_running_loop().time
        try:
            for index in range(item.get("count", 2)):
                await asyncio.sleep(1)
                yield Chunk(text=str(index), tokens=1, at=now())
            yield Chunk(done=True, usage={"output_tokens": 2.0}, at=now())
        finally:
            await asyncio.sleep(0.25)
            self.open_streams -= 1

    def properties(self) -> Mapping[str, str]:
        return {}

    async def close(self) -> None: ...


def in_slots(body: Callable[[SlotDeployment, Slots], Awaitable[Any]], **settings: Any) -> None:
    async def main() -> None:
        backend = Slots()
        deployment = SlotDeployment(backend, label="slots", clock=asyncio.get_running_loop().time, **settings)
        await deployment.open()
        await body(deployment, backend)
        await deployment.close()
        assert backend.open_streams == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtual(main())


async def read(deployment: SlotDeployment, name: Any, deadline: float = math.inf, **item: Any) -> Request:
    made = request(deadline)
    async for _ in deployment.stream(made, "s", {"name": name, **item}):
        pass
    return made


def test_slots_are_bounded_and_given_by_deadline() -> None:
    async def body(deployment: SlotDeployment, backend: Slots) -> None:
        first = [asyncio.ensure_future(read(deployment, name)) for name in "ab"]
        await asyncio.sleep(0.1)
        later = [asyncio.ensure_future(read(deployment, d, d)) for d in (30.0, 10.0, 20.0)]
        await asyncio.gather(*first, *later)
        assert backend.order == ["a", "b", 10.0, 20.0, 30.0]
        assert backend.most == 2
        rows = later[1].result().trace
        assert [(cause, end - start) for _, cause, start, end in rows.rows if end > start] == [
            ("queue", pytest.approx(2.15)),
            ("prefill", 1.0),
            ("tokens", 1.0),
        ]
        assert rows.spent == [("s", "output_tokens", 2.0)]

    in_slots(body)


def test_those_who_leave_the_queue_of_slots_block_nobody() -> None:
    async def body(deployment: SlotDeployment, backend: Slots) -> None:
        first = [asyncio.ensure_future(read(deployment, name)) for name in "ab"]
        await asyncio.sleep(0.1)
        waiting = [asyncio.ensure_future(read(deployment, name)) for name in "cd"]
        await asyncio.sleep(0.1)
        assert deployment.waiting == 2
        for task in waiting:
            task.cancel()
        await asyncio.gather(*first, *waiting, return_exceptions=True)
        assert deployment.waiting == 0
        await read(deployment, "e")
        assert backend.order == ["a", "b", "e"]

    in_slots(body)


def test_a_reader_that_leaves_stops_the_stream_before_its_slot_is_given_on() -> None:
    async def body(deployment: SlotDeployment, backend: Slots) -> None:
        busy = asyncio.ensure_future(read(deployment, "a", count=50))
        await asyncio.sleep(0.1)
        async with aclosing(deployment.stream(request(), "s", {"name": "b", "count": 100})) as stream:
            await anext(stream)
            third = asyncio.ensure_future(read(deployment, "c"))
            await asyncio.sleep(0.1)
        await third
        assert backend.most == 2
        busy.cancel()
        await asyncio.gather(busy, return_exceptions=True)

    in_slots(body)


def test_a_full_queue_of_slots_refuses_and_closing_frees_it() -> None:
    async def body(deployment: SlotDeployment, backend: Slots) -> None:
        tasks = [asyncio.ensure_future(read(deployment, name)) for name in "abc"]
        await asyncio.sleep(0.1)
        with pytest.raises(Overloaded):
            await read(deployment, "d")
        await deployment.close()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results[2], BackendError)

    in_slots(body, bound=1)
