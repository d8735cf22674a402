"""What `tauten bench` puts load on: a workflow's plans on one engine, or a URL by the API that it speaks."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from tauten.cli.target import read_bytes
from tauten.describe.payload import Audio, Image, Json, Payload, Pdf, Tensor, Text, Video, sniff
from tauten.errors import InputError, suggest
from tauten.improve.load.http import HttpClient
from tauten.improve.load.target import Target
from tauten.improve.load.targets.native import NativeTarget
from tauten.improve.load.targets.oip import OipTarget
from tauten.improve.load.targets.openai import OpenAITarget
from tauten.improve.load.targets.raw import RawTarget

Api = Literal["native", "openai", "oip", "raw"]
APIS: Final = ("native", "openai", "oip", "raw")
KEY: Final = "TAUTEN_API_KEY"  # secrets come from the environment, never from a command line that `ps` shows

_MEDIA: Final = {"image": Image, "audio": Audio, "video": Video, "application": Pdf}


class UrlOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to speak to a URL."""

    api: str = ""
    stream: bool = True
    binary: bool = True
    headers: tuple[str, ...] = ()


def is_url(target: str) -> bool:
    return target.startswith(("http://", "https://"))


def check_scheme(target: str) -> None:
    """Raise InputError E260 for ``host:8000/path``: an address whose scheme was left out, and no workflow."""
    host, slash, _ = target.partition("/")
    name, colon, port = host.rpartition(":")
    if slash and colon and port.isdecimal() and not Path(name).exists():
        raise InputError(f"{target!r} has no scheme", help=f"write http://{target}", code="E260")


def api_of(url: str) -> Api:
    """The API that a path names; anything else is a plain POST."""
    path = url.partition("://")[2].partition("/")[2].rstrip("/")
    if "v2/models/" in path:
        return "oip"
    if "v1/workflows/" in path:
        return "native"
    if path.endswith(("chat/completions", "embeddings")):
        return "openai"
    return "raw"


def url_target(url: str, options: UrlOptions) -> tuple[Target, str]:
    """The target of a URL, and the name of its API."""
    name = options.api or api_of(url)
    if name not in APIS:
        raise InputError(f"no API {name!r}", help=suggest(name, APIS), code="E260")
    client = HttpClient(url, headers=_headers(options.headers))
    if name == "native":
        return NativeTarget(client, stream=options.stream), name
    if name == "openai":
        return OpenAITarget(client, stream=options.stream), name
    if name == "oip":
        return OipTarget(client, binary=options.binary), name
    return RawTarget(client), name


def _headers(given: Sequence[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in given:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise InputError(f"cannot read the header {line!r}", help="write 'Name: value'", code="E260")
        headers[name.strip().lower()] = value.strip()
    if key := os.environ.get(KEY):
        headers.setdefault("authorization", f"Bearer {key}")
    return headers


def read_payloads(pairs: Sequence[str]) -> Mapping[str, Payload]:
    """``prompt="Why?" photo=@shot.png x=[[1,2]]`` as payloads, by what the values look like."""
    given: dict[str, Payload] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise InputError(
                f"cannot read the input {pair!r}", help="write NAME=VALUE or NAME=@FILE", code="E205"
            )
        given[name] = _payload(text)
    return given


def _payload(text: str) -> Payload:
    if text.startswith("@"):
        return _file(Path(text[1:]))
    try:
        value: Any = json.loads(text)
    except json.JSONDecodeError:  # plain words
        return Text(text)
    return Text(value) if isinstance(value, str) else Json(value)


def _file(path: Path) -> Payload:
    data = read_bytes(path)
    if data[:6] == b"\x93NUMPY":
        return _tensor(path)
    kind = sniff(data[:64])
    media = _MEDIA.get(kind.partition("/")[0])
    if media is not None:
        return media(data, kind)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return Payload(data, "application/octet-stream")
    return _payload(text) if path.suffix == ".json" and not text.startswith("@") else Text(text)


def _tensor(path: Path) -> Tensor:
    import numpy as np

    try:
        return Tensor(np.load(path, allow_pickle=False))
    except ValueError as error:
        raise InputError(
            f"{str(path)!r} holds no plain numbers: {error}", help="save numbers with numpy.save", code="E203"
        ) from error
