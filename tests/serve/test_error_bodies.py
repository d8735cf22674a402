"""Every error body of the server holds a code of our tree, as text: of each API, each route and each server."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

import tauten.serve.http
from serve.kit_asgi import ask, site
from serve.kit_http import Peer, run, up
from serve.kit_workflows import shouted
from tauten.errors import BackendError, NotFound
from tauten.serve.app import App, Site
from tauten.serve.door import ANYONE, Caller, Door
from tauten.serve.http import refused
from tauten.serve.http.limits import HttpLimits
from tauten.serve.openai.errors import failure as openai_failure
from tauten.serve.safety.guard import Unauthorized
from tauten.serve.service import Service

_OURS = re.compile(r"E[1-5]\d\d")


def code_of(body: bytes, headers: Mapping[str, str]) -> str:
    """The code that an error body says, in the form of its API."""
    said = json.loads(body)["error"]
    if isinstance(said, str):  # Open Inference: one sentence
        code = said.split(" ", 1)[0]
    else:
        assert isinstance(said["code"], str), said
        code = headers.get("x-tauten-error", said["code"])  # OpenAI's clients know words of their own
        assert said["message"]
    assert _OURS.fullmatch(code), said
    return code


def path_of(template: str) -> str:
    return (
        template.replace("{name}", "shouted")
        .replace("{version}", "1")
        .replace("{id}", "a")
        .replace("{region}", "r")
    )


REFUSED: list[tuple[dict[str, str], int, str]] = [
    ({"x-tauten-deadline-ms": "soon"}, 400, "E291"),
    ({"x-request-id": "a b"}, 400, "E291"),
    ({"x-api-key": "wrong"}, 401, "E262"),
]


def identify(exchange: Any) -> Caller:
    if exchange.headers.get("x-api-key"):
        raise Unauthorized("no such key", help="ask for one")
    return ANYONE


def test_every_route_refuses_with_a_code() -> None:
    async def main() -> None:
        async with site(Service(shouted), door=Door(identify=identify, body_bytes=2000)) as app:
            routes = [each for each in app.router.routes if each.method != "WEBSOCKET"]
            assert len(routes) > 50
            for route in routes:
                path = path_of(route.path)
                for headers, status, code in REFUSED:
                    if route.open and status == 401:
                        continue
                    done = await ask(app, route.method, path, b"{}", headers)
                    assert (done.status, code_of(done.body, done.headers)) == (status, code), route
                if route.method == "POST":
                    large = await ask(app, "POST", path, b"x" * 3000)
                    if large.status != 200:  # paths without a body read none
                        assert code_of(large.body, large.headers)
                    broken = await ask(app, "POST", path, b"{")
                    if broken.status != 200:
                        assert code_of(broken.body, broken.headers)
                other = await ask(app, "PATCH", path)
                assert (other.status, code_of(other.body, other.headers)) == (405, "E289")
            nowhere = await ask(app, "GET", "/nowhere")
            assert (nowhere.status, code_of(nowhere.body, nowhere.headers)) == (404, "E201")
            app.site.services["shouted"].ready = False
            for path in ("/v1/workflows/shouted", "/v1/chat/completions", "/v2/models/shouted/generate"):
                body = {"model": "shouted", "inputs": {}, "text_input": "x", "messages": []}
                waits = await ask(app, "POST", path, {"inputs": {}} if "workflows" in path else body)
                assert waits.status >= 400, path
                assert code_of(waits.body, waits.headers)

    asyncio.run(main())


def test_what_fails_inside_has_a_code_in_every_form() -> None:
    for error in (NotFound("x"), BackendError("y"), Unauthorized("z")):
        reply = openai_failure(error)
        assert isinstance(reply.body, bytes)
        assert code_of(reply.body, dict(reply.headers)) == error.code


def test_every_refusal_of_the_http_server_has_a_code() -> None:
    folder = Path(tauten.serve.http.__file__).parent
    used = {
        int(status)
        for file in folder.glob("*.py")
        for status in re.findall(r"[Rr]efusal\(\s*(\d{3})", file.read_text())
    }
    assert used >= {400, 403, 408, 413, 414, 431, 500, 503}
    for status in {*used, *(int(each) for each in HTTPStatus if each >= 400)}:
        assert code_of(refused.body(status, "why"), {})


HEAD = b"POST /v1/workflows/shouted HTTP/1.1\r\nHost: localhost\r\n"
SENT: dict[str, tuple[bytes, int, str]] = {
    "large body": (HEAD + b"Content-Length: 9999\r\n\r\n" + b"x" * 9999, 413, "E288"),
    "large chunks": (
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"7d0\r\n" + b"x" * 2000 + b"\r\n" + b"0\r\n\r\n",
        413,
        "E288",
    ),
    "long target": (b"GET /" + b"a" * 2000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414, "E419"),
    "many headers": (HEAD + b"".join(b"a%d: b\r\n" % n for n in range(40)) + b"\r\n", 431, "E418"),
    "no path": (b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n", 404, "E201"),
}
THIN: dict[str, tuple[bytes, int, str]] = {
    "no request": (b"HELLO\r\n\r\n", 400, "E416"),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400, "E416"),
    "slow head": (b"GET / HT", 408, "E417"),
    "slow body": (HEAD + b"Content-Length: 100\r\n\r\nx", 408, "E417"),
    "expects": (HEAD + b"Expect: wonders\r\nContent-Length: 1\r\n\r\nx", 417, "E416"),
    "no socket": (
        b"GET /v1/workflows/shouted/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nx-request-id: a b\r\n\r\n",
        400,
        "E291",
    ),
}


@pytest.mark.parametrize(
    ("server_name", "case"),
    [("thin", each) for each in (*SENT, *THIN)] + [("uvicorn", each) for each in SENT],
)
def test_what_a_server_refuses_on_the_wire_has_a_code(server_name: str, case: str) -> None:
    sent, status, code = {**SENT, **THIN}[case]

    async def main() -> None:
        app = App(Site([Service(shouted)]), names=["native"])
        limits = HttpLimits(
            body_bytes=1000, target_bytes=1000, header_count=30, head_s=0.1, body_s=0.1, linger_s=0.1
        )
        await app.site.services.open()
        async with await up(app, limits, server=server_name) as server:
            peer = await Peer.of(server.port)
            await peer.say(sent)
            answered, headers, body = await peer.answer()
            await peer.close()
            assert (answered, code_of(body, headers)) == (status, code)
        await app.site.services.close()

    run(main)
