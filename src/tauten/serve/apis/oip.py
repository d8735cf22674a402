"""The Open Inference Protocol v2 over HTTP, with Triton's extensions that its clients use."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import re
import time
from typing import TYPE_CHECKING, Any

import msgspec

from tauten.errors import TautenError
from tauten.serve.door import Call
from tauten.serve.exchange import Reply
from tauten.serve.oip import calls, generate, rest
from tauten.serve.oip.express import Express, express
from tauten.serve.oip.models import Model, Models
from tauten.serve.oip.openapi import paths
from tauten.serve.oip.parameters import honour
from tauten.serve.oip.ride import Line
from tauten.serve.routes import Route
from tauten.serve.service import Service
from tauten.serve.tensor_model import TensorService

if TYPE_CHECKING:
    from tauten.serve.app import Site

_CODINGS = tuple(rest.CODINGS)
_PLAIN = re.compile(r"[A-Za-z0-9._-]+")  # names that stand in a path as they are


class Index(msgspec.Struct):
    ready: bool = False


class Load(msgspec.Struct):
    parameters: dict[str, Any] | None = None


class Api:
    """`/v2`."""

    roots = ("/v2",)

    def __init__(self, site: Site) -> None:
        self.site = site
        self.models = Models(site)
        self.statistics = calls.statistics_of(site)
        self._lines: dict[str, Line] = {}  # by model, of those that were asked without a task

    def routes(self) -> list[Route]:
        named = [
            *self._model_routes("/v2/models/{name}"),
            *self._model_routes("/v2/models/{name}/versions/{version}"),
        ]
        return [*self._server_routes(), *self._known_routes(), *named, *self._extension_routes()]

    def _known_routes(self) -> list[Route]:
        """The busiest path of each model by its own words: one look-up, and nothing to take apart."""
        return [
            Route(
                "POST",
                f"/v2/models/{service.name}/infer",
                functools.partial(self._infer, service.name),
                failure,
                "oip-infer",
                express=functools.partial(self._express, service),
                codings=_CODINGS,
            )
            for service in self.site.services
            if _PLAIN.fullmatch(service.name)
        ]

    def _server_routes(self) -> list[Route]:
        return [
            Route("GET", "/v2/health/live", self.live, failure, "oip-health", open=True),
            Route("GET", "/v2/health/ready", self.ready, failure, "oip-health", open=True),
            Route("GET", "/v2", self.metadata, failure, "oip-metadata"),
            Route("GET", "/v2/models/stats", self.all_stats, failure, "oip-stats"),
            Route("POST", "/v2/repository/index", self.index, failure, "oip-repository"),
            Route("POST", "/v2/repository/models/{name}/load", self.load, failure, "oip-repository"),
            Route("POST", "/v2/repository/models/{name}/unload", self.unload, failure, "oip-repository"),
        ]

    def _model_routes(self, base: str) -> list[Route]:
        return [
            Route("POST", f"{base}/infer", self.infer, failure, "oip-infer", codings=_CODINGS),
            Route("GET", base, self.model_metadata, failure, "oip-metadata"),
            Route("GET", f"{base}/ready", self.model_ready, failure, "oip-health"),
            Route("GET", f"{base}/config", self.config, failure, "oip-metadata"),
            Route("GET", f"{base}/stats", self.stats, failure, "oip-stats"),
            Route("POST", f"{base}/generate", self.generate, failure, "oip-generate"),
            Route("POST", f"{base}/generate_stream", self.generate_stream, failure, "oip-generate"),
        ]

    def _extension_routes(self) -> list[Route]:
        found = [
            Route("GET", "/v2/logging", self.logging, failure, "oip-settings"),
            Route("POST", "/v2/logging", self.no_logging, failure, "oip-settings"),
        ]
        for path in ("/v2/trace/setting", "/v2/models/{name}/trace/setting"):
            found.append(Route("GET", path, self.tracing, failure, "oip-settings"))
            found.append(Route("POST", path, self.no_tracing, failure, "oip-settings"))
        for kind in ("systemsharedmemory", "cudasharedmemory"):
            for path in (f"/v2/{kind}", f"/v2/{kind}/region/{{region}}"):
                found.append(Route("GET", f"{path}/status", self.regions, failure, "oip-memory"))
                found.append(Route("POST", f"{path}/unregister", self.unregister, failure, "oip-memory"))
            register = f"/v2/{kind}/region/{{region}}/register"
            found.append(Route("POST", register, self.no_memory, failure, "oip-memory"))
        return found

    def openapi(self) -> dict[str, Any]:
        """The paths of this API."""
        return paths([service.name for service in self.site.services])

    # -- the server ---------------------------------------------------------------------------------------

    async def live(self, call: Call) -> Reply:
        return Reply.json({"live": True})

    async def ready(self, call: Call) -> Reply:
        ready = calls.server_ready(self.site)
        return Reply.json({"ready": ready, "live": True}, status=200 if ready else 503)

    async def metadata(self, call: Call) -> Reply:
        return Reply.json(calls.server_metadata())

    async def index(self, call: Call) -> Reply:
        asked = await call.read(Index) if await call.body() else Index()
        return Reply.json(calls.index(self.models, ready_only=asked.ready))

    async def load(self, call: Call) -> Reply:
        asked = await call.read(Load) if await call.body() else Load()
        await calls.load(call, self.models, call.params["name"], parameters=bool(asked.parameters))
        return Reply.json({})

    async def unload(self, call: Call) -> Reply:
        await calls.unload(call, self.models, call.params["name"])
        return Reply.json({})

    async def all_stats(self, call: Call) -> Reply:
        return Reply.json({"model_stats": [self.statistics.shown(each) for each in self.site.services]})

    # -- a model ------------------------------------------------------------------------------------------

    def _model(self, call: Call) -> Model:
        return self.models.find(call.params["name"], call.params.get("version", ""))

    async def model_metadata(self, call: Call) -> Reply:
        return Reply.json(calls.metadata(self._model(call)))

    async def model_ready(self, call: Call) -> Reply:
        model = self._model(call)
        ready = calls.model_ready(self.site, model.service)
        return Reply.json({"name": model.service.name, "ready": ready}, status=200 if ready else 503)

    async def config(self, call: Call) -> Reply:
        return Reply.json(calls.config(self._model(call)))

    async def stats(self, call: Call) -> Reply:
        return Reply.json({"model_stats": [self.statistics.shown(self._model(call).service)]})

    async def infer(self, call: Call) -> Reply:
        """Tensors in, tensors out."""
        return await self._infer(call.params["name"], call)

    async def _infer(self, name: str, call: Call) -> Reply:
        model = self.models.find(name, call.params.get("version", ""))
        headers = call.exchange.headers
        body = await call.body()
        call.knock(model.service)
        if "content-encoding" in headers:
            body = await rest.decoded(body, headers["content-encoding"].lower(), call.door.body_bytes)
        began = time.monotonic()
        head, tensors = rest.read(body, headers.get(rest.HEAD_LENGTH))
        taken = time.monotonic()
        if head.parameters is not None:
            honour(call, head.parameters)
        results = model.tensors((await calls.infer(call, model, tensors, head.parameters)).value)
        answered = time.monotonic()
        reply = rest.written(model.service.name, head, results)
        calls.coded(call, taken - began, time.monotonic() - answered)
        return rest.encoded(reply, headers["accept-encoding"]) if "accept-encoding" in headers else reply

    def _express(self, service: Service, call: Call) -> Express | None:
        """A way without a task, for models alone."""
        if not isinstance(service, TensorService):
            return None
        line = self._lines.get(service.name)
        if line is None:
            line = self._lines[service.name] = Line(self.site, service, call.route.name)
        return express(self.site, call, line)

    # -- text ---------------------------------------------------------------------------------------------

    async def generate(self, call: Call) -> Reply:
        """Text in, text out, as plain JSON."""
        return await (await generate.read(call, self._model(call))).whole()

    async def generate_stream(self, call: Call) -> Reply:
        """The same, an event for each increment; what fails before the first one has its own status."""
        return await (await generate.read(call, self._model(call))).streamed(failure)

    # -- what others have ---------------------------------------------------------------------------------

    async def logging(self, call: Call) -> Reply:
        return Reply.json(calls.LOGGING)

    async def tracing(self, call: Call) -> Reply:
        if "name" in call.params:
            self._model(call)
        return Reply.json(calls.SETTINGS)

    async def no_logging(self, call: Call) -> Reply:
        raise calls.no_settings("logging")

    async def no_tracing(self, call: Call) -> Reply:
        raise calls.no_settings("tracing")

    async def regions(self, call: Call) -> Reply:
        if "region" in call.params:
            raise rest.no_shared_memory()
        return Reply.json([])

    async def unregister(self, call: Call) -> Reply:
        return Reply.json({})  # there is none: it is gone, as was asked

    async def no_memory(self, call: Call) -> Reply:
        raise rest.no_shared_memory()


def failure(error: TautenError) -> Reply:
    """An error as this protocol says it."""
    text = f"{error.code} {error.message}"
    return Reply.json({"error": f"{text} ({error.help})" if error.help else text}, status=error.http_status)
