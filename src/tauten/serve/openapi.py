"""The OpenAPI 3.1 document: native paths from the workflows' own types, and what the other APIs add."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from tauten.describe.payload import Audio, Image, Json, Media, Payload, Pdf, Tensor, Text, Video
from tauten.describe.ports import PortType
from tauten.serve.native.values import Inputs
from tauten.serve.service import Service
from tauten.version import __version__

if TYPE_CHECKING:
    from tauten.serve.app import Site

Schema = dict[str, Any]

_REF = "#/components/schemas/"
_STRING: Schema = {"type": "string"}
_TYPES: dict[type[Media], str] = {
    Image: "image/png",
    Audio: "audio/wav",
    Video: "video/mp4",
    Pdf: "application/pdf",
}
_ERRORS = {
    "400": "the request is wrong; the message says where",
    "401": "no API key, or one that is not known",
    "403": "the key, host or page may not ask this",
    "404": "no such workflow, session or request",
    "405": "the path answers other methods",
    "408": "the body did not come in time",
    "413": "the body is too large",
    "422": "media that are not what they claim, or an idempotency key of another request",
    "429": "refused before work began; Retry-After says when to come back",
    "500": "a stage failed",
    "503": "not ready, draining, or an engine died; Retry-After says when to come back",
    "504": "the deadline passed",
}


def document(site: Site, inputs: Mapping[str, Inputs]) -> Schema:
    """The document of a site; `inputs` reads each service's."""
    names, hints = [], []
    for service in site.services:
        for port, hint in _hints(service, inputs[service.name]).items():
            names.append((service.name, port))
            hints.append(hint)
    schemas, components = _schemas(hints)
    typed = dict(zip(names, schemas, strict=True))
    paths: Schema = {}
    for service in site.services:
        paths |= _service_paths(service, inputs[service.name], typed)
    paths |= _shared_paths()
    components |= _COMPONENTS
    for name, api in site.apis.items():
        if name != "native" and hasattr(api, "openapi"):
            paths |= api.openapi()
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tauten", "version": __version__, "description": _ABOUT},
        "paths": paths,
        "components": {"schemas": components, "responses": _responses(), "securitySchemes": _KEYS},
        "security": [{}, {"key": []}],
    }


def _responses() -> Schema:
    content = {"application/json": {"schema": {"$ref": _REF + "Error"}}}
    return {code: {"description": why, "content": content} for code, why in _ERRORS.items()}


_ABOUT = (
    "Workflows by name. Every reply carries `x-request-id`; errors are "
    '`{"error": {"code", "message", "help"}}`. Streams are Server-Sent Events `output`, `error`, `done`; '
    "the same over a WebSocket at `/v1/workflows/{name}/ws`."
)
_KEYS: Schema = {"key": {"type": "http", "scheme": "bearer"}}


# -- types ----------------------------------------------------------------------------------------------------


def _hints(service: Service, inputs: Inputs) -> dict[str, Any]:
    """The types of a service's inputs that have no payloads, by name; and of its result as ""."""
    plain = {name: inputs.hints.get(name, Any) for name, port in inputs.ports.items() if _is_plain(port)}
    output = service.workflow.output
    return {**plain, "": inputs.hints.get("return", Any)} if _is_plain(output) else plain


def _is_plain(port: PortType) -> bool:
    payloads = any(isinstance(kind, type) and issubclass(kind, Payload) for kind in port.kinds)
    return not (payloads or port.stream or not port.kinds or Any in port.kinds)


def _schemas(hints: list[Any]) -> tuple[list[Schema], Schema]:
    """The schema of each type, and the named ones that they share; a type without one accepts anything."""
    try:
        found, components = msgspec.json.schema_components(
            hints, ref_template=_REF + "{name}", schema_hook=_hook
        )
        return [dict(each) for each in found], dict(components)
    except (TypeError, ValueError):
        if len(hints) == 1:
            return [{}], {}
    schemas: list[Schema] = []
    merged: Schema = {}
    for hint in hints:  # one of them cannot be described: the others still are
        (schema,), components = _schemas([hint])
        schemas.append(schema)
        merged |= components
    return schemas, merged


def _hook(kind: Any) -> Schema:
    """Types that msgspec does not know."""
    if isinstance(kind, type) and issubclass(kind, Payload):
        return _payload(kind)
    describe = getattr(kind, "model_json_schema", None)  # Pydantic
    return describe() if describe is not None else {}


def _payload(kind: type[Payload]) -> Schema:
    if kind is Text:
        return _STRING
    if kind is Tensor:
        return {"$ref": _REF + "Tensor"}
    if kind is Json:
        return {}
    return {"$ref": _REF + kind.__name__}


def _port(port: PortType, plain: Schema | None) -> Schema:
    """The schema of an input or a result."""
    schema = plain if plain is not None else _any_of(port)
    if plain is None and (port.many or port.stream):
        schema = {"type": "array", "items": schema}
    return schema


