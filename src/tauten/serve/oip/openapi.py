"""The OpenAPI paths of the Open Inference Protocol."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any

from tauten.run.oip.tensors import KNOWN, MAX_AXES
from tauten.serve.oip.models import VERSION

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_FLAG: Schema = {"type": "boolean"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_SHAPE: Schema = {"type": "array", "items": _COUNT, "maxItems": MAX_AXES}
_DATATYPE: Schema = {"type": "string", "enum": list(KNOWN)}
_ANYTHING: Schema = {"type": "object"}
_PARAMETERS: Schema = {
    "type": "object",
    "properties": {
        "timeout": {"type": "integer", "minimum": 0, "description": "deadline in microseconds; 0: none"},
        "priority": {"type": "integer", "minimum": 0, "maximum": 1000, "description": "1 is the highest"},
        "binary_data_output": _FLAG,
        "sequence_id": {
            "type": ["integer", "string"],
            "description": "a session of a workflow that takes one",
        },
        "sequence_start": _FLAG,
        "sequence_end": _FLAG,
    },
}
_ASKED: Schema = {
    **_PARAMETERS,
    "properties": {
        **_PARAMETERS["properties"],
        "details": {**_FLAG, "description": "why the answer ended, its tokens and their log probabilities"},
    },
    "description": "inputs of the workflow may stand here, too; what nobody takes is named in x-tauten-ignored",
}


def _object(required: list[str], **properties: Schema) -> Schema:
    return {"type": "object", "required": required, "properties": properties}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _tensor(data: Schema) -> Schema:
    return _object(
        ["name", "shape", "datatype"],
        name=_TEXT,
        shape=_SHAPE,
        datatype=_DATATYPE,
        parameters=_object([], binary_data_size=_COUNT),
        data=data,
    )


_INPUT = _tensor({**_list({}), "description": "row-major, flat or nested"})
_WANTED = _object(["name"], name=_TEXT, parameters=_object([], binary_data=_FLAG))
_INFER = _object(["inputs"], id=_TEXT, parameters=_PARAMETERS, inputs=_list(_INPUT), outputs=_list(_WANTED))
_OUTPUT = _tensor(_list({}))
_RESULT = _object(
    ["model_name", "outputs"], model_name=_TEXT, model_version=_TEXT, id=_TEXT, outputs=_list(_OUTPUT)
)
_TENSOR = _object(["name", "datatype", "shape"], name=_TEXT, datatype=_TEXT, shape=_list({"type": "integer"}))
_METADATA = _object(
    ["name", "platform", "inputs", "outputs"],
    name=_TEXT,
    versions=_list(_TEXT),
    platform=_TEXT,
    inputs=_list(_TENSOR),
    outputs=_list(_TENSOR),
)
_GENERATE = {
    **_object([], text_input=_TEXT, id=_TEXT, parameters=_ASKED),
    "description": "other fields are inputs of the workflow by their names",
}
_GENERATED = _object(
    ["model_name", "text_output"],
    model_name=_TEXT,
    model_version=_TEXT,
    id=_TEXT,
    text_output=_TEXT,
    details=_ANYTHING,
)
_STATISTICS = _object(["model_stats"], model_stats=_list(_ANYTHING))
_INDEX = _list(_object(["name", "state"], name=_TEXT, version=_TEXT, state=_TEXT, reason=_TEXT))
_ERROR = _object(["error"], error=_TEXT)


def _content(schema: Schema, media_type: str = "application/json") -> Schema:
    return {"content": {media_type: {"schema": schema}}}


def _operation(
    summary: str, answer: Schema, *, body: Schema | None = None, needs_body: bool = False, **more: Any
) -> Schema:
    refused = {"description": "refused; `error` says why and what to do", **_content(_ERROR)}
    found: Schema = {
        "tags": ["Open Inference Protocol"],
        "summary": summary,
        "responses": {
            "200": {"description": "done", **answer},
            "4XX": refused,
            "503": refused,
            "504": refused,
        },
        **more,
    }
    if body is not None:
        found["requestBody"] = {"required": needs_body, **body}
    return found


def _parameter(name: str, values: list[str]) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "enum": values}}


def paths(models: list[str]) -> dict[str, Any]:
    """Every path of the API by its template; `models` are the names that are served."""
    values = {"name": models, "version": [VERSION]}
    found = _server_paths()
    for base in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        parameters = [_parameter(name, each) for name, each in values.items() if f"{{{name}}}" in base]
        for tail, item in _model_paths().items():
            found[f"{base}{tail}"] = {"parameters": parameters, **item}
    return found


def _server_paths() -> dict[str, Any]:
    settings = _operation("Settings, read only", _content(_ANYTHING))
    return {
        "/v2": {"get": _operation("What this server is", _content(_ANYTHING))},
        "/v2/health/live": {"get": _operation("Whether the server lives", _content(_ANYTHING), security=[])},
        "/v2/health/ready": {
            "get": _operation("Whether it takes requests", _content(_ANYTHING), security=[])
        },
        "/v2/models/stats": {"get": _operation("Statistics of every model", _content(_STATISTICS))},
        "/v2/repository/index": {
            "post": _operation("The models", _content(_INDEX), body=_content(_object([], ready=_FLAG)))
        },
        "/v2/trace/setting": {"get": settings},
        "/v2/logging": {"get": settings},
        "/v2/systemsharedmemory/status": {"get": _operation("None", _content(_list(_ANYTHING)))},
        "/v2/cudasharedmemory/status": {"get": _operation("None", _content(_list(_ANYTHING)))},
    }


def _model_paths() -> dict[str, Any]:
    both = {
        "application/json": {"schema": _INFER},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    }
    answers = {"application/json": {"schema": _RESULT}, "application/octet-stream": {"schema": {}}}
    ready = _object(["name", "ready"], name=_TEXT, ready=_FLAG)
    return {
        "": {"get": _operation("Its tensors", _content(_METADATA))},
        "/ready": {"get": _operation("Whether it takes requests", _content(ready))},
        "/config": {"get": _operation("Its configuration, as Triton has it", _content(_ANYTHING))},
        "/stats": {"get": _operation("Its statistics", _content(_STATISTICS))},
        "/infer": {
            "post": _operation(
                "Tensors in, tensors out", {"content": answers}, body={"content": both}, needs_body=True
            )
        },
        "/generate": {
            "post": _operation(
                "Text in, text out", _content(_GENERATED), body=_content(_GENERATE), needs_body=True
            )
        },
        "/generate_stream": {
            "post": _operation(
                "Text in, text out as it comes",
                _content(_object(["data"], data=_TEXT), "text/event-stream"),
                body=_content(_GENERATE),
                needs_body=True,
            )
        },
    }
