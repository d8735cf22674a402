"""Stations of a path beside its queues, on a virtual clock: the event loop itself, and a replica that stalls."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

import pytest

import tauten as tt
from kit.virtual import virtual
from run.kit_load import Load, quantile, simulate
from tauten.describe.stage import Role, stage
from tauten.errors import DeadlineExceeded, Overloaded
from tauten.plan.plan import Batch, ModelChoice, Plan, StagePlan
from tauten.run.backends.synthetic import SyntheticBackend
from tauten.run.engine import Engine
from tauten.run.request import Request

LONG = pytest.mark.slow  # fifty times the requests of the short run: a minute of computing
WARM_S = 4.0
SLO_S = 1.0
READ_S, REFUSE_S, WORK_S, REPLY_S = 0.0004, 0.00012, 0.0016, 0.0008  # of the loop; WORK decodes and begins
CAPACITY = 8 / 0.072  # of the model, in full batches
PAUSE_S, EVERY_S = 0.6, 4.0  # the loop stands still: a collection, or somebody else has the core


@stage(roles={"model": Role("none", ("synthetic",))}, effects="pure")
async def model(q: int, ctx: tt.Context) -> int:
    return int(await ctx.infer("model", q))


@tt.workflow
def flow(q: int) -> int:
    return model(q)  # type: ignore[arg-type,return-value]


PLAN = Plan(
    stages={
        "model": StagePlan(
            roles={
                "model": ModelChoice(
                    options={"ms_per_batch": 40.0, "ms_per_item": 4.0, "sigma": 0.1}, batch=Batch(max=8)
                )
            }
        )
    }
)


class Station:
    """The event loop as a queue with one server: what waits in sockets and what waits to be written."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[asyncio.Future[None], Callable[[], float]]] = deque()
        self._wake = asyncio.Event()

    async def turn(self, work: Callable[[], float]) -> None:
        """Wait until all before are done, do this one's work, and take as long as that says."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((done, work))
        self._wake.set()
        await done

    async def serve(self, pauses: bool) -> None:
        loop = asyncio.get_running_loop()
        pause_at = loop.time() + EVERY_S
        while True:
            while self._waiting:
                if pauses and loop.time() > pause_at:
                    pause_at += EVERY_S
                    await asyncio.sleep(PAUSE_S)
                done, work = self._waiting.popleft()
                await asyncio.sleep(work())
                done.set_result(None)
            self._wake.clear()
            await self._wake.wait()


class Client:
    """An open loop of requests through a station to an engine. A server that knows its loop tells each request
    what it waited (`tells`), and asks before it begins with one (`knocks`)."""

    def __init__(self, engine: Engine, *, tells: bool = True, knocks: bool = True) -> None:
        self.engine, self.tells, self.knocks = engine, tells, knocks
        self.station = Station()
        self.draws = random.Random(5)
        self.ways: Counter[str] = Counter()
        self.admitted_s: list[float] = []

    async def one(self) -> None:
        loop = asyncio.get_running_loop()
        due, how = loop.time(), "done"
        running: list[asyncio.Task[Any]] = []

        def begin() -> float:
            """What the server does in one go when it meets the request: look, refuse or decode, and start it."""
            lag_s = loop.time() - due if self.tells else 0.0
            if self.knocks:
                try:
                    self.engine.knock(deadline_ms=SLO_S * 1e3, lag_s=lag_s)
                except Overloaded:
                    return READ_S
            request = self.engine.request(deadline_ms=SLO_S * 1e3, lag_s=lag_s)
            running.append(loop.create_task(self.engine.run({"q": 1}, request=request)))
            return READ_S + WORK_S

        await self.station.turn(begin)
        try:
            how = "done" if running else "refused"
            await asyncio.gather(*running)
        except Overloaded:
            how = "refused"
        except DeadlineExceeded:
            how = "expired"
        await self.station.turn(lambda: REFUSE_S if how == "refused" else REPLY_S)
        took_s = loop.time() - due
        if how != "refused":
            self.admitted_s.append(took_s)
        self.ways["late" if how == "done" and took_s > SLO_S else how] += 1

    async def load(self, rate: float, seconds: float, *, pauses: bool = False) -> None:
        loop = asyncio.get_running_loop()
        serving = loop.create_task(self.station.serve(pauses))
        until, tasks = loop.time() + seconds, []
        while loop.time() < until:
            await asyncio.sleep(self.draws.expovariate(rate))
            tasks.append(loop.create_task(self.one()))
        await asyncio.gather(*tasks)
        serving.cancel()
        await asyncio.wait([serving])


def loaded(times: float, seconds: float = 12.0, *, pauses: bool = False, **server: bool) -> Client:
    """A client after so many times the capacity of a model that is known well; counted once the margin of the
    predictions has been found."""

    async def body(engine: Engine) -> Client:
        await engine.open(flow, PLAN)
        for _ in range(5):
            await asyncio.gather(*(engine.run({"q": 1}) for _ in range(16)))
        client = Client(engine, **server)
        await client.load(times * CAPACITY, WARM_S, pauses=pauses)
        client.ways.clear()
        client.admitted_s.clear()
        await client.load(times * CAPACITY, seconds, pauses=pauses)
        assert engine.zombies() == 0
        assert engine.door.limit.running == 0
        return client

    found: Client = virtual(body)
    return found


@pytest.mark.parametrize(
    ("times", "seconds"), [(3.0, 12.0), (10.0, 6.0), pytest.param(10.0, 300.0, marks=LONG)]
)
def test_goodput_and_promises_hold_through_a_loop_that_is_a_station(times: float, seconds: float) -> None:
    peak = max(loaded(share).ways["done"] / 12 for share in (0.9, 1.0))
    client = loaded(times, seconds)
    assert client.ways["done"] / seconds >= 0.9 * peak, client.ways
    assert quantile(client.admitted_s, 0.99) <= SLO_S, client.ways
    assert client.ways["expired"] <= 0.01 * client.ways["done"], client.ways


def test_what_a_request_waited_for_the_loop_counts() -> None:
    """Else the crowd behind each pause of the loop is let in with a whole budget, and is late."""
    told, blind = (loaded(3.0, pauses=True, tells=tells) for tells in (True, False))
    late = [each.ways["late"] + each.ways["expired"] for each in (told, blind)]
    assert late[1] > 1.7 * late[0], (told.ways, blind.ways)
    assert told.ways["done"] > 1.1 * blind.ways["done"]


def test_who_is_refused_before_work_is_begun_leaves_the_loop_to_the_others() -> None:
    late = loaded(10.0, 3.0, knocks=False)
    early = loaded(10.0, 3.0)
    assert early.ways["done"] > 2 * late.ways["done"], (early.ways, late.ways)


# -- a replica that stalls -----------------------------------------------------------------------------------


class Stalls(SyntheticBackend):
    """Its hundredth run takes three seconds."""

    runs = 0

    def duration(self, items: Sequence[Any]) -> float:
        self.runs += 1
        return 3.0 if self.runs == 100 else 0.01


async def stalled(load: Load) -> None:
    """Until 1.5 s into the long run."""
    for _ in range(99):
        await load.one()
    load.start()
    await asyncio.sleep(1.5)


def test_estimates_hold_while_a_run_that_should_have_ended_goes_on() -> None:
    async def body(load: Load) -> None:
        await stalled(load)
        deployment = load.deployment
        assert deployment.wait_s(0, load.loop.time()) > 1.0, "overdue by 1.5 s: about as long again"
        with pytest.raises(Overloaded):
            await deployment.infer(Request(load.loop.time, deadline=load.loop.time() + 0.3), "s", 1)
        await load.settled()
        assert deployment.wait_s(0, load.loop.time()) == 0.0
        load.outcomes.clear()
        for _ in range(20):
            await load.one(budget_s=0.3)
        assert load.ways == {"done": 20}, "and when it is over, it is over"

    simulate(body, backend=Stalls)


def test_a_stall_does_not_let_a_crowd_in_that_must_expire() -> None:
    async def body(load: Load) -> None:
        await stalled(load)
        load.outcomes.clear()
        await load.open_loop(300, 1.0, budget_s=0.3)
        assert load.ways["DeadlineExceeded"] <= 0.1 * load.ways["Overloaded"], load.ways

    simulate(body, backend=Stalls)
