"""Deployments in virtual time: order by deadline, batches, shares, bounds, slots, leavers."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from tauten.clock import run_virtual
from tauten.errors import BackendError, Overloaded, PlanError
from tauten.run.backends.synthetic import SyntheticBackend
from tauten.run.contracts import Chunk, ModelSpec
from tauten.run.deploy.cpu_sets import cpu_sets
from tauten.run.deploy.deployment import Deployment
from tauten.run.deploy.job import Job
from tauten.run.deploy.slots_deployment import SlotDeployment
from tauten.run.request import Request


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


def test_idle_replicas_share_what_leaves_where_it_ends_sooner() -> None:
    async def body(deployment: Deployment, backend: Told) -> None:
        async def together(count: int) -> tuple[list[int], float]:
            del backend.batches[:]
            began = asyncio.get_running_loop().time()
            await asyncio.gather(*(deployment.infer(request(), "s", ("g", 1)) for _ in range(count)))
            return sorted(len(batch) for batch in backend.batches), asyncio.get_running_loop().time() - began

        for _ in range(8):  # what a run takes is learned
            await together(1)
            await together(16)
        assert await together(8) == ([4, 4], pytest.approx(3.0))
        assert await together(12) == ([6, 6], pytest.approx(4.0)), "a full batch and what is left of it"
        assert (await together(16))[0] == [8, 8]
        assert await together(2) == ([1, 1], pytest.approx(1.5))
        assert deployment.view().reasons["spread"] >= 6

    in_deployment(body, replicas=2, max_batch=8)


@pytest.mark.parametrize(("wait", "ms_per_batch"), [("off", 1000.0), ("slack", 8000.0)])
def test_what_ends_little_sooner_or_must_not_wait_stays_together(wait: Any, ms_per_batch: float) -> None:
    async def body(deployment: Deployment, backend: Told) -> None:
        for count in (1, 8, 1, 8, 8):
            del backend.batches[:]
            await asyncio.gather(*(deployment.infer(request(), "s", ("g", 1)) for _ in range(count)))
            assert [len(batch) for batch in backend.batches] == [count]

    in_deployment(body, replicas=2, max_batch=8, wait=wait, options={"ms_per_batch": ms_per_batch})


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


def test_who_is_given_up_and_leaves_in_the_same_moment_is_counted_once() -> None:
    async def body(deployment: Deployment, backend: Told) -> None:
        running = asyncio.ensure_future(deployment.infer(request(), "s", ("a", 1)))
        await asyncio.sleep(0.1)
        waiting = asyncio.ensure_future(deployment.infer(request(), "s", ("a", 1)))
        await asyncio.sleep(0.1)
        head = deployment.queue.pop()
        deployment._expire(head, 0.1)  # as a release does that finds it hopeless
        waiting.cancel()  # as its deadline does, before it could run
        await asyncio.wait([waiting, running])
        assert running.exception() is None
        assert deployment.waiting == 0
        assert await deployment.infer(request(), "s", ("a", 1)) == ("a", 1)

    in_deployment(body, max_batch=2)


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


# -- failures -------------------------------------------------------------------------------------------------


class Fragile(Told):
    """A batch that holds "poison" fails as a whole; one that holds "fatal" kills the backend, once."""

    killed = 0

    def answer(self, items: Sequence[Any]) -> list[Any]:
        self.batches.append(list(items))
        kinds = [item[0] for item in items]
        if "fatal" in kinds and not type(self).killed:
            type(self).killed += 1
            error = BackendError("the engine is gone", help="it is opened anew")
            error.dead = True
            raise error
        if any(item[1] < 0 for item in items):
            raise MemoryError("poison")
        return list(items)


def fragile(body: Callable[[Deployment], Awaitable[Any]], **settings: Any) -> None:
    async def main() -> None:
        Fragile.killed = 0
        spec = ModelSpec("fragile", options={"ms_per_batch": 1000.0})
        clock = asyncio.get_running_loop().time
        deployment = Deployment(lambda: Fragile(spec), label="fragile", clock=clock, **settings)
        await deployment.open()
        try:
            await body(deployment)
        finally:
            await deployment.close()

    run_virtual(main())


def test_a_poisoned_item_fails_alone() -> None:
    async def body(deployment: Deployment) -> None:
        items = [("g", weight) for weight in (1, 2, 3, -1, 5, 6, 7)]
        results = await asyncio.gather(
            *(deployment.infer(request(), "s", item) for item in items), return_exceptions=True
        )
        for item, result in zip(items, results, strict=True):
            if item[1] < 0:
                assert isinstance(result, BackendError)
                assert isinstance(result.__cause__, MemoryError)
            else:
                assert result == item
        assert deployment.view().bisected == 3
        assert deployment.durations.runs == 0, "a run in halves teaches nothing"

    fragile(body, max_batch=8)


def test_what_may_not_run_twice_is_not_bisected() -> None:
    async def body(deployment: Deployment) -> None:
        results = await asyncio.gather(
            *(deployment.infer(request(), "s", ("g", n)) for n in (1, -1, 3)), return_exceptions=True
        )
        assert all(isinstance(each, BackendError) for each in results)
        assert deployment.view().bisected == 0

    fragile(body, max_batch=8, pure=False)


@pytest.mark.parametrize("pure", [True, False])
def test_a_backend_that_dies_is_opened_anew_and_its_requests_run_once_more(pure: bool) -> None:
    async def body(deployment: Deployment) -> None:
        results = await asyncio.gather(
            *(deployment.infer(request(), "s", (kind, 1)) for kind in ("fatal", "g", "h")),
            return_exceptions=True,
        )
        died = [isinstance(each, BackendError) for each in results]
        assert died == ([False] * 3 if pure else [True, False, False])
        view = deployment.view()
        assert (view.restarts, view.retried, view.replicas) == (1, int(pure), 2)

    fragile(body, replicas=2, pure=pure)


def test_a_dead_backend_in_a_thread_is_replaced() -> None:
    made: list[Blunt] = []

    def make() -> Blunt:
        def run(items: Sequence[Any]) -> Any:
            if len(made) == 1:
                error = BackendError("gone", help="")
                error.dead = True
                raise error
            return list(items)

        made.append(Blunt(run))
        return made[-1]

    async def main() -> None:
        deployment = Deployment(make, label="b", clock=asyncio.get_running_loop().time)
        await deployment.open()
        assert await deployment.infer(request(), "s", 7) == 7
        assert deployment.view().restarts == 1
        await deployment.close()
        assert [each.closed for each in made] == [1, 1]

    asyncio.run(main())


def test_work_for_those_who_left_is_a_zombie_until_it_ends() -> None:
    async def body(deployment: Deployment, backend: Told) -> None:
        task = asyncio.ensure_future(deployment.infer(request(), "s", ("g", 1)))
        await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.sleep(0.05)
        assert deployment.zombies() == 0
        await asyncio.sleep(0.1)
        assert deployment.zombies() == deployment.view().zombies == 1
        await asyncio.sleep(1.0)
        assert deployment.zombies() == 0

    in_deployment(body)


# -- preparation ------------------------------------------------------------------------------------------------


class Prepared(Blunt):
    """Notes which thread prepared and which one ran."""

    def __init__(self) -> None:
        super().__init__(list)
        self.go = threading.Event()
        self.prepared: list[list[Any]] = []
        self.ran: list[list[Any]] = []

    def run(self, items: Sequence[Any]) -> Any:
        self.go.wait(5.0)
        return list(items)

    def prepare(self, items: Sequence[Any]) -> Any:
        self.prepared.append(list(items))
        self.go.set()
        return list(items)

    def run_prepared(self, prepared: Any) -> Any:
        self.ran.append(prepared)
        return prepared


def test_the_next_full_batch_is_prepared_while_one_runs() -> None:
    async def main() -> None:
        backend = Prepared()
        deployment = Deployment(
            lambda: backend, label="p", clock=asyncio.get_running_loop().time, max_batch=4
        )
        await deployment.open()
        results = await asyncio.gather(*(deployment.infer(request(), "s", n) for n in range(11)))
        assert results == list(range(11))
        assert backend.prepared == backend.ran == [[4, 5, 6, 7]]
        await deployment.close()
        assert backend.closed == 1

    asyncio.run(main())


# -- processors --------------------------------------------------------------------------------------------------


def test_replicas_run_where_the_plan_binds_them(tmp_path: Path) -> None:
    here = sorted(os.sched_getaffinity(0))
    assert cpu_sets([], []) == ()
    sets = cpu_sets([str(here[-1])], [])
    assert sets == (frozenset({here[-1]}),)
    (tmp_path / "node0").mkdir()
    (tmp_path / "node0" / "cpulist").write_text(f"{here[0]}\n")
    assert cpu_sets([], [0], tmp_path) == (frozenset({here[0]}),)
    with pytest.raises(PlanError, match="NUMA node 7") as refused:
        cpu_sets([], [7], tmp_path)
    assert "this machine has: 0" in refused.value.help
    with pytest.raises(PlanError, match="processors 100000"):
        cpu_sets(["100000-100001"], [])
    for bad in ("", "a", "1-", "3;4"):
        with pytest.raises(PlanError, match="E122"):
            cpu_sets([bad], [])
    with pytest.raises(PlanError, match="E122"):
        cpu_sets(["0"], [0])

    async def main() -> None:
        backend = Blunt(lambda items: [sorted(os.sched_getaffinity(0))])
        clock = asyncio.get_running_loop().time
        deployment = Deployment(lambda: backend, label="b", clock=clock, cpus=sets)
        await deployment.open()
        assert await deployment.infer(request(), "s", 1) == [here[-1]]
        await deployment.close()

    asyncio.run(main())
    assert sorted(os.sched_getaffinity(0)) == here


# -- slots ----------------------------------------------------------------------------------------------------


class Slots:
    name = "slots"
    option_keys: frozenset[str] = frozenset()
    slots = 2

    def __init__(self) -> None:
        self.open_streams = self.most = 0
        self.order: list[Any] = []
        self.left: list[float] = []  # when streams were closed that its engine has yet to drop

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

    def lingering(self) -> list[float]:
        return self.left

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


def test_who_is_given_up_by_a_slot_and_leaves_in_the_same_moment_is_counted_once() -> None:
    async def body(deployment: SlotDeployment, backend: Slots) -> None:
        first = [asyncio.ensure_future(read(deployment, name)) for name in "ab"]
        await asyncio.sleep(0.1)
        waiting = asyncio.ensure_future(read(deployment, "c"))
        await asyncio.sleep(0.1)
        deployment.queue.pop().fail(BackendError("hopeless", help="allow more time"))
        waiting.cancel()
        await asyncio.gather(*first, waiting, return_exceptions=True)
        assert deployment.waiting == 0
        await asyncio.wait_for(
            read(deployment, "e"), 60
        )  # a queue that counts less than nothing lets nobody in

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


def test_slots_are_given_by_priority_and_tenant_and_refused_when_too_late() -> None:
    async def body(deployment: SlotDeployment, backend: Slots) -> None:
        for _ in range(3):
            await read(deployment, "warm")
        backend.order.clear()

        async def asked(name: str, priority: int = 0, tenant: str = "") -> None:
            made = request()
            made.priority, made.tenant = priority, tenant
            async for _ in deployment.stream(made, "s", {"name": name}):
                pass

        first = [asyncio.ensure_future(asked(name)) for name in "ab"]
        await asyncio.sleep(0.1)
        names = [("low", -1, "x"), ("x1", 0, "x"), ("x2", 0, "x"), ("y1", 0, "y"), ("high", 1, "x")]
        later = [asyncio.ensure_future(asked(*each)) for each in names]
        await asyncio.sleep(0.1)
        assert deployment.view().waiting == 5
        now = asyncio.get_running_loop().time()
        with pytest.raises(Overloaded) as refused:
            await read(deployment, "late", now + 2.5)
        assert refused.value.retry_after_s > 1.0
        await asyncio.gather(*first, *later)
        assert backend.order == ["a", "b", "high", "x1", "y1", "x2", "low"]

    in_slots(body)


class Eight(Request):
    """Eight requests that came as one."""

    count = 8


def test_those_who_come_as_one_do_not_overtake_who_came_before_them() -> None:
    async def body(deployment: Deployment, backend: Told) -> None:
        now = deployment.clock
        for size in (1, 2, 4, 1, 4):  # so that it knows how long runs take
            await asyncio.gather(*(deployment.infer(Request(now), "s", ("g", 1)) for _ in range(size)))
        assert deployment.durations.slope_s > 0.0
        busy = asyncio.ensure_future(deployment.infer(Request(now), "s", ("g", 1)))
        await asyncio.sleep(0.1)
        first = Job(("g", 1), 1.0, Request(now, deadline=now() + 100.0), now(), _future())
        await asyncio.sleep(0.1)
        crowd = Job(("g", 8), 8.0, Eight(now, deadline=now() + 100.0), now(), _future())
        for job in (crowd, first):
            job.group = "g"
            deployment.push(Request(now, deadline=job.deadline), "s", job)
        assert first.due < crowd.due
        assert deployment.queue.head() is first
        for job in (first, crowd):
            job.waiter.cancel()  # type: ignore[attr-defined]
            deployment.leave(job)
        await busy

    in_deployment(body, max_batch=4)


def test_those_who_come_as_one_are_given_up_when_none_of_them_could_be_in_time() -> None:
    async def body(deployment: Deployment, backend: Told) -> None:
        now = deployment.clock
        for size in (1, 2, 4, 1, 4):
            await asyncio.gather(*(deployment.infer(Request(now), "s", ("g", 1)) for _ in range(size)))
        alone_s = deployment.durations.low_of(1.0)
        for left_s, hopeless in ((alone_s * 1.1, False), (alone_s * 0.9, True)):
            job = Job(("g", 8), 8.0, Eight(now, deadline=now() + left_s), now(), _future())
            assert deployment._is_hopeless(job, now()) is hopeless

    in_deployment(body, max_batch=4)


def _future() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()
