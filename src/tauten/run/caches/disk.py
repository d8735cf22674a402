"""An exact cache on this machine's disk: shared by its processes, and there again after a restart.

Results are found by what names them: code, settings, model files, inputs, tenant. So what was kept yesterday is there
today where those are the same, and under other names where they are not. Each entry has a checksum; a damaged one is a
miss, and goes. A disk that fails is a miss as well: results are computed, and somebody reads of it in the log.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import lmdb

from tauten.clock import VirtualLoop
from tauten.run.caching.encoding import Damaged, decoded, encoded, header, secret
from tauten.run.caching.holding import NotKept
from tauten.run.caching.kept_file import KeptFile, opened, released
from tauten.run.caching.sieve import saving_s
from tauten.run.contracts import Holdings, Kept, Sought

log = logging.getLogger("tauten.run.caches.disk")
R = TypeVar("R")

THREADS = 2  # one reads while the other writes: the file lets one write at a time


def folder() -> Path:
    """`$TAUTEN_RESULTS`, or `results` beside the models of the store."""
    if named := os.environ.get("TAUTEN_RESULTS"):
        return Path(named).expanduser()
    from tauten.models.store import default_root

    return default_root() / "results"


class Disk:
    """A tier in a file. Its calls run in threads of its own, never on the event loop."""

    name: ClassVar[str] = "disk"
    exact: ClassVar[bool] = True

    def __init__(self, size_bytes: int, where: Path | None = None) -> None:
        self.bound_bytes = size_bytes
        self.folder = (where or folder()).absolute()
        self.shared = ("disk", self.folder)  # all steps keep in one file
        self.events = {"damaged": 0, "failed": 0, "not_kept": 0}
        self._refused = 0
        self._secret = secret()
        self._file: KeptFile | None = None
        self._opening = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None
        self._seen = Holdings(0, 0, size_bytes, 0, 0)

    async def get(self, sought: Sought) -> Kept | None:
        return await self._off(self._get, None, sought.key)

    async def put(self, sought: Sought, kept: Kept) -> bool:
        return await self._off(self._put, False, sought.key, kept)

    def resize(self, size_bytes: int) -> None:
        self.bound_bytes = size_bytes
        if self._file is not None:
            self._file.grow(size_bytes)
        self._seen = self._seen._replace(bound_bytes=size_bytes)

    def holdings(self) -> Holdings:
        """As it was after the last look: the page of metrics waits for no disk."""
        return self._seen

    async def clear(self) -> None:
        await self._off(self._clear, None)

    async def forget(self, label: str, *more: str) -> int:
        """Forget what carries the label, and all of `more`; says how many results that were."""
        return await self._off(self._forget, 0, {label, *more})

    async def labelled(self, label: str) -> list[Kept]:
        """Every result that carries a label: a walk through the whole file, for when a process begins."""
        return await self._off(self._labelled, [], label)

    async def close(self) -> None:
        """Close the file; a call after that opens it anew."""
        threads, self._threads = self._threads, None
        if threads is not None:
            await asyncio.get_running_loop().run_in_executor(threads, self._close)
            threads.shutdown(wait=False)
        elif self._file is not None:
            self._close()

    # -- in threads ---------------------------------------------------------------------------------------

    async def _off(self, function: Callable[..., R], failed: R, *args: Any) -> R:
        """Call off the event loop; what fails is counted, and as if nothing was there."""
        loop = asyncio.get_running_loop()
        try:
            if isinstance(loop, VirtualLoop):
                return function(*args)  # threads do not exist in virtual time
            if self._threads is None:
                self._threads = ThreadPoolExecutor(THREADS, "tauten-disk")
            return await loop.run_in_executor(self._threads, function, *args)
        except (lmdb.Error, OSError) as error:
            self._fail(error)
            return failed

    def _fail(self, error: Exception) -> None:
        if not self.events["failed"]:
            log.warning("the cache in %s does not work, results are computed: %s", self.folder, error)
        self.events["failed"] += 1

    def _open(self) -> KeptFile:
        with self._opening:
            if self._file is None:
                self._file = opened(self.folder, self.bound_bytes)
                self._look(self._file)
            return self._file

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            released(file)

    def _get(self, key: bytes) -> Kept | None:
        file = self._open()
        data = file.get(key)
        if data is None:
            return None
        try:
            return decoded(key, data, self._secret)
        except Damaged:
            self.events["damaged"] += 1
            file.remove(key)
            return None

    def _put(self, key: bytes, kept: Kept) -> bool:
        file = self._open()
        try:
            done = file.put(key, encoded(key, kept, self._secret), saving_s(kept))
        except NotKept:
            self.events["not_kept"] += 1
            return False
        self._refused += not done
        self._look(file)
        return done

    def _clear(self) -> None:
        file = self._open()
        file.clear()
        self._look(file)

    def _forget(self, labels: set[str]) -> int:
        file = self._open()
        found = file.remove_where(lambda data: labels.issubset(labels_of(data)))
        self._look(file)
        return found

    def _labelled(self, label: str) -> list[Kept]:
        found = []
        for key, data in self._open().walk():
            if label not in labels_of(data):
                continue
            try:
                found.append(decoded(key, data, self._secret))
            except Damaged:
                self.events["damaged"] += 1
        return found

    def _look(self, file: KeptFile) -> None:
        content = file.content()
        self._seen = Holdings(
            content.records, content.size_bytes, file.bound_bytes, file.evictions, self._refused
        )


def labels_of(data: bytes) -> tuple[str, ...]:
    """By what an entry can be forgotten; none of a damaged one."""
    try:
        return header(data).labels
    except Damaged:
        return ()
