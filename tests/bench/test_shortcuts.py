"""The frame of the shortcuts: rounds, medians, rows that cannot run, checks that can fail, the file and its page."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib
import json
import sys
import types
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from bench.kit_shortcuts import form, rounds, section

page, record, run = (importlib.import_module(f"bench.shortcuts.{name}") for name in ("page", "record", "run"))
verdict = importlib.import_module("bench.ground.verdict")
check, missed, quiet = (
    importlib.import_module(f"bench.ground.{name}") for name in ("check", "missed", "quiet")
)


def subject(name: str, values: Any, **more: Any) -> Any:
    """A row that gives these values in its rounds; an exception is raised."""

    async def measure(number: int) -> Mapping[str, Any]:
        value = values[number]
        if isinstance(value, Exception):
            raise value
        return dict(value)

    return form.Subject(name, measure, **more)


def judge(rows: Any) -> list[Any]:
    return [
        check.Check("quick enough", rows.get_figure("ours", "ms"), 2.0, "ms"),
        check.Check("beside the other", rows.get_figure("gone", "ms"), 1.0, "×"),
    ]


def made(*subjects: Any) -> Any:
    return form.Section(
        name="made",
        title="A <section>",
        claim="L0: it is quick",
        how="by hand",
        columns=[
            form.Column("ms", "time", "ms"),
            form.Column("share", "hits", "share"),
            form.Column("said", "words"),
        ],
        subjects=subjects,
        judge=judge,
        curves=lambda rows: {"time over size": [check.Line("ours", [(1.0, 2.0), (2.0, 3.0)], "MB", "ms")]},
        conditions={"size": 3},
        notes=["a note"],
    )


def three() -> Any:
    return made(
        subject(
            "ours",
            [{"ms": 1.0, "share": 0.5}, {"ms": 3.0, "share": 0.5, "said": "last"}, {"ms": 9.0}],
            ours=True,
        ),
        subject("weak", [ValueError("no"), {"ms": 5.0}, {"ms": 7.0}]),
        subject("broken", [ValueError("port 80"), ValueError("port 81"), {"ms": 1.0}]),
        form.Subject("gone", reason="not installed"),
    )


def measured(found: Any, count: int = 3) -> Any:
    return asyncio.run(rounds.measured(found, form.Settings(rounds=count)))


# -- rounds -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("undisturbed")
def test_a_row_has_the_medians_of_its_rounds() -> None:
    result = measured(three())
    ours, weak, broken, gone = result.rows
    assert (ours.get("ms"), ours.figures["ms"]["low"], ours.figures["ms"]["high"]) == (3.0, 1.0, 9.0)
    assert ours.figures["share"]["rounds"] == 2
    assert (ours.figures["said"], ours.last("said")) == ("last", None)
    assert 0.0 <= ours.get("foreign_share") <= 1.0
    assert [one["round"] for one in ours.rounds] == [0, 1, 2]
    assert (weak.get("ms"), weak.reason) == (6.0, ""), "a round that failed leaves the others"
    assert (broken.get("ms"), len(broken.rounds), broken.reason) == (None, 2, "ValueError: port 81")
    assert (gone.rounds, gone.reason) == ([], "not installed")


@pytest.mark.usefixtures("undisturbed")
def test_what_was_promised_is_held_against_the_medians() -> None:
    result = measured(three())
    assert [each.met for each in result.checks] == [False, None]
    assert result.missed == result.checks
    assert not result.passed
    quick = measured(made(subject("ours", [{"ms": 1.0}]), subject("gone", [{"ms": 1.0}])), 1)
    assert quick.passed
    assert not form.Result("x").passed, "what checks nothing shows nothing"


@pytest.mark.usefixtures("undisturbed")
def test_every_round_has_an_order_of_its_own_that_the_seed_repeats() -> None:
    def order(seed: int) -> list[str]:
        asked: list[str] = []

        def noted(name: str) -> Any:
            async def measure(_: int) -> Mapping[str, Any]:
                asked.append(name)
                return {"ms": 1.0}

            return form.Subject(name, measure)

        found = made(*[noted(name) for name in "abcdef"])
        asyncio.run(rounds.measured(found, form.Settings(rounds=3, seed=seed)))
        return asked

    first = order(1)
    assert first == order(1) != order(2)
    parts = [first[start : start + 6] for start in (0, 6, 12)]
    assert all(sorted(part) == list("abcdef") for part in parts), "once a round"
    assert parts[0] != parts[1] or parts[1] != parts[2]


def test_a_measurement_that_was_disturbed_is_taken_again() -> None:
    shares = iter([0.5, 0.2, 0.3])

    async def disturbed() -> dict[str, Any]:
        return {"foreign_share": (now := next(shares)), "ms": now}

    found = asyncio.run(quiet.quietest_async(disturbed))
    assert (found["ms"], found["tries"]) == (0.2, 3)

    async def still() -> dict[str, Any]:
        return {"foreign_share": 0.01}

    assert asyncio.run(quiet.quietest_async(still))["tries"] == 1


def test_true_and_false_are_counted() -> None:
    row = form.Row("x", figures={"closed": 3, "said": "words"})
    assert (row.get("closed"), row.get("said"), row.get("none")) == (3.0, None, None)


# -- the run ----------------------------------------------------------------------------------------------


@pytest.fixture
def sections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sections: one that ends, one that does not open."""

    @contextlib.asynccontextmanager
    async def opened(settings: Any) -> AsyncIterator[Any]:
        yield made(
            subject("ours", [{"ms": 1.5}] * 9, ours=True), form.Subject("gone", reason="not <installed>")
        )

    @contextlib.asynccontextmanager
    async def closed(settings: Any) -> AsyncIterator[Any]:
        raise OSError("no port")
        yield

    for name, function in (("made", opened), ("shut", closed)):
        module = types.ModuleType(name)
        module.opened = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, f"bench.shortcuts.sections.{name}", module)
    monkeypatch.setattr(run, "names", lambda: ["made", "shut"])


