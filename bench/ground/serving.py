"""Our server as a process on loopback, for the length of a block."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.ground import processes

START_S = 90.0  # a language model on a busy machine
END_S = 20.0


class DidNotStart(Exception):
    """Why there was no server, with what it printed last."""


@dataclass
class Served:
    """A server that said where it listens; `exit_code` is there after the block."""

    url: str
    pid: int
    log: Path
    exit_code: int | None = None

    def pids(self) -> list[int]:
        return processes.parent_tree(self.pid)

    def cpu_s(self) -> float:
        return sum(processes.cpu_s(self.pids()).values())

    def children(self, mark: str) -> list[int]:
        """Processes below it with this word on their command line."""
        found = []
        for pid in self.pids():
            with contextlib.suppress(*processes.GONE):
                if mark.encode() in Path(f"/proc/{pid}/cmdline").read_bytes() and processes.alive(pid):
                    found.append(pid)
        return found


@contextlib.asynccontextmanager
async def serving(
    targets: Sequence[str],
    plans: Mapping[str, str] | None = None,
    words: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    before: Sequence[str] = (),
) -> AsyncIterator[Served]:
    """`tauten serve` with plans given as text by name, and more environment; gone afterwards, whatever happens.

    `before` are words before the command, of a program that becomes it.
    """
    scratch = Path(tempfile.mkdtemp(prefix="tb-"))
    given = []
    for name, text in (plans or {}).items():
        file = scratch / f"{name}.toml"
        file.write_text(f'tauten = "plan/1"\n{text}\n')
        given += ["--plan", f"{name}={file}" if len(targets) > 1 else str(file)]
    fixed = ["--port", "0", "--grpc-port", "off", "--json", "--drain-lead-s", "0"]
    log = scratch / "log.txt"
    with log.open("wb") as err:
        process = await asyncio.create_subprocess_exec(
            *(*before, sys.executable, "-m", "tauten", "serve", *targets, *fixed, *given, *words),
            cwd=scratch,
            env={**os.environ, **(env or {}), processes.TAG: scratch.name},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=err,
            start_new_session=True,
        )
    served = Served("", process.pid, log)
    try:
        served.url = await _address(process, log)
        yield served
    finally:
        served.exit_code = await _end(process, scratch.name)
        shutil.rmtree(scratch, ignore_errors=True)


def asked(path: str, document: Any, *more: str) -> bytes:
    """The bytes of a request for clients that read as they please; `more` are lines of its head."""
    body = json.dumps(document).encode()
    lines = [f"POST {path} HTTP/1.1", "host: 127.0.0.1", "content-type: application/json", *more]
    return "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode() + body


async def _address(process: asyncio.subprocess.Process, log: Path) -> str:
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), START_S)
    except TimeoutError:
        line = b""
    if not line:
        raise DidNotStart(log.read_text(errors="replace")[-400:].strip() or "it printed nothing")
    return str(json.loads(line)["url"])


async def _end(process: asyncio.subprocess.Process, tag: str) -> int | None:
    """Asks it to drain; kills what does not end. The code of a server that had to be killed is negative."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), END_S)
    except TimeoutError:
        process.kill()
        await process.wait()
    processes.end(processes.tagged(tag), patience_s=2.0)
    return process.returncode
