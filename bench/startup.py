"""Start-up: what `import tauten` and `tauten --help` cost over a bare Python, in turn, medians of 15.

CPU time of the child process, so that a busy machine does not count as ours.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import statistics
import subprocess
import sys

ROUNDS = 15
BOUNDS_MS = {"import tauten": 150.0, "tauten --help": 300.0}
COMMANDS = {
    "bare python": [sys.executable, "-c", "pass"],
    "import tauten": [sys.executable, "-c", "import tauten"],
    "tauten --help": [sys.executable, "-m", "tauten", "--help"],
}


def cpu_ms(command: list[str]) -> float:
    """User and system milliseconds of one run of a command."""
    before = os.times()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    spent = after.children_user - before.children_user + after.children_system - before.children_system
    return spent * 1e3


def main() -> None:
    rounds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, command in COMMANDS.items():
            rounds[name].append(cpu_ms(command))
    bare = statistics.median(rounds["bare python"])
    print(f"{'bare python':<16} {bare:6.0f} ms")
    for name, bound in BOUNDS_MS.items():
        over = statistics.median(rounds[name]) - bare
        print(
            f"{name:<16} {over:6.0f} ms over it   bound {bound:.0f}   {'ok' if over <= bound else 'MISSED'}"
        )


if __name__ == "__main__":
    main()
