"""What a server promises as a whole: one end for each request, headers on every API, neighbours, memory, scale."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import gc
import threading
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

import tauten as tt
from serve.kit_asgi import Answered, ask, site
from tauten.clock import Clock, real, run_virtual
from tauten.errors import InputError
from tauten.plan.plan import Plan, StagePlan
from tauten.run.engine import Engine
from tauten.serve.app import App
from tauten.serve.door import Call
from tauten.serve.exchange import Exchange
from tauten.serve.service import Service

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OPENAI = {"model": "echo", "messages": [{"role": "user", "content": "hi"}]}
OIP = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["hi"]}]}
APIS = {
    "native": ("/v1/workflows/echo", {"inputs": {"text": "hi"}}),
    "openai": ("/v1/chat/completions", OPENAI),
    "oip": ("/v2/models/echo/infer", OIP),
}


class Watch:
    """Keeps the calls that are over."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def finished(self, exchange: Exchange, call: Call | None, error: Any, seconds: float) -> None:
        assert call is not None
        self.calls.append(call)


class Echo:
    """A workflow that counts its runs, and waits where it is told to."""

    def __init__(self, *, wait_s: float = 0.0, clock: Clock = real) -> None:
        self.runs = self.running = 0

        @tt.stage
        async def told(text: str) -> str:
            self.runs += 1
            self.running += 1
            try:
                await asyncio.sleep(3600.0 if text in ("late", "left") else wait_s)
            finally:
                self.running -= 1
            if text == "bad":
                raise InputError("told to", help="say something else", code="E205")
            if text == "broken":
                raise ValueError(text)
            return text

        @tt.workflow(name="echo")
        def echo(text: str) -> str:
            return told(text)

        self.service = Service(echo, engine=Engine(clock=clock))


# -- headers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("api", APIS)
def test_every_api_names_its_request_and_belongs_to_the_callers_trace(api: str) -> None:
    path, body = APIS[api]

    async def main() -> None:
        async with site(Echo().service) as app:
            watch = Watch()
            app.site.observers.append(watch)
            done = await ask(app, "POST", path, body, {"x-request-id": "mine", "traceparent": PARENT})
            assert (done.status, done.headers["x-request-id"]) == (200, "mine")
            [call] = watch.calls
            assert call.request is not None
            assert call.request.id == "mine"
            assert call.parent is not None
            assert f"00-{call.parent.trace_id}-{call.parent.span_id}-01" == PARENT

    asyncio.run(main())


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("01" + PARENT[2:], True),  # a later version, as far as this one knows it
        ("01" + PARENT[2:] + "-more", True),
        ("01" + PARENT[2:] + "more", False),
        (PARENT + "-more", False),  # version 00 ends with the flags
        ("ff" + PARENT[2:], False),
    ],
)
def test_a_trace_context_of_a_later_version_is_read_as_far_as_it_is_known(given: str, taken: bool) -> None:
    async def main() -> None:
        async with site(Echo().service) as app:
            watch = Watch()
            app.site.observers.append(watch)
            path, body = APIS["native"]
            assert (await ask(app, "POST", path, body, {"traceparent": given})).status == 200
            [call] = watch.calls
            assert (call.parent is not None and call.parent.trace_id == PARENT[3:35]) is taken

    asyncio.run(main())


@pytest.mark.parametrize("api", ["native", "oip"])
@pytest.mark.parametrize("streams", [True, False])
def test_a_streamed_input_of_a_program_may_come_whole(api: str, streams: bool) -> None:
    """A list of increments is what JSON has for a stream; drawn workflows take it, and so do programs."""

    async def joined(words: tt.Stream[str]) -> str:
        return "".join([word async for word in words])

    async def told(words: tt.Stream[str]) -> AsyncIterator[str]:
        async for word in words:
            yield word

    service = Service(tt.workflow(name="joined")(told if streams else joined))
    tensor = {"name": "words", "datatype": "BYTES", "shape": [2], "data": ["a", "b"]}
    asked = {
        "native": ("/v1/workflows/joined", {"inputs": {"words": ["a", "b"]}}),
        "oip": ("/v2/models/joined/infer", {"inputs": [tensor]}),
    }

    async def main() -> None:
        async with site(service) as app:
            done = await ask(app, "POST", *asked[api])
            assert done.status == 200, done.body
            assert b"ab" in done.body or b'["a","b"]' in done.body, done.body

    asyncio.run(main())


