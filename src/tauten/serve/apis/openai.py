"""The OpenAI-compatible API: chat completions, embeddings, transcriptions, speech, models."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from tauten.serve.door import Call
from tauten.serve.exchange import Reply
from tauten.serve.openai import run as shared
from tauten.serve.openai.chat import chat
from tauten.serve.openai.embeddings import embeddings
from tauten.serve.openai.errors import failure
from tauten.serve.openai.paths import paths
from tauten.serve.openai.speech import speech
from tauten.serve.openai.transcriptions import transcriptions
from tauten.serve.routes import Route
from tauten.serve.service import Service

if TYPE_CHECKING:
    from tauten.serve.app import Site

Endpoint = Callable[["Site", Call], Awaitable[Reply]]

_ENDPOINTS: tuple[tuple[str, Endpoint, str], ...] = (
    ("/v1/chat/completions", chat, "chat"),
    ("/v1/embeddings", embeddings, "embeddings"),
    ("/v1/audio/transcriptions", transcriptions, "transcriptions"),
    ("/v1/audio/speech", speech, "speech"),
)


class Api:
    """`/v1/chat/completions` and its siblings; a workflow is a model by its name."""

    roots = ("/v1/models", "/v1/chat/completions")

    def __init__(self, site: Site) -> None:
        self.site = site
        self.created = int(time.time())  # of every model: when the server began to offer it

    def routes(self) -> list[Route]:
        """One POST for each endpoint, and the list of models."""
        posts = [
            Route("POST", path, partial(endpoint, self.site), failure, f"openai.{name}")
            for path, endpoint, name in _ENDPOINTS
        ]
        return [
            *posts,
            Route("GET", "/v1/models", self.models, failure, "openai.models"),
            Route("GET", "/v1/models/{id}", self.one_model, failure, "openai.model"),
        ]

    def openapi(self) -> dict[str, Any]:
        """The paths of this API for the OpenAPI document; schemas are written in place."""
        return paths()

    async def models(self, call: Call) -> Reply:
        """The workflows that take requests now."""
        data = [self._described(service) for service in self.site.services if service.ready]
        return Reply.json({"object": "list", "data": data})

    async def one_model(self, call: Call) -> Reply:
        return Reply.json(self._described(shared.model(self.site, call.params["id"])))

    def _described(self, service: Service) -> dict[str, Any]:
        return {"id": service.name, "object": "model", "created": self.created, "owned_by": "tauten"}
