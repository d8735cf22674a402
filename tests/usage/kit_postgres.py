"""A real PostgreSQL server on a loopback port, in a folder that goes with it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_HOMES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parts[-2], reverse=True)


def program(name: str) -> str:
    """Where a program of PostgreSQL is; skips the test where it is nowhere."""
    found = next((str(home / name) for home in _HOMES if (home / name).exists()), None) or shutil.which(name)
    if found is None:
        pytest.skip(f"no PostgreSQL here: {name} is not installed (make servers)")
    return found


@contextmanager
def server() -> Iterator[str]:
    """Its URL. PostgreSQL does not run as root: there it is run as the user `postgres`, who owns the folder."""
    initdb, postgres = program("initdb"), program("postgres")
    as_user: list[str] = []
    with tempfile.TemporaryDirectory(prefix="tauten-pg-") as folder:
        place = Path(folder)
        if os.geteuid() == 0:
            setpriv = shutil.which("setpriv")
            if setpriv is None:
                pytest.skip("PostgreSQL does not run as root, and there is no setpriv")
            as_user = [setpriv, "--reuid=postgres", "--regid=postgres", "--clear-groups"]
            shutil.chown(place, "postgres", "postgres")
        data, port = place / "data", free_port()
        made = subprocess.run(
            [
                *as_user,
                initdb,
                "-D",
                str(data),
                "-U",
                "tauten",
                "-A",
                "trust",
                "--no-sync",
                "-E",
                "UTF8",
                "--locale=C",
            ],
            cwd=place,
            capture_output=True,
            text=True,
        )
        assert made.returncode == 0, made.stderr
        options = [
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            f"unix_socket_directories={place}",
            "-c",
            "fsync=off",
        ]
        with (place / "log").open("wb") as log:
            running = subprocess.Popen(
                [*as_user, postgres, "-D", str(data), "-p", str(port), *options], cwd=place, stderr=log
            )
        try:
            wait_for(running, port, place / "log")
            yield f"postgresql://tauten@127.0.0.1:{port}/postgres"
        finally:
            running.terminate()
            running.wait(30)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_for(running: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Until it takes statements: the port is open a little before that."""
    from tauten.run.usage.database import DatabaseBusy
    from tauten.run.usage.postgres import Postgres

    for _ in range(600):
        assert running.poll() is None, log.read_text()
        database = Postgres(f"postgresql://tauten@127.0.0.1:{port}/postgres")
        try:
            database.fetch("SELECT 1")
            return
        except DatabaseBusy:
            time.sleep(0.05)
        finally:
            database.close()
    raise AssertionError(log.read_text())
