"""Refusals of a WebSocket before its handshake: an answer in words where the server can, else a closing code."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from serve.kit_asgi import site
from serve.kit_http import run, up
from serve.kit_stream import Talk
from serve.kit_workflows import shouted
from tauten.serve.app import App, Site
from tauten.serve.door import Door
from tauten.serve.safety.guard import Guard, Unauthorized
from tauten.serve.service import Service

CASES: list[tuple[str, dict[str, str], int, str, str]] = [
    ("/v1/workflows/shout/ws", {}, 404, "E201", "shouted"),
    ("/v1/workflow/shouted/ws", {}, 404, "E201", "ws"),
    ("/v1/workflows/shouted/ws?strem=true", {}, 400, "E285", "leave it out"),
    ("/v1/workflows/shouted/ws", {"x-tauten-deadline-ms": "soon"}, 400, "E291", "finite"),
    ("/v1/workflows/shouted/ws", {"origin": "https://elsewhere.example"}, 403, "E265", "--cors"),
    ("/v1/workflows/shouted/ws", {"authorization": "Bearer wrong"}, 401, "E262", "ask for one"),
]


def identify(exchange: Any) -> Any:
    if exchange.headers.get("authorization"):
        raise Unauthorized("a key that nobody has", help="ask for one")
    return Guard().identify(exchange)


@pytest.mark.parametrize("server_name", ["thin", "uvicorn"])
def test_a_handshake_that_is_refused_gets_its_status_and_the_error(server_name: str) -> None:
    async def main() -> None:
        door = Door(identify=identify, meet=Guard().meet)
        app = App(Site([Service(shouted)], door), names=["native"])
        await app.site.services.open()
        async with await up(app, server=server_name) as server:
            for path, headers, status, code, hint in CASES:
                with pytest.raises(InvalidStatus) as caught:
                    await connect(f"ws://127.0.0.1:{server.port}{path}", additional_headers=headers)
                answer = caught.value.response
                error = json.loads(answer.body)["error"]
                assert (answer.status_code, error["code"]) == (status, code), path
                assert hint in error["help"], error
                assert answer.headers["x-request-id"]
                assert ("www-authenticate" in answer.headers) == (status == 401)
            app.site.services["shouted"].ready = False
            with pytest.raises(InvalidStatus) as caught:
                await connect(f"ws://127.0.0.1:{server.port}/v1/workflows/shouted/ws")
            assert caught.value.response.status_code == 503
            assert caught.value.response.headers["retry-after"] == "1"
        await app.site.services.close()
        assert app.site.in_flight == 0

    run(main)


def test_a_server_without_the_extension_closes_with_a_code() -> None:
    async def main() -> None:
        async with site(Service(shouted), apis=["native"]) as app:
            talk = Talk(app, "/v1/workflows/shout/ws")
            assert await talk.control() == {"type": "websocket.close", "code": 1008}
            app.site.services["shouted"].ready = False
            talk = Talk(app, "/v1/workflows/shouted/ws")
            assert await talk.control() == {"type": "websocket.close", "code": 1011}
            await talk.task

    run(main)
