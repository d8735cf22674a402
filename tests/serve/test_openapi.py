"""The OpenAPI document: made from the workflows' own types, whole, and open to what other APIs add."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

import tauten as tt
from serve.kit_asgi import ask, site
from serve.kit_workflows import Order
from tauten.serve.page import read
from tauten.serve.service import Service


@dataclass
class Receipt:
    total: int
    photo: tt.Image


@tt.stage(pure=True)
async def sold(order: Order) -> Receipt:
    raise AssertionError("never run here")


@tt.workflow
def sell(
    order: Order, kind: Literal["net", "gross"] = "net", question: tt.Text | tt.Audio | None = None
) -> Receipt:
    """Sell one thing."""
    return sold(order)


@tt.stage(pure=True)
async def drawn(order: list[Order], clip: tt.Video) -> tt.Image:
    raise AssertionError("never run here")


@tt.workflow
def draw(order: list[Order], clip: tt.Video, loose=None) -> tt.Image:  # type: ignore[no-untyped-def]
    return drawn(order, clip)


class Odd:
    """A type that has no form in JSON."""


@tt.stage
async def odd(thing: Odd) -> Odd:
    return thing


@tt.workflow
def odds(thing: Odd, order: Order) -> Odd:
    return odd(thing)


def document(*services: Service, apis: list[str] | None = None) -> Any:
    async def main() -> Any:
        async with site(*services, apis=apis) as app:
            return (await ask(app, "GET", "/openapi.json")).json

    return asyncio.run(main())


def test_inputs_and_results_have_the_schemas_of_their_types() -> None:
    found = document(Service(sell), Service(draw), apis=["native"])
    assert found["openapi"] == "3.1.0"
    run = found["paths"]["/v1/workflows/sell"]["post"]
    assert run["description"] == "Sell one thing."
    body = run["requestBody"]["content"]["application/json"]["schema"]
    inputs = body["properties"]["inputs"]
    assert inputs["required"] == ["order"]
    assert inputs["properties"]["order"] == {"$ref": "#/components/schemas/Order"}
    assert inputs["properties"]["kind"]["enum"] == ["gross", "net"]
    media = {"anyOf": [{"type": "string"}, {"$ref": "#/components/schemas/Audio"}]}
    assert inputs["properties"]["question"] == {"anyOf": [media, {"type": "null"}]}
    schemas = found["components"]["schemas"]
    assert schemas["Order"]["required"] == ["item"]
    assert schemas["Receipt"]["properties"]["photo"] == {"$ref": "#/components/schemas/Image"}
    answer = run["responses"]["200"]["content"]
    output = answer["application/json"]["schema"]["properties"]["output"]
    assert output == {"$ref": "#/components/schemas/Receipt"}
    other = found["paths"]["/v1/workflows/draw"]["post"]
    form = other["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    assert form["clip"] == {"type": "string", "format": "binary"}
    assert form["loose"] == {}
    assert "image/png" in other["responses"]["200"]["content"]


def test_every_reference_leads_somewhere_and_every_path_is_served() -> None:
    async def main() -> None:
        async with site(Service(sell), Service(draw)) as app:  # with all APIs
            found = (await ask(app, "GET", "/openapi.json")).json
            text = msgspec.json.encode(found).decode()
            for reference in set(re.findall(r'"\$ref":"#/([^"]+)"', text)):
                node = found
                for part in reference.split("/"):
                    node = node[part]
            names = {"name": "sell", "id": "x", "version": "1"}
            for path, operations in found["paths"].items():
                for method in set(operations) & {"get", "post", "delete", "put"}:
                    app.router.find(method.upper(), path.format_map(names))
            operations = [
                each["operationId"]
                for path in found["paths"].values()
                for each in path.values()
                if "operationId" in each
            ]
            assert len(operations) == len(set(operations))
            assert {"/v1/workflows", "/v1/requests/{id}", "/v1/sessions/{id}"} <= set(found["paths"])

    asyncio.run(main())


def test_other_apis_add_their_paths() -> None:
    class Other:
        def openapi(self) -> dict[str, Any]:
            return {"/v9/other": {"get": {"responses": {"200": {"description": "yes"}}}}}

    async def main() -> None:
        async with site(Service(sell), apis=["native"]) as app:
            app.apis["other"] = Other()
            assert "/v9/other" in (await ask(app, "GET", "/openapi.json")).json["paths"]

    asyncio.run(main())


def test_types_that_json_schema_cannot_say_accept_anything() -> None:
    odds_inputs = document(Service(odds), apis=["native"])["paths"]["/v1/workflows/odds"]["post"][
        "requestBody"
    ]
    properties = odds_inputs["content"]["application/json"]["schema"]["properties"]["inputs"]["properties"]
    assert properties == {"thing": {}, "order": {"$ref": "#/components/schemas/Order"}}


def test_the_page_may_run_its_own_script_only() -> None:
    body, policy = read()
    assert "default-src 'none'" in policy
    assert policy.count("'sha256-") == 2
    assert "unsafe" not in policy
    assert body.count(b"<script") == body.count(b"<style") == 1
    assert not re.search(rb"\son\w+=|style=", body)
