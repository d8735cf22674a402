"""Work that must not grow with the square of what a stranger sends: bounded in seconds of a processor."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import subprocess
import sys

CPU_SECONDS = 20  # imports take one or two, linear work less, the square of it minutes


def within_bounds(code: str) -> str:
    """What a snippet prints, run in a process of its own; it fails where that needs more than `CPU_SECONDS`.

    Seconds of a processor, not of a clock: a busy machine makes no difference.
    """
    bound = f"import resource\nresource.setrlimit(resource.RLIMIT_CPU, ({CPU_SECONDS}, {CPU_SECONDS}))\n"
    ran = subprocess.run([sys.executable, "-c", bound + code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"it took more than {CPU_SECONDS} s, or failed: {ran.stderr[-2000:]}"
    return ran.stdout
