"""Programs of Debian packages: the machine's own where it has one, else unpacked into the cache folder, never installed.

An installed package would start its services; unpacked it is files that only this bench runs.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from bench.ground.environments import CannotInstall, cache_folder

FETCH_S = 120.0


def program(package: str, place: str) -> Path:
    """A program by its place in the package, as usr/sbin/nginx; raises CannotInstall with the reason."""
    if found := shutil.which(Path(place).name):
        return Path(found)
    folder = cache_folder() / "debian" / package
    if not (folder / place).exists():
        _unpack(package, folder)
    if not (folder / place).exists():
        raise CannotInstall(f"the package {package} holds no {place}")
    return folder / place


def _unpack(package: str, folder: Path) -> None:
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise CannotInstall(f"{package} is not installed, and there is no {tool} here")
    folder.mkdir(parents=True, exist_ok=True)
    download = ["apt-get", "download", "-qq", package]
    try:
        _call(download, folder)
    except CannotInstall:
        _call(["apt-get", "update", "-qq"], folder)  # lists of a new machine are empty
        _call(download, folder)
    for file in sorted(folder.glob("*.deb")):
        _call(["dpkg-deb", "-x", file.name, "."], folder)
        file.unlink()


def _call(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=FETCH_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotInstall(f"{' '.join(command)}: {error}") from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise CannotInstall(f"{' '.join(command)}: {said[-1][:200] if said else done.returncode}")
