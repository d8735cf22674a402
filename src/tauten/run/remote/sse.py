"""Server-sent events as they arrive: pieces of bytes in, the data of whole events out."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tauten.run.remote.failure import Failure

MOST_BYTES: Final = 8 << 20  # of one event: an answer with log probabilities is some kilobytes a token


class Events:
    """Fed with pieces however they are cut; keeps what is not whole yet."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """The data of events that this piece ends; raises Failure for an event without end."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        found = self._lines(lines)
        self._check(self._size + len(self._rest))
        return found

    def last(self) -> list[bytes]:
        """What lies here when the bytes end: an event whose empty line never came."""
        found = self._lines([self._rest, b""])
        self._rest = b""
        return found

    def _lines(self, lines: Iterable[bytes]) -> list[bytes]:
        """The data of events that these lines end. A word of an answer is an event: this loop calls little."""
        found: list[bytes] = []
        lying = self._data
        for line in lines:
            line = line.removesuffix(b"\r")
            if not line:
                if lying:
                    found.append(b"\n".join(lying))
                    lying.clear()
                self._size = 0
            elif line.startswith(b"data:"):
                data = line[6:] if line.startswith(b"data: ") else line[5:]
                self._size += len(data)
                self._check(self._size)
                lying.append(data)
        return found

    @staticmethod
    def _check(size: int) -> None:
        if size > MOST_BYTES:
            raise Failure("fault", f"an event of more than {MOST_BYTES >> 20} MiB")
