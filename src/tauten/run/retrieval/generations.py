"""Versions of a folder: each commit is a new generation, and one file names the current one.

    manuals/CURRENT          g000007
    manuals/g000007/         what readers see
    manuals/writer.lock      held while a writer works

A writer fills a new folder and then replaces CURRENT in one step. A crash in between leaves a folder
that nobody names; the next writer removes it. Readers hold what they opened.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from tauten.errors import MachineError

_CURRENT = "CURRENT"


def current(root: Path) -> str:
    """The name of the current generation, or an empty string."""
    try:
        return (root / _CURRENT).read_text().strip()
    except FileNotFoundError:
        return ""


@contextlib.contextmanager
def writing(root: Path) -> Iterator[tuple[Path | None, Path]]:
    """Lock, give (current folder or None, new folder), and make the new one current at the end.

    An exception inside leaves everything as it was. Raises MachineError while another writer works.
    """
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root):
        name = current(root)
        _sweep(root, {name})
        fresh = root / f"g{int(name[1:] or 0) + 1 if name else 1:06d}"
        fresh.mkdir()
        try:
            yield (root / name if name else None), fresh
            _publish(root, fresh)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        _sweep(root, {name, fresh.name})  # the last one stays for readers that are just opening it


def _publish(root: Path, fresh: Path) -> None:
    for file in fresh.rglob("*"):
        if file.is_file():
            _sync(file)
    _sync(fresh)
    draft = root / f"{_CURRENT}.new"
    draft.write_text(fresh.name + "\n")
    _sync(draft)
    draft.replace(root / _CURRENT)
    _sync(root)


def _sync(path: Path) -> None:
    if path.is_dir() and sys.platform == "win32":
        return  # folders cannot be flushed there
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sweep(root: Path, kept: set[str]) -> None:
    for folder in root.glob("g[0-9]*"):
        if folder.name not in kept:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def writing_alone(root: Path) -> Iterator[None]:
    """Hold the writer's lock without a new generation."""
    with _locked(root):
        yield


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Hold the writer's lock; the system frees it when the process ends, however it ends."""
    with open(root / "writer.lock", "a+b") as lock:
        try:
            _take(lock.fileno())
        except OSError as error:
            raise MachineError(
                f"index {root.name!r} is being written by somebody else",
                help="wait until they have finished",
                code="E322",
            ) from error
        yield


def _take(handle: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
