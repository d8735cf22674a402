"""A Redis or Valkey server on a free port of this machine, for the length of a block; nothing of it is kept."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

START_S = 10.0


class NoServer(Exception):
    """Why there is none: becomes the text of the rows that need it."""


def binary() -> str:
    """The server that is installed; raises NoServer."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if not found:
        raise NoServer("no redis-server here (Debian: apt-get install redis-server)")
    return found


@contextlib.asynccontextmanager
async def redis_server(
    program: str = "", words: tuple[str, ...] = (), env: Mapping[str, str] | None = None, port: int = 0
) -> AsyncIterator[int]:
    """Its port on 127.0.0.1, a free one unless it is said; raises NoServer where it cannot be started."""
    command = program or binary()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        port = int(probe.getsockname()[1])
    with tempfile.TemporaryDirectory(prefix="tb-") as folder:
        log = Path(folder) / "log.txt"
        asked = ("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder, *words)
        with log.open("wb") as out:
            process = await asyncio.create_subprocess_exec(
                command, *asked, stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=out, env=env
            )
        try:
            await _answers(process, port, log)
            yield port
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()  # it keeps nothing
            await process.wait()


async def _answers(process: asyncio.subprocess.Process, port: int, log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        if process.returncode is not None:
            raise NoServer(
                f"it ended with {process.returncode}: {log.read_text(errors='replace')[-300:].strip()}"
            )
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"PING\r\n")
            said = await reader.read(16)
            writer.close()
            if said.startswith(b"+PONG"):
                return
        await asyncio.sleep(0.02)
    raise NoServer(f"it did not answer in {START_S:.0f} s")
