"""Indexes of examples: several processes that want one at the same time all get it whole, and one of them makes it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from index.kit_index import DOCUMENTS, SETTINGS, BagOfWords
from tauten.errors import MachineError
from tauten.examples import indexed
from tauten.run.retrieval import generations
from tauten.run.retrieval.building import build
from tauten.run.retrieval.index import Index
from tauten.run.retrieval.indexes import locate


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAUTEN_STORE", str(tmp_path / "store"))


def fill(index: Index) -> None:
    build(index, DOCUMENTS, BagOfWords())


def whole(index: Index) -> bool:
    return len(index) == 7


def test_it_is_made_once() -> None:
    made: list[Index] = []

    def noted(index: Index) -> None:
        made.append(index)
        fill(index)

    assert len(indexed.ensured("shop", SETTINGS, whole, noted)) == 7
    assert len(indexed.ensured("shop", SETTINGS, whole, noted)) == 7
    assert len(made) == 1


def test_a_damaged_one_is_made_again() -> None:
    indexed.ensured("shop", SETTINGS, whole, fill)
    folder = locate("shop")
    (folder / generations.current(folder) / "catalogue.msgpack").write_bytes(b"?")
    assert len(indexed.ensured("shop", SETTINGS, whole, fill)) == 7


def test_who_comes_second_waits_for_the_first() -> None:
    root = Index.create("shop", SETTINGS).root
    begun, go = threading.Event(), threading.Event()

    def hold() -> None:
        with generations.writing_alone(root):
            begun.set()
            go.wait(30)

    other = threading.Thread(target=hold)
    other.start()
    begun.wait(30)
    threading.Timer(0.2, go.set).start()
    assert len(indexed.ensured("shop", SETTINGS, whole, fill)) == 7
    other.join()


def test_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexed, "PATIENCE_S", 0.0)
    root = Index.create("shop", SETTINGS).root
    with generations.writing_alone(root), pytest.raises(MachineError, match="by somebody else") as caught:
        indexed.ensured("shop", SETTINGS, whole, fill)
    assert caught.value.code == "E322"


def test_processes_that_start_together_all_have_it() -> None:
    """Four at once on a store that is empty, as test runners and servers are started."""
    code = "from tauten.examples.assistant.pages import ensure_pages, NAME; ensure_pages(); "
    code += "from tauten.run.retrieval.index import Index; print(len(Index.open(NAME)))"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    ended = [each.communicate(timeout=300) for each in started]
    assert [each.returncode for each in started] == [0] * 4, [err for _, err in ended]
    assert len({out for out, _ in ended}) == 1
