"""What a request is admitted for, where no deadline says it: the SLO's limits, in virtual time."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest

import tauten as tt
from kit.virtual import virtual
from run.kit_load import quantile
from run.kit_path import Busy, visit
from tauten.describe.slo import Slo
from tauten.describe.stage import Role, stage
from tauten.errors import BackendError, DeadlineExceeded, Overloaded
from tauten.plan.plan import Batch, ModelChoice, Plan, StagePlan
from tauten.run.door.admission import Door, Path, late_by_waiting
from tauten.run.door.objective import LATE
from tauten.run.engine import Engine
from tauten.run.request import Aim, Request
from tauten.serve.service import Service

LONG = pytest.mark.slow  # ten times the requests of the short run: over ten seconds of computing each


@stage(roles={"model": Role("none", ("synthetic",))}, effects="pure")
async def model(q: int, ctx: tt.Context) -> int:
    return int(await ctx.infer("model", q))


@stage(roles={"llm": Role("none", ("synthetic_slots",))}, effects="pure")
async def speak(text: tt.Text, ctx: tt.Context) -> AsyncIterator[tt.Text]:
    async for chunk in ctx.stream("llm", {"prompt": text.text}):
        yield tt.Text(chunk.text)


@tt.workflow
def flow(q: int) -> int:
    return model(q)  # type: ignore[arg-type,return-value]


@tt.workflow
def spoken(text: tt.Text) -> tt.Stream[tt.Text]:
    return speak(text)


def batches(
    ms_per_batch: float, ms_per_item: float = 4.0, sigma: float = 0.1, *, replicas: int = 1, seed: int = 0
) -> Plan:
    options = {"ms_per_batch": ms_per_batch, "ms_per_item": ms_per_item, "sigma": sigma, "seed": seed}
    role = ModelChoice(options=options, replicas=replicas, batch=Batch(max=8))
    return Plan(stages={"model": StagePlan(roles={"model": role})})


class End(NamedTuple):
    """How one request ended, its time, the time to its first output, and its priority."""

    how: str
    took_s: float
    first_s: float
    priority: int


class Server:
    """An engine that gives each request what a served workflow with this SLO gives it."""

    def __init__(self, engine: Engine, workflow: Any, inputs: dict[str, Any], slo: Slo) -> None:
        self.engine, self.inputs = engine, inputs
        self.service = Service(workflow, slo=slo, engine=engine)
        self.draws = random.Random(7)
        self.ends: list[End] = []

    async def one(self, priority: int = 0) -> End:
        engine, service = self.engine, self.service
        request = engine.request(deadline_ms=service.budget_s * 1e3, aim=service.aim, priority=priority)
        how = "done"
        try:
            await engine.run(self.inputs, request=request)
        except (Overloaded, DeadlineExceeded) as error:
            how = type(error).__name__
        start, first = request.trace.start, request.trace.first_output
        now = engine.clock()
        end = End(how, now - start, (first or now) - start, priority)
        self.ends.append(end)
        return end

    async def load(self, rate: float, seconds: float, high: float = 0.0) -> None:
        """Poisson arrivals, of which a share `high` have a higher priority."""
        until, tasks = self.engine.clock() + seconds, []
        while self.engine.clock() < until:
            await asyncio.sleep(self.draws.expovariate(rate))
            tasks.append(asyncio.ensure_future(self.one(int(self.draws.random() < high))))
        await asyncio.gather(*tasks)
        assert self.engine.zombies() == 0
        assert self.engine.door.limit.running == 0

    def of(self, how: str) -> list[End]:
        return [end for end in self.ends if end.how == how]


def served(
    plan: Plan,
    slo: Slo,
    rate: float,
    seconds: float,
    *,
    workflow: Any = flow,
    inputs: Any = None,
    high: float = 0.0,
) -> Server:
    """A server after a load; counted once its model is known and its margin was found."""

    async def body(engine: Engine) -> Server:
        await engine.open(workflow, plan)
        given = inputs or {"q": 1}
        for _ in range(5):
            await asyncio.gather(*(engine.run(given) for _ in range(16)))
        server = Server(engine, workflow, given, slo)
        await server.load(rate, 4.0, high)
        server.ends.clear()
        await server.load(rate, seconds, high)
        return server

    found: Server = virtual(body)
    return found


CAPACITY = 8 / 0.072  # of full batches, a second


@pytest.mark.parametrize("slo", [Slo(p99_ms=300), Slo(first_output_ms=300), Slo(p95_ms=1000)])
@pytest.mark.parametrize("seconds", [12.0, pytest.param(120.0, marks=LONG)])
def test_without_a_deadline_the_slo_is_what_overload_is_refused_by(slo: Slo, seconds: float) -> None:
    """What is admitted is answered within the SLO, not within three times as long."""
    limit_s = min(slo.limits().values()) / 1e3

    def goodput(server: Server) -> float:
        return sum(end.took_s <= limit_s for end in server.of("done")) / seconds

    plan = batches(40.0)
    peak = max(goodput(served(plan, slo, share * CAPACITY, seconds)) for share in (0.8, 0.9, 1.0))
    over = served(plan, slo, 3 * CAPACITY, seconds)
    assert goodput(over) >= 0.9 * peak
    admitted = [end.took_s for end in over.ends if end.how != "Overloaded"]
    assert quantile(admitted, 0.99) <= limit_s
    assert len(over.of("Overloaded")) > len(over.ends) / 2


@pytest.mark.parametrize(
    ("replicas", "seconds"),
    [(1, 12.0), pytest.param(1, 120.0, marks=LONG), pytest.param(2, 120.0, marks=LONG)],
)
def test_runs_that_differ_by_a_fifth_break_no_promise(replicas: int, seconds: float) -> None:
    """Two replicas run twice as long, with the same draws: what is late is late sixteen at a time, and the
    margin is found later."""
    plan = batches(40.0 * replicas, 4.0 * replicas, 0.2, replicas=replicas, seed=1)
    slo_s = 0.2 * replicas

    def at(times: float) -> tuple[float, list[float]]:
        server = served(plan, Slo(p99_ms=slo_s * 1e3), times * CAPACITY, seconds)
        admitted = [end.took_s for end in server.ends if end.how != "Overloaded"]
        return sum(took_s <= slo_s for took_s in admitted) / seconds, admitted

    peak = max(at(times)[0] for times in (0.9, 1.0))
    goodput, admitted = at(3.0)
    assert goodput >= 0.9 * peak
    assert quantile(admitted, 0.99) <= slo_s


def test_low_priorities_are_refused_first() -> None:
    server = served(batches(40.0), Slo(p95_ms=500), 2 * CAPACITY, 12.0, high=0.3)
    done = [[end.priority for end in server.ends if end.priority == each] for each in (0, 1)]
    shares = [sum(end.priority == each for end in server.of("done")) / len(done[each]) for each in (0, 1)]
    assert shares[1] > 0.95, shares
    assert 0.1 < shares[0] < 0.5, shares


def test_low_priorities_are_refused_first_by_slots_too() -> None:
    """Behind a stream of high ones that fills nine tenths, low ones would wait far longer than the queue says."""
    options = {"prefill_ms": 200.0, "ms_per_token": 65.0, "tokens": 20, "slots": 4, "sigma": 0.05}
    role = ModelChoice(backend="synthetic_slots", options=options)
    plan = Plan(stages={"speak": StagePlan(roles={"llm": role})})
    given, rate = {"text": tt.Text("hello")}, 1.4 * 4 / 1.5
    server = served(plan, Slo(p95_ms=8000), rate, 150.0, workflow=spoken, inputs=given, high=0.9 / 1.4)
    ways = [Counter(end.how for end in server.ends if end.priority == each) for each in (0, 1)]
    shares = [each["done"] / each.total() for each in ways]
    assert shares[1] > 0.98, ways
    assert 0.1 < shares[0] < 0.3, ways
    assert ways[0]["DeadlineExceeded"] <= 0.01 * ways[0].total(), ways
    assert not ways[1]["DeadlineExceeded"], ways


@pytest.mark.parametrize("batch_ms", [450.0, 800.0, 1200.0])
def test_a_lone_request_is_served_however_slow_its_own_work_is(batch_ms: float) -> None:
    """Own work just below, above, and far above the limit of 500 ms, with its spread."""

    async def body(engine: Engine) -> None:
        await engine.open(flow, batches(batch_ms, sigma=0.05))
        server = Server(engine, flow, {"q": 1}, Slo(p95_ms=500))
        for _ in range(100):
            await server.one()
            await asyncio.sleep(0.1)
        assert [end.how for end in server.ends] == ["done"] * 100

    virtual(body)


def test_slow_work_is_refused_for_what_waiting_adds() -> None:
    """Runs of 0.8 s under a limit of 0.5 s: nobody is refused for that, and nobody waits for three others."""
    plan = batches(800.0, 1.0, 0.02)
    server = served(plan, Slo(p95_ms=500), 3 * 8 / 0.808, 60.0)
    assert len(server.of("done")) > 0.3 * 8 / 0.808 * 60
    assert not server.of("DeadlineExceeded")
    assert quantile([end.took_s for end in server.of("done")], 0.99) < 1.4 * 0.808 * 1.25


@pytest.mark.parametrize(
    "slo", [Slo(first_output_ms=600), Slo(p95_ms=2000), Slo(p95_ms=2500, first_output_ms=600)]
)
def test_a_stream_has_an_aim_for_its_first_output_and_one_for_its_end(slo: Slo) -> None:
    """Streams of a second and a half, first words after 0.2 s."""
    options = {"prefill_ms": 200.0, "ms_per_token": 65.0, "tokens": 20, "slots": 4, "sigma": 0.05}
    role = ModelChoice(backend="synthetic_slots", options=options)
    plan = Plan(stages={"speak": StagePlan(roles={"llm": role})})
    given = {"text": tt.Text("hello")}
    server = served(plan, slo, 3 * 4 / 1.5, 60.0, workflow=spoken, inputs=given)
    admitted = [end for end in server.ends if end.how != "Overloaded"]
    assert quantile([end.first_s for end in admitted], 0.99) * 1e3 <= (slo.first_output_ms or 2000)
    assert quantile([end.took_s for end in admitted], 0.99) * 1e3 <= (slo.p95_ms or 60_000)
    assert len(server.of("done")) > 0.85 * 4 / 1.5 * 60


def test_what_a_service_asks_of_admission() -> None:
    def service(slo: Slo) -> Service:
        return Service(flow, slo=slo)

    assert service(Slo(p95_ms=200, p50_ms=100)).aim == Aim(0.2)
    assert service(Slo(p95_ms=200)).budget_s == pytest.approx(LATE * 0.2)
    assert service(Slo(first_output_ms=50)).aim == Aim(first_s=0.05)
    assert service(Slo()).aim == Aim()
    assert Aim(1.0, 0.5).less(0.2) == Aim(0.8, 0.3)


def test_only_waiting_makes_a_request_late() -> None:
    """Took 1.0 s under a limit of 0.5 s: with a wait of 0.6 s it would have been in time without, of 0.2 s not."""
    for waited_s, late in ((0.6, True), (0.2, False)):
        request = Request(lambda: 0.0, aim=Aim(0.5))
        begun = request.trace.start
        request.trace.rows += [
            ("a", "queue", begun, begun + waited_s),
            ("b", "queue", begun, begun + waited_s / 2),  # at the same time, in another branch
            ("a", "compute", begun + waited_s, begun + 1.0),
        ]
        assert late_by_waiting(request, begun + 1.0) is late
    assert not late_by_waiting(Request(lambda: 0.0, aim=Aim(0.5)), 0.4)


def learned() -> Path:
    """One step of a second; its margin is a twentieth at first."""
    path = Path({"a": ()}, {"a": [Busy()]})
    for _ in range(16):
        path.learn(visit("a", 0, 1))
    late(path)
    return path


def late(path: Path, priority: int = 0) -> None:
    with contextlib.suppress(DeadlineExceeded), Door(lambda: 0.0).through(path, asks(9.0, priority)):
        raise DeadlineExceeded("late", help="")


def asks(left_s: float, priority: int = 0) -> Request:
    return Request(lambda: 0.0, deadline=left_s, priority=priority)


def admits(path: Path, left_s: float, priority: int = 0) -> bool:
    try:
        Door(lambda: 0.0).knock(path, priority, left_s, 0.0)
    except Overloaded:
        return False
    return True


@pytest.mark.parametrize("way", [asyncio.CancelledError(), BackendError("failed", help=""), None])
def test_only_who_came_to_the_end_in_time_narrows_the_margin(way: BaseException | None) -> None:
    path = learned()
    assert not admits(path, 1.04)
    assert admits(path, 1.06)
    door = Door(lambda: 0.0)
    for _ in range(300):
        request = asks(9.0)
        with contextlib.suppress(asyncio.CancelledError, BackendError), door.through(path, request):
            request.trace.rows += visit("a", 0, 1)
            if way is not None:
                raise way
    assert admits(path, 1.04) is (way is None), "who left early, or failed, was not in time"


def test_lateness_of_one_priority_does_not_refuse_another() -> None:
    path = learned()
    assert not admits(path, 1.04)
    assert admits(path, 1.04, priority=1)
    late(path, priority=1)
    assert not admits(path, 1.04, priority=1)
