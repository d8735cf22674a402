"""Join the parts of a file that was cut to fit into several packages."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path


def convert(inputs: Sequence[Path], output: Path) -> None:
    """Write the inputs one after another."""
    with output.open("wb") as joined:
        for part in inputs:
            with part.open("rb") as stream:
                shutil.copyfileobj(stream, joined, 1 << 20)
