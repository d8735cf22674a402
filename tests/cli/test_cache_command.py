"""`tauten cache`: what is on disk, forgetting it, filling it beforehand, and a server's."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import http.server
import json
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tauten.cli.main import run
from tauten.run.caches.disk import Disk
from tauten.run.contracts import Kept, Sought

FLOW = """
import tauten as tt
from tauten.improve.recording import Item, Recording

@tt.stage(pure=True)
async def shout(text: tt.Text) -> str:
    if text.text == "bad":
        raise ValueError("no")
    return text.text.upper()

@tt.workflow
def loud(text: tt.Text) -> str:
    return shout(text)

def recording(*, split=None):
    asked = ["a", "b", "a", "bad"]
    return Recording("r", [Item(id=f"{n}", render=lambda t=t: {"text": tt.Text(t)}) for n, t in enumerate(asked)])
"""
PLAN = 'tauten = "plan/1"\n[stage.shout]\ncache = {tiers = ["memory", "disk"]}\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TAUTEN_RESULTS", str(tmp_path / "results"))
    return tmp_path


def put(folder: Path, *tenants: str) -> None:
    async def main() -> None:
        disk = Disk(1_000_000, folder / "results")
        for number, tenant in enumerate(tenants):
            labels = ("step:s", f"tenant:{tenant}")
            await disk.put(Sought(b"%032d" % number, b"", {}), Kept("x", 7, 1.0, labels=labels))
        await disk.close()

    asyncio.run(main())


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert run(["cache", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_what_is_on_disk_is_counted_by_label_and_forgotten_by_label(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(capsys, "stats")["disk"]["entries"] == 0, "nothing was ever kept"
    assert said(capsys, "clear")["forgotten"] == 0
    put(folder, "one", "two", "two")
    found = said(capsys, "stats")["disk"]
    assert (found["entries"], found["damaged"]) == (3, 0)
    assert found["labels"] == {"step:s": 3, "tenant:two": 2, "tenant:one": 1}
    assert run(["cache", "stats"]) == 0
    assert "tenant:two" in capsys.readouterr().out
    assert said(capsys, "clear", "--label", "tenant:two")["forgotten"] == 2
    assert said(capsys, "clear")["forgotten"] == 1
    assert said(capsys, "stats")["disk"]["entries"] == 0


def test_labels_and_options_that_make_no_sense_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["--label", "red"], ["--tier", "disk"], ["--url", "here"]):
        assert run(["cache", "clear", *arguments]) == 2
        assert "E260" in capsys.readouterr().err


def test_a_file_that_is_none_is_said_to_be_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "results").mkdir()
    (folder / "results" / "data.mdb").write_bytes(b"not a database" * 1000)
    assert run(["cache", "stats"]) == 3
    assert "E302" in capsys.readouterr().err


def test_a_recording_fills_the_disk_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flow, plan = folder / "warm_flow.py", folder / "plan.toml"
    flow.write_text(FLOW)
    plan.write_text(PLAN)
    asked = ["warm", f"{flow}:loud", "--plan", str(plan)]
    done = said(capsys, *asked)
    assert (done["requests"], done["failed"], done["hits"]) == (4, 1, 1)
    assert said(capsys, "stats")["disk"]["entries"] == 2
    del sys.modules[
        "warm_flow"
    ]  # as a new process has none: a file that is loaded twice in one has two names
    assert said(capsys, *asked)["hits"] == 3, "all that can be kept was there"
    del sys.modules["warm_flow"]
    assert said(capsys, *asked, "--tenant", "desk")["hits"] == 1, "what is kept is one tenant's"
    assert said(capsys, "stats")["disk"]["labels"]["tenant:desk"] == 2


def test_a_plan_without_a_far_tier_cannot_be_warmed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flow, plan = folder / "plain_flow.py", folder / "plan.toml"
    flow.write_text(FLOW)
    plan.write_text('tauten = "plan/1"\n[stage.shout]\ncache = true\n')
    assert run(["cache", "warm", f"{flow}:loud", "--plan", str(plan)]) == 2
    assert "beyond this process" in capsys.readouterr().err


class _Server(http.server.BaseHTTPRequestHandler):
    heard: list[tuple[str, str, Any]]

    def do_GET(self) -> None:
        self._answer({"caches": [_CACHE]})

    def do_POST(self) -> None:
        self._answer({"forgotten": 7}, json.loads(self.rfile.read(int(self.headers["content-length"]))))

    def _answer(self, content: Any, body: Any = None) -> None:
        self.heard.append((self.path, self.headers.get("authorization", ""), body))
        allowed = self.headers.get("authorization") == "Bearer operator"
        self.send_response(200 if allowed else 403)
        self.end_headers()
        self.wfile.write(json.dumps(content if allowed else {"error": "no"}).encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr."""


_HOLDINGS = {"entries": 3, "size_bytes": 10**6, "bound_bytes": 10**7, "evictions": 0, "refused": 0}
_TIER = {"hits": 3, "holdings": _HOLDINGS, "events": {"late": 2, "away": 0}}
_CACHE = {
    "workflow": "flow",
    "stage": "work",
    "holds": "results",
    "hits": 3,
    "misses": 1,
    "saved_s": 2.0,
    "tiers": {"redis": _TIER},
}


@pytest.fixture
def server() -> Iterator[tuple[str, list[tuple[str, str, Any]]]]:
    handler = type("Handler", (_Server,), {"heard": []})
    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{listening.server_port}", handler.heard
    listening.shutdown()
    thread.join()
    listening.server_close()


def test_a_server_is_asked_with_an_operators_key(
    server: tuple[str, list[tuple[str, str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url, heard = server
    monkeypatch.setenv("TAUTEN_API_KEY", "operator")
    assert run(["cache", "stats", "--url", url]) == 0
    shown = capsys.readouterr().out
    assert "3 of 4 hit (75%)" in shown
    assert "2 late" in shown
    assert said(capsys, "clear", "--url", url, "--label", "model:m", "--tier", "disk")["forgotten"] == 7
    assert heard[-1][0] == "/v1/admin/caches/clear"
    assert heard[-1][2] == {"label": "model:m", "tier": "disk", "workflow": ""}
    monkeypatch.setenv("TAUTEN_API_KEY", "other")
    assert run(["cache", "stats", "--url", url]) == 2
    assert "E242" in capsys.readouterr().err


def test_a_server_that_is_not_there_is_said_to_be_so(
    server: tuple[str, list[tuple[str, str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    for url in ("http://127.0.0.1:9", "http://127.0.0.1:many", "http://[::1", "http://a b"):
        assert run(["cache", "stats", "--url", url]) == 2
        assert "E242" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (b"\0\0\x12\4\0\0\0\0\0", "does not answer"),  # HTTP/2, as the port of gRPC speaks it
        (b'HTTP/1.0 200 OK\r\n\r\n{"status": "fine"}', "no server of Tauten"),
        (b"HTTP/1.0 200 OK\r\n\r\n[]", "no server of Tauten"),
        (b"HTTP/1.0 200 OK\r\n\r\n<html>", "does not answer"),
    ],
)
def test_something_else_listens_there(reply: bytes, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            peer, _ = listening.accept()
            with peer:
                peer.recv(65536)
                peer.sendall(reply)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            assert run(["cache", "stats", "--url", f"http://127.0.0.1:{listening.getsockname()[1]}"]) == 2
        finally:
            thread.join()
    told = capsys.readouterr().err
    assert "tauten: E242" in told
    assert said in told
