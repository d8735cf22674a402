"""Idempotency keys: the same reply again, nothing run twice, and no other request by that key."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import tauten as tt
from serve import kit_workflows
from serve.kit_asgi import ask, site
from serve.kit_stream import Client, settle
from tauten.clock import run_virtual
from tauten.errors import BackendError
from tauten.run.engine import Engine
from tauten.serve.app import App
from tauten.serve.door import Caller, Door
from tauten.serve.http.arrival import SENT
from tauten.serve.kept.idempotency import Idempotency
from tauten.serve.service import Service

KEY = {"idempotency-key": "order-1"}


class Till(kit_workflows.Till):
    """Stages with an effect."""

    def __init__(self) -> None:
        super().__init__()

        @tt.stage
        async def charged(amount: int) -> int:
            await self.charge()
            return amount

        @tt.stage
        async def counted(amount: int) -> tt.Stream[int]:  # type: ignore[misc]
            self.runs += 1
            for each in range(amount):
                if each == 1:
                    await self.go.wait()
                self.fail()
                yield each

        @tt.workflow
        def charge(amount: int) -> int:
            return charged(amount)

        @tt.workflow
        def count(amount: int) -> tt.Stream[int]:
            return counted(amount)

        self.services = Service(charge), Service(count)


def body(amount: int = 5) -> Any:
    return {"inputs": {"amount": amount}}


def test_a_request_that_is_sent_again_gets_its_first_reply() -> None:
    async def main() -> None:
        till = Till()
        async with site(*till.services, apis=["native"]) as app:
            first = await ask(app, "POST", "/v1/workflows/charge", body(), KEY)
            again = await ask(app, "POST", "/v1/workflows/charge", body(), {**KEY, "x-request-id": "second"})
            assert (again.body, again.headers["x-request-id"]) == (first.body, first.headers["x-request-id"])
            assert "idempotent-replayed" not in first.headers
            assert again.headers["idempotent-replayed"] == "true"
            assert till.runs == 1
            other = await ask(app, "POST", "/v1/workflows/charge", body(6), KEY)
            assert (other.status, other.json["error"]["code"]) == (422, "E284")
            query = await ask(app, "POST", "/v1/workflows/charge?explain=true", body(), KEY)
            assert query.status == 422
            free = await ask(app, "POST", "/v1/workflows/charge", body())
            assert free.status == 200
            assert till.runs == 2
            bad = await ask(app, "POST", "/v1/workflows/charge", body(), {"idempotency-key": "a b"})
            assert bad.status == 400

    asyncio.run(main())


def test_a_request_that_is_still_running_is_joined() -> None:
    async def main() -> None:
        till = Till()
        till.go.clear()
        async with site(*till.services, apis=["native"]) as app:
            both = [Client(app, "POST", "/v1/workflows/charge", body(), KEY) for _ in range(2)]
            hurried = Client(
                app, "POST", "/v1/workflows/charge", body(), {**KEY, "x-tauten-deadline-ms": "10"}
            )
            await hurried.done()
            assert (hurried.status, hurried.json["error"]["code"]) == (504, "E401")
            till.go.set()
            for each in both:
                await each.done()
            assert both[0].body == both[1].body
            assert till.runs == 1

    asyncio.run(main())


def test_a_key_is_its_tenants_alone() -> None:
    door = Door(identify=lambda exchange: Caller(tenant=exchange.headers["who"]))

    async def main() -> None:
        till = Till()
        async with site(*till.services, door=door, apis=["native"]) as app:
            for who in ("a", "b", "a"):
                await ask(app, "POST", "/v1/workflows/charge", body(), {**KEY, "who": who})
            assert till.runs == 2

    asyncio.run(main())


def test_failures_are_not_kept_and_who_waited_tries_itself() -> None:
    async def main() -> None:
        till = Till()
        till.errors = [BackendError("died")]
        till.go.clear()
        async with site(*till.services, apis=["native"]) as app:
            both = [Client(app, "POST", "/v1/workflows/charge", body(), KEY) for _ in range(2)]
            await settle()
            till.go.set()
            assert [(await each.done()).status for each in both] == [503, 200]
            assert till.runs == 2
            wrong = await ask(app, "POST", "/v1/workflows/charge", {"inputs": {}}, {"idempotency-key": "2"})
            assert wrong.status == 400
            right = await ask(app, "POST", "/v1/workflows/charge", body(), {"idempotency-key": "2"})
            assert right.status == 200

    asyncio.run(main())


def test_streams_are_replayed_and_joined_while_they_run() -> None:
    async def main() -> None:
        till = Till()
        till.go.clear()
        path = "/v1/workflows/count?stream=true"
        async with site(*till.services, apis=["native"]) as app:
            first = Client(app, "POST", path, body(3), KEY)
            await first.until(b'"output":0')
            second = Client(app, "POST", path, body(3), KEY)
            await second.until(b'"output":0')
            till.go.set()
            for each in (first, second):
                await each.done()
            third = await ask(app, "POST", path, body(3), KEY)
            assert first.body == second.body == third.body
            assert b"event: done" in third.body
            assert third.headers["content-type"] == "text/event-stream"
            assert till.runs == 1

    asyncio.run(main())


def test_a_stream_that_broke_or_was_left_is_not_kept() -> None:
    async def main() -> None:
        till = Till()
        path = "/v1/workflows/count?stream=true"
        async with site(*till.services, apis=["native"]) as app:
            till.go.clear()
            left = Client(app, "POST", path, body(3), KEY)
            await left.until(b'"output":0')
            left.leave()
            await left.done()
            assert till.runs == 1
            till.go.set()
            fresh = await ask(app, "POST", path, body(3), KEY)
            assert b"event: done" in fresh.body
            assert till.runs == 2
            till.go.clear()
            failing = Client(app, "POST", path, body(3), {"idempotency-key": "2"})
            await failing.until(b'"output":0')
            till.errors = [BackendError("died")]
            till.go.set()
            await failing.done()
            assert failing.events[-1][0] == "error"
            again = await ask(app, "POST", path, body(3), {"idempotency-key": "2"})
            assert b"event: done" in again.body

    asyncio.run(main())


@pytest.mark.parametrize("path", ["/v1/workflows/charge", "/v1/workflows/count?stream=true"])
def test_what_is_kept_is_bounded_in_size_and_age(path: str) -> None:
    async def main() -> None:
        now = [0.0]
        till = Till()
        async with site(*till.services, apis=["native"]) as app:
            app.site.idempotency = Idempotency(age_s=60, clock=lambda: now[0])
            await ask(app, "POST", path, body(), KEY)
            now[0] = 59
            await ask(app, "POST", path, body(), KEY)
            assert till.runs == 1
            now[0] = 60
            await ask(app, "POST", path, body(), KEY)
            assert till.runs == 2
            app.site.idempotency = Idempotency(reply_bytes=10)
            for _ in range(2):
                assert (await ask(app, "POST", path, body(), KEY)).status == 200
            assert till.runs == 4

    asyncio.run(main())


# -- who waits for a first request ----------------------------------------------------------------------------


@asynccontextmanager
async def virtual(till: Till, slo: tt.Slo | None = None) -> AsyncIterator[App]:
    """The till's services in virtual time."""
    now = asyncio.get_running_loop().time
    services = (Service(each.workflow, slo=slo, engine=Engine(clock=now)) for each in till.services)
    async with site(*services, apis=["native"]) as app:
        app.site.idempotency = Idempotency(clock=now)
        yield app


