"""Whatever fits the OpenAPI document, and what does not: no 5xx, no hang, and replies as documented."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import CHECKS
from schemathesis.core.transport import Response

import tauten as tt
from serve.kit_asgi import Answered, ask
from tauten.serve.app import App, Site
from tauten.serve.service import Service

EXAMPLES = 25  # for each operation; all of them take some seconds
HANG_S = 10.0
CHECKED = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "negative_data_rejection",
]


class Item(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    count: int = 1


@tt.stage(pure=True)
async def described(items: list[Item], photo: tt.Image | None = None, ratio: float = 0.5) -> dict[str, Any]:
    return {"items": items, "bytes": photo.size_bytes if photo else None, "ratio": ratio}


@tt.workflow
def describe(items: list[Item], photo: tt.Image | None = None, ratio: float = 0.5) -> dict[str, Any]:
    return described(items, photo, ratio)


@tt.stage(pure=True)
async def spelled(text: str) -> tt.Stream[str]:  # type: ignore[misc]
    for letter in text[:50]:
        yield letter


@tt.workflow
def spell(text: str) -> tt.Stream[str]:
    return spelled(text)


@tt.stage
async def remembered(words: tt.Text | tt.Audio, session: tt.Session) -> tt.Text:
    session.say("user", "turn")
    return tt.Text(f"{len(session.history)} {words.__class__.__name__}")


@tt.workflow
def remember(words: tt.Text | tt.Audio, session: tt.Session) -> tt.Text:
    return remembered(words)


class Server:
    """The application on a loop of its own, asked one request at a time."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.app: App = self.runner.run(self._open())
        self.document = self.runner.run(ask(self.app, "GET", "/openapi.json")).json
        self.schema = schemathesis.openapi.from_dict(self.document)
        added = [
            api.openapi()
            for name, api in self.app.apis.items()
            if name != "native" and hasattr(api, "openapi")
        ]
        self.native = set(self.document["paths"]) - {path for paths in added for path in paths}

    async def _open(self) -> App:
        app = App(Site([Service(describe), Service(spell), Service(remember)]))
        await app.site.services.open()
        return app

    def close(self) -> None:
        self.runner.run(self.app.site.services.close())
        self.runner.close()

    def send(self, prepared: requests.PreparedRequest) -> Answered:
        body = prepared.body or b""
        data = body.encode() if isinstance(body, str) else bytes(body)
        headers = {
            name: str(value) for name, value in prepared.headers.items() if name.lower() != "content-length"
        }
        asked = ask(self.app, str(prepared.method), str(prepared.path_url), data, headers)
        return self.runner.run(asyncio.wait_for(asked, HANG_S))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    started = Server()
    yield started
    started.close()


OPERATIONS = [
    *(("POST", f"/v1/workflows/{name}") for name in ("describe", "spell", "remember")),
    *(("GET", f"/v1/workflows/describe{part}") for part in ("", "/plan", "/svg")),
    *(("GET", f"/v1/requests/{{id}}{part}") for part in ("", "/text", "/html", "/trace")),
    ("DELETE", "/v1/sessions/{id}"),
    ("GET", "/v1/workflows"),
]


def operations(server: Server) -> list[tuple[str, str]]:
    methods = {"get", "post", "put", "delete", "patch"}
    paths = server.document["paths"].items()
    return [(each.upper(), path) for path, there in paths for each in there if each in methods]


def _hurried(prepared: requests.PreparedRequest) -> bool:
    try:
        return float(prepared.headers.get("x-tauten-deadline-ms", "inf")) < 1000
    except ValueError:
        return False


def try_out(server: Server, method: str, path: str, mode: Any, checks: list[str], examples: int) -> None:
    operation = server.schema[path][method]

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def sent(case: Any) -> None:
        check(server, case, checks)

    sent()


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_an_operation_keeps_its_promises(server: Server, method: str, path: str) -> None:
    modes = schemathesis.GenerationMode
    for mode in (modes.POSITIVE, modes.NEGATIVE) if method == "POST" else (modes.POSITIVE,):
        try_out(server, method, path, mode, CHECKED, EXAMPLES)


def test_no_native_operation_was_forgotten(server: Server) -> None:
    native = {each for each in operations(server) if each[1] in server.native}
    same_for_each = {
        (method, path.replace("/spell", "/describe").replace("/remember", "/describe"))
        for method, path in native
    }
    assert same_for_each <= set(OPERATIONS)


def test_no_operation_of_any_api_breaks_the_server(server: Server) -> None:
    modes = schemathesis.GenerationMode
    others = [each for each in operations(server) if each[1] not in server.native]
    for method, path in others:
        for mode in (modes.POSITIVE, modes.NEGATIVE) if method == "POST" else (modes.POSITIVE,):
            try_out(server, method, path, mode, ["not_a_server_error"], 5)


def check(server: Server, case: Any, checks: list[str]) -> None:
    known = case.as_transport_kwargs(base_url="http://127.0.0.1")
    wanted = ("method", "url", "headers", "params", "json", "data", "files", "cookies")
    prepared = requests.Request(**{name: known[name] for name in wanted if name in known}).prepare()
    done = server.send(prepared)
    if done.status == 504 and _hurried(prepared):
        return  # it asked for less time than a request takes, and was told so
    response = Response(
        done.status,
        {name: [value] for name, value in done.headers.items()},
        done.body,
        request=prepared,
        elapsed=0.0,
        verify=True,
    )
    case.validate_response(response, checks=[CHECKS.get_one(name) for name in checks])
