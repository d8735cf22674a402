"""What became of the constraints that were tried, without their texts: each client may bring ones of its own."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from hashlib import blake2b
from typing import Final

MOST: Final = 256  # constraints: more than all stages of a server have, and some tens of kilobytes
Constraint = tuple[str, str]
"""Kind and text."""


class Seen:
    """A word on each of the newest constraints; that on the oldest is forgotten."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._words: dict[bytes, str] = {}

    def note(self, constraint: Constraint, word: str = "") -> None:
        """Keep a word on it; from now on it is the newest."""
        mark = _mark(constraint)
        self._words.pop(mark, None)
        self._words[mark] = word
        if len(self._words) > self._most:
            del self._words[next(iter(self._words))]

    def word(self, constraint: Constraint | None) -> str | None:
        """What was noted of it last; None where it was not, or is forgotten."""
        return self._words.get(_mark(constraint)) if constraint is not None and self._words else None

    def __len__(self) -> int:
        return len(self._words)


def _mark(constraint: Constraint) -> bytes:
    """Sixteen bytes for any text."""
    kind, text = constraint
    return blake2b(f"{kind} {text}".encode(errors="surrogatepass"), digest_size=16).digest()
