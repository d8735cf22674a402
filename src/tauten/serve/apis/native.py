"""The native API: workflows by name, with explain and trace on request."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from tauten.errors import TautenError
from tauten.serve.door import Call
from tauten.serve.exchange import Reply
from tauten.serve.routes import Route
from tauten.serve.values import plain

if TYPE_CHECKING:
    from tauten.serve.app import Site


class Inputs(msgspec.Struct):
    """What a request gives: values by the workflow's input names."""

    inputs: dict[str, Any] = {}


class Api:
    """`/v1/workflows`."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def routes(self) -> list[Route]:
        return [Route("POST", "/v1/workflows/{name}", self.run, failure, "workflow")]

    async def run(self, call: Call) -> Reply:
        service = self.site.services[call.params["name"]]
        given = await call.read(Inputs)
        answer = await call.answer(service, service.workflow.bind(**given.inputs))
        return Reply.json({"id": call.id, "output": plain(answer.value)}, headers=[("x-request-id", call.id)])


def failure(error: TautenError) -> Reply:
    """An error as this API says it."""
    body = {"error": {"code": error.code, "message": error.message, "help": error.help}}
    return Reply.json(body, status=error.http_status)
