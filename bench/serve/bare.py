"""The bare limit: the engine alone, one process with two threads and two processes with one, at batch 1, 8 and 32."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from bench.ground import processes
from bench.ground.machine import CORES, ROOT
from bench.ground.quiet import quietest
from bench.serve.models import INPUT, SHAPES

BATCHES = (1, 8, 32)
WARM_RUNS = 5


def loop(model: Path, threads: int, batch: int, seconds: float) -> dict[str, Any]:
    """Runs one session as fast as it goes once a line comes in; the settings are those the peers get."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    rows = np.random.default_rng(1).random((batch, SHAPES[model.stem].input_size), dtype=np.float32)
    for _ in range(WARM_RUNS):
        session.run(None, {INPUT: rows})
    print("ready", flush=True)
    sys.stdin.readline()
    times, began = [], time.perf_counter()
    last = began
    while last < began + seconds:
        session.run(None, {INPUT: rows})
        now = time.perf_counter()
        times.append(now - last)
        last = now
    return {"p50_ms": 1e3 * statistics.median(times), "items_s": batch * len(times) / (last - began)}


def together(model: Path, count: int, threads: int, batch: int, seconds: float) -> dict[str, float]:
    """That many processes at the same time: sum of their rates, median of their latencies; quiet if it can be."""
    return quietest(lambda: _together(model, count, threads, batch, seconds))


def _together(model: Path, count: int, threads: int, batch: int, seconds: float) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.serve.bare", str(model), str(threads), str(batch), str(seconds)]
    started: list[subprocess.Popen[str]] = []
    try:
        for _ in range(count):
            started.append(
                subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
        for child in started:
            assert child.stdout is not None
            child.stdout.readline()
        with processes.watch([]) as usage:
            for child in started:
                assert child.stdin is not None
                child.stdin.write("go\n")
                child.stdin.flush()
            found = [json.loads(child.communicate(timeout=seconds + 60)[0]) for child in started]
    finally:
        for child in started:
            child.kill()
            child.wait()
    return {
        "p50_ms": statistics.median(one["p50_ms"] for one in found),
        "items_s": sum(one["items_s"] for one in found),
        "steal_share": usage.steal_share(CORES),
    }


def measure(model: Path, seconds: float) -> dict[str, float]:
    """All six cases, one thread alone beside them, as figures named like `p2_b32_items_s`."""
    figures: dict[str, float] = {}
    cases = [("t2", 1, CORES, batch) for batch in BATCHES] + [("p2", CORES, 1, batch) for batch in BATCHES]
    for label, count, threads, batch in [("t1", 1, 1, 1), *cases]:
        found = together(model, count, threads, batch, seconds)
        figures[f"{label}_b{batch}_p50_ms"] = found["p50_ms"]
        figures[f"{label}_b{batch}_items_s"] = found["items_s"]
    figures["one_p50_ms"] = min(figures["t1_b1_p50_ms"], figures["t2_b1_p50_ms"])
    figures["best_items_s"] = max(
        figures[f"{kind}_b{batch}_items_s"] for kind in ("t2", "p2") for batch in BATCHES
    )
    return figures


def quick(model: Path, seconds: float) -> dict[str, float]:
    """The two figures that rows are compared with, measured again right before each row: hosts change speed."""
    one = together(model, 1, CORES if model.stem == "heavy" else 1, 1, seconds)
    most = together(model, CORES, 1, max(BATCHES), seconds)
    stolen = max(one["steal_share"], most["steal_share"])
    return {"one_p50_ms": one["p50_ms"], "p2_b32_items_s": most["items_s"], "steal_share": stolen}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("threads", type=int)
    parser.add_argument("batch", type=int)
    parser.add_argument("seconds", type=float)
    asked = parser.parse_args()
    print(json.dumps(loop(asked.model, asked.threads, asked.batch, asked.seconds)))


if __name__ == "__main__":
    main()
