"""File locks between processes: shared while pulling, exclusive while removing; freed by the system on a crash."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

if sys.platform == "win32":
    import msvcrt
    import time

    def _acquire(stream: IO[bytes], shared: bool, wait: bool) -> bool:
        while True:  # Windows has no shared locks here: pulls take turns
            try:
                stream.seek(0)
                msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
                return True
            except OSError:
                if not wait:
                    return False
                time.sleep(0.05)

else:
    import fcntl

    def _acquire(stream: IO[bytes], shared: bool, wait: bool) -> bool:
        mode = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
        try:
            fcntl.flock(stream.fileno(), mode)
        except BlockingIOError:
            return False
        return True


class Locks:
    """A folder of lock files. Take them in this order: store, variant, made file, fetched file, package."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def hold(self, name: str, *, shared: bool = False, wait: bool = True) -> Iterator[bool]:
        """Hold the lock while the block runs; False instead of waiting when `wait` is off and it is taken."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / _file_name(name)).open("a+b") as stream:
            yield _acquire(stream, shared, wait)  # closing the file frees the lock


def _file_name(name: str) -> str:
    """Readable, unique, and valid on every file system."""
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{re.sub(r'[^A-Za-z0-9.=_-]', '_', name)[:60]}-{digest}.lock"
