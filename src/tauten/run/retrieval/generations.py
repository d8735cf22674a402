"""Versions of a folder: each commit is a new generation, and one file names the current one.

    manuals/CURRENT             g000007-3fa9c21b
    manuals/g000007-3fa9c21b/   what readers see
    manuals/writer.lock         held while a writer works

No two commits ever have one name, also of an index that was removed and made anew: caches and readers go by it.
A writer fills a new folder and then replaces CURRENT in one step. A crash in between leaves a folder
that nobody names; the next writer removes it. Readers hold what they opened.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

from tauten.errors import MachineError

_CURRENT, _LOCK = "CURRENT", "writer.lock"
_GENERATION = re.compile(r"g\d{6,}(?:-[0-9a-f]{8})?")  # the folder of an index may hold others
_REFUSED = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS}
)  # of a disk that is full or closed


def current(root: Path) -> str:
    """The name of the current generation; an empty string where there is none, as of a file that is no folder."""
    try:
        return (root / _CURRENT).read_text().strip()
    except (FileNotFoundError, NotADirectoryError):
        return ""


@contextlib.contextmanager
def writing(root: Path) -> Iterator[tuple[Path | None, Path]]:
    """Lock, give (current folder or None, new folder), and make the new one current at the end.

    An exception inside leaves everything as it was. Raises MachineError E322 while another writer works, E302 where
    the disk is full or closed.
    """
    with _disk(root), _locked(root):
        name = current(root)
        _sweep(root, {name})
        fresh = root / _next(name)
        fresh.mkdir()
        try:
            yield (root / name if name else None), fresh
            _publish(root, fresh)
        except BaseException:
            if current(root) != fresh.name:  # an interrupt may come when it is what readers see already
                shutil.rmtree(fresh, ignore_errors=True)
            raise
        _sweep(root, {name, fresh.name})  # the last one stays for readers that are just opening it


def _next(name: str) -> str:
    """A name that no generation has had; they sort as they come."""
    number = int(name[1:].partition("-")[0]) + 1 if name else 1
    return f"g{number:06d}-{uuid.uuid4().hex[:8]}"


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
        if _GENERATION.fullmatch(folder.name) and folder.name not in kept:
            shutil.rmtree(folder, ignore_errors=True)


def remove(root: Path) -> None:
    """Delete an index; what else lies in its folder stays, as documents do where both share one."""
    with writing_alone(root):
        (root / _CURRENT).unlink(missing_ok=True)  # first: from now on nobody opens it
        (root / f"{_CURRENT}.new").unlink(missing_ok=True)
        _sweep(root, set())
        (root / _LOCK).unlink(missing_ok=True)
        if not any(root.iterdir()):
            root.rmdir()


@contextlib.contextmanager
def writing_alone(root: Path) -> Iterator[None]:
    """Hold the writer's lock without a new generation."""
    with _disk(root), _locked(root):
        yield


@contextlib.contextmanager
def _disk(root: Path) -> Iterator[None]:
    """Make the folder, and turn a full or closed disk into MachineError E302."""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(root.name, error.strerror) from error
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        raise unwritable(root.name, error.strerror) from error


def unwritable(name: str, why: object) -> MachineError:
    """The error of an index that cannot be written."""
    return MachineError(
        f"cannot write index {name!r}: {why}",
        help="free disk space, check permissions, or choose another folder with TAUTEN_STORE",
        code="E302",
    )


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Hold the writer's lock; the system frees it when the process ends, however it ends."""
    with open(root / _LOCK, "a+b") as lock:
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
