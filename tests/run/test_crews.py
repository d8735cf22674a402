"""Decoding and preparation as stations of a path, on a virtual clock: what waits there is foreseen, and refused."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import itertools
import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pytest

import tauten as tt
from kit.virtual import virtual
from run.kit_load import quantile
from tauten.clock import run_virtual
from tauten.describe.slo import Slo
from tauten.describe.stage import Role, stage
from tauten.describe.view import View
from tauten.errors import DeadlineExceeded, Overloaded
from tauten.plan.plan import Batch, ModelChoice, Plan, StagePlan
from tauten.run.codecs.pixels import PixelsCodec
from tauten.run.decode.decoders import Decoders
from tauten.run.engine import PREPARATION_THREADS, Engine
from tauten.run.request import Request
from tauten.run.workers import Workers
from tauten.serve.service import Service

LONG = pytest.mark.slow  # ten times the requests of the short run
PICTURE = tt.Image(b"\x89PNG\r\n\x1a\n")
DECODE_S = 0.05
CAPACITY = PREPARATION_THREADS / DECODE_S  # pictures or preparations a second
SLO = Slo(p95_ms=300)
LIMIT_S = 0.3


class Takes:
    """A blocking function that says how long it takes in virtual time: about so many seconds."""

    def __init__(self, seconds: float, spread: float = 0.0) -> None:
        self.seconds, self.spread = seconds, spread
        self.draws = random.Random(3)

    def duration(self, *args: Any) -> float:
        return self.seconds * self.draws.lognormvariate(-(self.spread**2) / 2, self.spread)

    def __call__(self, *args: Any) -> Any:
        return args[0] if args else None


@pytest.fixture(autouse=True)
def slow_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures that take long to decode, and are not looked at."""
    takes = Takes(DECODE_S, 0.1)
    monkeypatch.setattr(PixelsCodec, "duration", lambda self, payload: takes.duration(payload), raising=False)
    monkeypatch.setattr(PixelsCodec, "decode", lambda self, data, media_type, params, name: 1)


MODEL = {"model": Role("none", ("synthetic",))}


@stage(roles=MODEL, views={"photo": View("pixels")}, effects="pure")
async def look(photo: tt.Image, ctx: tt.Context) -> int:
    return int(await ctx.infer("model", photo))


@tt.workflow
def drawn(photo: tt.Image) -> int:
    return look(photo)  # type: ignore[arg-type,return-value]


@tt.workflow
async def program(photo: tt.Image) -> int:
    return int(await look(photo))  # type: ignore[arg-type]


PREPARES = Takes(DECODE_S, 0.1)


@stage(roles=MODEL, effects="pure")
async def prepare(q: int, ctx: tt.Context) -> int:
    return int(await ctx.infer("model", await ctx.work(PREPARES, q)))


@tt.workflow
def prepared(q: int) -> int:
    return prepare(q)  # type: ignore[arg-type,return-value]


@stage(effects="pure")
async def only_work(q: int, ctx: tt.Context) -> int:
    return await ctx.work(PREPARES, q)


@tt.workflow
def worked(q: int) -> int:
    return only_work(q)  # type: ignore[arg-type,return-value]


QUICK = StagePlan(roles={"model": ModelChoice(options={"ms_per_batch": 1.0}, batch=Batch(max=8))})
PLAN = Plan(stages={"look": QUICK})
FLOWS: dict[str, tuple[Any, dict[str, Any], Plan]] = {
    "decoding": (drawn, {"photo": PICTURE}, PLAN),
    "decoding in a program": (program, {"photo": PICTURE}, PLAN),
    "preparation": (prepared, {"q": 1}, Plan(stages={"prepare": QUICK})),
    "nothing but work": (worked, {"q": 1}, Plan()),
}


class End(NamedTuple):
    how: str
    took_s: float
    retry_s: float


class Load:
    """An open loop of requests, each with what a served workflow with this SLO gives it."""

    def __init__(self, engine: Engine, flow: str) -> None:
        workflow, self.inputs, _ = FLOWS[flow]
        self.engine = engine
        self.service = Service(workflow, slo=SLO, engine=engine)
        self.draws = random.Random(7)
        self.ends: list[End] = []

    async def one(self) -> None:
        service = self.service
        request = self.engine.request(deadline_ms=service.budget_s * 1e3, aim=service.aim)
        how, retry_s = "done", 0.0
        try:
            await self.engine.run(self.inputs, request=request)
        except (Overloaded, DeadlineExceeded) as error:
            how = type(error).__name__
            retry_s = error.retry_after_s if isinstance(error, Overloaded) else 0.0
        self.ends.append(End(how, self.engine.clock() - request.start, retry_s))

    async def come(self, rate: float, seconds: float) -> None:
        until, tasks = self.engine.clock() + seconds, []
        while self.engine.clock() < until:
            await asyncio.sleep(self.draws.expovariate(rate))
            tasks.append(asyncio.ensure_future(self.one()))
        await asyncio.gather(*tasks)
        assert self.engine.door.limit.running == 0
        assert not self.engine.workers.coming
        assert self.engine.zombies() == 0


