"""The tier on disk: what comes back is what was put, or nothing; bounded; shared; there again tomorrow."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import decimal
import enum
import math
import os
import stat
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tauten as tt
from tauten.describe.stage import stage
from tauten.describe.view import Frames, Pixels, Samples
from tauten.plan.plan import CachePlan, Plan, StagePlan
from tauten.run.caches.disk import Disk, folder
from tauten.run.caching.encoding import Damaged, decoded, encoded, header
from tauten.run.caching.holding import NotKept
from tauten.run.caching.kept_file import RECORD_BYTES, KeptFile, opened, released
from tauten.run.caching.refused import Refused
from tauten.run.contracts import Kept, Sought
from tauten.run.engine import Engine

UNDER = b"secret"


class Row(msgspec.Struct, frozen=True):
    text: str
    box: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Mark:
    at: float
    row: Row


class Pair(NamedTuple):
    one: int
    two: str


class Colour(enum.Enum):
    RED = 1


class Stranger:
    pass


class Scaled(msgspec.Struct, frozen=True):
    value: float

    def __post_init__(self) -> None:
        if self.value > 10.0:
            raise ArithmeticError("once is enough")
        msgspec.structs.force_setattr(self, "value", self.value * 10)


@dataclasses.dataclass
class Halved:
    value: float

    def __post_init__(self) -> None:
        self.value /= 2


class Bits(enum.Flag):
    ONE = 1
    TWO = 2


def sought(name: int) -> Sought:
    return Sought(b"%032d" % name, b"", {})


def through(value: Any) -> Any:
    return decoded(b"k", encoded(b"k", Kept(value, 1, 1.0), UNDER), UNDER).value


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -(1 << 70),
        1 << 63,
        0.1,
        -0.0,
        math.inf,
        "größe \U0001f600",
        b"\0\xff",
        complex(1, -0.0),
        ["list", ["int", 1]],
        ("tuple", ()),
        {"a": 1, 2: ("b",), None: []},
        {1, 2},
        frozenset({"x"}),
        datetime.datetime(2026, 1, 2, 3, 4, 5, 6, datetime.UTC),
        datetime.date(2026, 1, 2),
        datetime.time(3, 4, 5),
        datetime.timedelta(days=-1, microseconds=3),
        decimal.Decimal("1.10"),
        uuid.UUID(int=7),
        Path("a/b"),
        Row("words", (1, 2)),
        Mark(1.5, Row("x", (0, 0))),
        Pair(1, "two"),
        Colour.RED,
        tt.Text("words"),
        tt.Json({"a": [1, None]}),
        tt.Image.from_array(np.zeros((2, 2, 3), np.uint8)),
        tt.Audio.from_array(np.zeros(16, np.float32), 16000),
        Refused(True, "bad", "help", "E210", "here"),
    ],
)
def test_what_is_kept_comes_back_equal_and_of_the_same_class(value: Any) -> None:
    back = through(value)
    assert back == value
    assert back.__class__ is value.__class__
    assert repr(back) == repr(value)


def test_what_a_class_does_with_a_new_one_is_not_done_again() -> None:
    assert through(Halved(8.0)) == Halved(8.0)
    assert through(Scaled(0.5)) == Scaled(0.5)
    with pytest.raises(Damaged):
        through(Scaled(2.0))


@pytest.mark.parametrize("dtype", ["f4", "f8", "i8", "u1", "?", "f2", "U3"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3)])
def test_arrays_come_back_number_by_number_and_read_only(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.arange(math.prod(shape)).reshape(shape).astype(dtype)
    back = through({"a": array})["a"]
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert np.array_equal(back, array)
    assert not back.flags.writeable
    assert np.array_equal(through(tt.Tensor(array)).array, array)


def test_decoded_views_come_back() -> None:
    pixels = Pixels(np.ones((2, 2, 3), np.uint8), "p", 4, 4)
    frames = through(Frames([pixels], [0.5], "f", {"rate": 25}))
    assert (frames.times_s, frames.meta, frames.pixels[0].name) == ([0.5], {"rate": 25}, "p")
    assert np.array_equal(frames.pixels[0].array, pixels.array)
    assert through(Samples(np.ones(3, np.float32), 16000, "s")).rate == 16000


@pytest.mark.parametrize(
    "value",
    [
        Stranger(),
        [Stranger()],
        np.array([object()]),
        "\ud800",
        Stranger,
        Bits.ONE | Bits.TWO,
        msgspec.defstruct("Local", [("a", int)], module="__main__")(1),
    ],
)
def test_what_has_no_form_is_not_kept(value: Any) -> None:
    with pytest.raises(NotKept):
        encoded(b"k", Kept(value, 1, 1.0), UNDER)


def test_what_is_told_of_a_result_comes_back_too() -> None:
    kept = Kept("x", 7, 1.5, (("tokens", 3.0),), 0.2, 9.0, 60.0, "text", ("step:a",), (0.1,))
    data = encoded(b"k", kept, UNDER)
    assert decoded(b"k", data, UNDER) == kept
    assert header(data).labels == ("step:a",)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_damaged_entry_passes_for_whole(data: st.DataObject) -> None:
    whole = encoded(b"k", Kept(["some", {"result": 1.5}], 7, 1.5), UNDER)
    place = data.draw(st.integers(0, len(whole) - 1))
    changed = whole[:place] + bytes([whole[place] ^ data.draw(st.integers(1, 255))]) + whole[place + 1 :]
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    for wrong in (changed, cut, whole + b"x"):
        with pytest.raises(Damaged):
            decoded(b"k", wrong, UNDER)


def test_an_entry_under_another_key_or_secret_is_damaged() -> None:
    whole = encoded(b"k", Kept("x", 7, 1.5), UNDER)
    for key, under in ((b"other", UNDER), (b"k", b"another")):
        with pytest.raises(Damaged):
            decoded(key, whole, under)


def test_a_class_that_has_other_fields_now_or_is_not_loaded_is_damaged(monkeypatch: Any) -> None:
    data = encoded(b"k", Kept(Row("x", (1, 2)), 7, 1.5), UNDER)

    class Changed(msgspec.Struct):
        text: str

    monkeypatch.setattr(sys.modules[__name__], "Row", Changed)
    with pytest.raises(Damaged):
        decoded(b"k", data, UNDER)
    monkeypatch.delattr(sys.modules[__name__], "Row")
    with pytest.raises(Damaged):
        decoded(b"k", data, UNDER)


# -- the file ---------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "get", "remove"]), st.integers(0, 9), st.integers(0, 900)),
        max_size=60,
    )
)
def test_a_file_does_what_a_plain_dict_does_within_its_bound(
    tmp_path_factory: Any, acts: list[tuple[str, int, int]]
) -> None:
    bound = 4 * (RECORD_BYTES + 400)
    file = KeptFile(tmp_path_factory.mktemp("file"), bound)
    order: dict[bytes, bytes] = {}  # the oldest first
    read: set[bytes] = set()

    def cost() -> int:
        return sum(len(content) + RECORD_BYTES for content in order.values())

    try:
        for act, name, size in acts:
            key, content = b"%d" % name, bytes([name]) * size
            if act == "get":
                assert file.get(key) == order.get(key)
                read |= {key} & set(order)
            elif act == "remove":
                file.remove(key)
                order.pop(key, None)
            else:
                assert file.put(key, content)
                order.pop(key, None)
                while cost() + size + RECORD_BYTES > bound:
                    oldest = next(iter(order))
                    again = order.pop(oldest)
                    if oldest in read:
                        read.discard(oldest)
                        order[oldest] = again
                order[key] = content
            held = file.content()
            assert (held.records, held.size_bytes) == (len(order), cost())
            assert held.size_bytes <= bound
        assert dict(file.walk()) == order
    finally:
        file.close()


def test_a_record_larger_than_all_of_it_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    file = KeptFile(tmp_path, 1000)
    assert file.put(b"a", b"x")
    assert not file.put(b"b", bytes(1000))
    assert file.get(b"a") == b"x"
    file.close()


def test_a_file_is_opened_once_in_a_process_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    one, two = opened(tmp_path / "f", 1000), opened(tmp_path / "f", 9000)
    assert one is two
    assert one.bound_bytes == 9000
    released(one)
    assert two.put(b"a", b"x")
    released(two)
    for path in (tmp_path / "f", *(tmp_path / "f").iterdir()):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077
    again = opened(tmp_path / "f", 1000)
    assert again.get(b"a") == b"x"
    released(again)


_OTHER = """
import sys
from pathlib import Path
from tauten.run.caching.kept_file import KeptFile
file = KeptFile(Path(sys.argv[1]), 10_000_000)
for number in range(200):
    file.put(b"%s%d" % (sys.argv[2].encode(), number), bytes(1000))
