"""Starts and stops one server of the comparison on loopback, and knows how it is spoken to."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from bench.ground import environments, processes
from bench.ground.machine import CORES, ROOT
from bench.serve import models, wire

PROGRAMS = Path(__file__).parent / "programs"
PLANS = Path(__file__).parent / "plans"  # MODEL.toml, MODEL-WORKERS.toml: how our own server is to run it
SETTINGS = Path(__file__).parent / "peers.toml"
MAX_BATCH = 32
START_S = 45.0  # three times the slowest peer but one
ENGINE_OF_PEERS = "onnxruntime, float32"


class CannotStart(Exception):
    """Why a server did not come up or answered wrongly: becomes the text of its row."""


@dataclass(frozen=True)
class Row:
    """One line of the table: a server with its settings, and one model."""

    server: str
    model: str
    io: str
    path: str
    wait_ms: float = 0.0
    workers: int = 1
    max_batch: int = MAX_BATCH
    note: str = ""
    settings: dict[str, Any] = field(default_factory=dict, compare=False, hash=False)

    @property
    def label(self) -> str:
        """Name of the row within its model."""
        parts = [self.server, self.io]
        if self.max_batch == 1:
            parts.append("no batching")
        elif "wait_ms" in self.settings.get("variants", [{}])[0]:
            parts.append(f"wait {self.wait_ms:g} ms")
        return ", ".join([*parts, f"{self.workers} workers"] if self.workers > 1 else parts)

    @property
    def threads(self) -> int:
        """The heavy model gets all cores, shared by its workers; the others are too small to split."""
        return max(1, CORES // self.workers) if self.model == "heavy" else 1

    @property
    def plan(self) -> Path:
        """Of our own server; a worker is a replica there."""
        return PLANS / f"{self.model}{f'-{self.workers}' if self.workers > 1 else ''}.toml"

    @property
    def start_s(self) -> float:
        return float(self.settings.get("start_s", START_S))


def read_settings(path: Path = SETTINGS) -> dict[str, Any]:
    return tomllib.loads(path.read_text())


def rows(settings: dict[str, Any], model_names: list[str], only: list[str] | None = None) -> list[Row]:
    """Every variant of every server, or of those whose name is in `only`, for each model."""
    names = [name for name, value in settings.items() if isinstance(value, dict)]
    unknown = sorted(set(only or []) - set(names))
    if unknown:
        raise ValueError(f"no server is called {', '.join(unknown)}; there are {', '.join(names)}")
    found = []
    for model in model_names:
        for name in names:
            if only and name not in only:
                continue
            server = settings[name]
            for variant in server.get("variants", [{}]):
                if model not in variant.get("models", [model]):
                    continue
                path = str(variant.get("path", server["path"])).format(name=model)
                rest = {key: value for key, value in variant.items() if key not in ("path", "models")}
                found.append(Row(name, model, path=path, settings=server, **{"io": server["io"], **rest}))
    return found


def interpreter(row: Row, engine: list[str]) -> Path:
    """The Python that runs this server; installs its packages on the first call."""
    packages = row.settings.get("packages")
    if not packages:
        return Path(sys.executable)
    return environments.install(row.server, [*engine, *packages], row.settings.get("python", ()))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def arguments(row: Row, model: Path, port: int, plan: Path) -> list[str]:
    """What follows the interpreter on the command line."""
    if "program" in row.settings:
        return [str(PROGRAMS / row.settings["program"])]
    words = list(row.settings["command"])
    if not plan.exists() and "{plan}" in words:
        at = words.index("{plan}")
        del words[at - 1 : at + 1]
    values = {"model": str(model), "name": model.stem, "port": str(port), "plan": str(plan)}
    return [word.format(**values) for word in words]


def environment(row: Row, model: Path, port: int, scratch: Path, tag: str) -> dict[str, str]:
    """What the peer programs read, without the harness's own Python settings."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return {
        **kept,
        processes.TAG: tag,
        "BENCH_MODEL": str(model),
        "BENCH_PORT": str(port),
        "BENCH_SPARE_PORT": str(free_port()),
        "BENCH_WAIT_MS": f"{row.wait_ms:g}",
        "BENCH_WORKERS": str(row.workers),
        "BENCH_THREADS": str(row.threads),
        "BENCH_MAX_BATCH": str(row.max_batch),
        "BENCH_SCRATCH": str(scratch),
        "BENTOML_HOME": str(scratch / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "true",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TMPDIR": str(scratch),
    }


def ask(port: int, request: wire.Request, timeout_s: float = 5.0) -> tuple[int, dict[str, str], bytes]:
    """One request on a connection of its own: status, headers in lower case, body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    with contextlib.closing(connection):
        connection.request("POST", request.path, request.body, request.headers)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


@dataclass
class Server:
    """A server that runs and has answered correctly."""

    row: Row
    port: int
    request: wire.Request
    tag: str
    root: int
    log: Path
    cold_start_s: float = 0.0

    def pids(self) -> list[int]:
        return sorted({*processes.tagged(self.tag), *processes.parent_tree(self.root)})

    def last_words(self) -> str:
        """The last lines it printed, without folders of this machine."""
        text = self.log.read_text(errors="replace")
        for folder, short in ((self.log.parent, "."), (ROOT, "."), (Path.home(), "~")):
            text = text.replace(str(folder), short)
        lines = [line.strip() for line in text.splitlines() if line.strip(" │╭╰─╮╯")]
        return " / ".join(lines[-3:])[-400:] or "it printed nothing"


@contextlib.contextmanager
def started(row: Row, python: Path, model: Path, wanted: np.ndarray[Any, Any]) -> Iterator[Server]:
    """Runs the server for the length of the block; raises CannotStart with what it printed last."""
    scratch = Path(tempfile.mkdtemp(prefix="tb-"))  # short: Ray puts sockets below it
    tag, port, log = scratch.name, free_port(), scratch / "log.txt"
    command = [str(python), *arguments(row, model, port, row.plan)]
    request = wire.request(row.io, row.path, models.sample(row.model))
    began = time.perf_counter()
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=scratch,
            env=environment(row, model, port, scratch, tag),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(row, port, request, tag, process.pid, log)
    try:
        _first_answer(server, process, wanted, began + row.start_s)
        server.cold_start_s = time.perf_counter() - began
        yield server
    finally:
        _stop(server, process)
        shutil.rmtree(scratch, ignore_errors=True)


def _first_answer(
    server: Server, process: subprocess.Popen[bytes], wanted: np.ndarray[Any, Any], deadline: float
) -> None:
    """Asks until the answer is right; a server still loading may refuse or answer with an error."""
    reason = "it did not listen"
    while time.perf_counter() < deadline:
        if process.poll() is not None:
            raise CannotStart(f"ended with status {process.returncode}: {server.last_words()}")
        try:
            wire.check(server.row.io, *ask(server.port, server.request), wanted)
            return
        except OSError:
            time.sleep(0.01)
        except (http.client.HTTPException, wire.WrongAnswer) as error:
            reason = str(error) or type(error).__name__
            time.sleep(0.02)
    raise CannotStart(f"no right answer in {server.row.start_s:.0f} s: {reason}; {server.last_words()}")


def _stop(server: Server, process: subprocess.Popen[bytes]) -> None:
    """Ends the whole tree, also what was orphaned by a crash."""
    pids = server.pids()
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    processes.end(sorted({*pids, *processes.tagged(server.tag)}), patience_s=2.0)
