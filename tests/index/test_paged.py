"""Files of pages beside text: which of a folder are read, what they are called, and what says nothing."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path

import pytest

from index.kit_index import SETTINGS, BagOfWords
from media import pdf
from media.make import drawing, encode
from tauten.cli.main import run
from tauten.describe.stages.ingest import read_documents
from tauten.errors import InputError, MediaError
from tauten.run.retrieval.building import build
from tauten.run.retrieval.index import Index
from tauten.run.retrieval.paged import parted, read_paged

WORDS = "The pump draws water from the lower tank."


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAUTEN_STORE", str(tmp_path / "store"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "docs"
    (made / "deep").mkdir(parents=True)
    (made / "deep" / "pump.PDF").write_bytes(pdf.pdf(pdf.shown(WORDS)))
    (made / "notes.md").write_text("# Notes\n\nThe seal is changed every year by the service.\n")
    (made / "plan.png").write_bytes(encode(drawing(), "PNG"))
    return made


def test_of_a_folder_its_pdfs_and_pictures_where_they_are_named(folder: Path) -> None:
    paged, rest = parted([folder, folder / "plan.png", folder / "notes.md"])
    assert paged == [(folder / "deep" / "pump.PDF", "deep/pump.PDF"), (folder / "plan.png", "plan.png")]
    assert rest == [folder, folder / "notes.md"]


def test_text_and_pages_are_one_index(folder: Path) -> None:
    paged, rest = parted([folder])
    sections = read_paged(paged, url="https://docs.example.org/")
    build("mixed", read_documents(rest), BagOfWords(), settings=SETTINGS, sections=sections)
    index = Index.open("mixed")
    assert set(index.sources) == {"deep/pump.PDF", "notes.md"}
    [chunk] = [each for each in index if each.source == "deep/pump.PDF"]
    assert (chunk.text, chunk.url) == (WORDS, "https://docs.example.org/deep/pump.PDF#page=1")


def test_a_folder_of_pdfs_alone_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf.pdf(pdf.shown(WORDS)))
    paged, rest = parted([tmp_path])
    assert read_documents(rest, may_be_none=bool(paged)) == []
    with pytest.raises(InputError, match="no documents were found"):
        read_documents(rest)


def test_what_says_nothing_or_is_damaged_is_named(tmp_path: Path) -> None:
    (tmp_path / "blank.pdf").write_bytes(pdf.pdf(""))
    with pytest.raises(InputError, match=r"blank\.pdf says nothing"):
        list(read_paged(parted([tmp_path / "blank.pdf"])[0]))
    (tmp_path / "odd.pdf").write_bytes(b"hello there, this is no PDF")
    with pytest.raises(MediaError, match=r"'odd\.pdf' is not an image"):
        list(read_paged(parted([tmp_path / "odd.pdf"])[0]))
    (tmp_path / "cut.pdf").write_bytes(pdf.pdf(pdf.shown(WORDS))[:40])
    with pytest.raises(MediaError, match=r"E216 cut\.pdf: PDF is damaged"):
        list(read_paged(parted([tmp_path / "cut.pdf"])[0]))


@pytest.mark.models
def test_the_command_reads_them_all(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()  # the models are in the store of this machine
    index = tmp_path / "built"
    assert run(["index", "build", f"{index}/", str(folder)]) == 0
    assert "of 2 documents" in capsys.readouterr().out
    assert run(["index", "query", f"{index}/", "where does the pump draw water from?"]) == 0
    assert "deep/pump.PDF" in capsys.readouterr().out