def _any_of(port: PortType) -> Schema:
    kinds = [kind for kind in port.kinds if isinstance(kind, type)]
    if not kinds or len(kinds) < len(port.kinds) or Json in kinds:
        return {}
    payloads = [_payload(kind) for kind in kinds if issubclass(kind, Payload)]
    others, _ = _schemas([kind for kind in kinds if not issubclass(kind, Payload)]) if kinds else ([], {})
    found = [each for at, each in enumerate(payloads + others) if each not in (payloads + others)[:at]]
    return found[0] if len(found) == 1 else {"anyOf": found}


def _medium(kind: type[Media]) -> Schema:
    example = _TYPES[kind]
    return {
        "description": f"{kind.__name__}: base64 in `data`, a data URL, or an address if the server fetches any",
        "anyOf": [
            {
                "type": "object",
                "properties": {
                    "data": {"type": "string", "contentEncoding": "base64"},
                    "type": {"type": "string", "examples": [example]},
                },
                "required": ["data"],
                "additionalProperties": False,
            },
            {
                "type": "object",
                "properties": {"url": {"type": "string", "format": "uri"}},
                "required": ["url"],
                "additionalProperties": False,
            },
            {"type": "string", "pattern": "^data:", "examples": [f"data:{example};base64,..."]},
        ],
    }


# -- paths ----------------------------------------------------------------------------------------------------


def _service_paths(service: Service, inputs: Inputs, typed: Mapping[tuple[str, str], Schema]) -> Schema:
    name = service.name
    properties = {each: _port(port, typed.get((name, each))) for each, port in inputs.ports.items()}
    required = [
        each for each, port in inputs.ports.items() if not port.optional and not _defaulted(service, each)
    ]
    for each, port in inputs.ports.items():
        if port.optional and (name, each) not in typed:
            properties[each] = {"anyOf": [properties[each], {"type": "null"}]} if properties[each] else {}
    given = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    output = service.workflow.output
    result = {} if output.stream else _port(output, typed.get((name, "")))
    path = f"/v1/workflows/{name}"
    about = (service.workflow.__doc__ or service.workflow.describe()).strip()
    run = {
        "operationId": f"run_{name}",
        "summary": f"Run {name}",
        "description": about,
        "tags": ["workflows"],
        "parameters": [*_QUERY, *_HEADERS, *([_SESSION] if service.workflow.session else [])],
        "requestBody": {"content": _bodies(given, properties, inputs), "required": bool(required)},
        "responses": {"200": _answer(result, output), **_failures()},
    }
    described = _get(f"describe_{name}", f"What {name} takes and gives", _REF + "Workflow", "workflows")
    plan = _get(f"plan_{name}", f"The plan that answers {name}", "", "workflows", "application/toml")
    picture = _get(f"svg_{name}", f"The graph of {name}", "", "workflows", "image/svg+xml")
    return {
        path: {"post": run, "get": described},
        f"{path}/plan": {"get": plan},
        f"{path}/svg": {"get": picture},
    }


def _defaulted(service: Service, name: str) -> bool:
    parameter = service.workflow.signature.parameters[name]
    return parameter.default is not parameter.empty


def _bodies(given: Schema, properties: Schema, inputs: Inputs) -> Schema:
    body = {"type": "object", "properties": {"inputs": given}, "additionalProperties": False}
    if given["required"]:
        body["required"] = ["inputs"]
    fields = {name: _form_field(inputs.ports[name], schema) for name, schema in properties.items()}
    form = {**given, "properties": fields}
    return {"application/json": {"schema": body}, "multipart/form-data": {"schema": form}}


def _form_field(port: PortType, schema: Schema) -> Schema:
    """Media go into a form as files."""
    if any(isinstance(kind, type) and issubclass(kind, Media) for kind in port.kinds):
        file: Schema = {"type": "string", "format": "binary"}
        return {"type": "array", "items": file} if port.many or port.stream else file
    return schema


def _answer(result: Schema, output: PortType) -> Schema:
    whole = {
        "type": "object",
        "properties": {**_ABOUT_ANSWER, "output": result},
        "required": ["id", "output", "plan", "usage", "timing_ms"],
    }
    content: Schema = {
        "application/json": {"schema": whole},
        "text/event-stream": {"schema": _EVENT},
    }
    media = [kind for kind in output.kinds if isinstance(kind, type) and issubclass(kind, Media)]
    for each in sorted({name for kind in media for name in kind.types}) if not output.many else ():
        content[each] = {"schema": {"type": "string", "format": "binary"}}
    headers = {"x-request-id": {"schema": _STRING}}
    return {"description": "the answer", "content": content, "headers": headers}


def _failures(*codes: str) -> Schema:
    return {code: {"$ref": f"#/components/responses/{code}"} for code in codes or _ERRORS}


def _get(operation: str, summary: str, ref: str, tag: str, media_type: str = "application/json") -> Schema:
    schema: Schema = {"$ref": ref} if ref else _STRING if media_type.startswith("text/") else {}
    return {
        "operationId": operation,
        "summary": summary,
        "tags": [tag],
        "responses": {
            "200": {"description": summary, "content": {media_type: {"schema": schema}}},
            **_failures("400", "401", "403", "404", "429", "503"),
        },
    }


