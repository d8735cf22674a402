"""`POST /v1/workflows/{name}` of a Tauten server: JSON, or multipart where there are media; whole or events."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from tauten.describe.payload import Json, Payload, Tensor, Text
from tauten.improve.load.http import Heard, HttpClient, Prepared
from tauten.improve.load.http_target import HttpTarget


class NativeTarget(HttpTarget):
    """A workflow by its URL. With `stream` the answer is asked for as server-sent events."""

    def __init__(self, client: HttpClient, *, stream: bool = True) -> None:
        super().__init__(client, client.url.rstrip("/").rpartition("/")[2])
        self.stream = stream

    def prepare(self, inputs: Mapping[str, Payload]) -> Prepared:
        accept = "text/event-stream, application/json" if self.stream else "application/json"
        plain = {name: value.as_json() for name, value in inputs.items() if not _is_media(value)}
        media = {name: value for name, value in inputs.items() if _is_media(value)}
        if not media:
            body = msgspec.json.encode({"inputs": plain})
            return Prepared(body, {"content-type": "application/json", "accept": accept})
        body, boundary = _multipart(plain, media)
        kind = f"multipart/form-data; boundary={boundary}"
        return Prepared(body, {"content-type": kind, "accept": accept})

    @staticmethod
    def hear(event: str, data: bytes) -> Heard:
        """Events named `error` fail the request; any other with data before the end is an increment."""
        if event == "error":
            return Heard(error=f"event: {data.decode('utf-8', 'replace')[:120]}")
        return Heard(increment=event not in ("done", "end") and data != b"[DONE]")


def _is_media(value: Payload) -> bool:
    return not isinstance(value, Text | Json | Tensor)


def _multipart(plain: Mapping[str, Any], media: Mapping[str, Payload]) -> tuple[bytes, str]:
    """One part an input: text as it is, other values as JSON, media as files of their type."""
    contents: list[tuple[str, bytes]] = []
    for name, value in plain.items():
        kind, data = (
            ("text/plain; charset=utf-8", value.encode())
            if isinstance(value, str)
            else (
                "application/json",
                msgspec.json.encode(value),
            )
        )
        contents.append((f'form-data; name="{name}"\r\nContent-Type: {kind}', data))
    for name, payload in media.items():
        head = f'form-data; name="{name}"; filename="{name}"\r\nContent-Type: {payload.type}'
        contents.append((head, payload.data))
    boundary = hashlib.sha256(b"".join(data for _, data in contents)).hexdigest()[:32]
    parts = [
        f"--{boundary}\r\nContent-Disposition: {head}\r\n\r\n".encode() + data + b"\r\n"
        for head, data in contents
    ]
    return b"".join([*parts, f"--{boundary}--\r\n".encode()]), boundary
