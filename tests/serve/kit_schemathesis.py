"""An application and its OpenAPI document, tried out with what fits the document and what does not."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import CHECKS
from schemathesis.core.transport import Response

from serve.kit_asgi import Answered, ask
from tauten.serve.app import App, Site
from tauten.serve.service import Service

HANG_S = 10.0
PROMISES = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
]


class Server:
    """The application on a loop of its own, asked one request at a time."""

    def __init__(self, *services: Service) -> None:
        self.services = services
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
        app = App(Site(self.services))
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


def operations(server: Server) -> list[tuple[str, str]]:
    methods = {"get", "post", "put", "delete", "patch"}
    paths = server.document["paths"].items()
    return [(each.upper(), path) for path, there in paths for each in there if each in methods]


def try_out(server: Server, method: str, path: str, checks: list[str], examples: int) -> None:
    """Send what fits the document; where there is a body, also what does not."""
    modes = schemathesis.GenerationMode
    for mode in (modes.POSITIVE, modes.NEGATIVE) if method == "POST" else (modes.POSITIVE,):
        _try_out(server, server.schema[path][method], mode, checks, examples)


def _try_out(server: Server, operation: Any, mode: Any, checks: list[str], examples: int) -> None:
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
        _check(server, case, checks)

    sent()


def _check(server: Server, case: Any, checks: list[str]) -> None:
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


def _hurried(prepared: requests.PreparedRequest) -> bool:
    try:
        return float(prepared.headers.get("x-tauten-deadline-ms", "inf")) < 1000
    except ValueError:
        return False
