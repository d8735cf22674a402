"""A PostgreSQL server of the bench's own on loopback, in a folder that goes with it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from bench.shortcuts.faults.causes import CannotCause

HOMES = Path("/usr/lib/postgresql")  # where Debian puts its programs, by version
START_S = 30.0
USER = "bench"


@contextlib.asynccontextmanager
async def postgres() -> AsyncIterator[str]:
    """The address of a database; raises CannotCause where there is no PostgreSQL."""
    folder = Path(tempfile.mkdtemp(prefix="tb-pg-"))
    try:
        place, running = await asyncio.to_thread(_started, folder)
        try:
            await asyncio.to_thread(_await, place, running, folder / "log.txt")
            yield place
        finally:
            running.terminate()
            await asyncio.to_thread(running.wait, START_S)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _started(folder: Path) -> tuple[str, subprocess.Popen[bytes]]:
    """A cluster of its own in the folder, and its server."""
    initdb, server = _program("initdb"), _program("postgres")
    as_user, data = _as_user(folder), folder / "data"
    make = [*as_user, initdb, "-D", str(data), "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C"]
    _call([*make, "--no-sync"], folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    settings = ["listen_addresses=127.0.0.1", f"unix_socket_directories={folder}", f"port={port}"]
    words = [word for each in settings for word in ("-c", each)]
    with (folder / "log.txt").open("wb") as log:
        running = subprocess.Popen([*as_user, server, "-D", str(data), *words], cwd=folder, stderr=log)
    return f"postgresql://{USER}@127.0.0.1:{port}/postgres", running


def _program(name: str) -> str:
    found = sorted(HOMES.glob(f"*/bin/{name}"), key=lambda path: float(path.parts[-3]))
    program = str(found[-1]) if found else shutil.which(name)
    if program is None:
        raise CannotCause(f"there is no PostgreSQL here: {name} is missing (make servers)")
    return program


def _as_user(folder: Path) -> list[str]:
    """PostgreSQL does not run as root: there it is run as its own user, who then owns the folder."""
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise CannotCause("PostgreSQL does not run as root, and there is no setpriv here")
    shutil.chown(folder, "postgres", "postgres")
    return [setpriv, "--reuid=postgres", "--regid=postgres", "--clear-groups"]


def _call(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise CannotCause(f"{Path(command[-1]).name}: {done.stderr.strip()[-300:]}")


def _await(place: str, running: subprocess.Popen[bytes], log: Path) -> None:
    """Until it takes statements: its port is open a little earlier."""
    from tauten.run.usage.database import DatabaseBusy, open_database

    until = time.monotonic() + START_S
    while True:
        database = open_database(place)
        try:
            database.fetch("SELECT 1")
            return
        except DatabaseBusy as busy:
            if running.poll() is not None or time.monotonic() > until:
                raise CannotCause(f"PostgreSQL does not start: {log.read_text()[-300:]}") from busy
            time.sleep(0.05)
        finally:
            database.close()