def _shared_paths() -> Schema:
    one = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    kept = "/v1/requests/{id}"
    shown = {
        kept: _get("request", "Where the time of a finished request went", _REF + "Explain", "requests"),
        f"{kept}/text": _get("request_text", "The same as text", "", "requests", "text/plain"),
        f"{kept}/html": _get("request_html", "The same as a page", "", "requests", "text/html"),
        f"{kept}/trace": _get("request_trace", "The trace, for ui.perfetto.dev", "", "requests"),
    }
    end = _get("session_end", "End a session", _REF + "Ended", "sessions")
    found: Schema = {path: {"parameters": [one], "get": operation} for path, operation in shown.items()}
    found["/v1/sessions/{id}"] = {"parameters": [one], "delete": end}
    listed = _get("workflows", "The workflows that are served", _REF + "Workflows", "workflows")
    found["/v1/workflows"] = {"get": listed}
    return found


def _parameter(where: str, name: str, schema: Schema, description: str) -> Schema:
    return {"in": where, "name": name, "required": False, "schema": schema, "description": description}


_QUERY = [
    _parameter("query", "stream", {"type": "boolean"}, "answer as Server-Sent Events"),
    _parameter("query", "explain", {"type": "boolean"}, "add where the time went (tauten.explain/1)"),
]
# a header without a value says no more than none
_ID = {"type": "string", "pattern": "^[A-Za-z0-9._:-]{0,128}$"}
_TRACE = {"type": "string"}  # what does not parse is ignored, as the standard asks
_HEADERS = [
    _parameter("header", "x-request-id", _ID, "the request's id, in logs and traces"),
    _parameter(
        "header", "x-tauten-deadline-ms", {"type": "number", "exclusiveMinimum": 0}, "from arrival to the end"
    ),
    _parameter(
        "header", "traceparent", _TRACE, "W3C trace context: the request's spans become children of this one"
    ),
    _parameter("header", "x-tauten-priority", {"type": "integer"}, "at most what the key may ask for"),
    _parameter(
        "header",
        "idempotency-key",
        {"type": "string", "pattern": "^[!-~]{1,255}$"},
        "a request that is sent again gets the first reply again",
    ),
]
_SESSION = _parameter(
    "header", "x-tauten-session", {"type": "string", "pattern": "^[A-Za-z0-9_-]*$"}, "a session of before"
)
_EVENT: Schema = {  # of each event
    "type": "object",
    "properties": {
        "event": {"enum": ["output", "error", "done"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["event", "data"],
}
_MS: Schema = {"type": "object", "additionalProperties": {"type": "number"}}
_ABOUT_ANSWER: Schema = {
    "id": _STRING,
    "plan": _STRING,
    "session": _STRING,
    "usage": _MS,
    "timing_ms": _MS,
    "explain": {"$ref": _REF + "Explain"},
}
_PORT: Schema = {
    "type": "object",
    "properties": {"type": _STRING, "required": {"type": "boolean"}, "streams": {"type": "boolean"}},
}
_COMPONENTS: Schema = {
    "Image": _medium(Image),
    "Audio": _medium(Audio),
    "Video": _medium(Video),
    "Pdf": _medium(Pdf),
    "Tensor": {
        "description": "nested lists of numbers, or bytes with their type and shape",
        "anyOf": [
            {"type": "array"},
            {
                "type": "object",
                "properties": {
                    "dtype": {"type": "string", "examples": ["float32"]},
                    "shape": {"type": "array", "items": {"type": "integer"}},
                    "data": {"type": "string", "contentEncoding": "base64"},
                },
                "required": ["dtype", "shape", "data"],
                "additionalProperties": False,
            },
        ],
    },
    "Error": {
        "type": "object",
        "properties": {
            "error": {
                "type": "object",
                "properties": {"code": _STRING, "message": _STRING, "help": _STRING},
                "required": ["code", "message", "help"],
            }
        },
        "required": ["error"],
    },
    "Explain": {
        "type": "object",
        "properties": {"schema": {"const": "tauten.explain/1"}, "wall_ms": {"type": "number"}},
        "required": ["schema", "wall_ms", "rows", "account"],
    },
    "Ended": {
        "type": "object",
        "properties": {"id": _STRING, "ended": {"const": True}},
        "required": ["id", "ended"],
    },
    "Workflow": {
        "type": "object",
        "properties": {
            "name": _STRING,
            "ready": {"type": "boolean"},
            "plan": _STRING,
            "inputs": {"type": "object", "additionalProperties": _PORT},
            "output": _PORT,
            "session": {"type": "boolean"},
            "links": {"type": "object", "additionalProperties": _STRING},
        },
        "required": ["name", "ready", "plan", "inputs", "output", "links"],
    },
    "Workflows": {
        "type": "object",
        "properties": {"workflows": {"type": "array", "items": {"$ref": _REF + "Workflow"}}},
        "required": ["workflows"],
    },
}
