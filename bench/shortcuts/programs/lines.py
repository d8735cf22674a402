"""How a peer's program is spoken to: one JSON object a line on its input, one a line as its answer. No packages needed."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

Command = Callable[..., dict[str, Any]]


def answer(commands: dict[str, Command]) -> None:
    """Answers until its input ends; what goes wrong is an answer, too. What libraries print goes to the log."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            found = commands[asked.pop("do")](**asked)
        except Exception as error:  # noqa: BLE001  # told in the row
            found = {"error": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps(found), file=out, flush=True)


def timed(once: Callable[[int], Any], count: int) -> list[float]:
    """Microseconds of each call."""
    found = []
    for number in range(count):
        began = time.perf_counter_ns()
        once(number)
        found.append((time.perf_counter_ns() - began) / 1e3)
    return found
