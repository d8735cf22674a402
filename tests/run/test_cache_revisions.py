"""Files by their content: equal on all machines, hashed once on each, and never taken for what they are not."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import tauten as tt
from run.kit_redis import BINARY, MISSING, RedisServer
from tauten.describe.stage import Context, Role, stage
from tauten.models.blobs import sha256_of
from tauten.models.installed import SCHEMA, Entry, Installed, write_record
from tauten.plan.plan import CachePlan, Plan, StagePlan
from tauten.run.caches.redis import Redis
from tauten.run.caching import revisions
from tauten.run.caching.revisions import MOST, YOUNG_S, Revisions
from tauten.run.caching.spaces import space_of
from tauten.run.engine import Engine

OLD_S = 1_700_000_000
LONG_S = 5.0  # of a look


class Hashing:
    """Hashes, and counts what it was given to read."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def __call__(self, path: Path) -> str:
        self.read.append(path.name)
        return sha256_of(path)


def late() -> float:
    """A clock by which every file is old."""
    return 4e9


@pytest.fixture
def hashing() -> Hashing:
    return Hashing()


def made(folder: Path, name: str = "w.bin", data: bytes = b"weights", at_s: int = OLD_S) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(data)
    os.utime(path, (at_s, at_s))
    return path


def test_equal_files_are_named_alike_whenever_they_were_copied(tmp_path: Path) -> None:
    one, two = made(tmp_path / "a"), made(tmp_path / "b", at_s=OLD_S + 99)
    mine, theirs = Revisions(tmp_path / "store1"), Revisions(tmp_path / "store2")
    assert mine.of(one) == theirs.of(two) == sha256_of(one)


def test_a_file_of_the_same_size_and_time_that_holds_something_else_has_another_name(
    tmp_path: Path, hashing: Hashing
) -> None:
    path = made(tmp_path)
    mine = Revisions(tmp_path / "store", hash=hashing, wall=late)
    before = mine.of(path)
    other = made(tmp_path / "aside", data=b"weight2")
    other.replace(path)
    assert path.stat().st_mtime == OLD_S
    assert mine.of(path) != before
    assert len(hashing.read) == 2


def test_a_file_is_read_once_by_all_processes_of_a_machine(tmp_path: Path, hashing: Hashing) -> None:
    path = made(tmp_path)
    first = Revisions(tmp_path / "store", hash=hashing, wall=late)
    found = [first.of(path) for _ in range(3)]
    second = Revisions(tmp_path / "store", hash=hashing, wall=late)
    assert {*found, second.of(path)} == {sha256_of(path)}
    assert hashing.read == ["w.bin"]


def test_what_changed_a_moment_ago_is_read_again(tmp_path: Path, hashing: Hashing) -> None:
    path = made(tmp_path)
    now = max(path.stat().st_ctime, OLD_S) + YOUNG_S / 2
    mine = Revisions(tmp_path / "store", hash=hashing, wall=lambda: now)
    assert mine.of(path) == mine.of(path)
    assert len(hashing.read) == 2
    assert not (tmp_path / "store" / "revisions.json").exists()


def test_a_file_that_changes_while_it_is_read_is_not_remembered(tmp_path: Path) -> None:
    path = made(tmp_path)

    def slow(of: Path) -> str:
        found = sha256_of(of)
        of.write_bytes(b"weight3")
        return found

    mine = Revisions(tmp_path / "store", hash=slow, wall=late)
    mine.of(path)
    assert Revisions(tmp_path / "store").of(path) == sha256_of(path)


def test_a_file_of_the_store_has_the_hash_of_its_record(tmp_path: Path, hashing: Hashing) -> None:
    store = tmp_path / "store"
    path = made(store / "models" / "minilm" / "int8")
    facts = path.stat()
    entry = Entry(sha256_of(path), facts.st_size, facts.st_mtime_ns, "")
    record = store / "installed" / "minilm" / "int8.json"
    write_record(record, Installed(SCHEMA, "minilm", "int8", "", "", {path.name: entry}))
    mine = Revisions(store, hash=hashing, wall=late)
    assert mine.of(path) == entry.sha256
    assert hashing.read == []
    made(path.parent, data=b"changed", at_s=OLD_S + 1)
    assert mine.of(path) == sha256_of(path) != entry.sha256
    assert hashing.read == ["w.bin"]


