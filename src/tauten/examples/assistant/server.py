"""`tauten serve` in a process of its own, and a client that asks it over one connection and notes how long that took."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from tauten.errors import MachineError
from tauten.plan.plan import Plan, format_plan

PATIENCE_S = 60.0  # of one answer; a language model on a loaded machine takes seconds
END_S = 10.0  # for a server to go; it has nothing to finish


class Answered(NamedTuple):
    """One answer at the API."""

    status: int
    text: str
    ms: float


_HEADERS = {
    "content-type": "application/json",
    "x-tauten-deadline-ms": f"{PATIENCE_S * 1e3:.0f}",  # else the server gives up by the SLO, which a busy machine misses
}


class Client:
    """Asks one workflow over one connection that stays open."""

    def __init__(self, url: str, workflow: str) -> None:
        self.path = f"/v1/workflows/{workflow}"
        self._line = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE_S)

    def ask(self, question: str) -> Answered:
        """The answer, or the error's message, and the milliseconds from the first byte sent to the last one read."""
        body = msgspec.json.encode({"inputs": {"question": question}})
        began = time.perf_counter()
        status, content = self.send("POST", self.path, body)
        ms = (time.perf_counter() - began) * 1e3
        told = msgspec.json.decode(content)
        return Answered(status, told["output"] if status == 200 else told["error"]["message"], ms)

    def send(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """One exchange."""
        self._line.request(method, path, body, _HEADERS)
        answer = self._line.getresponse()
        return answer.status, answer.read()

    def close(self) -> None:
        self._line.close()


class Server:
    """A server that is ready, and what an operator asks of it."""

    def __init__(self, url: str, workflow: str) -> None:
        self.url = url
        self.workflow = workflow
        self._client = Client(url, workflow)

    def ask(self, question: str) -> Answered:
        return self._client.ask(question)

    def another(self) -> Client:
        """One more client, with a connection of its own."""
        return Client(self.url, self.workflow)

    def forget(self, label: str) -> int:
        """Forget what carries a label; says how many results that were."""
        found: int = self._operate("POST", "/v1/admin/caches/clear", {"label": label})["forgotten"]
        return found

    def caches(self) -> list[dict[str, Any]]:
        """What each cache did and holds."""
        found: list[dict[str, Any]] = self._operate("GET", "/v1/admin/caches")["caches"]
        return found

    def swap(self, plan: Plan) -> None:
        """Go over to another plan; results whose settings and models both share stay."""
        self._operate("POST", "/v1/admin/swap", {"plan": format_plan(plan)})

    def close(self) -> None:
        self._client.close()

    def _operate(self, method: str, path: str, asked: Any = None) -> Any:
        status, content = self._client.send(
            method, path, b"" if asked is None else msgspec.json.encode(asked)
        )
        if status != 200:
            raise MachineError(
                f"{method} {path} gave {status}: {content[:200]!r}", help="see the server's log"
            )
        return msgspec.json.decode(content)


@contextmanager
def serving(target: str, plan: Plan, environment: Mapping[str, str]) -> Iterator[Server]:
    """Serve a workflow on a free port of this machine; it is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"{plan.name}.toml")
        file.write_text(format_plan(plan))
        words = [sys.executable, "-m", "tauten", "serve", target, "--plan", str(file), "--json", *_QUIET]
        with (
            Path(folder, "log").open("w+") as log,
            subprocess.Popen(
                words, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, **environment}
            ) as process,
        ):
            try:
                server = Server(_url(process, log), target.rpartition(":")[2])
                yield server
                server.close()
            finally:
                _end(process)


_QUIET = "--port 0 --grpc-port off --usage off --drain-lead-s 0 --access-log-sample 0".split()


def _url(process: subprocess.Popen[str], log: Any) -> str:
    """Where it listens, once it is ready."""
    assert process.stdout is not None  # it is a pipe
    line = process.stdout.readline()
    if not line:
        log.seek(0)
        raise MachineError(f"the server did not start: {log.read()[-500:].strip()}", help="tauten doctor")
    url: str = msgspec.json.decode(line)["url"]
    return url


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
