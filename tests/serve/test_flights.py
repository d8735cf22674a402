"""Single-flight: who shares a computation, who leaves it, and what an error means to the others."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import random
from typing import Any

import numpy as np
import pytest

import tauten as tt
from serve.kit_asgi import ask, site
from serve.kit_stream import Client, settle
from tauten.clock import run_virtual
from tauten.errors import BackendError, Cancelled, DeadlineExceeded, InputError
from tauten.run.deadline import stoppable
from tauten.run.opened import Answer
from tauten.run.request import Request
from tauten.serve.door import Caller, Door
from tauten.serve.kept.alike import same
from tauten.serve.kept.flights import AHEAD, Flights, shareable
from tauten.serve.service import Service


class Counter:
    """A pure stage that counts its runs, can be held, and can fail."""

    def __init__(self, *, pure: bool = True) -> None:
        self.runs = 0
        self.stopped = 0
        self.began = asyncio.Event()
        self.go = asyncio.Event()
        self.errors: list[Exception] = []

        @tt.stage(pure=pure)
        async def counted(text: str) -> str:
            self.runs += 1
            self.began.set()
            try:
                await self.go.wait()
            except asyncio.CancelledError:
                self.stopped += 1
                raise
            if self.errors:
                raise self.errors.pop(0)
            return text.upper()

        @tt.stage(pure=pure)
        async def letters(text: str) -> tt.Stream[str]:  # type: ignore[misc]
            self.runs += 1
            try:
                for at, letter in enumerate(text):
                    if at == 2:
                        self.began.set()
                        await self.go.wait()
                    if self.errors:
                        raise self.errors.pop(0)
                    yield letter
            except (asyncio.CancelledError, GeneratorExit):
                self.stopped += 1
                raise

        @tt.workflow
        def whole(text: str) -> str:
            return counted(text)

        @tt.workflow
        def spelled(text: str) -> tt.Stream[str]:
            return letters(text)

        self.whole = whole
        self.spelled = spelled


def call(app: Any, name: str = "whole", text: str = "abcd", headers: Any = None, query: str = "") -> Client:
    return Client(app, "POST", f"/v1/workflows/{name}{query}", {"inputs": {"text": text}}, headers)


def test_identical_pure_requests_share_one_run() -> None:
    async def main() -> None:
        stage = Counter()
        async with site(Service(stage.whole), apis=["native"]) as app:
            same_ones = [call(app) for _ in range(5)]
            other = call(app, text="other")
            await settle()
            stage.go.set()
            done = [await each.done() for each in [*same_ones, other]]
            assert [each.json["output"] for each in done] == ["ABCD"] * 5 + ["OTHER"]
            assert stage.runs == 2
            assert app.site.door.flights.joined == 4
            assert len(app.site.door.flights) == 0
            assert len({each.json["id"] for each in done}) == 6
            led = [app.site.traces.find("", each.json["id"]).trace.notes.get("flight") for each in done]
            assert led == [None, *[done[0].json["id"]] * 4, None]

    asyncio.run(main())


@pytest.mark.parametrize("why", ["effects", "tenant", "off", "finished"])
def test_what_is_not_the_same_or_not_pure_runs_by_itself(why: str) -> None:
    async def main() -> None:
        stage = Counter(pure=why != "effects")
        door = Door(
            share=why != "off", identify=lambda exchange: Caller(tenant=exchange.headers.get("who", ""))
        )
        async with site(Service(stage.whole), door=door, apis=["native"]) as app:
            first = call(app)
            await settle()
            if why == "finished":
                stage.go.set()
                await first.done()
            second = call(app, headers={"who": "another"} if why == "tenant" else None)
            await settle()
            stage.go.set()
            await first.done()
            await second.done()
            assert stage.runs == 2

    asyncio.run(main())


def test_a_leader_that_leaves_does_not_stop_the_others_but_the_last_one_does() -> None:
    async def main() -> None:
        stage = Counter()
        async with site(Service(stage.whole), apis=["native"]) as app:
            leader, second, third = call(app), call(app), call(app)
            await stage.began.wait()
            await settle()
            leader.leave()
            await leader.done()
            assert (leader.status, stage.stopped) == (0, 0)
            stage.go.set()
            assert (await second.done()).json["output"] == "ABCD"
            assert (await third.done()).json["output"] == "ABCD"
            assert stage.runs == 1
            stage.go.clear()
            members = [call(app), call(app)]
            await settle()
            for each in members:
                each.leave()
                await each.done()
            await settle()
            assert (stage.runs, stage.stopped) == (2, 1)
            assert len(app.site.door.flights) == 0

    asyncio.run(main())


def test_each_member_keeps_its_own_deadline() -> None:
    async def main() -> None:
        stage = Counter()
        async with site(Service(stage.whole), apis=["native"]) as app:
            short = call(app, headers={"x-tauten-deadline-ms": "30"})
            long = call(app, headers={"x-tauten-deadline-ms": "5000"})
            hurried = call(app, headers={"x-tauten-deadline-ms": "10"})
            assert (await hurried.done()).status == 504
            assert (await short.done()).status == 504
            assert stage.stopped == 0
            stage.go.set()
            assert (await long.done()).json["output"] == "ABCD"
            assert stage.runs == 1

    asyncio.run(main())


def test_an_error_of_the_input_is_shared_and_another_is_tried_once_more() -> None:
    async def main() -> None:
        for error, runs, statuses in (
            (InputError("bad text"), 1, [400, 400, 400]),
            (BackendError("worker died"), 2, [503, 200, 200]),
        ):
            stage = Counter()
            stage.errors = [error]
            async with site(Service(stage.whole), apis=["native"]) as app:
                members = [call(app) for _ in range(3)]
                await settle()
                stage.go.set()
                assert [(await each.done()).status for each in members] == statuses
                assert stage.runs == runs

    asyncio.run(main())


def test_an_error_that_comes_again_is_believed() -> None:
    async def main() -> None:
        stage = Counter()
        stage.errors = [BackendError("died") for _ in range(9)]
        async with site(Service(stage.whole), apis=["native"]) as app:
            members = [call(app) for _ in range(6)]
            await settle()
            stage.go.set()
            assert [(await each.done()).status for each in members] == [503] * 6
            assert stage.runs == 2

    asyncio.run(main())


def test_a_follower_of_a_stream_gets_what_was_said_at_once_then_the_rest() -> None:
    async def main() -> None:
        stage = Counter()
        async with site(Service(stage.spelled), apis=["native"]) as app:
            leader = call(app, "spelled", query="?stream=true")
            await stage.began.wait()
            await settle()
            follower = call(app, "spelled", query="?stream=true")
            await follower.until(b'"output":"b"')
            assert not follower.whole
            stage.go.set()
            for each in (leader, follower):
                await each.done()
                assert [data.get("output") for name, data in each.events if name == "output"] == list("abcd")
                assert each.events[-1][0] == "done"
            assert stage.runs == 1
            found = app.site.traces.find("", follower.events[-1][1]["id"])
            assert found.trace.notes["flight"] == leader.events[-1][1]["id"]
            assert found.account().wall_ms >= 0

    asyncio.run(main())


def test_a_stream_goes_on_without_its_leader_and_stops_with_its_last_reader() -> None:
    async def main() -> None:
        stage = Counter()
        async with site(Service(stage.spelled), apis=["native"]) as app:
            leader = call(app, "spelled", query="?stream=true")
            follower = call(app, "spelled", query="?stream=true")
            await stage.began.wait()
            await settle()
            leader.leave()
            await leader.done()
            assert stage.stopped == 0
            stage.go.set()
            await follower.done()
            assert follower.events[-1][0] == "done"
            stage.go.clear()
            stage.began.clear()
            alone = call(app, "spelled", query="?stream=true")
            await stage.began.wait()
            alone.leave()
            await alone.done()
            await settle()
            assert (stage.runs, stage.stopped) == (2, 1)

    asyncio.run(main())


def test_a_stream_runs_no_further_ahead_than_its_fastest_reader_and_holds_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tauten.serve.kept.flights.HELD_BYTES", 100 * 1024)
    made = 0

    async def run(request: Request) -> Any:
        nonlocal made
        for number in range(2000):
            made = number + 1
            yield f"{number:04d}" + "x" * 1000

    async def read(flights: Flights, limit: int, hold: asyncio.Event) -> list[str]:
        got: list[str] = []
        source = flights.stream("key", {"text": "a"}, Request(asyncio.get_running_loop().time), run)
        async for value in source:
            got.append(value[:4])
            if len(got) == limit:
                await hold.wait()
        return got

    async def main() -> None:
        flights, hold, never = Flights(), asyncio.Event(), asyncio.Event()
        slow = asyncio.ensure_future(read(flights, 5, hold))
        await settle()
        await asyncio.sleep(1)
        assert made <= 5 + AHEAD
        fast = asyncio.ensure_future(read(flights, -1, never))
        await asyncio.sleep(1)
        assert flights.joined == 1
        assert made <= 5 + 110  # held by the slowest once the bound in bytes is reached
        late = asyncio.ensure_future(
            read(flights, -1, never)
        )  # the first increments may be gone: a run of its own
        await asyncio.sleep(1)
        assert flights.joined == 1
        hold.set()
        numbers = [f"{number:04d}" for number in range(2000)]
        assert await asyncio.gather(slow, fast, late) == [numbers] * 3

    run_virtual(main())


def test_short_requests_are_not_worth_sharing() -> None:
    async def main() -> None:
        stage = Counter()
        stage.go.set()
        async with site(Service(stage.whole), apis=["native"]) as app:
            flights = app.site.door.flights
            flights.worth_s = 60.0  # far above what this request takes on any machine
            assert flights.worth("whole")
            await asyncio.gather(
                *(ask(app, "POST", "/v1/workflows/whole", {"inputs": {"text": "a"}}) for _ in "12")
            )
            assert flights.joined == 1
            assert not flights.worth("whole")
            await asyncio.gather(
                *(ask(app, "POST", "/v1/workflows/whole", {"inputs": {"text": "a"}}) for _ in "12")
            )
            assert flights.joined == 1
            flights.part()
            assert flights.worth("whole"), "a cache was emptied: what it gave at once has to be computed"

    asyncio.run(main())


def test_sampling_without_a_seed_sessions_and_programs_are_not_shareable() -> None:
    @tt.stage(pure=True)
    async def say(text: str, *, temperature: float = 0.0, seed: int | None = None) -> str:
        return text

    @tt.workflow
    def likeliest(text: str) -> str:
        return say(text)

    @tt.workflow
    def seeded(text: str) -> str:
        return say(text, temperature=0.7, seed=1)

    @tt.workflow
    def drawn_by_lot(text: str) -> str:
        return say(text, temperature=0.7)

    @tt.workflow
    def talk(text: str, session: tt.Session) -> str:
        return say(text)

    @tt.workflow
    async def program(text: str) -> str:
        return await say(text)

    assert shareable(likeliest)
    assert shareable(seeded)
    assert not shareable(drawn_by_lot)
    assert not shareable(talk)
    assert not shareable(program)


def test_inputs_are_compared_in_full() -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    first = tt.Image.from_array(pixels)
    again = tt.Image(bytes(first.data))
    pixels[32, 32] = 1
    assert same({"a": first}, {"a": again})
    assert not same({"a": first}, {"a": tt.Image.from_array(pixels)})
    assert same(tt.Tensor(np.array([np.nan])), tt.Tensor(np.array([np.nan])))
    assert not same(tt.Tensor(np.zeros(2)), tt.Tensor(np.zeros(2, np.float32)))
    assert not same(1, True)
    assert not same([1, 2], [1])
    assert not same({"a": 1}, {"b": 1})


@pytest.mark.parametrize("seed", range(20))
def test_whoever_joins_leaves_or_fails_everybody_gets_one_end_and_nothing_is_left(seed: int) -> None:
    """Hundreds of members with random arrivals, deadlines, departures and failing runs, on the virtual clock."""
    lot = random.Random(seed)
    running = 0
    most = 0

    async def whole(request: Request) -> Answer:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await stoppable(request, asyncio.sleep(lot.expovariate(2)))
            if lot.random() < 0.2:
                raise lot.choice([InputError("bad"), BackendError("died"), DeadlineExceeded("late")])
            request.trace.end = request.clock()
            return Answer("value", request.trace, "plan", request.id)
        finally:
            running -= 1

    async def increments(request: Request) -> Any:
        nonlocal running
        running += 1
        try:
            for number in range(5):
                await asyncio.sleep(lot.expovariate(10))
                if lot.random() < 0.05:
                    raise BackendError("died")
                yield number
        finally:
            running -= 1

    async def member(flights: Flights, at: float, streams: bool) -> str:
        await asyncio.sleep(at)
        clock = asyncio.get_running_loop().time
        mine = Request(clock, deadline=clock() + lot.uniform(0.05, 2), id=f"{at}")
        leaves = asyncio.get_running_loop().call_later(lot.expovariate(0.5), mine.fail, Cancelled("left"))
        began, inputs = clock(), {"text": lot.choice("ab")}
        end = ""
        try:
            if streams:
                got = [value async for value in flights.stream("key", inputs, mine, increments)]
                end = "ok" if got == list(range(5)) else "short"
            else:
                answer = await flights.answer("key", inputs, mine, whole)
                end = answer.value and "ok"
        except (DeadlineExceeded, Cancelled, InputError, BackendError) as error:
            end = error.code
        finally:
            leaves.cancel()
        assert clock() <= mine.deadline + 0.001
        assert mine.trace.start == began
        return end

    async def main() -> None:
        flights = Flights()
        members = [member(flights, lot.uniform(0, 10), lot.random() < 0.5) for _ in range(200)]
        ends = await asyncio.gather(*members)
        await asyncio.sleep(0.01)
        assert set(ends) <= {"ok", "E401", "E403", "E200", "E405"}
        assert ends.count("ok") > 50
        assert flights.joined > 50
        assert (running, len(flights)) == (0, 0)
        assert most <= 4  # two inputs, whole and streamed
        assert len(asyncio.all_tasks()) == 1

    run_virtual(main())