file.close()
"""


def test_processes_write_into_one_file_at_the_same_time(tmp_path: Path) -> None:
    file = KeptFile(tmp_path, 10_000_000)
    others = [subprocess.Popen([sys.executable, "-c", _OTHER, str(tmp_path), name]) for name in "ab"]
    for number in range(200):
        file.put(b"c%d" % number, bytes(1000))
    assert [each.wait(60) for each in others] == [0, 0]
    assert file.content() == (600, 600 * (1000 + RECORD_BYTES))
    assert file.get(b"b199") == bytes(1000)
    file.close()


# -- the tier ---------------------------------------------------------------------------------------------


def test_the_tier_keeps_finds_forgets_and_clears(tmp_path: Path) -> None:
    async def main() -> None:
        disk = Disk(1_000_000, tmp_path)
        assert await disk.get(sought(1)) is None
        kept = Kept(["x"], 7, 1.5, labels=("tenant:a", "step:s"))
        assert await disk.put(sought(1), kept)
        assert await disk.put(sought(2), kept._replace(labels=("tenant:b", "step:s")))
        assert await disk.get(sought(1)) == kept
        assert disk.holdings().entries == 2
        assert await disk.forget("tenant:a") == 1
        assert await disk.get(sought(1)) is None
        assert not await disk.put(sought(3), Kept(Stranger(), 1, 1.0))
        assert disk.events["not_kept"] == 1
        await disk.clear()
        assert disk.holdings()[:2] == (0, 0)
        await disk.close()
        assert await disk.get(sought(1)) is None, "it opens again by itself"
        await disk.close()

    asyncio.run(main())


def test_a_damaged_entry_is_a_miss_and_goes(tmp_path: Path) -> None:
    async def main() -> None:
        disk = Disk(1_000_000, tmp_path)
        await disk.put(sought(1), Kept("x", 7, 1.5))
        file = opened(tmp_path, 1)
        data = file.get(sought(1).key)
        assert data is not None
        file.put(sought(1).key, data[:-1] + b"?")
        assert await disk.get(sought(1)) is None
        assert (disk.events["damaged"], file.get(sought(1).key)) == (1, None)
        released(file)
        await disk.close()

    asyncio.run(main())


def test_a_disk_that_cannot_be_used_is_a_miss_and_is_told_of_once(tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")

    async def main() -> None:
        disk = Disk(1_000_000, tmp_path / "taken")
        for _ in range(3):
            assert await disk.get(sought(1)) is None
            assert not await disk.put(sought(1), Kept("x", 7, 1.5))
        assert disk.events["failed"] == 6
        await disk.close()

    asyncio.run(main())
    assert len([each for each in caplog.records if "does not work" in each.message]) == 1


def test_a_file_that_is_none_is_a_miss(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(os.urandom(40_000))

    async def main() -> None:
        disk = Disk(1_000_000, tmp_path)
        assert await disk.get(sought(1)) is None
        assert disk.events["failed"] == 1
        await disk.close()

    asyncio.run(main())


def test_where_it_is_the_machine_says(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("TAUTEN_RESULTS", str(tmp_path / "r"))
    assert folder() == tmp_path / "r"
    monkeypatch.delenv("TAUTEN_RESULTS")
    monkeypatch.setenv("TAUTEN_STORE", str(tmp_path / "s"))
    assert folder() == tmp_path / "s" / "results"


CALLS: list[str] = []


@stage(pure=True)
async def shout(words: tt.Text, *, mark: str = "!") -> str:
    CALLS.append(words.text)
    return words.text.upper() + mark


@tt.workflow
def loud(words: tt.Text) -> str:
    return shout(words)


def test_what_was_kept_yesterday_is_there_today_where_code_and_settings_are_the_same(
    monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.setenv("TAUTEN_RESULTS", str(tmp_path))
    CALLS.clear()

    async def day(**settings: Any) -> str:
        assert loud.graph is not None
        rules = CachePlan(tiers=("memory", "disk"))
        plan = Plan(graph=loud.graph.hash, stages={"shout": StagePlan(cache=rules, settings=settings)})
        async with Engine() as engine:
            await engine.open(loud, plan)
            return str((await engine.run(loud.bind("a"))).value)

    assert [asyncio.run(day()) for _ in range(2)] == ["A!", "A!"]
    assert CALLS == ["a"]
    assert asyncio.run(day(mark="?")) == "A?"
    assert CALLS == ["a", "a"]
