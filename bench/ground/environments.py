"""A throw-away virtual environment for each peer, in a cache folder outside the repository."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

INSTALL_S = 1200.0  # the largest peer took 350 s on a contended machine


class CannotInstall(Exception):
    """Why a peer's environment could not be made: becomes the text of its row."""


def cache_folder() -> Path:
    """TAUTEN_BENCH_CACHE, or tauten-bench/ in the user's cache folder."""
    chosen = os.environ.get("TAUTEN_BENCH_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(chosen) if chosen else Path(base) / "tauten-bench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One installation at a time, also between two runs of the harness."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _interpreter(candidates: Sequence[str]) -> str:
    for candidate in candidates:
        if found := shutil.which(candidate):
            return found
    raise CannotInstall(f"none of these interpreters is here: {', '.join(candidates)}")


def _call(command: Sequence[str], log: Path) -> None:
    with log.open("a") as out:
        try:
            done = subprocess.run(
                ["nice", "-n", "19", *command], stdout=out, stderr=subprocess.STDOUT, timeout=INSTALL_S
            )
        except subprocess.TimeoutExpired as error:
            raise CannotInstall(f"not installed after {INSTALL_S:.0f} s") from error
    if done.returncode:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        tail = [line[:200] for line in lines if line.startswith("ERROR")][-2:]
        raise CannotInstall(" / ".join(tail) or f"exit status {done.returncode}")


def install(name: str, packages: Sequence[str], pythons: Sequence[str]) -> Path:
    """The interpreter of `name`'s environment; made now if it is missing or was made of other packages."""
    folder = cache_folder() / "venvs" / name
    python, marker = folder / "bin" / "python", folder / "installed.txt"
    wanted = "\n".join(packages)
    if marker.exists() and marker.read_text() == wanted and python.exists():
        return python
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder.parent / "lock"):
        base = _interpreter(pythons or [sys.executable])
        log = folder.parent / f"{name}.log"
        log.write_text("")
        shutil.rmtree(folder, ignore_errors=True)
        print(f"installing {name}: {' '.join(packages)}", file=sys.stderr, flush=True)
        _call([base, "-m", "venv", str(folder)], log)
        _call([str(python), "-m", "pip", "install", "--disable-pip-version-check", *packages], log)
        marker.write_text(wanted)
    return python


def versions(python: Path, names: Sequence[str]) -> dict[str, str]:
    """Installed versions of these distributions, as that interpreter sees them."""
    code = (
        "import importlib.metadata as m, json, sys\n"
        "found = {}\n"
        "for n in sys.argv[1:]:\n"
        "    try: found[n] = m.version(n)\n"
        "    except m.PackageNotFoundError: pass\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run([str(python), "-c", code, *names], capture_output=True, text=True, timeout=60)
    return dict(json.loads(done.stdout)) if done.returncode == 0 else {}
