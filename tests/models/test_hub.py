"""Downloads from a hub that breaks off, lies, redirects and refuses."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import email.message
import ssl
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tauten.errors import StoreError
from tauten.models import Store
from tauten.models import hub as hub_module
from tauten.models.catalog import Catalog

from .conftest import Hub, catalog_text, sha256

DATA = bytes(range(256)) * 2000


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "PAUSE_S", 0.0)


def store_for(hub: Hub, root: Path) -> Store:
    text = catalog_text(
        {"model.bin": DATA}, {"model.bin": ["hub:owner/repo@main!sub/model.bin"]}, joined=False
    )
    return Store(root, catalog=Catalog.parse(text), hub=hub.address)


def send(
    handler: BaseHTTPRequestHandler, data: bytes, cut: int | None = None, status: int = 200, **headers: str
) -> None:
    """Announce all of `data`, send it (or only the first `cut` bytes) and close."""
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(data)))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(data[:cut])


def send_range(handler: BaseHTTPRequestHandler, cut: int | None = None) -> None:
    start = int((handler.headers["Range"] or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
    place = f"bytes {start}-{len(DATA) - 1}/{len(DATA)}"
    send(handler, DATA[start:], cut, 206 if start else 200, Content_Range=place)


def test_a_broken_download_goes_on_where_it_stopped(tmp_path: Path, hub: Hub) -> None:
    hub.answer = lambda handler, n: send_range(handler, cut=100_000 if n < 4 else None)
    assert store_for(hub, tmp_path).files("tiny")["model.bin"].read_bytes() == DATA
    assert [headers.get("Range") for _, headers in hub.requests] == [
        None,
        *(f"bytes={i}00000-" for i in (1, 2, 3)),
    ]
    assert hub.requests[0][0] == "/owner/repo/resolve/main/sub/model.bin"


def test_what_came_is_kept_for_the_next_pull(tmp_path: Path, hub: Hub) -> None:
    hub.answer = lambda handler, n: send_range(handler, cut=10_000)
    with pytest.raises(StoreError, match="50000 of 512000 bytes are kept") as caught:
        store_for(hub, tmp_path).pull()
    assert caught.value.code == "E311"
    assert not (tmp_path / "models").exists()
    hub.answer = lambda handler, n: send_range(handler)
    assert store_for(hub, tmp_path).files("tiny")["model.bin"].read_bytes() == DATA
    assert hub.requests[-1][1]["Range"] == "bytes=50000-"


def test_a_server_without_ranges_starts_again(tmp_path: Path, hub: Hub) -> None:
    hub.answer = lambda handler, n: send(handler, DATA, cut=1000 if n == 1 else None)
    assert store_for(hub, tmp_path).files("tiny")["model.bin"].read_bytes() == DATA


def test_a_file_that_changed_while_resuming_is_fetched_from_the_start(tmp_path: Path, hub: Hub) -> None:
    hub.answer = lambda handler, n: send(handler, b"x" * len(DATA), 1000) if n == 1 else send_range(handler)
    assert store_for(hub, tmp_path).files("tiny")["model.bin"].read_bytes() == DATA
    assert [headers.get("Range") for _, headers in hub.requests] == [None, "bytes=1000-", None]


@pytest.mark.parametrize("data", [b"x" * len(DATA), DATA + b"more"])
def test_wrong_bytes_are_refused_and_removed(tmp_path: Path, hub: Hub, data: bytes) -> None:
    hub.answer = lambda handler, n: send(handler, data)
    with pytest.raises(StoreError) as caught:
        store_for(hub, tmp_path).pull()
    assert caught.value.code == "E312"
    assert list((tmp_path / "partial").iterdir()) == []


def test_an_announced_hash_is_checked_before_the_body(tmp_path: Path, hub: Hub) -> None:
    hub.answer = lambda handler, n: send(handler, DATA, X_Linked_Etag=f'"{sha256(b"other")}"')
    with pytest.raises(StoreError, match="announces") as caught:
        store_for(hub, tmp_path).pull()
    assert caught.value.code == "E312"
    assert len(hub.requests) == 1


@pytest.mark.parametrize(("status", "words"), [(401, "HF_TOKEN"), (403, "terms"), (404, "no such file")])
def test_refusals_are_told_once(tmp_path: Path, hub: Hub, status: int, words: str) -> None:
    hub.answer = lambda handler, n: send(handler, b"", status=status)
    with pytest.raises(StoreError, match=words) as caught:
        store_for(hub, tmp_path).pull()
    assert caught.value.code == "E311"
    assert len(hub.requests) == 1


def test_a_busy_hub_is_asked_again(tmp_path: Path, hub: Hub) -> None:
    hub.answer = lambda handler, n: send(handler, b"", status=503) if n < 3 else send_range(handler)
    assert store_for(hub, tmp_path).files("tiny")["model.bin"].read_bytes() == DATA


def test_the_token_stays_with_its_host(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    elsewhere = hub.address.replace("127.0.0.1", "localhost")

    def answer(handler: BaseHTTPRequestHandler, n: int) -> None:
        if n == 1:
            send(
                handler,
                b"",
                status=302,
                Location=f"{elsewhere}/cdn/model.bin",
                X_Linked_Etag=f'"{sha256(DATA)}"',
            )
        else:
            send(handler, b"", status=403)

    hub.answer = answer
    with pytest.raises(StoreError) as caught:
        store_for(hub, tmp_path).pull()
    assert hub.requests[0][1]["Authorization"] == "Bearer hf_secret"
    assert "Authorization" not in hub.requests[1][1]
    assert "hf_secret" not in str(caught.value)


def test_a_tag_of_the_storage_behind_a_hub_is_not_its_hash(tmp_path: Path, hub: Hub) -> None:
    def answer(handler: BaseHTTPRequestHandler, n: int) -> None:
        if n == 1:
            elsewhere = hub.address.replace("127.0.0.1", "localhost")
            tag = f'"{sha256(DATA)}"'
            send(handler, b"", status=302, Location=f"{elsewhere}/storage", X_Linked_Etag=tag)
        else:
            send(handler, DATA, ETag=f'"{sha256(b"a hash of another kind")}"')

    hub.answer = answer
    assert store_for(hub, tmp_path).files("tiny")["model.bin"].read_bytes() == DATA
    assert [path for path, _ in hub.requests] == ["/owner/repo/resolve/main/sub/model.bin", "/storage"]


def test_a_connection_that_fails_while_it_is_read_is_tried_again(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.answer = lambda handler, n: send_range(handler)
    opened, broken = hub_module.Download._open, [ssl.SSLError(1, "bad record mac"), OSError(113, "No route")]

    class Failing:
        status, headers = 200, email.message.Message()

        def __enter__(self) -> Failing:
            return self

        def __exit__(self, *_: object) -> None:
            """Nothing to close."""

        def read(self, size: int) -> bytes:
            raise broken.pop()

    def flaky(download: hub_module.Download, start: int) -> Any:
        return Failing() if broken else opened(download, start)

    monkeypatch.setattr(hub_module.Download, "_open", flaky)
    assert store_for(hub, tmp_path).files("tiny")["model.bin"].read_bytes() == DATA
    assert not broken


def test_a_hub_without_its_scheme_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "hub.example.org")
    with pytest.raises(StoreError, match="no address of http") as caught:
        store_for(Hub(), tmp_path).pull()
    assert caught.value.code == "E311"
    assert "https://hub.example.org" in caught.value.help


def test_redirects_end(tmp_path: Path, hub: Hub) -> None:
    hub.answer = lambda handler, n: send(handler, b"", status=302, Location="/again")
    with pytest.raises(StoreError, match="redirects"):
        store_for(hub, tmp_path).pull()
    hub.answer = lambda handler, n: send(handler, b"", status=302, Location="file:///etc/passwd")
    with pytest.raises(StoreError, match="not HTTP"):
        store_for(hub, tmp_path).pull()


def test_no_network_is_told(tmp_path: Path, hub: Hub) -> None:
    nobody = Hub(address="http://127.0.0.1:9")
    with pytest.raises(StoreError, match="connection broke") as caught:
        store_for(nobody, tmp_path).pull()
    assert caught.value.code == "E311"
