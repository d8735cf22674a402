"""Shared memory for large arrays: blocks that processes map, lent out as counted leases with owners.

A block has no name: it is a memory file (Linux) or an unlinked temporary file, and other processes get
it as a file descriptor. So nothing can be left behind in ``/dev/shm``, not even by SIGKILL, and a
container's small ``/dev/shm`` does not matter.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
import mmap
import os
import sys
import tempfile
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec

from tauten.errors import InternalError, MachineError

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

LIMIT_BYTES = 1 << 30  # 1 GiB: some hundred 1080p pictures in flight; more is a leak or an overload
KEEP_BYTES = (
    128 << 20
)  # free blocks kept: reusing one saves the page faults of a fresh one (0.5 ms a picture)
SMALLEST_BYTES = 64 << 10  # 64 KiB: below this a block costs more in files than in memory


class Leak(msgspec.Struct, frozen=True):
    """A lease that was forgotten: its object is gone, but nobody released it."""

    owner: str
    size_bytes: int


class _Block:
    """One mapped memory file."""

    __slots__ = ("fd", "map", "size_bytes")

    def __init__(self, size_bytes: int, directory: Path | None) -> None:
        self.size_bytes = size_bytes
        self.fd = _memory_file(size_bytes, directory)
        self.map = mmap.mmap(self.fd, size_bytes)

    def free(self) -> None:
        """Let go of the memory; it is unmapped when the last array over it is collected, never before.

        The map is not closed: NumPy holds the object, not its buffer, and would read unmapped memory.
        """
        os.close(self.fd)
        self.fd = -1


class Lease:
    """A part of the arena lent to its owners; valid until the last of them releases it.

    Counted: `retain` adds an owner (a request, a cache entry), `release` takes one away. After the last
    release the memory may hold another array at once.
    """

    __slots__ = ("__weakref__", "_arena", "_finalizer", "_view", "id", "owners", "size_bytes")

    def __init__(self, arena: Arena, id: int, view: NDArray[Any], owner: str) -> None:
        self._arena = arena
        self._view: NDArray[Any] | None = view
        self.id = id
        self.size_bytes = view.nbytes
        self.owners = [owner]
        self._finalizer = weakref.finalize(self, arena._lost, id, owner, view.nbytes)
        self._finalizer.atexit = False

    @property
    def array(self) -> NDArray[Any]:
        """The array in shared memory."""
        if self._view is None:
            raise InternalError("a lease was read after its release", help="retain it while you read it")
        return self._view

    @property
    def fd(self) -> int:
        """The memory file, to hand to another process; the array begins at byte 0 of it."""
        return self._arena._block(self.id).fd

    def retain(self, owner: str) -> Self:
        """Add an owner."""
        with self._arena._lock:
            self._owned()
            self.owners.append(owner)
        return self

    def release(self, owner: str = "") -> None:
        """Take an owner away (the last that came, if not named); the last one gives the memory back."""
        with self._arena._lock:
            self._owned()
            if owner and owner not in self.owners:
                raise InternalError(f"{owner!r} does not own this lease", help=f"owners: {self.owners}")
            self.owners.remove(owner or self.owners[-1])
            if not self.owners:
                self._end()

    def bind(self) -> NDArray[Any]:
        """Give the lease to the array itself: the memory goes back when its last view is collected."""
        array = self.array
        with self._arena._lock:
            self._finalizer.detach()
            self._view = None
            self.owners = []
        # NumPy's views keep this very array as their base, so that it dies after the last of them.
        weakref.finalize(array, self._arena._give_back, self.id).atexit = False
        return array

    def _owned(self) -> None:
        if not self.owners:
            raise InternalError("a lease was used after its release", help="each owner releases once")

    def _end(self) -> None:
        self._finalizer.detach()
        self._view = None
        self._arena._give_back(self.id)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.owners:
            self.release()


class Arena:
    """Lends shared memory up to a limit, keeps free blocks for reuse, and reports what was forgotten."""

    def __init__(
        self,
        limit_bytes: int = LIMIT_BYTES,
        *,
        keep_bytes: int = KEEP_BYTES,
        directory: Path | None = None,
    ) -> None:
        self.limit_bytes = limit_bytes
        self.keep_bytes = keep_bytes
        self.directory = directory
        self._lock = threading.RLock()  # re-entrant: a collection inside it may end another lease
        self._lent: dict[int, _Block] = {}
        self._free: list[_Block] = []
        self._leaks: list[Leak] = []
        self._lent_bytes = 0  # counted, not summed: a collection may change the tables while we walk them
        self._free_bytes = 0
        self._next = 0
        self._closed = False

    @property
    def lent_bytes(self) -> int:
        """Memory that is lent out now, rounding included."""
        return self._lent_bytes

    @property
    def free_bytes(self) -> int:
        """Memory kept for reuse."""
        return self._free_bytes

    def leaks(self) -> list[Leak]:
        """Leases that were dropped without a release, since the arena was made."""
        with self._lock:
            return list(self._leaks)

    def lease(self, shape: tuple[int, ...], dtype: DTypeLike, owner: str = "request") -> Lease:
        """Lend room for an array, whose content is undefined; raises MachineError when there is none."""
        import numpy as np

        kind = np.dtype(dtype)
        if kind.hasobject:
            raise InternalError("arrays of Python objects cannot be shared", help="share numbers")
        size = max(1, math.prod(shape) * kind.itemsize)
        with self._lock:
            if self._closed:
                raise MachineError("the arena is closed", help="lease before the engine closes", code="E332")
            block = self._take(size)
            self._next += 1
            self._lent[self._next] = block
            self._lent_bytes += block.size_bytes
            view: NDArray[Any] = np.ndarray(shape, kind, buffer=block.map)
            return Lease(self, self._next, view, owner)

    def put(self, array: NDArray[Any], owner: str = "request") -> Lease:
        """Copy an array in."""
        lease = self.lease(array.shape, array.dtype, owner)
        lease.array[...] = array
        return lease

    def close(self) -> None:
        """Free all; arrays that are still alive keep their own memory until they are collected."""
        with self._lock:
            self._closed = True
            for block in [*self._free, *self._lent.values()]:
                block.free()
            self._free.clear()
            self._lent.clear()
            self._lent_bytes = self._free_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(self, size: int) -> _Block:
        wanted = _rounded(size)
        for at, block in enumerate(self._free):
            if block.size_bytes == wanted:
                self._free_bytes -= wanted
                return self._free.pop(at)
        if self.lent_bytes + wanted > self.limit_bytes:
            raise MachineError(
                f"shared memory: {self.lent_bytes} bytes are lent and {wanted} more are wanted; "
                f"the limit is {self.limit_bytes}",
                help="decode fewer at once, or raise the arena's limit",
                code="E330",
            )
        while self._free and self.lent_bytes + self.free_bytes + wanted > self.limit_bytes:
            oldest = self._free.pop(0)
            self._free_bytes -= oldest.size_bytes
            oldest.free()
        return _Block(wanted, self.directory)

    def _block(self, id: int) -> _Block:
        with self._lock:
            if id not in self._lent:
                raise InternalError("a lease was used after its release", help="retain it while you use it")
            return self._lent[id]

    def _give_back(self, id: int) -> None:
        with self._lock:
            block = self._lent.pop(id, None)
            if block is None:
                return  # the arena was closed before
            self._lent_bytes -= block.size_bytes
            if self._closed or self.free_bytes + block.size_bytes > self.keep_bytes:
                block.free()
            else:
                self._free.append(block)
                self._free_bytes += block.size_bytes

    def _lost(self, id: int, owner: str, size_bytes: int) -> None:
        """A lease was collected unreleased. Its array may live on, so its block is dropped, not reused."""
        with self._lock:
            block = self._lent.pop(id, None)
            if block is not None:
                self._lent_bytes -= block.size_bytes
                self._leaks.append(Leak(owner, size_bytes))
                block.free()


def _rounded(size: int) -> int:
    """Round up to a quarter of a power of two: few sizes, so that blocks fit again; waste below 25 %."""
    size = max(size, SMALLEST_BYTES)
    step = max(mmap.PAGESIZE, 1 << ((size - 1).bit_length() - 3))
    return -(-size // step) * step


def _memory_file(size_bytes: int, directory: Path | None) -> int:
    fd = -1
    try:
        fd = _unnamed_file(directory)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, size_bytes)  # now, or a later write would end in SIGBUS
        else:
            os.ftruncate(fd, size_bytes)
        _forbid_shrinking(fd, directory)
        return fd
    except OSError as error:
        if fd >= 0:
            os.close(fd)
        raise MachineError(
            f"shared memory: the system refuses {size_bytes} bytes: {error.strerror}",
            help="free memory, or decode fewer at once",
            code="E330",
        ) from error


def _unnamed_file(directory: Path | None) -> int:
    if directory is None and sys.platform == "linux":
        return os.memfd_create("tauten-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with tempfile.TemporaryFile(prefix="tauten-arena-", dir=directory) as file:
        return os.dup(file.fileno())


def _forbid_shrinking(fd: int, directory: Path | None) -> None:
    """A worker that was taken over by hostile media must not pull the memory from under our feet."""
    if directory is None and sys.platform == "linux":
        import fcntl

        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
