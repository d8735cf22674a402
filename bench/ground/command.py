"""Commands that draw a page again from figures that are there."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Figures = Mapping[str, Any]


def drawn(
    of: str, usual: Path, read: Callable[[Path], Figures], draw: Callable[[Path, Figures], Path]
) -> int:
    """Draw from the file that the command line names, else the usual one, and say where; the exit status."""
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else usual
    found = read(file)
    if not found:
        print(f"{file}: no figures of `{of}` here", file=sys.stderr)
        return 2
    print(draw(file, found))
    return 0
