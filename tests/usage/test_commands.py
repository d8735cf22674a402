"""`tauten usage`, its second words, `tauten store` and what `tauten run` books."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from cli.kit_cli import FLOW
from tauten.cli.main import run
from tauten.run.usage.sqlite import Sqlite
from usage.test_budgets import FIFTY
from usage.test_report import LINES


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with a book in it."""
    monkeypatch.setenv("TAUTEN_STORE", str(tmp_path / "store"))
    monkeypatch.delenv("TAUTEN_USAGE", raising=False)
    database = Sqlite(tmp_path / "store" / "usage" / "book.db")
    database.write([each.values() for each in LINES])
    database.close()
    return tmp_path / "store"


def test_a_table_by_model_with_a_total(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["usage"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        *("model", "requests", "calls", "cost", "input", "tokens", "output", "tokens"),
        *("audio", "seconds", "core", "seconds", "energy", "j"),
    ]
    assert lines[1].split()[:4] == ["small", "1", "2", "$0.00000015"]
    assert lines[5].startswith("total")
    assert "at least $0.00000017" in lines[5]
    assert lines[-1].startswith("1 without a known price")


def test_json_and_csv_say_the_same(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["usage", "--by", "day,model", "--since", "2026-03-02", "--only", "tenant=lab"]
    assert run([*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert run([*words, "--csv"]) == 0
    [row] = csv.DictReader(capsys.readouterr().out.splitlines())
    assert said["schema"] == "tauten.usage/1"
    assert (
        said["lines"][0]["by"]
        == {"day": row["day"], "model": row["model"]}
        == {"day": "2026-03-02", "model": "large"}
    )
    assert said["total"]["unpriced"] == int(row["unpriced"]) == 1
    assert row["input_tokens"] == "7"


def test_a_page_is_written(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["usage", "--html", str(tmp_path / "usage.html")]) == 0
    assert capsys.readouterr().out == ""
    assert "<h1>Usage</h1>" in (tmp_path / "usage.html").read_text()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--since", "yesterday"], "E260"),
        (["--by", "modle"], "E260"),
        (["--only", "desk"], "E260"),
        (["--only", "tenant=lab", "--only", "tenant=desk"], "E260"),
        (["--usage", "nowhere.db"], "E201"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    store: Path, words: list[str], code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["usage", *words]) == 2
    assert code in capsys.readouterr().err


def test_reconciling_says_yes_or_where_not(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "export.csv"
    file.write_text("model,input_tokens,output_tokens\nsmall,20,5\nlarge,7,0\n")
    assert run(["usage", "reconcile", str(file)]) == 0
    assert capsys.readouterr().out == "3 of 3 figures agree\n"
    file.write_text("model,input_tokens,output_tokens\nsmall,21,5\nlarge,7,0\n")
    assert run(["usage", "reconcile", str(file), "--provider", "house"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "small  input_tokens: provider 21, book 20, +1",
        "2 of 3 figures agree",
    ]
    assert run(["usage", "reconcile", str(file), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["agree"] is False


def test_budgets_are_shown_as_they_stand(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "budgets.toml").write_text(FIFTY)
    assert run(["usage", "budgets", str(tmp_path / "budgets.toml")]) == 0
    assert "$0.0075 left of $0.0075, $0 held, renews" in capsys.readouterr().out
    assert run(["usage", "budgets", str(tmp_path / "budgets.toml"), "--json"]) == 0
    [budget] = json.loads(capsys.readouterr().out)["budgets"]
    assert (budget["unit"], budget["most"], budget["spent"]) == ("nano_usd", 7_500_000, 0)


def test_a_run_is_booked_with_its_tag(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "flow.py").write_text(FLOW)
    assert run(["run", f"{tmp_path / 'flow.py'}:talk", "text=a", "--tag", "trial"]) == 0
    assert run(["run", f"{tmp_path / 'flow.py'}:talk", "text=a", "--tag", "trial", "--usage", "off"]) == 0
    capsys.readouterr()
    assert run(["usage", "--by", "workflow,tag", "--only", "tag=trial", "--json"]) == 0
    [line] = json.loads(capsys.readouterr().out)["lines"]
    assert line["by"] == {"workflow": "talk", "tag": "trial"}
    assert line["requests"] == 1


def test_a_tag_that_is_no_name_is_refused(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "flow.py").write_text(FLOW)
    assert run(["run", f"{tmp_path / 'flow.py'}:talk", "text=a", "--tag", "no good"]) == 2
    assert "E291" in capsys.readouterr().err


def test_a_store_is_backed_up_and_restored(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "b.tar"
    assert run(["store", "backup", str(file)]) == 0
    assert "the book of usage" in capsys.readouterr().out
    assert run(["store", "restore", str(file)]) == 2
    assert "--replace" in capsys.readouterr().err
    monkeypatch.setenv("TAUTEN_STORE", str(tmp_path / "other"))
    assert run(["store", "restore", str(file), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["schema"], said["books"]) == ("tauten.store.restore/1", ["usage/book.db"])
    assert run(["usage", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["total"]["requests"] == 4
