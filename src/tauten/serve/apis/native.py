"""The native API: workflows by name, whole or streamed, with explain and trace on request."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec

from tauten.describe.payload import Media
from tauten.errors import InputError, NotFound, TautenError, suggest
from tauten.explain.html import to_html
from tauten.explain.text import to_text
from tauten.plan.plan import format_plan
from tauten.serve import sse
from tauten.serve.door import Call, check_depth
from tauten.serve.exchange import Reply, failure
from tauten.serve.kept.flights import shared_with
from tauten.serve.kept.traces import Finished, as_document, timing_ms, usage
from tauten.serve.multipart import is_form, read_form
from tauten.serve.native.dialogue import Dialogue, done
from tauten.serve.native.values import Inputs, encode, medium_of
from tauten.serve.openapi import document
from tauten.serve.page import read as page
from tauten.serve.routes import Route
from tauten.serve.service import Service

if TYPE_CHECKING:
    from tauten.serve.app import Site

_FLAGS = {"true": True, "1": True, "false": False, "0": False}


class Given(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a request: values by the workflow's input names."""

    inputs: dict[str, Any] = {}


class Api:
    """`/v1/workflows`, `/v1/requests`, `/v1/sessions`, the OpenAPI document and the page to try it."""

    roots = ("/v1/workflows", "/docs")

    def __init__(self, site: Site) -> None:
        self.site = site
        self._inputs: dict[str, Inputs] = {}

    def routes(self) -> list[Route]:
        one, kept = "/v1/workflows/{name}", "/v1/requests/{id}"
        plain = [
            ("GET", "/v1/workflows", self.listed, "workflows"),
            ("GET", one, self.described, "workflow_described"),
            ("GET", f"{one}/plan", self.plan, "workflow_plan"),
            ("GET", f"{one}/svg", self.svg, "workflow_svg"),
            ("WEBSOCKET", f"{one}/ws", self.socket, "workflow_socket"),
            ("GET", kept, self.account, "request"),
            ("GET", f"{kept}/text", self.text, "request_text"),
            ("GET", f"{kept}/html", self.html, "request_html"),
            ("GET", f"{kept}/trace", self.trace, "request_trace"),
            ("DELETE", "/v1/sessions/{id}", self.end_session, "session_end"),
        ]
        return [
            Route("POST", one, self.run, failure, "workflow"),
            *(Route(method, path, _plain(does), failure, name) for method, path, does, name in plain),
            Route("GET", "/openapi.json", self.openapi_document, failure, "openapi"),
            Route("GET", "/docs", self.docs, failure, "docs", open=True),
        ]

    # -- running ------------------------------------------------------------------------------------------

    async def run(self, call: Call) -> Reply:
        service = self.site.services[call.params["name"]]
        query = _query(call, ("explain", "stream"))
        explain = _flag(query, "explain")
        accept = call.exchange.headers.get("accept", "")
        streams = _flag(query, "stream") or "text/event-stream" in accept
        given, reader = await self._given(call), self.inputs_of(service)
        deciding = service.chance().inputs & given.keys()
        call.knock(  # decoding JSON is cheap, reading media is not
            service, {name: await reader.one(name, given[name]) for name in deciding}
        )
        inputs = await call.reading(service, lambda fetch: reader.read(given, fetch))
        session = call.session(service)
        if streams:
            values = await sse.begun(call.stream(service, inputs, session))
            events = sse.told_reply(call, _events(call, values, explain), _broken)
            events.headers += shared_with(call.request)
            return events
        answer = await call.answer(service, inputs, session)
        headers = shared_with(call.request)
        medium = medium_of(answer.value, accept)
        if medium is not None:
            return Reply(medium.data, media_type=medium.type, headers=[("vary", "accept"), *headers])
        about = _about(call, explain)
        shown = {"session": session.id} if session is not None else {}
        return Reply(encode({"id": call.id, "output": answer.value, **shown, **about}), headers=headers)

    async def socket(self, call: Call) -> None:
        service = self.site.services[call.params["name"]]
        call.check(service)
        await Dialogue(self.site, call, service, self.inputs_of(service)).talk()

    def inputs_of(self, service: Service) -> Inputs:
        """Who reads a service's inputs; made on first use."""
        if service.name not in self._inputs:
            self._inputs[service.name] = Inputs(service.workflow)
        return self._inputs[service.name]

    async def _given(self, call: Call) -> Mapping[str, Any]:
        """The inputs of a JSON body or of a form."""
        content_type = call.exchange.headers.get("content-type", "")
        body = await call.plain()
        if is_form(content_type) and body[:1] != b"{":  # curl -d calls whatever it sends a form
            fields = read_form(content_type, body)
            return {name: values[0] if len(values) == 1 else values for name, values in fields.items()}
        if not body:
            return {}
        check_depth(body)
        try:
            return msgspec.json.decode(body, type=Given).inputs
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InputError(
                f"the body is not what this path takes: {error}",
                help='send {"inputs": {NAME: VALUE}}; see /openapi.json',
                code="E290",
            ) from None

    # -- looking ------------------------------------------------------------------------------------------

    async def listed(self, call: Call) -> Reply:
        return Reply(encode({"workflows": [self._summary(service) for service in self.site.services]}))

    async def described(self, call: Call) -> Reply:
        service = self._service(call)
        workflow = service.workflow
        more = {"slo": service.slo.limits(), "text": workflow.describe()}
        return Reply(encode({**self._summary(service), **more}))

    async def plan(self, call: Call) -> Reply:
        service = self._service(call)
        opened = service.engine.plans.get(service.plan_id)
        if opened is None:
            service.check()
            raise NotFound(f"'{service.name}' has no plan now", help="ask again: it is being changed")
        return Reply(format_plan(opened.plan).encode(), media_type="application/toml")

    async def svg(self, call: Call) -> Reply:
        policy = ("content-security-policy", "default-src 'none'; style-src 'unsafe-inline'; sandbox")
        drawn = self._service(call).workflow.svg().encode()
        return Reply(drawn, media_type="image/svg+xml", headers=[policy])

    def _summary(self, service: Service) -> dict[str, Any]:
        workflow, path = service.workflow, f"/v1/workflows/{service.name}"
        inputs = {
            name: {"type": str(port), "required": not port.optional, "streams": port.stream}
            for name, port in self.inputs_of(service).ports.items()
        }
        return {
            "name": service.name,
            "ready": service.ready,
            "plan": service.plan_id,
            "inputs": inputs,
            "output": {"type": str(workflow.output), "streams": workflow.streams},
            "session": bool(workflow.session),
            "links": {"run": path, "plan": f"{path}/plan", "svg": f"{path}/svg", "socket": f"{path}/ws"},
        }

    def _service(self, call: Call) -> Service:
        """A service to look at, ready or not."""
        name = call.params["name"]
        return self.site.services.find(name) or self.site.services[name]

    # -- finished requests --------------------------------------------------------------------------------

    def _finished(self, call: Call) -> Finished:
        return self.site.traces.find(call.caller.tenant, call.params["id"])

    async def account(self, call: Call) -> Reply:
        return Reply(encode(as_document(self._finished(call))))

    async def text(self, call: Call) -> Reply:
        shown = to_text(self._finished(call).account())
        return Reply(shown.encode(), media_type="text/plain; charset=utf-8")

    async def html(self, call: Call) -> Reply:
        shown = to_html(self._finished(call).account())
        return Reply(shown.encode(), media_type="text/html; charset=utf-8")

    async def trace(self, call: Call) -> Reply:
        return Reply(self._finished(call).perfetto().encode())

    async def end_session(self, call: Call) -> Reply:
        call.door.sessions.end(call.caller.tenant, call.params["id"])
        return Reply.json({"id": call.params["id"], "ended": True})

    # -- the document -------------------------------------------------------------------------------------

    async def openapi_document(self, call: Call) -> Reply:
        return Reply(
            encode(document(self.site, {each.name: self.inputs_of(each) for each in self.site.services}))
        )

    async def docs(self, call: Call) -> Reply:
        body, policy = page()
        headers = [("content-security-policy", policy), ("x-content-type-options", "nosniff")]
        return Reply(body, media_type="text/html; charset=utf-8", headers=headers)


