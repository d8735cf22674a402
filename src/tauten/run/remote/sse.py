"""Server-sent events as they arrive: pieces of bytes in, the data of whole events out."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

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
        found: list[bytes] = []
        for line in lines:
            self._line(line.removesuffix(b"\r"), found)
        self._check(len(self._rest))
        return found

    def last(self) -> list[bytes]:
        """What lies here when the bytes end: an event whose empty line never came."""
        found: list[bytes] = []
        self._line(self._rest.removesuffix(b"\r"), found)
        self._rest = b""
        self._line(b"", found)
        return found

    def _line(self, line: bytes, found: list[bytes]) -> None:
        if not line:
            if self._data:
                found.append(b"\n".join(self._data))
            self._data, self._size = [], 0
        elif line.startswith(b"data:"):
            data = line[5:].removeprefix(b" ")
            self._size += len(data)
            self._check(0)
            self._data.append(data)

    def _check(self, more: int) -> None:
        if self._size + more > MOST_BYTES:
            raise Failure("fault", f"an event of more than {MOST_BYTES >> 20} MiB")
