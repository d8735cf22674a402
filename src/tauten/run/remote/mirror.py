"""Which calls are also sent elsewhere, for nothing but the books: an even share, without dice."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations


class Mirror:
    """Of n calls `share` times n are taken, spread evenly, so that a replay takes the same ones."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._count = 0

    def takes(self) -> bool:
        """Whether this call is one of them."""
        before = int(self._count * self._share + 1e-9)  # a tenth, ten times, is one
        self._count += 1
        return int(self._count * self._share + 1e-9) > before
