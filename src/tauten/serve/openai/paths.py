"""The OpenAI endpoints as OpenAPI paths: what they take, made from the types that check it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any

import msgspec

from tauten.serve.openai.response_request import ResponseRequest
from tauten.serve.openai.types import ChatRequest, EmbeddingRequest, SpeechRequest, TranscriptionRequest

_ANY: dict[str, Any] = {"schema": {}}
_ERRORS = {
    "400": "the request is wrong, or asks for what this model cannot do",
    "401": "no API key, or an unknown one",
    "403": "the key may not ask this",
    "404": "no such model: code model_not_found",
    "413": "the body is too large",
    "422": "media that are not what they claim",
    "429": "over a limit; Retry-After says when to come back",
    "500": "a stage failed",
    "503": "not ready, or draining",
    "504": "the deadline passed",
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def paths() -> dict[str, Any]:
    """Paths of an OpenAPI 3.1 document; every schema stands where it is used."""
    events = {"application/json": _ANY, "text/event-stream": _ANY}
    texts = ("application/json", "text/plain", "text/vtt", "application/x-subrip", "text/event-stream")
    sounds = ("audio/mpeg", "audio/ogg", "audio/flac", "audio/wav", "audio/pcm", "text/event-stream")
    return {
        "/v1/chat/completions": _post("Talk to a workflow or a language model", _schema(ChatRequest), events),
        "/v1/embeddings": _post("Texts to vectors", _schema(EmbeddingRequest), {"application/json": _ANY}),
        "/v1/audio/transcriptions": _post(
            "Speech to text", _form(), dict.fromkeys(texts, _ANY), "multipart/form-data"
        ),
        "/v1/audio/speech": _post("Text to speech", _schema(SpeechRequest), dict.fromkeys(sounds, _ANY)),
        "/v1/models": _get("The models that are served", []),
        "/v1/models/{id}": _get("One model", [_named("id")]),
    }


def response_path() -> dict[str, Any]:
    """The path of the Responses API, likewise."""
    events = {"application/json": _ANY, "text/event-stream": _ANY}
    said = "Talk to a workflow or a language model, in items"
    return {"/v1/responses": _post(said, _schema(ResponseRequest), events)}


def _post(
    summary: str, schema: dict[str, Any], content: dict[str, Any], kind: str = "application/json"
) -> Any:
    body = {"required": True, "content": {kind: {"schema": schema}}}
    return {"post": {**_said(summary, content), "requestBody": body}}


def _get(summary: str, parameters: list[dict[str, Any]]) -> Any:
    return {"get": {**_said(summary, {"application/json": _ANY}), "parameters": parameters}}


def _named(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _said(summary: str, content: dict[str, Any]) -> dict[str, Any]:
    failed = {"application/json": {"schema": _ERROR}}
    errors = {status: {"description": why, "content": failed} for status, why in _ERRORS.items()}
    return {
        "summary": summary,
        "tags": ["OpenAI"],
        "responses": {"200": {"description": "done", "content": content}, **errors},
    }


def _form() -> dict[str, Any]:
    schema = _schema(TranscriptionRequest)
    file = {"type": "string", "contentMediaType": "application/octet-stream", "format": "binary"}
    return {**schema, "properties": {"file": file, **schema["properties"]}, "required": ["file", "model"]}


def _schema(kind: Any) -> dict[str, Any]:
    """The schema of a request with its parts in place of references."""
    schema, parts = msgspec.json.schema_components([kind], ref_template="{name}")
    found: dict[str, Any] = _in_place(schema[0], parts)
    return found


def _in_place(node: Any, parts: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_in_place(each, parts) for each in node]
    if not isinstance(node, dict):
        return node
    if isinstance(node.get("$ref"), str):
        return _in_place(parts[node["$ref"]], parts)
    return {key: _in_place(value, parts) for key, value in node.items()}