def loaded(flow: str, times: float, seconds: float) -> list[End]:
    """What became of the requests of a load; counted once steps are known and margins were found."""

    async def body(engine: Engine) -> list[End]:
        workflow, inputs, plan = FLOWS[flow]
        await engine.open(workflow, plan)
        for _ in range(16):
            await engine.run(inputs)
        load = Load(engine, flow)
        await load.come(times * CAPACITY, 4.0)
        load.ends.clear()
        await load.come(times * CAPACITY, seconds)
        return load.ends

    found: list[End] = virtual(body)
    return found


def goodput(ends: list[End], seconds: float) -> float:
    return sum(end.how == "done" and end.took_s <= LIMIT_S for end in ends) / seconds


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("seconds", [6.0, pytest.param(60.0, marks=LONG)])
def test_three_times_what_threads_can_do_keeps_goodput_and_promises(flow: str, seconds: float) -> None:
    peak = max(goodput(loaded(flow, share, seconds), seconds) for share in (0.9, 1.0))
    ends = loaded(flow, 3.0, seconds)
    ways = Counter(end.how for end in ends)
    assert goodput(ends, seconds) >= 0.9 * peak, ways
    assert quantile([end.took_s for end in ends if end.how != "Overloaded"], 0.99) <= LIMIT_S, ways
    assert ways["DeadlineExceeded"] <= 0.01 * ways["done"], ways
    assert ways["Overloaded"] > len(ends) / 2
    assert all(0.0 < end.retry_s < LIMIT_S for end in ends if end.how == "Overloaded")


# -- one crew ------------------------------------------------------------------------------------------------


def crew(body: Callable[[Workers, Request], Awaitable[None]], **settings: Any) -> None:
    """Run `body` with a crew of one thread and a request without a deadline."""

    async def main() -> None:
        clock = asyncio.get_running_loop().time
        workers = Workers(1, "test", clock, **settings)
        await body(workers, Request(clock))
        assert workers.waiting == 0
        workers.close()

    run_virtual(main())


def test_what_is_urgent_goes_first_and_tenants_take_turns() -> None:
    ran: list[str] = []

    class Named(Takes):
        def __call__(self, name: str) -> None:
            ran.append(name)

    async def order(workers: Workers, asked: list[tuple[str, Request]]) -> str:
        ran.clear()
        call = Named(1.0)
        work = [workers.run(request, "s", "user", call, name) for name, request in asked]
        await asyncio.gather(*work)
        return "".join(ran)

    async def body(workers: Workers, first: Request) -> None:
        def request(left_s: float = math.inf, priority: int = 0, tenant: str = "") -> Request:
            now = workers.clock()
            return Request(workers.clock, deadline=now + left_s, priority=priority, tenant=tenant)

        slack = [
            ("-", first),
            *((name, request(left_s)) for name, left_s in zip("cab", (90, 50, 70), strict=True)),
        ]
        assert await order(workers, slack) == "-abc"
        ranks = [("-", first), ("low", request()), ("high", request(priority=1))]
        assert await order(workers, ranks) == "-highlow"
        many = [
            ("-", first),
            *(("m", request(tenant="many")) for _ in range(6)),
            ("f", request(tenant="few")),
        ]
        assert await order(workers, many) == "-mmfmmmm", "first come, and two are as good as even"

    crew(body)


async def busy(workers: Workers, request: Request) -> tuple[Takes, list[asyncio.Future[Any]]]:
    """What calls take is known; one of four runs since 20 ms, three wait."""
    call = Takes(0.05)
    for _ in range(4):
        await workers.run(request, "s", "user", call)
    jobs = [asyncio.ensure_future(workers.run(request, "s", "user", call)) for _ in range(4)]
    await asyncio.sleep(0.02)
    return call, jobs


