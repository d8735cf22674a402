"""Files named by their SHA-256: written aside, checked, then moved in at once; never seen half written."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import errno
import hashlib
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from tauten.errors import StoreError

CHUNK_BYTES = 1 << 20  # large enough for the disk, small enough for a moving progress bar
PARTIAL_DAYS = 7  # an interrupted download may be resumed for a week

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CLOSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR}


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn a full or closed disk into StoreError E313; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise disk_full(folder) from error
        if error.errno in _CLOSED:
            raise StoreError(
                f"cannot write to the model store {folder}: {error.strerror}",
                help="choose another folder with TAUTEN_STORE",
                code="E313",
            ) from error
        raise


def disk_full(folder: Path, needed_bytes: int | None = None) -> StoreError:
    """The error for a disk without room."""
    room = f"; {needed_bytes / 1e6:.1f} MB are needed" if needed_bytes else ""
    return StoreError(
        f"no space left for models in {folder}{room}",
        help="free some space, remove models with `tauten model rm`, or choose another disk with TAUTEN_STORE",
        code="E313",
    )


def sha256_of(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """Hash a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
            if progress:
                progress(stream.tell())
    return digest.hexdigest()


def wrong_bytes(origin: str, seen: str, expected: str) -> StoreError:
    """The error for bytes that are not the pinned ones."""
    return StoreError(
        f"{origin}: {seen}; expected {expected}",
        help="the source has changed or the transfer was altered; nothing of it was kept",
        code="E312",
    )


def facts_below(folder: Path) -> Iterator[os.stat_result]:
    """Size and identity of every file below a folder in which others write and delete at the same time."""
    for place, _, names in os.walk(folder):  # passes over folders that vanish, which rglob does not
        for name in names:
            with suppress(FileNotFoundError):
                yield os.stat(os.path.join(place, name))


class Blobs:
    """The folders `blobs` (whole, checked, read-only) and `partial` (on the way)."""

    def __init__(self, root: Path) -> None:
        self._blobs = root / "blobs"
        self.partial = root / "partial"

    def path(self, sha256: str) -> Path:
        """Where the content is, once it is there."""
        return self._blobs / sha256

    def has(self, sha256: str, size_bytes: int | None = None) -> bool:
        """True if the content is there; its hash was checked when it came in."""
        try:
            found = self.path(sha256).stat().st_size
        except FileNotFoundError:
            return False
        return size_bytes is None or found == size_bytes

    def stage(self, name: str) -> Path:
        """A path to write to before `admit`; the caller holds the lock that makes `name` its own."""
        self.partial.mkdir(parents=True, exist_ok=True)
        return self.partial / name

    def admit(self, staged: Path, sha256: str) -> Path:
        """Move a checked file in, atomically and durably."""
        self._blobs.mkdir(parents=True, exist_ok=True)
        with staged.open("rb+") as stream:
            os.fsync(stream.fileno())
        staged.chmod(0o444)
        staged.replace(self.path(sha256))
        return self.path(sha256)

    def copy_in(
        self, stream: IO[bytes], sha256: str, size_bytes: int, origin: str, progress: Callable[[int], None]
    ) -> Path:
        """Copy a stream in while hashing it; StoreError E312 if it is not what was pinned."""
        staged = self.stage(f"{sha256}.{uuid.uuid4().hex[:8]}.copy")  # two packages may carry the same file
        digest, done = hashlib.sha256(), 0
        try:
            with disk_errors(self.partial), staged.open("wb") as out:
                while chunk := stream.read(CHUNK_BYTES):
                    digest.update(chunk)
                    out.write(chunk)
                    done += len(chunk)
                    progress(done)
                    if done > size_bytes:
                        break
            if done != size_bytes:
                raise wrong_bytes(
                    origin, f"{'more than ' if done > size_bytes else ''}{done} bytes", f"{size_bytes}"
                )
            if digest.hexdigest() != sha256:
                raise wrong_bytes(origin, f"SHA-256 {digest.hexdigest()}", sha256)
            with disk_errors(self.partial):
                return self.admit(staged, sha256)
        finally:
            staged.unlink(missing_ok=True)

    def sweep(self) -> int:
        """Remove what crashed pulls left, then what no variant links to; bytes freed. Needs the store's lock."""
        freed = 0
        oldest = time.time() - PARTIAL_DAYS * 86400
        for left in self.partial.iterdir() if self.partial.is_dir() else ():
            if left.suffix != ".part" or left.stat().st_mtime < oldest:
                freed += _remove(left)
        for blob in _files(self._blobs):
            if blob.stat().st_nlink == 1:
                freed += _remove(blob)
        return freed


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []


def _remove(path: Path) -> int:
    """Delete a file or folder; bytes freed, which files with another link are not."""
    if path.is_dir():
        freed = sum(_remove(each) for each in path.iterdir())
        path.rmdir()
        return freed
    facts = path.stat()
    if sys.platform == "win32":
        path.chmod(0o644)  # Windows does not delete read-only files
    path.unlink()
    return facts.st_size if facts.st_nlink == 1 else 0