async def _events(
    call: Call, values: AsyncGenerator[Any, None], explain: bool
) -> AsyncGenerator[bytes, None]:
    """A streamed answer as typed events; one that fails never ends with `done`."""
    async with aclosing(values):
        async for value in values:
            shown = {"media": value.type} if isinstance(value, Media) else {}
            output = value.data if isinstance(value, Media) else value
            yield sse.event("output", encode({"type": "output", **shown, "output": output}))
    about = _about(call, True) if explain else {}
    yield sse.event("done", encode({**done(call), **about}))


def _broken(error: TautenError) -> bytes:
    return sse.event("error", encode({"type": "error", "error": error.as_json()}))


def _about(call: Call, explain: bool) -> dict[str, Any]:
    """What an answer says of itself: its plan, what it spent, how long it took, and why if asked."""
    request, service = call.request, call.service
    assert request is not None  # it ran
    assert service is not None
    trace = request.trace
    found: dict[str, Any] = {
        "plan": request.plan,
        "usage": usage(trace),
        "timing_ms": timing_ms(trace, sources=explain or call.caller.timing),
    }
    if explain:
        finished = Finished(call.id, request.tenant, service.name, request.plan, trace)
        found["explain"] = as_document(finished)
    return found


def _plain(handler: Any) -> Any:
    """A handler of a path that takes no parameters: one that is sent was meant for something, so it is refused."""

    async def handled(call: Call) -> Any:
        _query(call, ())
        return await handler(call)

    return handled


def _query(call: Call, known: Sequence[str]) -> dict[str, str]:
    """The query's parameters; raises InputError E285 for one that this path does not know."""
    query = call.exchange.query()
    for name in query:
        if name not in known:
            help = suggest(name[:40], known) if known else "this path takes none: leave it out"
            raise InputError(f"no parameter `{name[:40]}` of the query is known here", help=help, code="E285")
    return query


def _flag(query: Mapping[str, str], name: str) -> bool:
    given = query.get(name, "false").lower()
    if given not in _FLAGS:
        raise InputError(f"{name}={given[:40]!r}", help=f"{name} is true or false", code="E285")
    return _FLAGS[given]