def asked(app: App, path: str = "charge", deadline_ms: float = 0) -> Client:
    hurry = {"x-tauten-deadline-ms": f"{deadline_ms}"} if deadline_ms else {}
    return Client(app, "POST", f"/v1/workflows/{path}", body(3), {**KEY, **hurry})


def now_ms() -> int:
    """Virtual milliseconds; the alarm of deadlines is never early."""
    return round(asyncio.get_running_loop().time() * 1e3)


def shut() -> Till:
    """A till whose first request goes on when it is told to."""
    till = Till()
    till.go.clear()
    return till


def test_who_waits_does_so_until_its_own_deadline_and_the_first_goes_on() -> None:
    async def main() -> None:
        till = shut()
        async with virtual(till) as app:
            first = asked(app)
            await settle()
            followers = [asked(app, deadline_ms=ms) for ms in (70, 40)]
            assert [(await each.done()).status for each in reversed(followers)] == [504, 504]
            assert [each.json["error"]["code"] for each in followers] == ["E401"] * 2
            assert (now_ms(), till.runs) == (70, 1)
            till.go.set()
            assert (await first.done()).status == 200

    run_virtual(main())


def test_who_names_no_deadline_has_that_of_the_workflow() -> None:
    async def main() -> None:
        till = shut()
        async with virtual(till, tt.Slo(p95_ms=20)) as app:
            first = asked(app, deadline_ms=5000)
            await settle()
            follower = asked(app)
            assert (await follower.done()).status == 504
            assert now_ms() == 60  # three times the objective
            till.go.set()
            assert (await first.done()).status == 200

    run_virtual(main())


