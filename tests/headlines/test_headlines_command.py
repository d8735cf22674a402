"""`tauten bench headlines`: what it prints, writes and refuses; and one row of it for real."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from headlines.kit_headlines import some
from tauten.cli import headlines as command
from tauten.cli.main import run
from tauten.improve.headlines.page import END, KEPT, PAGES, START
from tauten.improve.headlines.row import Row


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """Whatever is asked for was measured already; what was asked for."""
    asked: list[Sequence[str]] = []

    async def told(ids: Sequence[str], how: Any, stamp: Any) -> AsyncIterator[Row]:
        asked.append(ids)
        for row in some().rows:
            if row.id in ids:
                yield row

    monkeypatch.setattr(command, "measured", told)
    monkeypatch.setattr(command, "inputs", lambda: None)
    return asked


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--rows", "L99"], "no row 'L99'"),
        (["--write", "--quick"], "one round is no evidence"),
        (["--write"], "the headlines cannot be kept in README.md"),
        (["--json", "nowhere/x.json"], "there is no folder"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_measured(
    words: list[str],
    says: str,
    measured: list[Sequence[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["bench", "headlines", *words]) == 2
    assert says in capsys.readouterr().err
    assert not measured


def test_it_prints_and_writes_json_and_pages(
    measured: list[Sequence[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    for page in PAGES:
        (tmp_path / page).write_text(f"{START}\n{END}\n")
    assert run(["bench", "headlines", "--rows", "l8", "--json", "found.json", "--write"]) == 0
    assert measured == [["L8"]]
    assert "### L8: prefix cache" in capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["schema"], [row["id"] for row in found["rows"]]) == ("tauten.headlines/1", ["L8"])
    assert json.loads((tmp_path / KEPT).read_text()) == found
    assert "0.25 (0.2-0.3)" in (tmp_path / "README.md").read_text()
    assert run(["bench", "headlines", "--rows", "l17"]) == command.NOT_MEASURED


def test_help_is_its_own_and_a_target_is_still_a_target(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "headlines", "--help"]) == 0
    assert "zero-effort" in capsys.readouterr().out
    assert run(["bench", "headlines.py", "--rate", "1"]) == 2
    assert "headlines.py" in capsys.readouterr().err


def test_the_inputs_are_the_help_desks() -> None:
    found = command.inputs()
    assert len(found.images) == 4 * command.PLACES**2
    assert len({image.hash for image in found.images}) == len(found.images)
    assert len(found.texts) == len(set(found.texts)) > 100
    assert len(found.manual) > 4000


def test_the_stamp_names_machine_day_and_commit() -> None:
    found = command.stamp(lambda: "abc1234-dirty")
    assert (found.commit, len(found.measured_at)) == ("abc1234-dirty", 10)
    assert "core" in found.machine


@pytest.mark.models
def test_a_row_is_measured(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    assert run(["bench", "headlines", "--rows", "L7", "--quick", "--json", str(out)]) == 0
    [row] = json.loads(out.read_text())["rows"]
    assert row["id"] == "L7"
    assert row["quick"]
    assert {line["case"] for line in row["lines"]} == {"5 tokens", "15 tokens"}
    tokens = [line["cells"] for line in row["lines"] if line["what"] == "tokens"]
    assert all(cells["read again"]["mid"] == cells["KV cache"]["mid"] > 0 for cells in tokens)
    assert "smollm2-135m-instruct" in row["conditions"]["model"]
