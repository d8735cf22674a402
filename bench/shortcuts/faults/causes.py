"""What goes wrong on the machine itself: a full disk, a locked book, a shared cache that dies, a clock that jumps."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import mmap
import shutil
import sqlite3
import struct
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

from bench.ground.redis_server import NoServer, redis_server

KNOBS: Final = Path(__file__).parent / "knobs"
DISK_KB: Final = 2048  # of the small disk: the book of a few hundred requests
BLOCK: Final = 4096


class CannotCause(Exception):
    """Why a fault cannot be caused here: becomes the text of its row."""


# -- disk ----------------------------------------------------------------------------------------------------


class Disk:
    """A file system of its own, small enough to be filled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self) -> None:
        """Not a byte is left."""
        with self._filler.open("ab", buffering=0) as file:
            for size in (BLOCK, 1):
                with contextlib.suppress(OSError):
                    while file.write(b"\0" * size):
                        pass

    def free(self) -> None:
        self._filler.unlink()


@contextlib.contextmanager
def small_disk() -> Iterator[Disk]:
    """In memory, gone with the block; raises CannotCause where nothing may be mounted."""
    folder = Path(tempfile.mkdtemp(prefix="tb-disk-"))
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_KB}k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        shutil.rmtree(folder)
        raise CannotCause(f"no small disk: {error}") from error
    if done.returncode:
        shutil.rmtree(folder)
        raise CannotCause(f"no small disk: {done.stderr.strip()[-200:]}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


# -- the book ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(book: str) -> Iterator[None]:
    """Another process would do the same: it holds the file for itself, and does not let go."""
    connection = sqlite3.connect(book, timeout=5.0, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")
    finally:
        connection.close()


# -- the shared cache ----------------------------------------------------------------------------------------


class Redis:
    """A server that can be killed, and is another one when it comes back: on the same port, with nothing in it."""

    def __init__(self) -> None:
        self._life = contextlib.AsyncExitStack()
        self.port = 0

    @property
    def address(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        """Raises CannotCause where it cannot."""
        try:
            self.port = await self._life.enter_async_context(redis_server(port=self.port))
        except NoServer as error:
            raise CannotCause(str(error)) from error

    async def kill(self) -> None:
        await self._life.aclose()


@contextlib.asynccontextmanager
async def redis() -> AsyncIterator[Redis]:
    """It runs at the beginning of the block, and never after it."""
    found = Redis()
    await found.start()
    try:
        yield found
    finally:
        await found.kill()


# -- the clock -----------------------------------------------------------------------------------------------


class WallClock:
    """The wall clock of one process, as far as it is read in Python: `env` lets it follow `jump`."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self._file.write_bytes(struct.pack("d", 0.0))

    def env(self, python_path: str) -> dict[str, str]:
        paths = [str(KNOBS), *([python_path] if python_path else [])]
        return {"TAUTEN_BENCH_CLOCK": str(self._file), "PYTHONPATH": ":".join(paths)}

    def jump(self, seconds: float) -> None:
        """Off by so much from now on."""
        with self._file.open("r+b") as file, mmap.mmap(file.fileno(), 8) as number:
            number[:] = struct.pack("d", seconds)
