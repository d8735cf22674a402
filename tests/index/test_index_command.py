"""`tauten index`: what a user types, sees, and gets as exit code."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from index.kit_index import DIM, RST, BagOfWords
from tauten.cli.main import run


@pytest.fixture(autouse=True)
def manuals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TAUTEN_STORE", str(tmp_path / "store"))
    monkeypatch.setattr("tauten.run.retrieval.embedder.embedder", lambda *_, **__: BagOfWords())
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "problems.rst").write_text(RST)
    (folder / "notes.md").write_text("# Notes\n\nThe submarine has a periscope and a crew.\n")
    (tmp_path / "settings.toml").write_text(f'model = "bag"\nvariant = ""\ndim = {DIM}\n')
    return folder


def build(folder: Path, *more: str) -> int:
    return run(
        ["index", "build", "manuals", str(folder), "--settings", str(folder.parent / "settings.toml"), *more]
    )


def json(capsys: pytest.CaptureFixture[str]) -> Any:
    return msgspec.json.decode(capsys.readouterr().out)


def test_build_query_list_rm(manuals: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build(manuals) == 0
    assert "6 chunks of 2 documents (6 new, 0 kept, 0 removed)" in capsys.readouterr().out
    assert run(["index", "query", "manuals", "periscope of the submarine", "-k", "1"]) == 0
    shown = capsys.readouterr().out
    assert "Notes" in shown
    assert "periscope and a crew" in shown
    assert run(["index", "list"]) == 0
    assert "manuals" in capsys.readouterr().out
    assert run(["index", "rm", "manuals"]) == 0
    assert run(["index", "query", "manuals", "x"]) == 2
    assert "tauten index build manuals" in capsys.readouterr().err


def test_every_command_speaks_json(manuals: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build(manuals, "--json") == 0
    built = json(capsys)
    assert (built["schema"], built["report"]["added"]) == ("tauten.index.build/1", 6)
    run(["index", "query", "manuals", "boiling eggs", "--json"])
    found = json(capsys)
    assert (found["schema"], found["found"]["refused"]) == ("tauten.index.query/1", True)
    run(["index", "list", "--json"])
    assert json(capsys)["indexes"][0]["chunks"] == 6
    run(["index", "rm", "manuals", "--json"])
    assert json(capsys) == {"schema": "tauten.index.rm/1", "removed": "manuals"}


def test_a_refusal_is_said(manuals: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(manuals)
    run(["index", "query", "manuals", "How do I merge in pandas?"])
    assert "not found: the question is about pandas" in capsys.readouterr().out


def test_building_again_embeds_what_changed(manuals: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(manuals)
    (manuals / "notes.md").unlink()
    assert build(manuals, "--keep") == 0
    assert build(manuals) == 0
    assert "(0 new, 5 kept, 1 removed)" in capsys.readouterr().out


def test_mistakes_are_explained(manuals: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["index", "build", "manuals", str(manuals / "gone")]) == 2
    assert "E203" in capsys.readouterr().err
    (manuals.parent / "settings.toml").write_text("k9 = 1\n")
    assert build(manuals) == 2
    assert "k9" in capsys.readouterr().err
    (manuals.parent / "settings.toml").write_bytes(b'model = "\xff"')
    assert build(manuals) == 2
    assert "E227" in capsys.readouterr().err


def test_an_index_keeps_the_settings_that_it_was_built_with(
    manuals: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert build(manuals) == 0
    embedded: list[tuple[Any, ...]] = []

    def embedder(*given: Any, **_: Any) -> BagOfWords:
        embedded.append(given)
        return BagOfWords()

    monkeypatch.setattr("tauten.run.retrieval.embedder.embedder", embedder)
    assert run(["index", "build", "manuals", str(manuals)]) == 0
    assert embedded[0][:2] == ("bag", "")  # not the default model, whose vectors would stand beside them
    settings = manuals.parent / "settings.toml"
    settings.write_text(settings.read_text() + "refuse_below = 0.1\n")
    capsys.readouterr()
    assert build(manuals) == 2
    told = capsys.readouterr().err
    assert "E223" in told
    assert "(refuse_below)" in told
    assert "tauten index rm manuals" in told


@pytest.mark.parametrize("wrong", ["dim = 0", "candidates = 0", "k0 = -1.0"])
def test_settings_that_cannot_be_are_refused(
    manuals: Path, capsys: pytest.CaptureFixture[str], wrong: str
) -> None:
    (manuals.parent / "settings.toml").write_text(f'model = "bag"\n{wrong}\n')
    assert build(manuals) == 2
    assert "E227" in capsys.readouterr().err
