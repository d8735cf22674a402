"""The Responses API of OpenAI, on the same workflows as chat completions. Nothing that was answered is kept."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from tauten.serve.openai.errors import failure
from tauten.serve.openai.paths import response_path
from tauten.serve.openai.responses import responses
from tauten.serve.routes import Route

if TYPE_CHECKING:
    from tauten.serve.app import Site


class Api:
    """`/v1/responses`; a workflow is a model by its name."""

    roots = ("/v1/responses",)

    def __init__(self, site: Site) -> None:
        self.site = site

    def routes(self) -> list[Route]:
        """One POST: there is nothing to get or to delete."""
        return [Route("POST", "/v1/responses", partial(responses, self.site), failure, "openai.responses")]

    def openapi(self) -> dict[str, Any]:
        """The path of this API for the OpenAPI document."""
        return response_path()
