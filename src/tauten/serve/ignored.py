"""The header that names what a request asked for and nobody took, so that a client sees what had no effect."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterable

HEADER = "x-tauten-ignored"


def ignored(names: Iterable[str]) -> list[tuple[str, str]]:
    """The header for these names; none where there are none. Names that are no words are not repeated."""
    safe = [
        name[:64] for name in names if name.isascii() and name.replace("_", "").replace("-", "").isalnum()
    ]
    return [(HEADER, ", ".join(sorted(safe)))] if safe else []