@pytest.mark.parametrize("api", APIS)
def test_every_api_carries_the_deadline_and_the_priority(api: str) -> None:
    path, body = APIS[api]

    async def main() -> None:
        echo = Echo(wait_s=3600.0, clock=asyncio.get_running_loop().time)
        async with site(echo.service) as app:
            late = await ask(app, "POST", path, body, {"x-tauten-deadline-ms": "40"})
            assert late.status == 504
            assert (echo.runs, echo.running) == (1, 0)
            passed = await ask(app, "POST", path, body, {"x-tauten-deadline-ms": "-1"})
            assert passed.status == 504
            assert echo.runs == 1  # what has no time left is not begun
            for priority in ("urgent", "1.5"):
                wrong = await ask(app, "POST", path, body, {"x-tauten-priority": priority})
                assert wrong.status == 400

    run_virtual(main())


@pytest.mark.parametrize("api", APIS)
def test_every_api_keeps_a_reply_for_its_idempotency_key(api: str) -> None:
    path, body = APIS[api]

    async def main() -> None:
        echo = Echo()
        async with site(echo.service) as app:
            first, second = [await ask(app, "POST", path, body, {"idempotency-key": "one"}) for _ in range(2)]
            assert (first.status, first.body) == (200, second.body)
            assert second.headers["idempotent-replayed"] == "true"
            assert echo.runs == 1

    asyncio.run(main())


# -- ends ----------------------------------------------------------------------------------------------------


def test_every_accepted_request_has_exactly_one_end_and_leaves_nothing() -> None:
    """Some end well, some are refused, fail, expire, or are left by their clients; the books name each once."""
    kinds = ("ok", "bad", "broken", "late", "left")

    async def one(app: App, kind: str, number: int) -> tuple[str, Answered]:
        path, body = "/v1/workflows/echo", {"inputs": {"text": kind}}
        headers = {"x-tauten-deadline-ms": "5"} if kind == "late" else {}
        leave = 0.004 if kind == "left" else None
        await asyncio.sleep(number / 1000)
        return kind, await ask(app, "POST", path, body, headers, leave_after_s=leave)

    async def main() -> None:
        echo = Echo(wait_s=0.005, clock=asyncio.get_running_loop().time)
        async with site(echo.service) as app:
            watch = Watch()
            app.site.observers.append(watch)
            ended = await asyncio.gather(*(one(app, kinds[n % 5], n) for n in range(500)))
            statuses = Counter((kind, answer.status) for kind, answer in ended)
            assert statuses == {
                ("ok", 200): 100,
                ("bad", 400): 100,
                ("broken", 500): 100,
                ("late", 504): 100,
                ("left", 0): 100,
            }
            assert len({call.id for call in watch.calls}) == len(watch.calls) == 500
            assert (echo.runs, echo.running) == (500, 0)
            assert app.site.in_flight == 0
            assert echo.service.engine.zombies() == 0

    run_virtual(main())


def test_a_departure_reaches_every_stage_that_works_for_it() -> None:
    """Branches side by side, and the producer of a stream that another reads: all of them, within 100 ms."""
    running: set[str] = set()
    stopped: dict[str, float] = {}

    async def wait(name: str) -> None:
        running.add(name)
        try:
            await asyncio.sleep(3600)
        finally:
            running.discard(name)
            stopped[name] = asyncio.get_running_loop().time()

    @tt.stage
    async def left(text: str) -> str:
        await wait("left")
        return text

    @tt.stage
    async def right(text: str) -> str:
        await wait("right")
        return text

    @tt.stage
    async def member(text: str) -> str:
        await wait(f"member {text}")
        return text

    @tt.stage
    async def words(text: str) -> tt.Stream[tt.Text]:
        yield tt.Text(text)
        await wait("words")

    @tt.stage
    async def reader(text: tt.Stream[tt.Text]) -> str:
        found = [each.text async for each in text]
        await wait("reader")
        return "".join(found)

    @tt.workflow
    async def wide(text: str) -> str:
        members = [member(each) for each in text]
        found = await asyncio.gather(left(text), right(text), reader(words(text)), *members)
        return "".join(found)

    async def main() -> None:
        service = Service(wide, engine=Engine(clock=asyncio.get_running_loop().time))
        async with site(service) as app:
            body = {"inputs": {"text": "abc"}}
            await ask(app, "POST", "/v1/workflows/wide", body, leave_after_s=1.0)
            assert set(stopped) == {"left", "right", "words", "member a", "member b", "member c"}
            assert running == set()
            assert all(1.0 <= at <= 1.1 for at in stopped.values()), stopped
            assert service.engine.zombies() == 0

    run_virtual(main())


