"""Peak memory of the demo's process tree: proportional set size, sampled every 100 ms.

PSS counts a page that several processes share once, divided among them, so that sums over a tree are true.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import subprocess
import sys
import time

import psutil

BOUND_BYTES = 3_000_000_000
SAMPLE_S = 0.1
REQUESTS = 8


def tree_bytes(root: psutil.Process) -> int:
    """Memory of a process and all below it; processes that end meanwhile count nothing."""
    total = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total


def main() -> None:
    command = [sys.executable, "-m", "tauten", "demo", "--requests", str(REQUESTS)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    root, peak = psutil.Process(child.pid), 0
    while child.poll() is None:
        try:
            peak = max(peak, tree_bytes(root))
        except psutil.Error:
            break
        time.sleep(SAMPLE_S)
    if code := child.wait():
        print(f"demo ended with {code}: no figure; `tauten demo --requests {REQUESTS}` says why")
        sys.exit(code)
    verdict = "ok" if peak <= BOUND_BYTES else "MISSED"
    print(f"demo, peak of the process tree  {peak / 1e9:.2f} GB   bound {BOUND_BYTES / 1e9:.0f}   {verdict}")


if __name__ == "__main__":
    main()
