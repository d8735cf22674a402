"""Who comes while the server drains begins no work; whoever was let in before goes on, however many steps it takes."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tauten as tt
from serve.kit_asgi import ask, site
from serve.kit_stream import Client, Talk, settle
from serve.kit_workflows import shouted
from serve.test_express import X, empty
from serve.test_ride import Crowd, arrays, crowd, right
from tauten.errors import BackendError
from tauten.serve.app import App
from tauten.serve.oip.ride import Line
from tauten.serve.openai.embeddings import AT_ONCE
from tauten.serve.server import Server, Settings
from tauten.serve.service import Service


class Held:
    """Workflows whose stages wait until they may go on, and fail where they are told to."""

    def __init__(self) -> None:
        self.runs = 0
        self.go = asyncio.Event()
        self.errors: list[Exception] = []

        @tt.stage(pure=True)
        async def held(text: tt.Text) -> tt.Tensor:
            self.runs += 1
            await self.go.wait()
            if self.errors:
                raise self.errors.pop(0)
            return tt.Tensor(np.array([len(text.text)], np.float32))

        @tt.stage(pure=True)
        async def doubled(vector: tt.Tensor) -> tt.Tensor:
            return tt.Tensor(vector.array * 2)

        @tt.stage
        async def noted(text: str, session: tt.Session) -> str:
            await self.go.wait()
            session.say("user", text)
            return " ".join(turn["content"] for turn in session.history)

        @tt.workflow
        def steps(text: tt.Text) -> tt.Tensor:
            return doubled(held(text))

        @tt.workflow
        async def program(text: tt.Text) -> list[float]:
            found = [await doubled(each) for each in await tt.map(held, [text, text])]
            return [float(each.array[0]) for each in found]

        @tt.workflow
        def remember(text: str, session: tt.Session) -> str:
            return noted(text)

        self.steps, self.program, self.remember = steps, program, remember


REFUSED: list[tuple[str, Any]] = [
    ("/v1/workflows/shouted", {"inputs": {"text": "x"}}),
    ("/v1/workflows/shouted?stream=true", {"inputs": {"text": "x"}}),
    ("/v1/chat/completions", {"model": "shouted", "messages": [{"role": "user", "content": "x"}]}),
    (
        "/v1/chat/completions",
        {"model": "shouted", "messages": [{"role": "user", "content": "x"}], "stream": True},
    ),
    (
        "/v2/models/shouted/infer",
        {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["x"]}]},
    ),
    ("/v2/models/shouted/generate", {"text_input": "x"}),
]


@pytest.mark.parametrize(("path", "body"), REFUSED)
def test_every_api_refuses_new_work_and_answers_what_is_none(path: str, body: Any) -> None:
    async def main() -> None:
        async with site(Service(shouted)) as app:
            key = {"idempotency-key": "k"}
            assert (await ask(app, "POST", path, body, key)).status == 200
            app.site.door.closing.set()
            late = await ask(app, "POST", path, body)
            assert (late.status, late.headers["retry-after"]) == (503, "1")
            assert b"the server is draining" in late.body
            assert (await ask(app, "POST", path, body, key)).headers["idempotent-replayed"] == "true"
            for other in ("/health/live", "/v1/workflows/shouted", "/v2/models/shouted"):
                assert (await ask(app, "GET", other)).status == 200

    asyncio.run(main())


def test_a_handshake_is_refused_by_http() -> None:
    async def main() -> None:
        async with site(Service(shouted)) as app:
            app.site.door.closing.set()
            talk = Talk(app, "/v1/workflows/shouted/ws")
            assert await talk.hear() == "websocket.close"  # this client has no way to read more
            await talk.task

    asyncio.run(main())


@pytest.mark.parametrize("name", ["steps", "program"])
def test_steps_and_maps_of_what_runs_go_on(name: str) -> None:
    async def main() -> None:
        held = Held()
        async with site(Service(getattr(held, name))) as app:
            path, body = f"/v1/workflows/{name}", {"inputs": {"text": "abc"}}
            running = Client(app, "POST", path, body)
            while not held.runs:
                await asyncio.sleep(0)
            app.site.door.closing.set()
            assert (await ask(app, "POST", path, {"inputs": {"text": "other"}})).status == 503
            held.go.set()
            assert (await running.done()).status == 200

    asyncio.run(main())


def test_texts_of_one_request_go_on_though_each_is_a_request_of_the_engine() -> None:
    async def main() -> None:
        held = Held()
        async with site(Service(held.steps)) as app:
            texts = ["x" * (n + 1) for n in range(2 * AT_ONCE)]
            running = Client(app, "POST", "/v1/embeddings", {"model": "steps", "input": texts})
            while held.runs < AT_ONCE:
                await asyncio.sleep(0)
            app.site.door.closing.set()
            held.go.set()
            data = (await running.done()).json["data"]
            assert [each["embedding"] for each in data] == [[2.0 * (n + 1)] for n in range(2 * AT_ONCE)]

    asyncio.run(main())


def two_that_share(app: App) -> list[Client]:
    path, body, headers = "/v1/workflows/steps", {"inputs": {"text": "abc"}}, {"host": "localhost"}
    return [Client(app, "POST", path, body, headers) for _ in range(2)]


def test_who_shared_what_failed_tries_once_more() -> None:
    async def main() -> None:
        held = Held()
        held.errors = [BackendError("the worker died")]
        async with site(Service(held.steps)) as app:
            members = two_that_share(app)
            await settle()
            assert held.runs == 1
            app.site.door.closing.set()
            held.go.set()
            assert [(await each.done()).status for each in members] == [503, 200]

    asyncio.run(main())


def test_what_is_cut_off_is_not_begun_again_for_who_shared_it() -> None:
    async def main() -> None:
        held = Held()
        server = Server([Service(held.steps)], Settings(grpc_port=None), progress=lambda _: None)
        await server.site.services.open()
        try:
            members = two_that_share(server.app)
            await settle()
            server._cut_off()
            ends = [await each.done() for each in members]
            assert [(each.status, each.json["error"]["code"]) for each in ends] == [
                (503, "E415"),
                (503, "E409"),
            ]
            assert (held.runs, server.cut) == (1, 1)
        finally:
            await server.site.services.close()

    asyncio.run(main())


def test_a_turn_of_a_session_goes_on_and_the_next_one_does_not_begin() -> None:
    async def main() -> None:
        held = Held()
        async with site(Service(held.remember)) as app:
            path, body = "/v1/workflows/remember", {"inputs": {"text": "a"}}
            running = Client(app, "POST", path, body)
            await settle()
            app.site.door.closing.set()
            held.go.set()
            answer = await running.done()
            assert answer.json["output"] == "a"
            session = {"x-tauten-session": answer.headers["x-tauten-session"]}
            assert (await ask(app, "POST", path, body, session)).status == 503

    asyncio.run(main())


def test_those_of_a_ride_that_were_on_board_go_along_and_others_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with crowd(tmp_path, monkeypatch, 3) as all:
            leave = Line._leave

            def closed_between(line: Line) -> None:
                all.app.site.door.closing.set()
                leave(line)

            monkeypatch.setattr(Line, "_leave", closed_between)
            given = arrays(3)
            await all.say(given)
            right(await all.answers(), given)
            await all.say([X] * 3)
            await refused(all)
            await empty(all.app)

    async def refused(all: Crowd) -> None:
        for peer in all.peers:
            status, headers, body = await peer.answer()
            assert (status, headers["retry-after"]) == (503, "1")
            assert b"the server is draining" in body

    asyncio.run(main())
