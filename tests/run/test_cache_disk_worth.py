"""What the disk lets go: by what a byte of it saves, against a plain reference; never over its bound."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
import struct
import tempfile
from pathlib import Path
from typing import NamedTuple

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tauten.run.caches.disk import Disk
from tauten.run.caching.kept_file import FORMAT, LONGEST_S, RECORD_BYTES, TURNS, KeptFile
from tauten.run.contracts import Kept, Sought

BOUND = 5 * (RECORD_BYTES + 300)


class Held(NamedTuple):
    worth: float
    age: int
    content: bytes
    saves_s: float


class Reference:
    """The rule as one would write it down: a dict, and the least of it by looking at all."""

    def __init__(self, bound_bytes: int) -> None:
        self.bound_bytes = bound_bytes
        self.held: dict[bytes, Held] = {}
        self.read: set[bytes] = set()
        self.clock = 0.0
        self.age = 0
        self.evictions = 0

    def size(self) -> int:
        return sum(len(each.content) + RECORD_BYTES for each in self.held.values())

    def add(self, key: bytes, content: bytes, saves_s: float) -> None:
        self.age += 1
        worth = self.clock + saves_s / (len(content) + RECORD_BYTES)
        self.held[key] = Held(worth, self.age, content, saves_s)

    def get(self, key: bytes) -> bytes | None:
        if key not in self.held:
            return None
        self.read.add(key)
        return self.held[key].content

    def put(self, key: bytes, content: bytes, saves_s: float) -> bool:
        size = len(content) + RECORD_BYTES
        if size > self.bound_bytes:
            return False
        self.held.pop(key, None)
        worth = self.clock + saves_s / size
        turns = TURNS
        while self.size() + size > self.bound_bytes:
            least = min(self.held, key=lambda each: self.held[each][:2])
            if turns and least in self.read:
                turns -= 1
                self.read.discard(least)
                again = self.held.pop(least)
                self.add(least, again.content, again.saves_s)
            elif self.held[least].worth > worth:
                self.clock = max(self.clock, worth)
                return False
            else:
                self.clock = max(self.clock, self.held[least].worth)
                del self.held[least]
                self.evictions += 1
        self.add(key, content, saves_s)
        return True


ACT = st.tuples(
    st.sampled_from(["put", "put", "put", "put", "get", "remove"]),
    st.integers(0, 19),
    st.sampled_from([0, 300, 400, 900]),
    st.sampled_from([0.0, 0.001, 1.0, 2.0, 3.0]),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(ACT, min_size=20, max_size=60))
def test_a_file_lets_go_what_the_reference_lets_go(acts: list[tuple[str, int, int, float]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file, plain = KeptFile(Path(folder), BOUND), Reference(BOUND)
        try:
            for act, name, size, saves_s in acts:
                key, content = b"%d" % name, bytes([name]) * size
                if act == "get":
                    assert file.get(key) == plain.get(key)
                elif act == "remove":
                    file.remove(key)
                    plain.held.pop(key, None)
                else:
                    assert file.put(key, content, saves_s) == plain.put(key, content, saves_s)
                held = file.content()
                assert (held.records, held.size_bytes) == (len(plain.held), plain.size())
                assert held.size_bytes <= BOUND
                assert file.evictions == plain.evictions
            assert dict(file.walk()) == {key: each.content for key, each in plain.held.items()}
        finally:
            file.close()


def test_what_saves_more_a_byte_outlives_what_is_younger(tmp_path: Path) -> None:
    file = KeptFile(tmp_path, 3 * (RECORD_BYTES + 100))
    assert file.put(b"dear", bytes(100), 5.0)
    for number in range(20):
        assert file.put(b"cheap%d" % number, bytes(100), 0.001)
    assert file.get(b"dear") is not None
    assert not file.put(b"worthless", bytes(3 * RECORD_BYTES), 0.0)
    assert file.get(b"dear") is not None
    file.close()


def test_what_saved_much_and_is_asked_for_no_more_goes_in_the_end(tmp_path: Path) -> None:
    file = KeptFile(tmp_path, 3 * (RECORD_BYTES + 100))
    assert file.put(b"dear", bytes(100), 1.0)
    for number in range(2000):
        file.put(b"cheap%d" % number, bytes(100), 0.01)
    keys = {key for key, _ in file.walk()}
    assert b"dear" not in keys
    file.close()


def test_worth_and_clock_are_there_again_when_it_is_opened_anew(tmp_path: Path) -> None:
    for number in range(30):
        file = KeptFile(tmp_path, 3 * (RECORD_BYTES + 100))
        file.put(b"dear" if not number else b"cheap%d" % number, bytes(100), 9.0 if not number else 0.01)
        file.close()
    file = KeptFile(tmp_path, 3 * (RECORD_BYTES + 100))
    assert b"dear" in {key for key, _ in file.walk()}
    file.close()


@pytest.mark.parametrize("saves_s", [math.nan, math.inf, -1.0, 1e300, LONGEST_S])
def test_what_a_clock_that_jumped_claims_is_bounded(tmp_path: Path, saves_s: float) -> None:
    file = KeptFile(tmp_path, 3 * (RECORD_BYTES + 100))
    assert file.put(b"odd", bytes(100), saves_s)
    for number in range(5):
        file.put(b"%d" % number, bytes(100), LONGEST_S)
    assert file.content().records == 3
    assert b"odd" not in {key for key, _ in file.walk()}
    file.close()


def test_what_another_version_kept_is_let_go_and_the_file_goes_on(tmp_path: Path) -> None:
    env = lmdb.open(str(tmp_path), map_size=64 << 30, max_dbs=3)
    with env.begin(write=True) as txn:
        records, order, facts = (env.open_db(name, txn=txn) for name in (b"records", b"order", b"facts"))
        number = struct.pack(">Q", 1)
        txn.put(b"key", number + b"content", db=records)
        txn.put(number, b"key", db=order)
        txn.put(b"number", number, db=facts)
        txn.put(b"used", struct.pack(">Q", 207), db=facts)
    env.close()
    file = KeptFile(tmp_path, 10_000)
    assert file.content() == (0, 0)
    assert file.put(b"key", b"content", 1.0)
    file.close()
    again = KeptFile(tmp_path, 10_000)
    assert again.get(b"key") == b"content"
    with again._begin() as txn:
        assert again._fact(txn, b"format") == FORMAT
    again.close()


def test_the_tier_counts_seconds_and_cents(tmp_path: Path) -> None:
    async def main() -> list[bool]:
        disk = Disk(10_000, tmp_path)
        value = "x" * 2000
        for at, saves in enumerate([(5.0, 0.0), (0.0, 5.0), (1.0, 4.0)]):  # alike: a cent is a second
            await disk.put(Sought(b"%032d" % at, b"", {}), Kept(value, 2000, saves[0], saved_cents=saves[1]))
        for at in range(3, 40):
            await disk.put(Sought(b"%032d" % at, b"", {}), Kept(value, 2000, 0.001))
        found = [await disk.get(Sought(b"%032d" % at, b"", {})) is not None for at in range(3)]
        assert disk.holdings().size_bytes <= 10_000
        await disk.close()
        return found

    assert asyncio.run(main()) == [True, True, True]
