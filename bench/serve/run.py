"""`make bench-serve`: every server in one interleaved run, medians over rounds, written as JSON and as one page.

A quick look: --rounds 1 --seconds 1 --only mosec,tauten --models heavy. The full run takes about 40 minutes.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import argparse
import compileall
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.ground import environments, figures, machine, processes, quiet
from bench.ground.missed import text as missed_text
from bench.serve import (
    bare,
    files,
    load,
    missed,
    models,
    peers,
    report,
    table,
)

CLIENTS = (1, 8, 32, 128)
LEVELS = (0.2, 0.5, 0.7, 0.9)  # of capacity; 0.2 beside those of the claim: most peers are outrun at 0.5
OPEN_CAP_RPS = 8000.0  # what the open-loop client sends on shared cores at a quarter of one of them
WARM_S = 0.5  # before the first point, not counted
DEFECTIVE_ROUNDS = 2  # a row that failed this often is not tried again
WIDE_CLIENTS = (32,)  # the model of 100 KB bodies answers one question only
DISTRIBUTIONS = ["onnxruntime", "numpy", "uvicorn", "uvloop"]


class Run:
    """The state of one run: what was measured so far, and where it is written."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked = asked
        self.settings = peers.read_settings()
        self.engine = list(self.settings["engine"])
        self.cache = environments.cache_folder()
        self.paths = {name: models.ensure(name, self.cache / "models") for name in asked.models}
        self.wanted = {name: models.expected(path, models.sample(name)) for name, path in self.paths.items()}
        self.rows = peers.rows(self.settings, asked.models, asked.only)
        self.records = {row: self._record(row) for row in self.rows}
        self.client = load.tool(asked.client)
        self.bare: dict[str, list[dict[str, float]]] = {name: [] for name in asked.models}
        self.capacity: dict[str, float] = {}
        self.began = time.time()
        self.machine = machine.facts()

    @staticmethod
    def _record(row: peers.Row) -> dict[str, Any]:
        return {
            "server": row.server,
            "model": row.model,
            "label": row.label,
            "io": row.io,
            "wait_ms": row.wait_ms,
            "workers": row.workers,
            "max_batch": row.max_batch,
            "threads": row.threads,
            "note": row.note,
            "precision": row.settings.get("precision", peers.ENGINE_OF_PEERS),
            "rounds": [],
        }

    def install(self) -> None:
        """Before anything is timed; what cannot be installed becomes a row with the reason."""
        for row in self.rows:
            try:
                python = peers.interpreter(row, self.engine)
                names = [package.split("==")[0].split("[")[0] for package in row.settings.get("packages", [])]
                self.records[row]["versions"] = environments.versions(python, [*names, *DISTRIBUTIONS])
            except environments.CannotInstall as error:
                self._fail(row, -1, f"not installed: {error}", DEFECTIVE_ROUNDS)

    def _fail(self, row: peers.Row, number: int, reason: str, times: int = 1) -> None:
        print(f"    {row.label} on {row.model}: {reason}", file=sys.stderr, flush=True)
        self.records[row]["rounds"] += [{"round": number, "error": reason}] * times

    def calibrate(self) -> None:
        """The rates of the open loop are fixed once, so that all rounds share them."""
        for name, path in self.paths.items():
            found = bare.measure(path, self.asked.bare_seconds)
            self.capacity[name] = min(found["p2_b32_items_s"], self.asked.open_cap)

    def round(self, number: int, deadline: float) -> None:
        """The bare limit and every row once, in an order of this round's own."""
        units = figures.order([*self.asked.models, *self.rows], self.asked.seed, number)
        for unit in units:
            if time.time() > deadline:
                raise TimeoutError("the time box is spent")
            if isinstance(unit, str):
                self.bare[unit].append(
                    {"round": number, **bare.measure(self.paths[unit], self.asked.bare_seconds)}
                )
            elif sum("error" in one for one in self.records[unit]["rounds"]) < DEFECTIVE_ROUNDS:
                self.row(unit, number)
            self.write()

    def row(self, row: peers.Row, number: int) -> None:
        """Starts one server, runs its points, stops it."""
        print(f"  {number + 1}: {row.model:<6} {row.label}", file=sys.stderr, flush=True)
        one: dict[str, Any] = {"round": number, "points": {}}
        began = time.monotonic()
        try:
            python = peers.interpreter(row, self.engine)
            if row.model != "wide":
                one["bare"] = bare.quick(self.paths[row.model], self.asked.bare_seconds / 2)
            with peers.started(row, python, self.paths[row.model], self.wanted[row.model]) as server:
                one["cold_start_s"] = server.cold_start_s
                one["body_bytes"] = len(server.request.body)
                load.run(server, load.Point("warm", WARM_S, 32), "own", self.asked.seed)
                for point in self.points(row):
                    one["points"][point.name] = self.point(server, point, number, one["points"])
                if not processes.alive(server.root):
                    raise peers.CannotStart(f"died under load; {server.last_words()}")
                one["processes"] = len(server.pids())
                one["pss_mb"] = processes.pss_mb(server.pids())
        except (peers.CannotStart, environments.CannotInstall, load.LoadFailed, OSError) as error:
            self._fail(row, number, str(error))
            return
        one["took_s"] = time.monotonic() - began
        self.records[row]["rounds"].append(one)

    def point(
        self, server: peers.Server, point: load.Point, number: int, before: dict[str, Any]
    ) -> dict[str, Any]:
        """One point; past saturation the higher rates are not sent, only named."""
        if point.rate is not None and any(one.get("saturated") for one in before.values()):
            return {"rate": point.rate, "saturated": True, "sent": 0}

        def once() -> dict[str, Any]:
            load.settle(server)
            return load.run(server, point, self.client, self.asked.seed + number)

        try:
            return quiet.quietest(once)
        except load.LoadFailed as error:
            return {"failed": str(error), **({"saturated": True} if point.rate is not None else {})}

    def points(self, row: peers.Row) -> list[load.Point]:
        seconds = self.asked.seconds
        if row.model == "wide":
            return [load.Point(f"c{count}", seconds, count) for count in WIDE_CLIENTS]
        base = self.capacity[row.model]
        closed = [load.Point(f"c{count}", seconds, count) for count in self.asked.clients]
        return closed + [
            load.Point(table.open_name(level), seconds, rate=base * level)
            for level in sorted(self.asked.levels)
        ]

    def document(self) -> dict[str, Any]:
        columns = table.columns(self.asked.clients, sorted(self.asked.levels))
        chosen = {key: value for key, value in vars(self.asked).items() if key not in ("out", "install_only")}
        return {
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.began)),
            "minutes": round((time.time() - self.began) / 60, 1),
            "machine": {**self.machine, "at_end": machine.state()},
            "settings": chosen,
            "closed_loop_client": self.client,
            "models": {
                name: {
                    "purpose": models.SHAPES[name].purpose,
                    "weights_bytes": models.SHAPES[name].size_bytes,
                }
                for name in self.asked.models
            },
            "open_loop_capacity_rps": self.capacity,
            "bare": {name: figures.merge(rounds) for name, rounds in self.bare.items()},
            **table.summarize(list(self.records.values()), columns),
            "raw": {"bare": self.bare, "rows": list(self.records.values())},
        }

    def write(self) -> None:
        """The file and its page, after every server: a run that is stopped still shows what it has."""
        files.write_comparison(self.asked.out, self.document())


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=table.ROUNDS, help="each starts every server anew (5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each point (1); wrk takes whole ones")
    parser.add_argument("--bare-seconds", type=float, default=1.0, help="of each case of the bare limit (1)")
    parser.add_argument("--only", type=_names, default=None, help="servers, comma separated (all)")
    parser.add_argument("--models", type=_names, default=list(models.SHAPES), help="small,heavy,wide")
    parser.add_argument("--clients", type=lambda text: [int(n) for n in _names(text)], default=list(CLIENTS))
    parser.add_argument("--levels", type=lambda text: [float(n) for n in _names(text)], default=list(LEVELS))
    parser.add_argument(
        "--open-cap", type=float, default=OPEN_CAP_RPS, help="highest open-loop capacity, req/s"
    )
    parser.add_argument("--client", choices=["auto", "wrk", "own"], default="auto", help="of the closed loop")
    parser.add_argument("--minutes", type=float, default=90.0, help="time box: no server starts after it")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=files.OUT, help="the page lies beside it")
    parser.add_argument("--install-only", action="store_true", help="make the peers' environments, then stop")
    return parser.parse_args(words)


def main() -> int:
    asked = arguments()
    unknown = set(asked.models) - set(models.SHAPES)
    if unknown:
        print(
            f"no model is called {', '.join(unknown)}; there are {', '.join(models.SHAPES)}", file=sys.stderr
        )
        return 2
    run = Run(asked)
    run.install()
    if asked.install_only:
        return 0
    compileall.compile_dir(
        machine.ROOT / "src", quiet=1
    )  # as whoever installs a package does: peers start from bytecode
    processes.pin(machine.CORES)
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # also then servers are stopped and the page written
    deadline = time.time() + asked.minutes * 60
    status = 0
    try:
        run.calibrate()
        for number in range(asked.rounds):
            run.round(number, deadline)
    except (KeyboardInterrupt, TimeoutError) as stopped:
        print(f"stopped: {stopped or 'interrupted'}", file=sys.stderr)
        status = 1
    run.write()
    document = run.document()
    print(report.text(document))
    print(missed_text(missed.missed(document, missed.read_reasons())))
    return status


if __name__ == "__main__":
    sys.exit(main())
