"""Tiny catalogs with file sources, and a stand-in for a hub."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tauten.models.catalog import Catalog


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TAUTEN_OFFLINE", "TAUTEN_STORE", "TAUTEN_HUB", "HF_ENDPOINT", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def catalog_text(content: dict[str, bytes], sources: dict[str, list[str]], joined: bool = True) -> str:
    """One model `tiny`: variant `whole` joins all files, variant `cut` has them as they are."""
    lines = [
        'schema = "tauten.catalog/1"',
        "[models.tiny]",
        'task = "test"',
        'licence = "MIT"',
        'provenance = "made here"',
    ]
    lines.append("default = true")
    if joined:
        lines += ["[models.tiny.variants.whole]", 'files = { "model.bin" = "joined.bin" }']
        lines += ['[models.tiny.made."joined.bin"]', 'converter = "join@1"', f"inputs = {sorted(content)}"]
    names = ", ".join(f'"{name}" = "{name}"' for name in content)
    lines += ["[models.tiny.variants.cut]", f"files = {{ {names} }}"]
    for name, data in content.items():
        lines += [f'[models.tiny.fetched."{name}"]', f'sha256 = "{sha256(data)}"']
        lines += [f"size_bytes = {len(data)}", f"sources = {sources[name]}"]
    return "\n".join(lines)


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, bytes]:
    content = {"a.bin": b"first " * 1000, "b.bin": b"second" * 1000}
    (tmp_path / "origin").mkdir()
    for name, data in content.items():
        (tmp_path / "origin" / name).write_bytes(data)
    return content


@pytest.fixture
def catalog(tmp_path: Path, parts: dict[str, bytes]) -> Catalog:
    return Catalog.parse(catalog_text(parts, {name: [f"file:{tmp_path}/origin/{name}"] for name in parts}))


@dataclass
class Hub:
    """A web server on this machine. `answer` decides; requests are written down."""

    address: str = ""
    answer: Callable[[BaseHTTPRequestHandler, int], None] = lambda *_: None
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)


@pytest.fixture
def hub() -> Iterator[Hub]:
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests.append((self.path, dict(self.headers)))
            state.answer(self, len(state.requests))

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.address = f"http://127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    thread.join()
    server.server_close()