@pytest.mark.usefixtures("sections", "undisturbed")
def test_the_file_and_the_page_say_what_was_missed_and_why(tmp_path: Path) -> None:
    found = run.Run(form.Settings(), tmp_path / "bench.json")
    for name in ("shut", "made"):
        found.section(name)
    document = json.loads((tmp_path / "bench.json").read_text())
    assert (document["format"], document["passed"]) == (page.FORMAT, False)
    first, second = document["sections"]
    assert (first["name"], second["name"], second["error"]) == ("made", "shut", "OSError: no port")
    assert [each["met"] for each in first["checks"]] == [True, None]
    reasons = {"made": {"beside the other": "it is <gone>"}}
    told = [(one.where, one.name, one.reason) for one in page.missed_of(document, reasons)]
    assert told == [
        ("A <section>", "beside the other", "it is <gone>"),
        ("shut", "did not run", "OSError: no port"),
    ]
    drawn = page.whole(document, reasons)
    assert drawn.index("it is &lt;gone&gt;") < drawn.index("A &lt;section&gt;</h2>")
    assert "not &lt;installed&gt;" in drawn
    assert missed.UNSTATED in page.whole(document, {})
    assert "http" not in drawn
    assert "<script" not in drawn
    assert drawn.count("<svg") >= 1
    assert "missed" in (tmp_path / "bench.html").read_text()
    assert "no figure" in verdict.text(found.results)
    told = record.whole(document, reasons).splitlines()
    assert "| quick enough | 1.50 ms | ≤ 2 ms |" in told
    assert "| **ours** | 1.50 | – | – |" in told
    assert any(line.startswith("| gone | did not run: not <installed>") for line in told)
    assert "* A <section>: beside the other: – (≤ 1 ×): it is <gone>" in told
    assert "Did not run: OSError: no port" in told


@pytest.mark.usefixtures("sections", "undisturbed")
def test_what_is_left_out_stays_and_a_quick_look_lies_beside(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    for name in ("shut", "made"):
        run.Run(form.Settings(), out).section(name)
    assert [one["name"] for one in page.read(out)["sections"]] == ["made", "shut"]
    recorded = out.read_text()
    run.Run(form.Settings(quick=True, rounds=1), out).section("made")
    assert out.read_text() == recorded
    beside = page.read(tmp_path / "bench-quick.json")
    assert beside["settings"]["quick"]
    assert [one["name"] for one in beside["sections"]] == ["made"]
    run.Run(form.Settings(quick=True, rounds=2), out).section("shut")
    assert [one["name"] for one in page.read(tmp_path / "bench-quick.json")["sections"]] == ["shut"], (
        "other settings"
    )


def test_figures_of_another_machine_do_not_stand_in_one_table() -> None:
    here = {"cpu": "a", "cores": 2, "system": "s", "python": "3", "versions": {}}
    assert run.alike(here, here)
    assert not run.alike({**here, "cpu": "b"}, here)


def test_a_page_is_drawn_again_from_the_figures_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["page", str(tmp_path / "none.json")])
    assert page.main() == 2
    assert "no figures" in capsys.readouterr().err


