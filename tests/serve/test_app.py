"""The application's core: routes, errors, deadlines, clients that leave."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import gzip

import pytest

from serve.kit_asgi import ask, site
from serve.kit_workflows import endless, shouted
from tauten.errors import InputError
from tauten.serve.door import Caller, Door
from tauten.serve.exchange import Exchange
from tauten.serve.routes import NotAllowed
from tauten.serve.service import Service


def test_a_workflow_answers_by_its_name() -> None:
    async def main() -> None:
        async with site(Service(shouted), apis=["native"]) as app:
            done = await ask(app, "POST", "/v1/workflows/shouted", {"inputs": {"text": "hello"}})
            assert (done.status, done.json["output"]) == (200, "HELLO")
            assert done.headers["x-request-id"] == done.json["id"]

    asyncio.run(main())


def test_unknown_names_paths_methods_bodies_and_headers_are_refused_in_words() -> None:
    async def main() -> None:
        async with site(Service(shouted), door=Door(body_bytes=100), apis=["native"]) as app:
            cases = [
                ("POST", "/v1/workflows/shout", {}, {}, 404, "shouted"),
                ("POST", "/v1/workflow/shouted", {}, {}, 404, "/v1/workflows"),
                ("PUT", "/v1/workflows/shouted", b"", {}, 405, "POST"),
                ("POST", "/v1/workflows/shouted", b"{", {}, 400, "openapi"),
                ("POST", "/v1/workflows/shouted", {"inputs": {"txt": "x"}}, {}, 400, "text"),
                ("POST", "/v1/workflows/shouted", b"x" * 101, {}, 413, "--max-body-mb"),
                ("POST", "/v1/workflows/shouted", {}, {"x-tauten-deadline-ms": "soon"}, 400, "finite"),
                ("POST", "/v1/workflows/shouted", {}, {"x-request-id": "a b"}, 400, "letters"),
            ]
            for method, path, body, headers, status, hint in cases:
                done = await ask(app, method, path, body, headers)
                assert done.status == status, (path, done.body)
                assert hint in done.json["error"]["help"], done.json

    asyncio.run(main())


def test_a_refusal_carries_the_clients_own_id_whenever_it_comes() -> None:
    """Before a route is found, a key is checked, a header is read: whoever asked finds the line in the log."""

    def stranger(exchange: Exchange) -> Caller:
        raise InputError("nobody", help="come with a key", code="E262")

    async def main() -> None:
        async with site(Service(shouted), door=Door(identify=stranger)) as app:
            for path in ("/nowhere", "/v1/workflows", "/v1/models", "/v2/models/shouted"):
                done = await ask(app, "GET", path, headers={"x-request-id": "mine-1"})
                assert (done.status >= 400, done.headers["x-request-id"]) == (True, "mine-1"), path
            made = (await ask(app, "GET", "/nowhere", headers={"x-request-id": "a b"})).headers[
                "x-request-id"
            ]
            assert made.isalnum()  # what is no id is not repeated

    asyncio.run(main())


def test_a_compressed_body_is_refused_in_words_where_none_is_taken() -> None:
    async def main() -> None:
        async with site(Service(shouted)) as app:
            for path in ("/v1/workflows/shouted", "/v1/chat/completions", "/v2/models/shouted/generate"):
                done = await ask(app, "POST", path, gzip.compress(b"{}"), {"content-encoding": "gzip"})
                assert done.status == 400
                assert b"content-encoding" in done.body
                assert b"/infer takes gzip" in done.body
            body = {"inputs": {"text": "a"}}
            plain = await ask(app, "POST", "/v1/workflows/shouted", body, {"content-encoding": "identity"})
            assert plain.status == 200

    asyncio.run(main())


def test_a_path_that_is_not_there_is_told_the_nearest_or_where_the_apis_begin() -> None:
    async def main() -> None:
        async with site(Service(shouted)) as app:
            for path in ("/", "/index.html", "/favicon.ico"):
                done = await ask(app, "GET", path)
                help = done.json["error"]["help"]
                assert (done.status, help.startswith("here are: ")) == (404, True)
                named = help.removeprefix("here are: ").split(", ")
                assert {"/v1/workflows", "/docs", "/v1/models", "/v2"} <= set(named)
                assert len(named) == len(set(named)) < 8
            near = await ask(app, "GET", "/v1/workflow")
            assert near.json["error"]["help"] == "did you mean `/v1/workflows`?"

    asyncio.run(main())


def test_a_method_that_a_path_does_not_answer_is_told_those_that_it_does() -> None:
    cases = [
        ("PUT", "/v1/workflows/shouted", "GET, HEAD, POST"),
        ("GET", "/v1/chat/completions", "POST"),
        ("OPTIONS", "/v1/models", "GET, HEAD"),
        ("POST", "/v1/workflows/shouted/ws", ""),  # a socket answers no method by itself
    ]

    async def main() -> None:
        async with site(Service(shouted)) as app:
            for method, path, allow in cases:
                done = await ask(app, method, path)
                assert (done.status, done.headers["allow"]) == (405, allow), path
                for each in allow.split(", ") if allow else ():
                    assert (await ask(app, each, path)).status != 405
            with pytest.raises(NotAllowed) as caught:
                app.router.find("WEBSOCKET", "/v1/models")
            assert caught.value.allow == {"GET", "HEAD"}

    asyncio.run(main())


def test_a_parameter_of_the_query_that_nobody_knows_is_refused_with_the_nearest() -> None:
    async def main() -> None:
        async with site(Service(shouted), apis=["native"]) as app:
            path = "/v1/workflows/shouted"
            wrong = await ask(app, "POST", f"{path}?strem=true", {"inputs": {"text": "x"}})
            assert (wrong.status, wrong.json["error"]["code"]) == (400, "E285")
            assert "`strem`" in wrong.json["error"]["message"]
            assert wrong.json["error"]["help"] == "did you mean `stream`?"
            for each in ("/v1/workflows", path, f"{path}/plan", f"{path}/svg"):
                plain = await ask(app, "GET", f"{each}?explain=true")
                assert (plain.status, plain.json["error"]["code"]) == (400, "E285"), each
                assert (await ask(app, "GET", each)).status == 200

    asyncio.run(main())


def test_a_client_that_leaves_stops_its_work() -> None:
    stopped = asyncio.Event()

    async def main() -> None:
        async with site(Service(endless(stopped)), apis=["native"]) as app:
            body = {"inputs": {"text": "x"}}
            done = await ask(app, "POST", "/v1/workflows/wait", body, leave_after_s=0.01)
            assert stopped.is_set()
            assert done.status == 0  # nobody is there to be answered
            late = await ask(app, "POST", "/v1/workflows/wait", body, {"x-tauten-deadline-ms": "20"})
            assert (late.status, late.json["error"]["code"]) == (504, "E401")

    asyncio.run(main())
