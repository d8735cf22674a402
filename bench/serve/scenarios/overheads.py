"""What the engine itself takes: a stage, a deployment hop, a hop of a stream; in CPU time of its loop."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from bench.ground.machine import ROOT
from bench.serve.scenarios.outcome import Result
from bench.serve.scenarios.settings import Settings

MOST_S = 600.0  # seven rounds take a minute on a busy machine


def measure(settings: Settings) -> list[Result]:
    """A process of its own: nothing of the harness is in its loop."""
    with tempfile.TemporaryDirectory(prefix="tb-") as folder:
        out = Path(folder) / "overheads.json"
        command = [sys.executable, str(ROOT / "bench" / "overhead.py"), str(out)]
        subprocess.run(command, stdout=sys.stderr, timeout=MOST_S, check=True)
        return [judged(json.loads(out.read_text()))]


def judged(rows: Mapping[str, Mapping[str, float]]) -> Result:
    """Every row with a bound is a check, the others are figures."""
    found = Result(
        "overheads",
        "What the engine itself takes",
        "stages and models that do nothing; CPU time of the loop's thread, medians of seven interleaved rounds",
    )
    for name, row in rows.items():
        if math.isfinite(row["bound_us"]):
            found.check(name, row["us"], row["bound_us"], "µs")
        else:
            found.figures[name] = row["us"]
    return found