# -- neighbours ----------------------------------------------------------------------------------------------


def test_a_model_that_loads_holds_no_neighbour_up() -> None:
    """The new plan's model blocks in its constructor; requests of both workflows are answered meanwhile."""
    made: list[object] = []
    loading, go = threading.Event(), threading.Event()

    @tt.stage(pure=True)
    class Heavy:
        def __init__(self) -> None:
            made.append(self)
            if len(made) > 1:  # not the first plan's
                loading.set()
                assert go.wait(20), "nobody let it go on"

        def __call__(self, text: str) -> str:
            return text

    @tt.workflow
    def heavy(text: str) -> str:
        return Heavy(text)  # type: ignore[return-value,call-arg,arg-type]

    async def main() -> None:
        echo, own = Echo(), Service(heavy)
        async with site(own, echo.service) as app:
            body = {"inputs": {"text": "x"}}
            new = Plan(stages={"Heavy": StagePlan(replicas=2)})
            swap = asyncio.create_task(own.swap(new))
            try:
                assert await asyncio.to_thread(loading.wait, 20)
                for name in ("heavy", "echo") * 20:
                    done = await ask(app, "POST", f"/v1/workflows/{name}", body)
                    assert (done.status, done.json["plan"] != new.id) == (200, True)
                assert not swap.done()
            finally:
                go.set()
            await swap
            done = await ask(app, "POST", "/v1/workflows/heavy", body)
            assert done.json["plan"] == own.plan_id
            assert len(made) == 3

    asyncio.run(main())


def test_more_and_fewer_replicas_under_load_cost_no_request() -> None:
    made, closed = [], []

    @tt.stage(pure=True)
    class Counted:
        def __init__(self) -> None:
            made.append(self)

        def __call__(self, text: str) -> str:
            return text.upper()

        def close(self) -> None:
            closed.append(self)

    @tt.workflow
    def scaled(text: str) -> str:
        return Counted(text)  # type: ignore[return-value,call-arg,arg-type]

    async def main() -> None:
        service = Service(scaled)
        ended = asyncio.Event()
        async with site(service) as app:
            statuses: list[int] = []

            async def client() -> None:
                while not ended.is_set():
                    body = {"inputs": {"text": "x"}}
                    statuses.append((await ask(app, "POST", "/v1/workflows/scaled", body)).status)

            async def answered(count: int) -> None:
                while len(statuses) < count:
                    await asyncio.sleep(0.001)

            clients = [asyncio.create_task(client()) for _ in range(4)]
            for count, replicas in enumerate((3, 1, 2), 1):
                await answered(30 * count)
                await service.swap(Plan(stages={"Counted": StagePlan(replicas=replicas)}))
            await answered(120)
            ended.set()
            await asyncio.gather(*clients)
            assert set(statuses) == {200}
            assert len(made) == 1 + 3 + 1 + 2
        assert len(closed) == len(made)

    asyncio.run(main())


# -- memory --------------------------------------------------------------------------------------------------


def test_requests_leave_no_memory_behind() -> None:
    """Once all that is kept on purpose is full, further requests keep nothing: no growth by the request."""
    rounds = 300

    async def main() -> None:
        async with site(Echo().service) as app:

            async def some(count: int) -> int:
                for number in range(count):
                    text = ("ok", "bad", "broken")[number % 3]
                    await ask(app, "POST", "/v1/workflows/echo", {"inputs": {"text": text}})
                gc.collect()
                return tracemalloc.get_traced_memory()[0]

            tracemalloc.start()
            try:
                await some(1100)  # the last 1000 accounts are kept
                base = await some(rounds)
                grown = await some(rounds) - base
            finally:
                tracemalloc.stop()
            assert grown / rounds < 200, f"{grown / rounds:.0f} bytes stay of each request"

    asyncio.run(main())
