"""`tauten plan`: show, diff, lint, rebase."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.kit_cli import plan, written
from tauten.cli.main import run
from tauten.plan.plan import load_plan

ASYNC = "import tauten as tt\n@tt.workflow\nasync def free(x: tt.Text) -> tt.Text:\n    return x\n"


def test_the_naive_plan_is_shown_and_is_a_plan(
    flow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plan", "show", f"{flow.name}:talk"]) == 2  # not in this folder
    capsys.readouterr()
    assert run(["plan", "show", str(flow)]) == 0
    shown = written(tmp_path, "shown.toml", capsys.readouterr().out)
    assert load_plan(shown).name == "naive"


def test_all_that_is_in_force(flow: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "show", str(flow), "--full"]) == 0
    shown = capsys.readouterr().out
    assert [f"[stage.{name}]" in shown for name in ("upper", "twice", "words")] == [True] * 3
    assert 'after = ["upper","twice"]' in shown
    assert run(["plan", "show", str(flow), "--full", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "tauten.plan.show/1"
    assert document["stages"]["words"]["after"] == ["upper", "twice"]


def test_differences_exit_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = plan(tmp_path, "[stage.upper]\nthreads = 1\nwhy = 'a'", "one.toml")
    two = plan(tmp_path, "[stage.upper]\nthreads = 2\nwhy = 'b'", "two.toml")
    assert run(["plan", "diff", str(one), str(one)]) == 0
    assert run(["plan", "diff", str(one), str(two)]) == 1
    assert capsys.readouterr().out == "upper.threads: 1 -> 2    b\n"
    assert run(["plan", "diff", str(one), str(two), "--json"]) == 1
    [change] = json.loads(capsys.readouterr().out)["changes"]
    assert change == {"stage": "upper", "key": "threads", "old": 1, "new": 2, "why": "b"}
    bare = plan(tmp_path, "[stage.upper]\nthreads = 2", "bare.toml")
    assert run(["plan", "diff", str(one), str(bare)]) == 1
    assert capsys.readouterr().out == "upper.threads: 1 -> 2    before: a\n"
    assert run(["plan", "diff", str(one), str(tmp_path / "gone.toml")]) == 2


def test_lint(flow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = plan(tmp_path, "made_on = 'another machine'\n[stage.upper]\nbeside = ['twice']")
    assert run(["plan", "lint", str(flow), str(good)]) == 0
    seen = capsys.readouterr()
    assert "fits talk" in seen.out
    assert "measure again" in seen.err
    for body, told in (("[stage.upper]\nspeed = 9", "speed"), ("[stage.upper]\nbeside = ['x']", "'x'")):
        assert run(["plan", "lint", str(flow), str(plan(tmp_path, body))]) == 2
        assert told in capsys.readouterr().err
    assert not flow.with_name("ran.txt").exists()


def test_caches_are_shown_and_checked(flow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = plan(tmp_path, "[stage.upper]\ncache = '2MB'")
    assert run(["plan", "lint", str(flow), str(good)]) == 0
    assert run(["plan", "show", str(flow), "--full", "--plan", str(good)]) == 0
    assert 'cache = "2MB"' in capsys.readouterr().out
    for body, told in (("cache = 'much'", "E134"), ("cache_view = true", "E133"), ("cache = 3", "E109")):
        assert run(["plan", "lint", str(flow), str(plan(tmp_path, f"[stage.upper]\n{body}"))]) == 2
        assert told in capsys.readouterr().err


def test_rebase_keeps_what_fits(flow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = plan(
        tmp_path, "graph = '0000'\n[stage.upper]\nbeside = ['twice', 'gone']\n[stage.lost]\nthreads = 1"
    )
    assert run(["plan", "lint", str(flow), str(old)]) == 2
    assert "rebase" in capsys.readouterr().err
    assert run(["plan", "rebase", str(flow), str(old)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "dropped: stage 'lost' is gone",
        "dropped: 'upper' beside 'gone'",
    ]
    assert run(["plan", "lint", str(flow), str(old)]) == 0
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_rebase_tells_what_else_is_gone(
    flow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = plan(tmp_path, "# tried in May\n[result]\np95_ms = 3\n[stage.upper]\nbeside = ['twice']  # why not")
    assert run(["plan", "rebase", str(flow), str(old), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["dropped"]
    assert told == ["its result, which was measured on another workflow", "its comments"]
    assert run(["plan", "rebase", str(flow), str(old), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["dropped"] == []


def test_a_plan_of_running_code_is_bound_as_it_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    free = str(written(tmp_path, "free.py", ASYNC))
    assert run(["plan", "show", free]) == 0
    assert run(["plan", "show", free, "--full"]) == 2
    assert run(["plan", "rebase", free, str(plan(tmp_path, ""))]) == 2
    assert "async def" in capsys.readouterr().err
    assert run(["plan", "lint", free, str(plan(tmp_path, "[stage.gone]\nspeed = 9"))]) == 0
    told = capsys.readouterr().out
    assert "binds it as it runs" in told
    assert "fits" not in told
