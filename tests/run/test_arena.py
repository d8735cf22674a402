"""Leases are counted, forgotten ones are reported, and nothing stays in shared memory."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import errno
import gc
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tauten.errors import InternalError, MachineError
from tauten.run.decode import arena as module
from tauten.run.decode.arena import Arena


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_an_array_goes_in_and_comes_out() -> None:
    with Arena() as arena:
        array = np.arange(12, dtype="f4").reshape(3, 4)
        lease = arena.put(array, owner="request 7")
        assert np.array_equal(lease.array, array)
        assert (lease.owners, lease.size_bytes) == (["request 7"], 48)
        assert arena.lent_bytes >= 48
        lease.release()
        assert arena.lent_bytes == 0


def test_another_process_would_see_the_bytes() -> None:
    with Arena() as arena:
        lease = arena.put(np.arange(8, dtype="u1"))
        assert os.pread(lease.fd, 8, 0) == bytes(range(8))
        lease.release()


def test_the_last_owner_gives_back() -> None:
    with Arena() as arena:
        lease = arena.put(np.zeros(4), owner="request").retain("cache")
        lease.release("request")
        assert lease.array.shape == (4,)
        with pytest.raises(InternalError, match="does not own"):
            lease.release("request")
        lease.release("cache")
        for misuse in (lambda: lease.array, lease.release, lambda: lease.retain("late")):
            with pytest.raises(InternalError, match="after its release"):
                misuse()
        assert not arena.leaks()


def test_memory_is_reused() -> None:
    with Arena() as arena:
        first = arena.put(np.zeros(100_000, "u1"))
        inode = os.fstat(first.fd).st_ino
        first.release()
        assert arena.free_bytes >= 100_000
        second = arena.put(np.ones(100_001, "u1"))
        assert os.fstat(second.fd).st_ino == inode
        assert arena.free_bytes == 0
        second.release()


def test_a_dropped_lease_is_reported() -> None:
    with Arena() as arena:
        array = arena.put(np.full(5, 7.0), owner="request 9").array
        gc.collect()
        assert [(leak.owner, leak.size_bytes) for leak in arena.leaks()] == [("request 9", 40)]
        assert arena.lent_bytes == 0
        arena.put(np.zeros(5)).release()
        assert array.tolist() == [7.0] * 5  # its memory was not lent again


def test_a_bound_array_owns_its_memory_until_its_last_view_goes() -> None:
    with Arena() as arena:
        array = arena.put(np.arange(100_000)).bind()
        view = array[50:60].reshape(2, 5).T
        del array
        gc.collect()
        other = arena.put(np.zeros(100_000, "i8"))
        assert view.tolist() == np.arange(50, 60).reshape(2, 5).T.tolist()
        other.release()
        lent = arena.lent_bytes
        del view
        gc.collect()
        assert lent > 0
        assert arena.lent_bytes == 0
        assert not arena.leaks()


def test_arrays_survive_the_arena() -> None:
    arena = Arena()
    array = arena.put(np.arange(10)).bind()
    arena.close()
    assert array.sum() == 45
    with pytest.raises(MachineError, match="closed"):
        arena.put(np.zeros(1))


def test_close_leaves_no_file_and_no_name() -> None:
    before, names = open_files(), set(os.listdir("/dev/shm"))
    arena = Arena()
    leases = [arena.put(np.zeros(1 << 20, "u1")) for _ in range(3)]
    assert set(os.listdir("/dev/shm")) == names
    assert open_files() > before
    leases[0].release()
    arena.close()
    for lease in leases[1:]:
        lease.release()  # late, and harmless
    assert open_files() == before


def test_the_limit_is_named() -> None:
    with Arena(limit_bytes=1 << 20) as arena:
        lease = arena.put(np.zeros(900_000, "u1"))
        with pytest.raises(MachineError, match="the limit is 1048576") as caught:
            arena.put(np.zeros(900_000, "u1"))
        assert caught.value.code == "E330"
        lease.release()
        arena.put(np.zeros(500_000, "u1")).release()  # the free block makes room
        assert arena.free_bytes <= 1 << 20


def test_a_full_machine_is_a_machine_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = open_files()
    monkeypatch.setattr(module.os, "posix_fallocate", refuse)
    with Arena() as arena, pytest.raises(MachineError, match="No space left") as caught:
        arena.put(np.zeros(10))
    assert (caught.value.code, open_files()) == ("E330", before)


def test_a_folder_may_hold_the_memory(tmp_path: Path) -> None:
    with Arena(directory=tmp_path) as arena:
        lease = arena.put(np.arange(3))
        assert lease.array.tolist() == [0, 1, 2]
        assert list(tmp_path.iterdir()) == []  # unlinked from the start
        lease.release()


def test_objects_are_not_shared() -> None:
    with Arena() as arena, pytest.raises(InternalError, match="objects"):
        arena.put(np.array([object()]))


def test_threads_share_an_arena() -> None:
    arena, wrong = Arena(), []

    def work(number: int) -> None:
        for step in range(200):
            with arena.put(np.full(20_000, number * 1000 + step)) as lease:
                if not (lease.array == number * 1000 + step).all():
                    wrong.append((number, step))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert arena.lent_bytes == 0
    arena.close()


@given(st.integers(1, 1 << 40))
def test_rounding_wastes_little(size: int) -> None:
    rounded = module._rounded(size)
    assert rounded >= size
    assert rounded % 4096 == 0
    assert rounded <= max(module.SMALLEST_BYTES, size * 1.25)
