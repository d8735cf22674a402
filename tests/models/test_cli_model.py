"""`tauten model`: results on stdout, progress on stderr, JSON with a schema."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tauten.cli import model as command
from tauten.errors import InputError, NotFound, StoreError
from tauten.models import Store
from tauten.models.catalog import Catalog


@pytest.fixture(autouse=True)
def store(tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> Store:
    store = Store(tmp_path / "s", catalog=catalog)
    monkeypatch.setattr(command, "_store", lambda: store)
    return store


def run(*words: str) -> Any:
    return CliRunner().invoke(command.app, list(words), catch_exceptions=True)


def ok(*words: str) -> str:
    result = run(*words)
    assert result.exit_code == 0, result.output
    return str(result.stdout)


def test_pull_list_show_verify_rm(store: Store) -> None:
    assert "tiny:cut" in ok("pull", "tiny:cut")
    lines = ok("list").splitlines()
    assert [line.split()[-1] for line in lines[1:3]] == ["no", "yes"]
    assert "made by join@1 of a.bin, b.bin" in ok("show", "tiny")
    assert ok("verify").count("ok ") == 2
    assert ok("rm", "tiny") == "freed 12.0 kB\n"


def test_progress_is_one_line_a_step_on_stderr() -> None:
    result = run("pull", "tiny")
    assert result.stderr.splitlines() == [
        "fetch tiny: a.bin (6.0 kB)",
        "fetch tiny: b.bin (6.0 kB)",
        "convert tiny: joined.bin (join@1)",
    ]


@pytest.mark.parametrize("words", [("list",), ("pull",), ("show", "tiny"), ("verify",), ("rm", "tiny")])
def test_json_names_its_schema(words: tuple[str, ...]) -> None:
    assert json.loads(ok(*words, "--json"))["schema"] == f"tauten.model.{words[0]}/1"


def test_json_pull_tells_files() -> None:
    told = json.loads(ok("pull", "tiny:cut", "--json"))["models"][0]
    assert Path(told["folder"], "a.bin").stat().st_size == 6000
    assert set(told["files"]) == {"a.bin", "b.bin"}


def test_bundles(tmp_path: Path, store: Store) -> None:
    assert "bundle" in ok("pull", "tiny", "--bundle", str(tmp_path / "b.tar"))
    ok("rm", "tiny")
    (tmp_path / "origin/a.bin").unlink()
    assert "tiny:whole" in ok("pull", "--from-bundle", str(tmp_path / "b.tar"))
    assert run("pull", "--from-bundle", "x", "--bundle", "y").exit_code == 2


def test_a_bundle_that_cannot_be_written_is_told_before_anything_is_fetched(
    tmp_path: Path, store: Store
) -> None:
    for place in (tmp_path / "no folder" / "b.tar", tmp_path):
        result = run("pull", "tiny", "--bundle", str(place))
        assert isinstance(result.exception, InputError)
        assert result.exception.code == "E261"
    assert store.installed("tiny") is None


def test_errors_reach_the_main_program(store: Store) -> None:
    assert isinstance(run("pull", "tinny").exception, NotFound)
    store.files("tiny:cut")["a.bin"].unlink()
    result = run("verify")
    assert "MISSING  tiny:cut a.bin" in result.stdout
    assert isinstance(result.exception, StoreError)
    assert result.exception.help == "tauten model pull tiny:cut"
