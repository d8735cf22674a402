"""An index that grows while it is searched: one generation a search, never back to an older one, writers in turn."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tauten as tt
from index.kit_index import DIM, DOCUMENTS, SETTINGS, BagOfWords
from tauten.describe.passages import Block, Chunk
from tauten.describe.stages.store import TRIES, add
from tauten.errors import MachineError
from tauten.run.engine import Engine
from tauten.run.retrieval import generations
from tauten.run.retrieval import index as indexes
from tauten.run.retrieval.building import build
from tauten.run.retrieval.index import Index
from tauten.run.retrieval.lexical import Lexical

EMBED = BagOfWords()


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAUTEN_STORE", str(tmp_path / "store"))


def made() -> Index:
    build("manuals", DOCUMENTS, BagOfWords(), settings=SETTINGS)
    return Index.open("manuals")


def chunk(number: int, words: str = "grows while it is searched") -> Chunk:
    return Chunk(f"new-{number}.txt", (f"Number {number}",), (Block(f"Document {number} {words}."),))


def commit(index: Index, *chunks: Chunk) -> None:
    vectors = np.array([EMBED.one(each.embedded) for each in chunks], np.float32)
    index.replace(chunks, vectors, sorted({each.source for each in chunks}))


def ask(index: Index, text: str) -> Any:
    return index.search(text, EMBED.one(text), 3)


def test_other_sources_stay_as_they_are() -> None:
    index = made()
    before = index.sources
    commit(index, chunk(1))
    assert index.sources == {**before, "new-1.txt": 1}
    commit(index, chunk(1, "was written anew"))
    assert index.sources == {**before, "new-1.txt": 1}
    assert "anew" in ask(index, "document 1 written anew").passages[0].chunk.text


def test_what_is_committed_during_a_search_is_not_mixed_into_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The chunks that the search found are gone from the next generation: their keys mean nothing there."""
    index = made()
    expected = ask(index, "mapping key not found")
    search = Lexical.search

    def meanwhile(self: Lexical, *args: Any) -> Any:
        found = search(self, *args)
        monkeypatch.setattr(Lexical, "search", search)
        index.replace([chunk(1)], np.array([EMBED.one("x")], np.float32))  # and all else is removed
        return found

    monkeypatch.setattr(Lexical, "search", meanwhile)
    assert ask(index, "mapping key not found") == expected
    assert index.sources == {"new-1.txt": 1}


def test_who_loaded_an_older_generation_does_not_put_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that began before a commit ends after it."""
    index, other = made(), Index.open("manuals")
    commit(other, chunk(1))
    load, inside, go = indexes.load_snapshot, threading.Event(), threading.Event()

    def slow(root: Path) -> Any:
        snapshot = load(root)
        if threading.current_thread() is looking:
            inside.set()
            go.wait(10)
        return snapshot

    monkeypatch.setattr(indexes, "load_snapshot", slow)
    looking = threading.Thread(target=index.refresh)
    looking.start()
    assert inside.wait(10)
    commit(other, chunk(2))
    moving = threading.Thread(target=index.refresh)
    moving.start()
    go.set()
    looking.join(10)
    moving.join(10)
    assert index.revision.endswith(generations.current(index.root))
    assert {"new-1.txt", "new-2.txt"} <= set(index.sources)


def test_searches_go_on_while_documents_come_in() -> None:
    index, failures, over = made(), [], threading.Event()
    searched = [0, 0]

    def search(place: int) -> None:
        try:
            while not over.is_set():
                found = ask(index, "mapping key not found")
                assert found.passages[0].chunk.title == "KeyError"
                searched[place] += 1
        except Exception as error:  # noqa: BLE001  # whatever it is, it is a failure
            failures.append(error)

    threads = [threading.Thread(target=search, args=(place,)) for place in (0, 1)]
    for thread in threads:
        thread.start()
    for number in range(12):
        commit(index, chunk(number))
        assert ask(index, f"document number {number}").passages[0].chunk.source == f"new-{number}.txt"
    over.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert min(searched) > 0


def test_a_search_of_another_generation_has_another_name() -> None:
    index = made()
    before = index.revision
    commit(index, chunk(1))
    assert index.revision != before


# -- the stage -------------------------------------------------------------------------------------------------


@tt.stage(pure=True)
def vectors(chunks: list[Chunk]) -> list[tt.Tensor]:
    return [tt.Tensor(EMBED.one(each.embedded)) for each in chunks]


@tt.stage(pure=True)
def one(number: int) -> list[Chunk]:
    return [chunk(number)]


@tt.workflow
def come_in(number: int, index: Any) -> Any:
    pieces = one(number)
    return add(pieces, vectors(pieces), index)


def run(*numbers: int, index: Any) -> list[Any]:
    async def body() -> list[Any]:
        async with Engine() as engine:
            await engine.open(come_in)
            work = (engine.run(come_in.bind(number, index)) for number in numbers)
            return [each.value for each in await asyncio.gather(*work)]

    return asyncio.run(body())


def test_documents_that_come_at_once_are_committed_one_after_another() -> None:
    index = made()
    reports = run(*range(6), index=index)
    assert [report.added for report in reports] == [1] * 6
    assert {f"new-{n}.txt" for n in range(6)} <= set(index.sources)
    assert sorted(report.chunks for report in reports) == list(range(8, 14))


def test_a_writer_that_never_ends_is_an_error_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tauten.describe.stages.store.PAUSE_S", 0.0)
    index = made()
    tries: list[int] = []
    replace = Index.replace

    def counted(self: Index, *args: Any) -> Any:
        tries.append(1)
        return replace(self, *args)

    monkeypatch.setattr(Index, "replace", counted)
    monkeypatch.setattr("tauten.describe.stages.store.TRIES", 5)
    with generations.writing_alone(index.root), pytest.raises(MachineError, match="somebody else"):
        run(1, index=index)
    assert len(tries) == 6
    assert TRIES > 100


def test_vectors_of_another_model_are_refused_and_nothing_changes() -> None:
    index = made()
    before = index.revision
    with pytest.raises(tt.TautenError, match="holds vectors of bag"):
        index.replace([chunk(1)], np.ones((1, DIM + 1), np.float32), ["new-1.txt"])
    assert index.revision == before
