"""What a long command tells while it works, on standard error."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import sys
import time
from collections.abc import Callable


def teller() -> Callable[[str], None]:
    """Progress on stderr: one line that changes on a terminal, a line every ten seconds elsewhere."""
    last = 0.0

    def say(text: str) -> None:
        nonlocal last
        if sys.stderr.isatty():
            print(f"\r\x1b[K{text[:100]}", end="" if text else "\r", file=sys.stderr, flush=True)
        elif text and time.monotonic() - last > 10:
            last = time.monotonic()
            print(text, file=sys.stderr, flush=True)

    return say
