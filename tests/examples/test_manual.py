"""The manual of the examples: an index of its name that another hand made is brought up to date."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path

import pytest

from tauten.describe.stages.ingest import read_documents
from tauten.examples.help_desk.manual import HERE, NAME, URL, ensure_manual, is_ours
from tauten.run.retrieval.building import KnownVectors, build
from tauten.run.retrieval.index import Index


def nothing_new(texts: list[str]) -> object:
    raise AssertionError(f"{len(texts)} chunks were embedded again")


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAUTEN_STORE", str(tmp_path / "store"))


def test_an_index_without_links_gets_them() -> None:
    build(NAME, read_documents([HERE / "docs"]), nothing_new, known=KnownVectors(HERE / "vectors"))  # type: ignore[arg-type]
    assert not is_ours(Index.open(NAME))
    ensure_manual()
    index = Index.open(NAME)
    assert is_ours(index)
    assert all(chunk.url.startswith(URL) for chunk in index)


def test_an_empty_index_is_filled() -> None:
    assert not is_ours(Index.create(NAME))
    ensure_manual()
    assert is_ours(Index.open(NAME))
