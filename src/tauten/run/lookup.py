"""Names of machines, looked up by the system in threads that hold nothing up: one that hangs ends with the process.

A loop waits for its own threads when it closes, so a name server that does not answer would keep a server from ending.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any

Address = tuple[int, int, int, str, tuple[Any, ...]]
"""As `socket.getaddrinfo` gives it: family, kind of socket, protocol, canonical name, address."""


async def lookup(host: str, port: int, family: int = socket.AF_UNSPEC, flags: int = 0) -> list[Address]:
    """The addresses of a name for TCP; raises OSError, or UnicodeError for what is no name."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[Address]] = loop.create_future()

    def tell(say: Callable[[Any], None], what: Any) -> None:
        if not found.done():
            say(what)

    def work() -> None:
        outcome: tuple[Callable[[Any], None], Any]
        try:
            outcome = found.set_result, socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, 0, flags)
        except Exception as error:  # noqa: BLE001  # whatever it is, who asked is told
            outcome = found.set_exception, error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody asks any more
            loop.call_soon_threadsafe(tell, *outcome)

    threading.Thread(target=work, name="tauten-lookup", daemon=True).start()
    return await found