def test_what_it_waited_is_gone_when_the_first_fails_and_it_runs_itself() -> None:
    async def main() -> None:
        till = shut()
        async with virtual(till) as app:
            first = asked(app, deadline_ms=30)
            await settle()
            follower = asked(app, deadline_ms=40)
            assert [(await each.done()).status for each in (first, follower)] == [504, 504]
            assert (now_ms(), till.runs) == (40, 2)

    run_virtual(main())


def test_what_its_client_took_to_send_it_counts_whether_it_waits_or_runs_itself() -> None:
    async def main() -> None:
        till = shut()
        async with virtual(till) as app:
            first = asked(app, deadline_ms=30)
            await settle()
            followers = [asked(app, deadline_ms=ms) for ms in (120, 160)]
            for each in followers:
                each.scope["extensions"] = {SENT: 0.1}
            ended = []
            for each in (*followers[:1], first, *followers[1:]):
                assert (await each.done()).status == 504
                ended.append(now_ms())
            assert (ended, till.runs) == ([20, 30, 60], 2)

    run_virtual(main())


def test_who_follows_a_stream_is_stopped_at_its_own_deadline() -> None:
    async def main() -> None:
        till = shut()
        async with virtual(till) as app:
            first = asked(app, "count?stream=true")
            await first.until(b'"output":0')
            follower = asked(app, "count?stream=true", 40)
            await follower.done()
            assert now_ms() == 40
            assert (follower.status, follower.whole) == (200, True)
            (_, output), (kind, error) = follower.events  # it had begun
            assert (output["output"], kind, error["error"]["code"]) == (0, "error", "E401")
            assert "took longer than 40 ms" in error["error"]["message"]
            till.go.set()
            assert b"event: done" in (await first.done()).body
            assert (await asked(app, "count?stream=true").done()).body == first.body
            assert till.runs == 1

    run_virtual(main())


def test_who_follows_and_leaves_waits_no_longer_and_the_first_goes_on() -> None:
    async def main() -> None:
        till = shut()
        async with virtual(till) as app:
            for path, chunk in (("charge", b""), ("count?stream=true", b'"output":0')):
                till.go.clear()
                app.site.idempotency = Idempotency()
                first = asked(app, path)
                await (first.until(chunk) if chunk else settle())
                before = till.runs
                follower = asked(app, path)
                await (follower.until(chunk) if chunk else settle())
                follower.leave()
                await follower.done()
                assert (follower.whole, now_ms()) == (False, 0)
                till.go.set()
                await first.done()
                assert (first.status, first.whole, till.runs) == (200, True, before)
                assert b"error" not in first.body
        assert len(asyncio.all_tasks()) == 1

    run_virtual(main())


def test_a_slow_reader_gets_all_of_a_whole_reply_but_not_of_one_that_still_runs() -> None:
    async def main() -> None:
        for whole in (True, False):
            till = Till()
            till.go.clear()
            async with virtual(till) as app:
                first = asked(app, "count?stream=true")
                await first.until(b'"output":0')
                slow = asked(app, "count?stream=true", 40)
                await slow.until(b'"output":0')
                slow.slow = asyncio.Event()
                if whole:
                    till.go.set()
                    await first.done()
                await asyncio.sleep(0.05)
                slow.slow.set()
                if whole:
                    assert (await slow.done()).body == first.body
                else:
                    await slow.done()
                    assert [each["type"] for _, each in slow.events] == ["output", "error"]

    run_virtual(main())
