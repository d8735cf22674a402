"""Asks an ASGI application without a socket."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tauten.serve.app import App, Site
from tauten.serve.door import Door
from tauten.serve.service import Service


@dataclass
class Answered:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@asynccontextmanager
async def site(
    *services: Service, door: Door | None = None, apis: Sequence[str] | None = None
) -> AsyncIterator[App]:
    """An application whose services are open."""
    app = App(Site(services, door), names=apis)
    await app.site.services.open()
    try:
        yield app
    finally:
        await app.site.services.close()


def posed(
    method: str, path: str, body: bytes | Any, headers: dict[str, str] | None
) -> tuple[bytes, dict[str, Any]]:
    """A request's bytes and its ASGI scope; a body that is not bytes is JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    route, _, query = path.partition("?")
    given = {"host": "test", "content-length": str(len(data)), **(headers or {})}
    return data, {
        "type": "http",
        "method": method,
        "path": route,
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in given.items()],
        "client": ("127.0.0.1", 1),
    }


async def ask(
    app: App,
    method: str,
    path: str,
    body: bytes | Any = b"",
    headers: dict[str, str] | None = None,
    *,
    leave_after_s: float | None = None,
) -> Answered:
    """One request. `leave_after_s`: the client goes then."""
    data, scope = posed(method, path, body, headers)
    sent: list[dict[str, Any]] = []
    asked = False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": data, "more_body": False}
        await asyncio.sleep(leave_after_s if leave_after_s is not None else 3600)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(dict(message))

    await app(scope, receive, send)
    head = next(
        (each for each in sent if each["type"] == "http.response.start"), {"status": 0, "headers": []}
    )
    content = b"".join(each.get("body", b"") for each in sent if each["type"] == "http.response.body")
    return Answered(head["status"], {k.decode(): v.decode() for k, v in head["headers"]}, content)
