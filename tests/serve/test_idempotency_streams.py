"""Who follows a stream by an idempotency key hears its end in the words of the API: done, or why it is none."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

import tauten as tt
from serve import kit_workflows
from serve.kit_asgi import site
from serve.kit_stream import Client
from tauten.clock import run_virtual
from tauten.errors import BackendError
from tauten.run.engine import Engine
from tauten.serve.app import App
from tauten.serve.kept.idempotency import Idempotency
from tauten.serve.service import Service

ASKED: dict[str, tuple[str, Any]] = {
    "native": ("/v1/workflows/say?stream=true", {"inputs": {"text": "a b"}}),
    "openai": (
        "/v1/chat/completions",
        {"model": "say", "messages": [{"role": "user", "content": "a b"}], "stream": True},
    ),
    "oip": ("/v2/models/say/generate_stream", {"text_input": "a b"}),
}
each_api = pytest.mark.parametrize("api", ASKED)


class Ends:
    """An observer: how exchanges ended."""

    def __init__(self) -> None:
        self.errors: list[str] = []

    def finished(self, exchange: Any, call: Any, problem: BaseException | None, seconds: float) -> None:
        error = problem or call.error
        self.errors.append(getattr(error, "code", ""))


class Till(kit_workflows.Till):
    """Words, the second of which waits."""

    def __init__(self) -> None:
        super().__init__()
        self.go.clear()
        self.ends = Ends()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[App]:
        @tt.stage
        async def said(text: str) -> tt.Stream[tt.Text]:  # type: ignore[misc]
            self.runs += 1
            for index, word in enumerate(text.split()):
                if index:
                    await self.go.wait()
                self.fail()
                yield tt.Text(word)

        @tt.workflow
        def say(text: str) -> tt.Stream[tt.Text]:
            return said(text)

        now = asyncio.get_running_loop().time
        async with site(Service(say, engine=Engine(clock=now)), apis=["native", "openai", "oip"]) as app:
            app.site.idempotency = Idempotency(clock=now)
            app.site.observers.append(self.ends)
            yield app


def told(client: Client) -> tuple[str, str]:
    """(code, message) of the error event that ends a stream."""
    *_, last = client.body.decode().strip().split("\n\n")
    name, _, data = last.rpartition("data: ")
    said = json.loads(data)
    if isinstance(said["error"], str):  # the protocol's own form
        return said["error"].partition(" ")[0], said["error"]
    assert name == ("event: error\n" if "type" in said else "")
    return said["error"]["code"], said["error"]["message"]


def virtual(body: Callable[[Till, App, Callable[..., Client]], Awaitable[None]], api: str) -> None:
    async def main() -> None:
        till = Till()
        path, asked = ASKED[api]
        async with till.open() as app:

            def ask(deadline_ms: float = 0) -> Client:
                hurry = {"x-tauten-deadline-ms": f"{deadline_ms}"} if deadline_ms else {}
                return Client(app, "POST", path, asked, {"idempotency-key": "1", **hurry})

            await body(till, app, ask)

    run_virtual(main())


@each_api
def test_a_deadline_ends_it_with_the_event_that_the_first_would_have(api: str) -> None:
    async def body(till: Till, app: App, ask: Callable[..., Client]) -> None:
        first = ask()
        await first.until(b'"a"')
        follower = ask(40)
        await follower.done()
        assert (follower.status, follower.whole) == (200, True)
        code, message = told(follower)
        assert code == "E401"
        assert "took longer than 40 ms" in message
        assert b'"a"' in follower.body
        assert b"[DONE]" not in follower.body
        till.go.set()
        assert b'"b"' in (await first.done()).body
        assert (till.runs, till.ends.errors) == (1, ["E401", ""])

    virtual(body, api)


@each_api
def test_an_error_of_the_first_is_heard_once(api: str) -> None:
    async def body(till: Till, app: App, ask: Callable[..., Client]) -> None:
        both = []
        for _ in range(2):
            both.append(ask())
            await both[-1].until(b'"a"')
        till.errors = [BackendError("died")]
        till.go.set()
        for each in both:
            await each.done()
        assert both[0].body == both[1].body
        assert [each.whole for each in both] == [True, True]
        assert told(both[1])[0] == "E405"
        assert till.ends.errors == ["E405", "E405"]

    virtual(body, api)


@each_api
def test_one_whose_first_is_gone_is_told_to_ask_again(api: str) -> None:
    async def body(till: Till, app: App, ask: Callable[..., Client]) -> None:
        first = ask()
        await first.until(b'"a"')
        follower = ask()
        await follower.until(b'"a"')
        first.leave()
        await first.done()
        await follower.done()
        assert follower.whole
        assert told(follower)[0] == "E403"

    virtual(body, api)


@each_api
def test_who_left_is_told_nothing(api: str) -> None:
    async def body(till: Till, app: App, ask: Callable[..., Client]) -> None:
        first = ask()
        await first.until(b'"a"')
        follower = ask()
        await follower.until(b'"a"')
        before = follower.body
        follower.leave()
        await follower.done()
        assert (follower.body, follower.whole) == (before, False)
        till.go.set()
        assert (await first.done()).whole

    virtual(body, api)
