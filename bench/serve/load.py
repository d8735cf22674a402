"""Runs one point of load against a running server: wrk where it is installed, the client of our own otherwise."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.ground import figures, processes
from bench.ground.machine import CORES, ROOT
from bench.serve.peers import Server

OPEN_CLIENTS = 256  # connections of the open loop: above them an arrival waits, which its latency shows
PATIENCE_S = 30.0  # beyond the seconds asked for
SATURATED_MS = 500.0  # a median this late says the queue grows; no percentile of it means anything


class LoadFailed(Exception):
    """The client did not finish: becomes the text of its point."""


@dataclass(frozen=True)
class Point:
    """Load of one kind for some seconds; `rate` is of the open loop."""

    name: str
    seconds: float
    clients: int = OPEN_CLIENTS
    rate: float | None = None


def tool(asked: str) -> str:
    """wrk or own, for `asked` one of auto, wrk, own; only the closed loop knows a choice."""
    if asked == "own" or (asked == "auto" and not shutil.which("wrk")):
        return "own"
    if not shutil.which("wrk"):
        raise LoadFailed("wrk is not installed")
    return "wrk"


def _own(server: Server, point: Point, folder: Path, seed: int) -> list[str]:
    file = folder / "request.bin"
    file.write_bytes(server.request.bytes())
    command = [sys.executable, "-m", "bench.ground.client", "closed" if point.rate is None else "open"]
    command += ["--port", str(server.port), "--request", str(file), "--clients", str(point.clients)]
    command += ["--seconds", str(point.seconds), "--seed", str(seed)]
    return command if point.rate is None else [*command, "--rate", str(point.rate)]


def _wrk(server: Server, point: Point, folder: Path) -> list[str]:
    """wrk knows whole seconds only."""
    body, script = folder / "body.bin", folder / "request.lua"
    body.write_bytes(server.request.body)
    script.write_text(server.request.lua(body))
    url = f"http://127.0.0.1:{server.port}{server.request.path}"
    duration = f"{max(1, math.ceil(point.seconds))}s"
    return ["wrk", "-t1", f"-c{point.clients}", f"-d{duration}", "--timeout", "10s", "-s", str(script), url]


def parse(output: str) -> dict[str, Any]:
    """The figures that wrk's script or our client printed last."""
    for line in reversed(output.splitlines()):
        if line.startswith(("RESULT ", "{")):
            return dict(json.loads(line.removeprefix("RESULT ")))
    raise LoadFailed(f"the client printed no figures: {output[-200:]!r}")


def run(server: Server, point: Point, client: str, seed: int) -> dict[str, Any]:
    """The client's figures, with throughput, CPU per request of the server and CPU of everybody else."""
    which = "own" if point.rate is not None else client
    with tempfile.TemporaryDirectory(prefix="tb-load-") as name:
        folder = Path(name)
        command = _wrk(server, point, folder) if which == "wrk" else _own(server, point, folder, seed)
        client_s = -processes.own_cpu_s()
        with processes.watch(server.pids()) as usage:
            try:
                done = subprocess.run(
                    command, cwd=ROOT, capture_output=True, text=True, timeout=point.seconds + PATIENCE_S
                )
            except subprocess.TimeoutExpired as error:
                raise LoadFailed(f"no end after {error.timeout:.0f} s") from error
        client_s += processes.own_cpu_s()
    if done.returncode:
        raise LoadFailed(f"the client ended with {done.returncode}: {done.stderr[-200:].strip()}")
    return summarize(parse(done.stdout), usage, client_s, point, which)


def summarize(
    found: dict[str, Any], usage: processes.Usage, client_s: float, point: Point, which: str
) -> dict[str, Any]:
    """One flat record of the point."""
    good = found["count"] - (found["errors"] if which == "wrk" else 0)  # wrk counts failures as requests, too
    answered = found.get("answered", found["count"])  # with those of the warm-up, which cost CPU as well
    record = {
        **{key: value for key, value in found.items() if key not in ("client_share", "answered")},
        "count": good,
        "rps": good / found["elapsed_s"] if found["elapsed_s"] else None,
        "cpu_ms_per_request": 1e3 * usage.server_s / answered if answered else None,
        "client_cpu_share": client_s / usage.wall_s,
        "foreign_share": usage.foreign_share(client_s, CORES),
        "steal_share": usage.steal_share(CORES),
    }
    if point.rate is not None:
        share = found.get("client_share", 0.0)
        late = figures.send_lag_high(found["send_lag_p99_ms"], found["p50_ms"], share)
        record |= {"rate": point.rate, "send_lag_high": late, "saturated": saturated(found)}
    return record


def saturated(found: dict[str, Any]) -> bool:
    """Whether the open loop outran the server: too many without an answer, or a median past any sense."""
    lost = found["errors"] > found["sent"] / 100
    return bool(lost or found["p50_ms"] is None or found["p50_ms"] > SATURATED_MS)


def settle(server: Server, patience_s: float = 2.0) -> None:
    """Waits until the server is idle again, so that one point's backlog is not the next one's."""
    pids, deadline = server.pids(), time.monotonic() + patience_s
    while time.monotonic() < deadline:
        before = sum(processes.cpu_s(pids).values())
        time.sleep(0.15)
        if sum(processes.cpu_s(pids).values()) - before <= 0.03:
            return
