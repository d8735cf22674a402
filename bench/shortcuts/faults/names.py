"""A name server on loopback that answers as late as it is told: every name is this machine."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
import shutil
import struct
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, cast

from bench.shortcuts.faults.causes import CannotCause

ADDRESS: Final = "127.0.0.9"  # of its own, so that it is in nobody's way
PORT: Final = 53  # the only one that resolvers ask
SUFFIX: Final = "slow.test"
A: Final = 1  # the record type of an IPv4 address


class Names(asyncio.DatagramProtocol):
    """Answers each question after `wait_s`,."""

    def __init__(self) -> None:
        self.wait_s = 0.0
        self.asked = 0
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)  # uvloop's is none by its class

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.asked += 1
        loop = asyncio.get_running_loop()
        loop.call_later(self.wait_s, self._answer, data, addr)

    def _answer(self, data: bytes, addr: tuple[str, int]) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(answer(data), addr)


def answer(question: bytes) -> bytes:
    """127.0.0.1 for a name, and nothing for what is no address of IPv4."""
    end = question.index(b"\0", 12) + 5
    asked = question[12:end]
    (kind,) = struct.unpack_from("!H", asked, len(asked) - 4)
    found = kind == A
    head = question[:2] + struct.pack("!HHHHH", 0x8180, 1, int(found), 0, 0)
    record = struct.pack("!HHHIH", 0xC00C, A, 1, 0, 4) + bytes((127, 0, 0, 1)) if found else b""
    return head + asked + record


@contextlib.asynccontextmanager
async def name_server() -> AsyncIterator[Names]:
    """It listens for the length of the block; raises CannotCause where it may not."""
    loop = asyncio.get_running_loop()
    try:
        transport, names = await loop.create_datagram_endpoint(Names, local_addr=(ADDRESS, PORT))
    except OSError as error:
        raise CannotCause(f"no name server on {ADDRESS}:{PORT}: {error}") from error
    try:
        yield names
    finally:
        transport.close()


def before(folder: Path) -> list[str]:
    """Words before a command that let it, and nobody else, ask that name server."""
    file = folder / "resolv.conf"
    file.write_text(f"nameserver {ADDRESS}\noptions timeout:30 attempts:1\n")
    bind = f'mount --bind {file} /etc/resolv.conf && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", bind, "sh"]


def why_not() -> str:
    """Why a process cannot have a name server of its own here; empty where it can."""
    for tool in ("unshare", "mount"):
        if shutil.which(tool) is None:
            return f"there is no {tool} here"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", "mount --bind /etc/hosts /etc/resolv.conf"],
        capture_output=True,
        text=True,
    )
    said = done.stderr.strip().splitlines()
    return (
        f"no view of its own of /etc/resolv.conf: {said[-1] if said else done.returncode}"
        if done.returncode
        else ""
    )
