"""Indexes of served workflows: commits of others are taken over, damage is told once and changes nothing."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tauten as tt
from index.kit_index import DOCUMENTS, SETTINGS, BagOfWords
from tauten.clock import run_virtual
from tauten.describe.passages import Block, Chunk
from tauten.errors import MachineError
from tauten.run.retrieval.building import build
from tauten.run.retrieval.index import Index
from tauten.serve.grown import FOLLOW_S, follow, indexes_of
from tauten.serve.service import Service


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAUTEN_STORE", str(tmp_path / "store"))
    build("manuals", DOCUMENTS, BagOfWords(), settings=SETTINGS)


@tt.stage(pure=True)
async def counted(text: str, index: Any) -> int:
    return len(index)


@tt.stage(pure=True)
async def counted_all(text: str, held: list[Any]) -> int:
    return sum(len(each) for each in held)


def served(index: Any) -> Service:
    @tt.workflow
    def count(text: str) -> int:
        return counted(text, index)

    return Service(count)


def commit(number: int = 1) -> None:
    """As another process would."""
    chunk = Chunk(f"new-{number}.txt", ("New",), (Block("It has come in from another process."),))
    Index.open("manuals").add([chunk], np.array([BagOfWords().one(chunk.embedded)], np.float32))


def test_a_commit_of_another_process_is_seen_after_a_second() -> None:
    index, said = Index.open("manuals"), []
    before = len(index)

    async def body() -> list[int]:
        task = asyncio.create_task(
            follow([served(index)], lambda event, **facts: said.append((event, facts)))
        )
        await asyncio.sleep(0)
        commit()
        seen = [len(index)]
        await asyncio.sleep(FOLLOW_S * 1.5)
        seen.append(len(index))
        task.cancel()
        return seen

    assert run_virtual(body()) == [before, before + 1]
    assert said == [("index", {"name": "manuals", "chunks": before + 1})]


@pytest.mark.parametrize(
    "error",
    [
        MachineError("index 'manuals' is damaged: words is missing", help="restore it", code="E321"),
        OSError(24, "Too many open files"),
    ],
)
def test_an_index_that_cannot_be_read_is_told_once_and_stays_as_it_was(error: Exception) -> None:
    index, said = Index.open("manuals"), []

    def broken() -> bool:
        raise error

    async def body() -> None:
        task = asyncio.create_task(follow([served(index)], lambda event, **facts: said.append(event)))
        vars(index)["refresh"] = broken
        await asyncio.sleep(FOLLOW_S * 3.5)
        assert said == ["index refused"]
        del vars(index)["refresh"]
        await asyncio.sleep(FOLLOW_S)
        vars(index)["refresh"] = broken
        await asyncio.sleep(FOLLOW_S)
        task.cancel()

    before = len(index)
    run_virtual(body())
    assert said == ["index refused", "index refused"]  # once for each time that it broke
    assert len(index) == before


def test_each_index_is_followed_once_wherever_it_is_named() -> None:
    one, other = Index.open("manuals"), Index.open("manuals")

    @tt.workflow
    def both(text: str) -> int:
        return counted_all(text, [one, other])

    assert list(indexes_of([served(one), served(one), Service(both)])) == [one, other]


def test_without_indexes_there_is_nothing_to_follow() -> None:
    @tt.workflow
    async def observed(text: str) -> int:
        return 1

    @tt.workflow
    def plain(text: str) -> int:
        return counted(text, "manuals")

    services = [Service(observed), Service(plain)]
    assert list(indexes_of(services)) == []
    run_virtual(follow(services, lambda event, **facts: None))  # it ends at once