def test_a_folder_is_its_files_and_their_names(tmp_path: Path) -> None:
    for name in ("a", "b"):
        made(tmp_path / name / "in", "x.bin")
        made(tmp_path / name, "y.bin", b"more")
    mine = Revisions(tmp_path / "store")
    same = mine.of(tmp_path / "a")
    assert same == mine.of(tmp_path / "b")
    (tmp_path / "b" / "y.bin").rename(tmp_path / "b" / "z.bin")
    assert mine.of(tmp_path / "b") != same


@pytest.mark.parametrize("content", [b"nonsense", b'{"/x": [1]}', b""])
def test_a_damaged_memory_is_begun_anew(tmp_path: Path, hashing: Hashing, content: bytes) -> None:
    path = made(tmp_path)
    place = made(tmp_path / "store", "revisions.json", content)
    assert Revisions(tmp_path / "store", hash=hashing, wall=late).of(path) == sha256_of(path)
    assert Revisions(tmp_path / "store", hash=hashing, wall=late).of(path) == sha256_of(path)
    assert hashing.read == ["w.bin"]
    assert place.read_bytes() != content


def test_a_store_that_cannot_be_written_costs_a_hash_a_process(tmp_path: Path, hashing: Hashing) -> None:
    path = made(tmp_path)
    made(tmp_path, "store")  # a file where the folder should be
    mine = Revisions(tmp_path / "store", hash=hashing, wall=late)
    assert mine.of(path) == mine.of(path) == sha256_of(path)
    assert hashing.read == ["w.bin"]


def test_only_so_many_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revisions, "MOST", 3)
    mine = Revisions(tmp_path / "store", wall=late)
    paths = [made(tmp_path, f"{number}.bin", b"%d" % number) for number in range(5)]
    for path in paths:
        mine.of(path)
    assert len(Revisions(tmp_path / "store")._found()) == 3 < MOST


# -- in the names of results -----------------------------------------------------------------------------------


@stage(pure=True)
async def plain(words: tt.Text) -> str:
    return words.text


def test_the_name_of_a_step_holds_what_its_files_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def named(machine: str, data: bytes, at_s: int) -> bytes:
        monkeypatch.setenv("TAUTEN_STORE", str(tmp_path / machine))
        path = made(tmp_path / machine / "files", data=data, at_s=at_s)
        return space_of("plain", plain, {}, {}, {"model": {"w.bin": path}})

    same = named("one", b"weights", OLD_S)
    assert named("two", b"weights", OLD_S + 5) == same
    assert named("three", b"weight2", OLD_S) != same


CALLS: list[str] = []
ROLES = {"model": Role("told", ())}  # files, and nothing that runs them


@stage(pure=True, roles=ROLES)
async def read(ctx: Context, words: tt.Text) -> str:
    CALLS.append(words.text)
    return words.text.upper()


@tt.workflow
def reading(words: tt.Text) -> str:
    return read(words)  # type: ignore[call-arg]


class Files:
    """A store whose one model has one file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def files(self, model: str, variant: str | None = None) -> dict[str, Path]:
        return {"w.bin": self.path}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    running = RedisServer(tmp_path)
    running.start()
    yield running
    running.kill()


@pytest.mark.skipif(BINARY is None, reason=MISSING)
def test_two_machines_share_what_a_model_gave_although_their_files_have_other_times(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    CALLS.clear()
    monkeypatch.setenv("TAUTEN_REDIS", server.address)

    async def machine(name: str, data: bytes, at_s: int) -> Any:
        monkeypatch.setenv("TAUTEN_STORE", str(tmp_path / name))
        path = made(tmp_path / name / "files", data=data, at_s=at_s)
        rules = CachePlan(tiers=("memory", "redis"))
        assert reading.graph is not None
        plan = Plan(graph=reading.graph.hash, stages={"read": StagePlan(cache=rules)})
        async with Engine(Files(path)) as engine:
            patient = partial(Redis, budget_s=LONG_S)  # a busy machine is no miss
            engine.deployments.caches.offer("redis", patient)
            await engine.open(reading, plan)
            given = (await engine.run(reading.bind("a"))).value
            await engine.deployments.caches.behind.settled()
            return given

    assert asyncio.run(machine("one", b"weights", OLD_S)) == "A"
    assert asyncio.run(machine("two", b"weights", OLD_S + 1000)) == "A"
    assert CALLS == ["a"], "the second machine was given what the first had computed"
    assert asyncio.run(machine("three", b"weight2", OLD_S)) == "A"
    assert CALLS == ["a", "a"], "other weights are another model"
    shutil.rmtree(tmp_path / "one")