def test_a_full_queue_says_when_to_come_back_and_gives_up_the_least_urgent() -> None:
    async def body(workers: Workers, request: Request) -> None:
        call, jobs = await busy(workers, request)
        with pytest.raises(Overloaded, match="test: 3 requests are waiting") as refused:
            await workers.run(request, "s", "user", call)
        assert refused.value.retry_after_s == pytest.approx(0.03 + 3 * 0.05)
        urgent = Request(workers.clock, priority=1)
        await workers.run(urgent, "s", "user", call)
        done = await asyncio.gather(*jobs, return_exceptions=True)
        assert sum(isinstance(each, Overloaded) for each in done) == 1

    crew(body, bound=3)


def test_what_would_be_late_is_refused_where_no_path_foresaw_it() -> None:
    async def body(workers: Workers, request: Request) -> None:
        call, jobs = await busy(workers, request)
        short = Request(workers.clock, deadline=workers.clock() + 0.1)
        jobs[3].cancel()
        with pytest.raises(Overloaded, match="100 ms are left") as refused:
            await workers.run(short, "s", "user", call)
        assert 0.0 < refused.value.retry_after_s < 0.2
        await workers.finish(short, "s", "user", Takes(0.0))  # what ends a work is never refused
        await asyncio.gather(*jobs, return_exceptions=True)

    crew(body)


def test_who_leaves_frees_its_place_behind_others_too() -> None:
    async def body(workers: Workers, request: Request) -> None:
        call = Takes(1.0)
        jobs = [asyncio.ensure_future(workers.run(request, "s", "user", call)) for _ in range(4)]
        await asyncio.sleep(0.1)
        assert workers.waiting == 3
        for job in jobs[2:]:
            job.cancel()
        await asyncio.wait(jobs[2:])
        assert workers.waiting == 1
        await asyncio.gather(*jobs[:2], *(workers.run(request, "s", "user", call) for _ in range(2)))

    crew(body, bound=3)


def test_a_decode_waits_as_other_work_does() -> None:
    async def main() -> None:
        clock = asyncio.get_running_loop().time
        made = Decoders(threads=1, clock=clock)
        jobs = [asyncio.ensure_future(made.decode(PICTURE, View("pixels"))) for _ in range(3)]
        spans = [(started, ended) for _, started, ended in await asyncio.gather(*jobs)]
        assert spans[0][0] == 0.0
        assert all(before[1] == after[0] for before, after in itertools.pairwise(spans))
        await made.end()

    run_virtual(main())


def test_who_sends_no_picture_is_not_refused_for_those_of_others() -> None:
    """Half of the requests bring one: the step is no sure one, and its crew refuses by itself."""

    @tt.workflow
    def perhaps(q: int, photo: tt.Image | None = None) -> int:
        return answer(q, look(photo))  # type: ignore[arg-type,return-value]

    async def body(engine: Engine) -> None:
        await engine.open(perhaps, Plan(stages={"look": QUICK, "answer": QUICK}))
        for index in range(32):
            await engine.run({"q": 1, "photo": PICTURE if index % 2 else None})
        crowd = [asyncio.ensure_future(engine.run({"q": 1, "photo": PICTURE})) for _ in range(40)]
        await asyncio.sleep(0.01)
        await engine.run({"q": 1}, deadline_ms=100.0)
        with pytest.raises(Overloaded, match="decode-thread"):
            await engine.run({"q": 1, "photo": PICTURE}, deadline_ms=100.0)
        await asyncio.gather(*crowd)

    virtual(body)


@stage(roles=MODEL, effects="pure")
async def answer(q: int, seen: int | None, ctx: tt.Context) -> int:
    return int(await ctx.infer("model", q + (seen or 0)))


@pytest.mark.parametrize("flow", ["decoding", "preparation"])
def test_work_for_those_who_left_is_counted_until_it_ends(monkeypatch: pytest.MonkeyPatch, flow: str) -> None:
    monkeypatch.setattr(PixelsCodec, "duration", lambda self, payload: 1.0)
    monkeypatch.setattr(PREPARES, "seconds", 1.0)

    async def body(engine: Engine) -> None:
        workflow, inputs, plan = FLOWS[flow]
        await engine.open(workflow, plan)
        request = asyncio.ensure_future(engine.run(inputs))
        await asyncio.sleep(0.2)
        request.cancel()
        await asyncio.wait([request])
        seen = []
        for _ in range(15):
            seen.append(engine.zombies())
            await asyncio.sleep(0.09)
        assert seen[:2] == [0, 0]
        assert seen[2:5] == [1, 1, 1]
        assert seen[-1] == 0

    virtual(body)
