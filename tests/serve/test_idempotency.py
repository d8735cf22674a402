"""Idempotency keys: the same reply again, nothing run twice, and no other request by that key."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import tauten as tt
from serve import kit_workflows
from serve.kit_asgi import ask, site
from serve.kit_stream import Client, settle
from tauten.errors import BackendError
from tauten.serve.door import Caller, Door
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
