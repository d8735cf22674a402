"""`tauten explain`: never runs without --analyze; with it, one real request in every form."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cli.kit_cli import plan, written
from tauten.cli.main import run
from tauten.describe.payload import Text
from tauten.improve.recording import Item, Recording

OBSERVED = """
import tauten as tt

@tt.stage(pure=True)
def shout(text: tt.Text) -> tt.Text:
    return tt.Text(text.text.upper())

@tt.workflow
async def twice(text: tt.Text) -> tt.Text:
    once = await shout(text)
    return await shout(once, name="again")
"""


def test_a_plan_is_explained_without_running_it(flow: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", str(flow)]) == 0
    shown = capsys.readouterr().out
    assert [step in shown for step in ("upper", "twice", "words", "no data")] == [True] * 4
    assert run(["explain", str(flow), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "tauten.plan.explain/1"
    assert [step["step"] for step in document["steps"]] == ["upper", "twice", "words"]
    assert not flow.with_name("ran.txt").exists()


def test_two_plans_are_one_document(flow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = plan(tmp_path, "[stage.upper]\nbeside = ['twice']", "one.toml")
    two = plan(tmp_path, "", "two.toml")
    assert run(["explain", str(flow), "--plan", str(one), "--plan", str(two), "--json"]) == 0
    ids = [each["plan"].partition("@")[0] for each in json.loads(capsys.readouterr().out)["plans"]]
    assert ids == ["one", "two"]
    assert run(["explain", str(flow), *["--plan", str(one)] * 3]) == 2
    assert "3 plans" in capsys.readouterr().err


def test_what_needs_a_run_is_refused_without_one(
    flow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    perfetto, recording = str(tmp_path / "a.json"), str(tmp_path)
    for words in (["--perfetto", perfetto], ["--recording", recording], ["text=hi"], ["no input"]):
        assert run(["explain", str(flow), *words]) == 2
        assert "--analyze" in capsys.readouterr().err


def test_a_plan_is_a_page_with_its_reasons(
    flow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = plan(
        tmp_path,
        "[result]\nanswer = 'met'\np95_ms = { naive = 20, now = 10 }\n"
        "[stage.upper]\nbeside = ['twice']\nwhy = 'they wait for <nothing>'\n"
        "[[rejected]]\nchange = 'fewer words'\nwhy = 'n >= 210'\n",
    )
    page = tmp_path / "a.html"
    assert run(["explain", str(flow), "--plan", str(told), "--html", str(page)]) == 0
    shown = capsys.readouterr().out
    assert [
        words in shown for words in ("measured: met", "they wait for <nothing>", "fewer words: n >= 210")
    ] == [True] * 3
    html = page.read_text()
    assert "they wait for &lt;nothing&gt;" in html
    assert "fewer words" in html
    assert run(["explain", str(flow), "--plan", str(told), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["why"] == {"upper": "they wait for <nothing>"}
    assert document["result"]["p95_ms"] == {"naive": 20, "now": 10}
    assert document["rejected"] == [{"change": "fewer words", "why": "n >= 210"}]
    assert not flow.with_name("ran.txt").exists()


def test_a_request_is_analysed_and_its_rows_add_up(flow: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", str(flow), "text=hi", "--analyze", "--repeat", "3", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["schema"] == "tauten.explain/1"
    assert {row["stage"] for row in shown["rows"]} >= {"upper", "twice", "words"}
    total = sum(row["exclusive_ms"] for row in shown["rows"] if row["cause"] != "unattributed")
    assert abs(total + shown["unattributed_ms"] - shown["wall_ms"]) < 0.1
    assert flow.with_name("ran.txt").exists()


def test_estimates_come_from_runs_before(flow: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def estimated() -> bool:
        assert run(["explain", str(flow), "text=hi", "--analyze", "--repeat", "3", "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)["rows"]
        return any(row["estimate_ms"] is not None for row in rows if row["stage"] == "upper")

    assert not estimated()
    assert estimated()
    assert run(["explain", str(flow)]) == 0
    assert "No data yet" not in capsys.readouterr().out


def test_every_form(flow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    html, perfetto = tmp_path / "a.html", tmp_path / "a.json"
    words = ["explain", str(flow), "text=hi", "--analyze", "--html", str(html), "--perfetto", str(perfetto)]
    assert run([*words, "--all", "--at", "#2"]) == 0
    shown = capsys.readouterr().out
    assert "#2" in shown
    assert "unattributed" in shown
    assert "Critical path" in shown
    page = html.read_text()
    assert "upper" in page
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert "<script" not in page
    names = {event.get("name") for event in json.loads(perfetto.read_text())["traceEvents"]}
    assert any("upper" in str(name) for name in names)


@pytest.mark.parametrize("at", ["p50", "p95", "#5"])
def test_requests_to_show(at: str, flow: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", str(flow), "text=hi", "--analyze", "--at", at]) == 0
    assert "One real request" in capsys.readouterr().out


@pytest.mark.parametrize("at", ["garbage", "p101", "pnan", "#", "#x", "95", ""])
def test_a_request_that_cannot_be_meant_is_refused_before_the_run(
    at: str, flow: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["explain", str(flow), "text=hi", "--analyze", "--at", at]) == 2
    assert "p50, p95 or #7" in capsys.readouterr().err
    assert not flow.with_name("ran.txt").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["text=hi", "--repeat", "0"], "--repeat 0"),
        (["text=hi", "--repeat", "-3"], "--repeat -3"),
        (["text=hi", "--recording", "x"], "inputs and a recording"),
    ],
)
def test_what_would_be_left_out_is_refused_before_the_run(
    words: list[str], told: str, flow: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["explain", str(flow), "--analyze", *words]) == 2
    assert told in capsys.readouterr().err
    assert not flow.with_name("ran.txt").exists()


def test_a_number_beyond_the_run(flow: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", str(flow), "text=hi", "--analyze", "--at", "#9"]) == 2
    assert "#1 to #5" in capsys.readouterr().err


def test_two_plans_side_by_side(flow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = plan(tmp_path, "[stage.upper]\nbeside = ['twice']", "one.toml")
    two = plan(tmp_path, "", "two.toml")
    words = ["explain", str(flow), "text=hi", "--analyze", "--plan", str(one), "--plan", str(two)]
    assert run(words) == 0
    shown = capsys.readouterr().out
    assert "one" in shown
    assert "two" in shown
    assert run([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "comparison"


def test_a_graph_that_is_observed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    observed = str(written(tmp_path, "observed.py", OBSERVED))
    assert run(["explain", observed]) == 2
    assert "--analyze" in capsys.readouterr().err
    assert run(["explain", observed, "text=hi", "--analyze"]) == 0
    shown = capsys.readouterr().out
    assert "observed in 5 requests" in shown
    assert "again" in shown


def test_requests_that_all_fail(flow: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", str(flow), "text=bad", "--analyze"]) == 5
    assert "no bad words" in capsys.readouterr().err


def test_requests_that_fail_count_against_the_slo(
    flow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The percentiles of those that did not fail would say that all is well."""
    words = ("hi", "bad", "ho")
    items = [Item(id=word, render=lambda word=word: {"text": Text(word)}) for word in words]  # type: ignore[misc]
    folder = Recording("three", items).save(tmp_path / "three")
    assert run(["explain", str(flow), "--analyze", "--recording", str(folder)]) == 5
    told = capsys.readouterr()
    shown = " ".join(told.out.split())
    assert "3 requests, one at a time, 1 failed" in shown
    assert re.search(r"answer complete 5000 ms \S+ failed MISSED at p95: requests failed", shown)
    assert "1 of 3 requests under naive" in told.err
    assert "the first, bad: " in told.err
    assert "no bad words" in told.err


def test_an_empty_or_missing_recording(
    flow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = Recording("none", []).save(tmp_path / "empty")
    for folder, seen in ((empty, "no request"), (tmp_path / "gone", "not a recording")):
        assert run(["explain", str(flow), "--analyze", "--recording", str(folder)]) == 2
        assert seen in capsys.readouterr().err
