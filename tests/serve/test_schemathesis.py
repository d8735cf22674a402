"""Whatever fits the OpenAPI document, and what does not: no 5xx, no hang, and replies as documented."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

import tauten as tt
from serve.kit_schemathesis import PROMISES, Server, operations, try_out
from tauten.serve.service import Service

EXAMPLES = 25  # for each operation; all of them take some seconds
CHECKED = [*PROMISES, "response_headers_conformance", "negative_data_rejection"]


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


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    started = Server(Service(describe), Service(spell), Service(remember))
    yield started
    started.close()


OPERATIONS = [
    *(("POST", f"/v1/workflows/{name}") for name in ("describe", "spell", "remember")),
    *(("GET", f"/v1/workflows/describe{part}") for part in ("", "/plan", "/svg")),
    *(("GET", f"/v1/requests/{{id}}{part}") for part in ("", "/text", "/html", "/trace")),
    ("DELETE", "/v1/sessions/{id}"),
    ("GET", "/v1/workflows"),
]


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_an_operation_keeps_its_promises(server: Server, method: str, path: str) -> None:
    try_out(server, method, path, CHECKED, EXAMPLES)


def test_no_native_operation_was_forgotten(server: Server) -> None:
    native = {each for each in operations(server) if each[1] in server.native}
    same_for_each = {
        (method, path.replace("/spell", "/describe").replace("/remember", "/describe"))
        for method, path in native
    }
    assert same_for_each <= set(OPERATIONS)


def test_no_operation_of_any_api_breaks_the_server(server: Server) -> None:
    others = [each for each in operations(server) if each[1] not in server.native]
    for method, path in others:
        try_out(server, method, path, ["not_a_server_error"], 5)
