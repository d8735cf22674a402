"""What clients read of errors: what is meant for them; of a stage's own failure a code and an id, unless they may."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator

import pytest

import tauten as tt
from serve.kit_asgi import ask, site
from serve.kit_stream import Client, Talk
from tauten.errors import (
    BackendError,
    DeadlineExceeded,
    InputError,
    InternalError,
    Overloaded,
    StageError,
    StoreError,
    TautenError,
    WorkflowError,
)
from tauten.serve.door import Caller, Door
from tauten.serve.observe.logs import Logs
from tauten.serve.safety.discreet import as_ours, told
from tauten.serve.safety.guard import Guard
from tauten.serve.service import Service

SECRET = "sesame-4711"


@tt.stage(pure=True)
async def work(text: str) -> AsyncIterator[str]:
    if text == "yours":
        raise InputError("text is 'yours'", help="send another")
    if text != "early":
        yield "first"
    raise ValueError(f"password {SECRET}")


@tt.workflow
def flow(text: str) -> tt.Stream[str]:
    return work(text)


def guarded(*, hosts_checked: bool) -> Door:
    guard = Guard(hosts_checked=hosts_checked)
    return Door(identify=guard.identify, meet=guard.meet)


LOCAL = {"host": "localhost"}
CHAT = {"model": "flow", "messages": [{"role": "user", "content": "late"}]}
TRIED = {
    "native": ("/v1/workflows/flow", {"inputs": {"text": "early"}}),
    "native stream": ("/v1/workflows/flow?stream=true", {"inputs": {"text": "late"}}),
    "openai": ("/v1/chat/completions", CHAT),
    "openai stream": ("/v1/chat/completions", {**CHAT, "stream": True}),
    "oip": ("/v2/models/flow/generate", {"text_input": "early"}),
    "oip stream": ("/v2/models/flow/generate_stream", {"text_input": "late"}),
}


@pytest.mark.parametrize("way", TRIED)
def test_a_stages_words_reach_the_local_user_and_no_stranger(way: str) -> None:
    async def main() -> None:
        path, body = TRIED[way]
        for local in (True, False):
            async with site(Service(flow), door=guarded(hosts_checked=local)) as app:
                client = Client(app, "POST", path, body, LOCAL)
                await client.done()
                said = client.body.decode()
                assert (SECRET in said) is local
                assert local or client.headers["x-request-id"] in said
                assert "E404" in said

    asyncio.run(main())


def test_so_it_is_on_a_socket() -> None:
    async def main() -> None:
        async with site(Service(flow), door=guarded(hosts_checked=False)) as app:
            talk = Talk(app, "/v1/workflows/flow/ws")
            talk.say({"inputs": {"text": "late"}, "id": "mine"})
            assert await talk.hear() == "websocket.accept"
            heard = [await talk.hear() for _ in range(3)]
            assert [each["type"] for each in heard] == ["started", "output", "error"]
            assert heard[-1]["error"]["code"] == "E404"
            assert "request mine" in heard[-1]["error"]["help"]
            assert SECRET not in json.dumps(heard)
            await talk.leave()

    asyncio.run(main())


def test_a_key_with_admin_reads_all_and_what_a_stage_says_to_clients_everybody_reads() -> None:
    async def main() -> None:
        door = Door(identify=lambda exchange: Caller(admin="admin" in exchange.headers))
        async with site(Service(flow), door=door, apis=["native"]) as app:
            path = "/v1/workflows/flow"
            early = {"inputs": {"text": "early"}}
            assert SECRET in (await ask(app, "POST", path, early, {"admin": "1"})).json["error"]["message"]
            assert SECRET not in (await ask(app, "POST", path, early)).body.decode()
            yours = await ask(app, "POST", path, {"inputs": {"text": "yours"}})
            assert (yours.status, yours.json["error"]["message"]) == (400, "text is 'yours'")

    asyncio.run(main())


def test_the_log_keeps_what_the_client_is_not_told() -> None:
    async def main() -> None:
        out = io.StringIO()
        async with site(Service(flow), apis=["native"]) as app:
            app.site.observers.append(Logs(sample=1.0, content=True, out=out))
            path = "/v1/workflows/flow"
            done = await ask(app, "POST", path, {"inputs": {"text": "early"}}, {"x-request-id": "seven"})
            assert "request seven" in done.json["error"]["help"]
        line = json.loads(out.getvalue())
        assert (line["id"], line["code"], line["raised"]) == ("seven", "E404", "ValueError")
        assert SECRET in line["message"]
        assert any("test_discreet" in frame for frame in line["stack"])

    asyncio.run(main())


def test_who_comes_to_an_open_address_without_a_key_is_no_admin() -> None:
    def admin(*, hosts_checked: bool) -> bool:
        allowance = Guard(hosts_checked=hosts_checked).admit("", "10.0.0.9")
        allowance.end()
        return allowance.caller.admin

    assert admin(hosts_checked=True)
    assert not admin(hosts_checked=False)


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (InputError(SECRET), True),
        (Overloaded(SECRET), True),
        (DeadlineExceeded(SECRET), True),
        (StageError(SECRET), False),
        (BackendError(SECRET, retry_after_s=3.0), False),
        (StoreError(SECRET), False),
        (WorkflowError(SECRET), False),
        (InternalError(SECRET), False),
        (RuntimeError(SECRET), False),
        (ModuleNotFoundError(SECRET, name="soundfile"), False),
    ],
)
def test_only_the_words_change(error: Exception, shown: bool) -> None:
    said = told(error, None)
    ours = as_ours(error)
    assert (SECRET in str(said)) is shown
    facts = ("code", "http_status", "grpc_status")
    assert [getattr(said, each) for each in facts] == [getattr(ours, each) for each in facts]
    assert getattr(said, "retry_after_s", 0.0) == getattr(error, "retry_after_s", 0.0)
    assert isinstance(said, TautenError)
    assert said.help or shown


def test_a_package_of_an_extra_that_is_not_here_is_no_mistake_of_ours() -> None:
    ours = as_ours(ModuleNotFoundError(SECRET, name="soundfile"))
    assert (ours.code, ours.http_status, ours.help) == ("E315", 503, "pip install 'tauten[local]'")
    assert as_ours(ModuleNotFoundError(SECRET, name="mine")).code == "E500"
