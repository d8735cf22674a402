"""Length-prefixed msgpack frames over a stream socket; what crosses to a worker process, never pickle."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import struct
from typing import Any

import msgspec

_HEAD = struct.Struct(">I")
MAX_FRAME_BYTES = 64 << 20  # 64 MiB: far above any prompt; a larger length means the stream is out of step


def encode(message: Any) -> bytes:
    """One frame."""
    body = msgspec.msgpack.encode(message)
    return _HEAD.pack(len(body)) + body


class Splitter:
    """Collects bytes as they come and gives back whole messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        """Messages completed by `data`; raises ValueError when the stream is out of step."""
        self._buffer += data
        messages = []
        while len(self._buffer) >= _HEAD.size:
            (size,) = _HEAD.unpack_from(self._buffer)
            if size > MAX_FRAME_BYTES:
                raise ValueError(f"a frame of {size} bytes; at most {MAX_FRAME_BYTES} are expected")
            end = _HEAD.size + size
            if len(self._buffer) < end:
                break
            messages.append(msgspec.msgpack.decode(memoryview(self._buffer)[_HEAD.size : end]))
            del self._buffer[:end]
        return messages
