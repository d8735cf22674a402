"""When a request came: its client may be slow, and the kernel sees bytes arrive while the event loop is busy elsewhere."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import socket
import struct

ARRIVED = "tauten.arrived"  # in a scope's extensions: its last byte so far, on the monotonic clock
SENT = "tauten.sent"  # and since its first one, in seconds; only where that took several reads
_INFO: int = getattr(socket, "TCP_INFO", 0)  # Linux's; elsewhere what waits in a socket is not known
_LAST_DATA_MS = struct.Struct("52xI")  # tcpi_last_data_recv: since the last segment with data came
_TICK_MS = 4  # that clock ticks in at the usual 250 Hz: what is less may be nothing
TICK_S = _TICK_MS / 1e3


class Inbox:
    """The socket of one connection, asked how long what was just read had been waiting in it."""

    __slots__ = ("_socket",)

    def __init__(self, transport: asyncio.BaseTransport) -> None:
        theirs = transport.get_extra_info("socket")
        tcp = theirs is not None and theirs.family in (socket.AF_INET, socket.AF_INET6)
        self._socket: socket.socket | None = None
        if tcp and _INFO:  # one of our own: a transport's asks the kernel anew what it is at each call
            self._socket = socket.socket(theirs.family, theirs.type, theirs.proto, theirs.fileno())

    def close(self) -> None:
        """The transport closes what is its own; its number may be another connection's from then on."""
        if self._socket is not None:
            self._socket.detach()
            self._socket = None

    def waited_s(self) -> float:
        """Seconds; 0.0 where that is not known, or not worth a mention."""
        if self._socket is None:
            return 0.0
        try:
            info = self._socket.getsockopt(socket.IPPROTO_TCP, _INFO, _LAST_DATA_MS.size)
        except OSError:  # it is gone: nobody waits for what comes of it
            return 0.0
        if len(info) < _LAST_DATA_MS.size:
            return 0.0
        waited_ms: int = _LAST_DATA_MS.unpack(info)[0]
        return max(0, waited_ms - _TICK_MS) / 1e3