def test_settings_come_from_the_words() -> None:
    quick = run.chosen(run.arguments(["--quick", "--only", "exact_hit,repeat_rate"]))
    assert (quick.quick, quick.rounds, quick.pick(100, 1)) == (True, 1, 1)
    assert run.chosen(run.arguments([])) == run.RECORD
    assert run.chosen(run.arguments(["--rounds", "7", "--seed", "3"])) == form.Settings(rounds=7, seed=3)
    assert run.arguments(["--only", "a,b"]).only == ["a", "b"]


# -- all sections -----------------------------------------------------------------------------------------


def test_every_section_has_the_form_and_its_reasons_are_those_of_its_checks() -> None:
    names = run.names()
    assert {
        "document_chat",
        "exact_hit",
        "modality_cache",
        "prefix_cache",
        "repeat_rate",
        "semantic_hits",
    } <= set(names)
    assert all(callable(section(name).opened) for name in names)
    reasons = page.read_reasons()
    assert reasons.keys() <= set(names)
    assert all(text.strip() for stated in reasons.values() for text in stated.values())
    assert reasons["prefix_cache"].keys() <= {
        each.name for each in section("prefix_cache").judged(form.Rows())
    }


def test_the_form_is_plain_data() -> None:
    result = form.Result(
        "x", checks=[check.Check("a", 2.0, 1.0)], rows=[form.Row("r", rounds=[{"round": 0, "ms": 1.0}])]
    )
    document = json.loads(json.dumps(result.document()))
    assert document["checks"][0] == {**dataclasses.asdict(result.checks[0]), "met": False}
    assert document["rows"][0]["rounds"] == [{"round": 0, "ms": 1.0}]


def test_a_column_of_nothing_has_no_bars() -> None:
    rows = [{"name": name, "ours": False, "figures": {"ms": {"median": 0.0}}} for name in "ab"]
    assert page._bars(rows, {"key": "ms", "title": "time", "unit": "ms"}) == ""
    rows[1]["figures"]["ms"]["median"] = 2.0
    assert "<rect" in page._bars(rows, {"key": "ms", "title": "time", "unit": "ms"})


def test_lines_are_drawn_with_their_units() -> None:
    drawing = importlib.import_module("bench.ground.drawing")
    log = drawing.curves("a", [("x", "ours", check.Line("x", [(1, 1), (2, 100)]))])
    assert "logarithmic" in log
    assert "ms</text>" in log
    assert "/s</text>" in log
    share = drawing.curves("b", [("x", "", check.Line("x", [(0.0, 0.0), (0.5, 0.5)], "share", "share"))])
    assert "logarithmic" not in share
    assert "0%</text>" in share
    large = drawing.curves("d", [("x", "", check.Line("x", [(1024, 0.5), (2048, 0.7)], "MB", "share"))])
    assert "2,150 MB</text>" in large
    assert drawing.curves("c", [("x", "", check.Line("x", []))]) == ""


def test_words_of_several_lines_stay_in_their_row() -> None:
    markdown = importlib.import_module("bench.ground.markdown")
    assert markdown.line(["peer", "did not run: DidNotStart: no port\n  Traceback | two"]) == (
        "| peer | did not run: DidNotStart: no port Traceback / two |"
    )
    lost = missed.Missed("made", "Made", "did not run", None, None, "", False, "one\ntwo")
    assert list(markdown.missed([lost]))[1] == "* Made: did not run: –: one two"


def test_a_demo_that_fails_has_no_figure_of_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    memory = importlib.import_module("bench.memory")
    real = memory.subprocess.Popen
    failing = [sys.executable, "-c", "raise SystemExit(3)"]
    monkeypatch.setattr(memory.subprocess, "Popen", lambda command, **more: real(failing, **more))
    with pytest.raises(SystemExit) as left:
        memory.main()
    assert left.value.code == 3
    told = capsys.readouterr().out
    assert "ended with 3: no figure" in told
    assert "ok" not in told
